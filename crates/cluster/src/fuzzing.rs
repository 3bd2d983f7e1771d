//! What fuzz targets and the replay of their corpora call: each function takes any bytes and must return, in bounded time and
//! memory. Not part of the library's interface.

use crate::heartbeat::{Config, Heartbeat, Timing};
use crate::seal::Key;
use crate::time::{NodeId, Time};
use crate::witness::Witness;

/// The secret that the targets' messages are sealed with.
const SECRET: &[u8] = b"fuzzing-fuzzing-";

/// Packets that a stranger sends, and packets that a peer with the secret sends.
pub fn heartbeat(bytes: &[u8]) {
    let Some(key) = Key::new(SECRET) else { return };
    let config = Config {
        node: NodeId::Zero,
        cluster: "fuzzing".into(),
        key: key.clone(),
        links: 2,
        timing: Timing::default(),
        incarnation: 7,
    };
    let mut heartbeat = Heartbeat::new(Time(0), config);
    for (index, chunk) in bytes.chunks(200).enumerate() {
        let now = Time(index as u64 * 50_000_000);
        let _ = heartbeat.receive(now, index % 3, chunk);
        let _ = heartbeat.receive(now, index % 3, &key.seal(chunk.to_vec()));
        heartbeat.tick(now);
        while heartbeat.packet().is_some() || heartbeat.event().is_some() {}
    }
}

/// Requests to a witness, unsealed and sealed.
pub fn witness(bytes: &[u8]) {
    let Some(key) = Key::new(SECRET) else { return };
    let mut witness = Witness::new(Time(0), 1, [("fuzzing".to_owned(), key.clone())], &[]);
    for (index, chunk) in bytes.chunks(55).enumerate() {
        let now = Time(index as u64 * 50_000_000);
        witness.receive(now, 0, chunk);
        witness.receive(now, 1, &key.seal(chunk.to_vec()));
        while let Some(output) = witness.poll() {
            if let crate::witness::Output::Store { version, .. } = output {
                witness.stored(version);
            }
        }
    }
}
