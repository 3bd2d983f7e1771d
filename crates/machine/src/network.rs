//! What a network card is plugged into on the host: opened before the board is built, connected to its card afterwards.

mod resolver;
mod sockets;
mod tap;
mod user;

use std::fs::File;
use std::io;
use std::sync::Arc;

use ferro_devices::virtio::{FrameSink, Net, VirtioPci};

use crate::bus::Shared;
use crate::control::Control;
use crate::description::NetBackend;

/// What was opened for a card.
pub(crate) enum Plug {
    Tap(File),
    User(Box<user::Backend>),
}

/// Opens what a card is plugged into, and where its frames go.
///
/// # Errors
/// What couldn't be had, as a verb phrase, and what the host said.
pub(crate) fn open(backend: &NetBackend) -> Result<(Plug, Box<dyn FrameSink>), (String, io::Error)> {
    match backend {
        NetBackend::Tap(name) => {
            let tried = || format!("attach to the TAP interface {name}");
            let tap = ferro_sys::tap::open(name).map_err(|error| (tried(), error))?;
            let sink = tap::TapSink(tap.try_clone().map_err(|error| (tried(), error))?);
            Ok((Plug::Tap(tap), Box::new(sink)))
        }
        NetBackend::User(user) => {
            let (backend, sink) = user::Backend::open(user)?;
            Ok((Plug::User(Box::new(backend)), Box::new(sink)))
        }
    }
}

impl Plug {
    /// Brings frames to the card from now on, in a thread of its own.
    ///
    /// # Errors
    /// A thread that can't be started.
    pub(crate) fn connect(self, card: Shared<VirtioPci<Net>>, control: Arc<Control>) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap::receive(tap, card, control),
            Self::User(backend) => {
                let work = move || backend.work(&card, &control);
                std::thread::Builder::new().name("net-user".into()).spawn(work).map(drop)
            }
        }
    }
}
