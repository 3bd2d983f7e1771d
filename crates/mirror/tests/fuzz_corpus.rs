//! Replays the committed corpora of the fuzz targets of messages and metadata.

use std::path::Path;

use ferro_mirror::fuzzing;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 2] = [("mirror_messages", fuzzing::messages), ("mirror_metadata", fuzzing::metadata)];

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

/// What a fuzzer without guidance finds: corpora with bytes changed.
#[test]
fn changed_corpora_are_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut random = 1u64;
    for (name, target) in TARGETS {
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for _ in 0..300 {
                let mut bytes = bytes.clone();
                for _ in 0..4 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (random >> 33) as usize % bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = (random >> 20) as u8;
                    }
                }
                target(&bytes);
            }
        }
    }
}
