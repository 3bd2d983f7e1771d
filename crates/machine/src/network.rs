//! What a network card is plugged into on the host: opened before the board is built, connected to its card afterwards.

mod rate;
mod resolver;
mod sockets;
mod tap;
mod user;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferro_devices::network::FrameSink;
use ferro_devices::virtio::{Net, VirtioPci};

use crate::bus::{Shared, lock};
use crate::control::Control;
use crate::description::{NetBackend, NetDescription};

pub(crate) use rate::SharedRate;

/// What was opened for a card.
pub(crate) enum Plug {
    Tap(Arc<tap::Tap>),
    User(Box<user::Backend>),
}

/// Opens what a card is plugged into, and where its packets go.
///
/// # Errors
/// What couldn't be had, as a verb phrase, and what the host said.
pub(crate) fn open(
    net: &NetDescription,
    shared: &Arc<SharedRate>,
) -> Result<(Plug, Box<dyn FrameSink>), (String, io::Error)> {
    match &net.backend {
        NetBackend::Tap(name) => {
            let tried = |error| (format!("attach to the TAP interface {name}"), error);
            let (tap, sink) = tap::Tap::open(name, &net.options, shared).map_err(tried)?;
            Ok((Plug::Tap(tap), Box::new(sink)))
        }
        NetBackend::Segment { name, interface } => {
            let action = format!("plug the card into segment {name}");
            let Some(interface) = interface else {
                let why = "nobody made an interface for it";
                return Err((action, io::Error::new(io::ErrorKind::NotFound, why)));
            };
            let (tap, sink) =
                tap::Tap::open(interface, &net.options, shared).map_err(|error| (action.clone(), error))?;
            tap.let_go().map_err(|error| (action, error))?;
            Ok((Plug::Tap(tap), Box::new(sink)))
        }
        NetBackend::User(user) => {
            let (backend, sink) = user::Backend::open(user, &net.options, shared)?;
            Ok((Plug::User(Box::new(backend)), Box::new(sink)))
        }
    }
}

impl Plug {
    /// Brings packets to the card from now on, in threads of its own.
    ///
    /// # Errors
    /// A thread that can't be started.
    pub(crate) fn connect(self, card: Card, control: Arc<Control>) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.connect(&card, &control),
            Self::User(backend) => {
                let work = move || backend.work(&card, &control);
                std::thread::Builder::new().name("net-user".into()).spawn(work).map(drop)
            }
        }
    }
}

/// Packets that wait for a card, in order.
trait Packets {
    /// The first one, behind its header.
    fn first(&mut self) -> Option<&mut [u8]>;
    /// The card took the first one.
    fn taken(&mut self);
}

/// A network card of any model.
#[derive(Clone)]
pub(crate) enum Card {
    Virtio(Shared<VirtioPci<Net>>),
}

impl Card {
    /// Gives the guest packets by a pair of queues, until it has no room; `full` then says so until there is. Without a driver
    /// they are lost.
    fn receive(&self, pair: usize, packets: &mut dyn Packets, full: &AtomicBool) {
        let Self::Virtio(card) = self;
        let acted = lock(card).act(|device, queues, memory| {
            while let Some(packet) = packets.first() {
                if !device.receive(pair, packet, queues, memory)? {
                    full.store(true, Ordering::SeqCst);
                    break;
                }
                packets.taken();
            }
            Ok(())
        });
        if acted.is_none() {
            while packets.first().is_some() {
                packets.taken();
            }
        }
    }

    /// Goes on with packets of the guest's that had to wait.
    fn transmit(&self) {
        let Self::Virtio(card) = self;
        let mut more = true;
        while more {
            let acted = lock(card).act(|device, queues, memory| device.transmit(queues, memory));
            more = acted == Some(true);
        }
    }

    /// Whether the cable is plugged in.
    pub(crate) fn has_link(&self) -> bool {
        let Self::Virtio(card) = self;
        lock(card).device().has_link()
    }

    /// Plugs the cable in or out.
    pub(crate) fn set_link(&self, up: bool) {
        let Self::Virtio(card) = self;
        lock(card).config_changed(|card| card.set_link(up));
    }

    /// Its name among QEMU's devices.
    pub(crate) fn model(&self) -> &'static str {
        match self {
            Self::Virtio(_) => "virtio-net-pci",
        }
    }
}
