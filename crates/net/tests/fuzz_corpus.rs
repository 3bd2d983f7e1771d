//! Replays the committed corpora of the fuzz targets of the network engines.

use std::path::Path;

use ferro_net::fuzzing;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 3] = [
    ("user_network", fuzzing::user_network),
    ("dhcp_server", fuzzing::dhcp_server),
    ("dns_server", fuzzing::dns_server),
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
