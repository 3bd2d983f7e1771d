//! One thread that looks at the screen for all clients, and only while one of them waits for changes.

use std::time::Duration;

use super::Server;
use crate::bus::lock;

/// Between two looks at a screen that changes.
const BUSY: Duration = Duration::from_millis(16);
/// Between two looks at one that doesn't, after a while.
const IDLE: Duration = Duration::from_millis(40);

/// Looks as long as the process lives.
pub(super) fn watch(server: &Server) {
    let (mut pause, mut input) = (BUSY, (0, false));
    loop {
        let clients = server
            .waiting
            .wait_while(lock(&server.clients), |clients| !clients.iter().any(|client| client.waits))
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(clients);
        let quiet = server.screen.update().is_empty();
        let now = (server.handle.lamps(), server.handle.pointer_is_absolute());
        for client in lock(&server.clients).iter_mut() {
            if client.waits && (input != now || client.follower.has_changes()) {
                client.waits = false;
                client.wake();
            }
        }
        input = now;
        pause = if quiet { (pause * 5 / 4).min(IDLE) } else { BUSY };
        std::thread::sleep(pause);
    }
}
