//! Telling sessions of events. A session that has ended is forgotten at the next event.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferro_console::monitor::Event;

use crate::bus::lock;

/// Held until an event has been told.
pub(super) type Token = Arc<()>;

/// Takes an event to one session; false when the session has ended.
type Listener = Box<dyn Fn(&Event, Token) -> bool + Send>;

/// Everybody who wants to hear of events.
#[derive(Default)]
pub(crate) struct Subscribers {
    listeners: Mutex<Vec<Listener>>,
    token: Token,
}

impl Subscribers {
    /// Adds one.
    pub(super) fn add(&self, listener: impl Fn(&Event, Token) -> bool + Send + 'static) {
        lock(&self.listeners).push(Box::new(listener));
    }

    /// Tells all.
    pub(crate) fn tell(&self, event: &Event) {
        lock(&self.listeners).retain(|listener| listener(event, self.token.clone()));
    }

    /// Waits, for a bounded time, until all have been told: at the end of the VM.
    pub(crate) fn finish(&self) {
        for _ in 0..200 {
            if Arc::strong_count(&self.token) == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
