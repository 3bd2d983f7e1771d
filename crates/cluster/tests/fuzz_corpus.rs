//! Replays the committed corpora of the fuzz targets of heartbeats and witness.

use std::path::Path;

use ferro_cluster::fuzzing;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 2] = [("cluster_heartbeat", fuzzing::heartbeat), ("cluster_witness", fuzzing::witness)];

#[test]
fn corpora_are_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            target(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}
