//! A card plugged into a network of this process alone: the thread that drives `ferro_net::user` over the host's sockets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferro_devices::virtio::{FrameSink, Net, VirtioPci};
use ferro_net::user::{Network, Output};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::{resolver, sockets::Sockets};
use crate::bus::{Shared, lock};
use crate::control::Control;
use crate::description::UserNet;

/// The guest's frames that may wait for the thread; beyond that they are lost.
const MAX_FRAMES: usize = 1024;
/// Frames that the card gets at one time.
const BATCH: usize = 64;

/// Where the guest's frames wait.
struct Inbox {
    frames: Mutex<VecDeque<Vec<u8>>>,
    bell: OwnedFd,
}

/// The card's end.
pub(super) struct UserSink(Arc<Inbox>);

impl FrameSink for UserSink {
    fn send(&mut self, frame: &[u8]) {
        let mut frames = lock(&self.0.frames);
        if frames.len() < MAX_FRAMES {
            frames.push_back(frame.to_vec());
            if frames.len() == 1 {
                // Full it rings already.
                let _ = rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes());
            }
        }
    }
}

/// The thread's end: the network and its sockets.
pub(crate) struct Backend {
    network: Network,
    sockets: Sockets,
    inbox: Arc<Inbox>,
    begun: Instant,
}

impl Backend {
    /// A network as described, with the ports that are forwarded already listening.
    ///
    /// # Errors
    /// What couldn't be had, and what the host said.
    pub(super) fn open(user: &UserNet) -> Result<(Self, UserSink), (String, io::Error)> {
        let setting_up = |error: io::Error| ("set up user networking".to_owned(), error);
        let bell =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|error| setting_up(error.into()))?;
        let inbox = Arc::new(Inbox { frames: Mutex::default(), bell });
        let mut sockets = Sockets::new(inbox.bell.as_fd()).map_err(setting_up)?;
        for forward in &user.forwards {
            sockets.listen(forward).map_err(|error| (format!("forward {forward}"), error))?;
        }
        let mut config = user.config.clone();
        config.resolver = config.resolver.or_else(resolver::of_host);
        let mut seed = [0; 8];
        let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        filled.map_err(|error| setting_up(error.into()))?;
        let network = Network::new(config, u64::from_ne_bytes(seed));
        let backend = Self { network, sockets, inbox: inbox.clone(), begun: Instant::now() };
        Ok((backend, UserSink(inbox)))
    }

    /// Works until the VM ends.
    pub(super) fn work(mut self, card: &Shared<VirtioPci<Net>>, control: &Control) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let wait = self.network.deadline().map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
            let wait =
                wait.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
            let waited = epoll::wait(&self.sockets.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref());
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!("user networking ends: {error}");
                    return;
                }
            }
            let now = self.now();
            self.network.timer(now);
            for event in &events {
                let (data, flags): (EventData, EventFlags) = (event.data, event.flags);
                self.sockets.act(&mut self.network, now, data.u64(), flags);
            }
            self.take_frames();
            if !self.settle(card, control) {
                return;
            }
        }
    }

    /// Nanoseconds since the network began.
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Hands the guest's frames to the network.
    fn take_frames(&mut self) {
        let mut count = [0; 8];
        // Nothing was rung.
        let _ = rustix::io::read(&self.inbox.bell, &mut count);
        let frames = std::mem::take(&mut *lock(&self.inbox.frames));
        for frame in frames {
            let now = self.now();
            self.network.frame(now, &frame);
        }
    }

    /// Does what the network wants; whether the VM goes on.
    fn settle(&mut self, card: &Shared<VirtioPci<Net>>, control: &Control) -> bool {
        let mut frames: Vec<Vec<u8>> = vec![];
        loop {
            let output = self.network.poll();
            if output.is_none() && frames.is_empty() {
                return true;
            }
            if output.is_none() || frames.len() == BATCH {
                // A guest without buffers loses frames.
                let delivered = control.while_running(|| {
                    lock(card).act(|device, queues, memory| {
                        for frame in &frames {
                            device.receive(frame, queues, memory)?;
                        }
                        Ok(())
                    });
                });
                if delivered.is_none() {
                    return false;
                }
                frames.clear();
            }
            match output {
                Some(Output::Frame(frame)) => frames.push(frame),
                Some(other) => {
                    let now = self.now();
                    self.sockets.obey(&mut self.network, now, other);
                }
                None => {}
            }
        }
    }
}
