//! Replays the committed corpora of the fuzz targets.

use std::path::Path;

use ferro_block::fuzzing;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 7] = [
    ("qcow2_header", fuzzing::qcow2_header),
    ("qcow2_open", fuzzing::qcow2_open),
    ("qcow2_l2", fuzzing::qcow2_l2),
    ("qcow2_snapshots", fuzzing::qcow2_snapshots),
    ("luks_header", fuzzing::luks_header),
    ("nbd_server", fuzzing::nbd_server),
    ("nbd_client", fuzzing::nbd_client),
];

#[test]
fn corpora_are_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}
