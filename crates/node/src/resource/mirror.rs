//! A mirror as a resource: its process runs on both nodes all the time; started is where it is primary.

use std::path::Path;
use std::time::{Duration, Instant};

use ferro_cluster::group::Data;
use serde_json::Value;

use super::{Mirrored, Resource, Start, Wish};
use crate::mirror::{Command, Place, call};

/// How long a mirror may take to leave its role before its process is ended instead.
const PATIENCE: Duration = Duration::from_millis(700);

/// The mirror of a name.
#[derive(Clone, Debug)]
pub struct MirrorResource {
    place: Place,
}

impl MirrorResource {
    /// The mirror with its files at `place`.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self { place }
    }

    fn status(&self) -> Result<Value, String> {
        call(&self.place, Command::Status).map_err(|error| error.to_string())
    }

    /// Ends its process, which the daemon starts again, as secondary.
    fn end(&self) -> Result<(), String> {
        let folder = self.place.config().parent().unwrap_or(Path::new("/")).display().to_string();
        super::vm::end_processes(&["mirror", "up", &self.place.name, &folder])
    }

    fn is_primary(&self) -> bool {
        self.status().is_ok_and(|status| status["role"] == "primary")
    }
}

/// Neither replica was ever written: there is nothing that a first promotion could lose.
fn is_unused(status: &Value) -> bool {
    let blank = status["generation"].as_str().is_some_and(|text| text.bytes().all(|byte| byte == b'0'));
    blank && status["connection"] == "connected" && status["peer-disk"] == "unknown"
}

/// The mirror's token in an epoch of the cluster: a mirror wants another one each time it is promoted, also when it is
/// started again in the same epoch.
fn token(epoch: u64, seen: u64) -> u64 {
    const STARTS: u64 = 1 << 16;
    let first = epoch.saturating_mul(STARTS);
    if seen >= first && seen < first + STARTS - 1 { seen + 1 } else { first }
}

impl Resource for MirrorResource {
    fn start(&mut self, how: Start, wish: &Wish) -> Result<(), String> {
        loop {
            let status = self.status()?;
            let epoch = Some(token(how.epoch, status["epoch"].as_u64().unwrap_or(0)));
            let force = how.force || is_unused(&status);
            match call(&self.place, Command::Primary { force, epoch, alone: how.alone }) {
                Ok(_) => return Ok(()),
                // Its link is just coming up, or the peer is just leaving the role.
                Err(_) if !wish.is_void() => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn stop(&mut self, hard: bool, wish: &Wish) -> Result<(), String> {
        if !self.is_primary() {
            return Ok(());
        }
        if hard && self.status().is_ok_and(|status| status["frozen"] == true || status["connection"] != "connected") {
            // What waits for the peer would wait for long; nothing acknowledged is lost with the process.
            return self.end();
        }
        let start = Instant::now();
        let place = self.place.clone();
        // It may wait for writes that wait for the peer.
        let (done, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(call(&place, Command::Secondary { force: true })));
        loop {
            match answer.recv_timeout(Duration::from_millis(10)) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if !hard => return Err(error.to_string()),
                Ok(Err(_)) => break,
                Err(_) if hard && start.elapsed() > PATIENCE => break,
                Err(_) if !hard && wish.is_void() => return Err(format!("mirror {} is busy", self.place.name)),
                Err(_) => {}
            }
        }
        self.end()
    }

    fn monitor(&mut self) -> Result<(), String> {
        let status = self.status()?;
        match (status["role"].as_str(), status["disk"].as_str()) {
            (Some("primary"), Some("failed")) if status["peer-disk"] != "up-to-date" => {
                Err(format!("mirror {}: no disk with the data can be reached", self.place.name))
            }
            (Some("primary"), _) => Ok(()),
            _ => Err(format!("mirror {} is not primary", self.place.name)),
        }
    }
}

impl Mirrored for MirrorResource {
    fn look(&mut self) -> Data {
        let Ok(status) = self.status() else { return Data::default() };
        let is = |key: &str, word: &str| status[key] == word;
        let both = is("disk", "up-to-date") && is("peer-disk", "up-to-date");
        Data {
            usable: is("disk", "up-to-date") || is("disk", "consistent") || is_unused(&status),
            in_sync: is("connection", "connected") && both && status["out-of-sync"] == 0,
            frozen: status["frozen"] == true,
            confirmed: 0,
        }
    }

    fn go_alone(&mut self) {
        if let Err(error) = call(&self.place, Command::GoAlone) {
            tracing::debug!("mirror {}: {error}", self.place.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::token;

    #[test]
    fn tokens_grow_within_an_epoch_and_from_one_to_the_next() {
        assert!(token(2, 5) > 5);
        assert_eq!(token(2, token(2, 5)), token(2, 5) + 1);
        assert!(token(3, token(2, 5)) > token(2, 5));
        // Another node's later epoch is not reached: the mirror refuses.
        assert!(token(2, token(3, 0)) < token(3, 0));
    }
}
