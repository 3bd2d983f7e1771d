//! Replays the committed corpora of the fuzz targets of the monitor and of VNC.

use std::path::Path;

use ferro_console::fuzzing;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("rfb_client_messages", fuzzing::rfb_client_messages),
    ("rfb_websocket", fuzzing::rfb_websocket),
    ("monitor_hmp", fuzzing::monitor_hmp),
    ("monitor_qmp", fuzzing::monitor_qmp),
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
