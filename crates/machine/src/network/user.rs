//! A card plugged into a network of this process alone: the thread that drives `ferro_net::user` over the host's sockets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferro_devices::network::{FrameSink, HEADER};
use ferro_net::user::{Network, Output};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::rate::{Limits, SharedRate};
use super::{Card, resolver, sockets::Sockets};
use crate::bus::lock;
use crate::control::Control;
use crate::description::{NetOptions, UserNet};

/// The guest's frames that may wait for the thread; beyond that they stay in the card's queue.
const MAX_FRAMES: usize = 1024;
/// Frames that the card gets at one time.
const BATCH: usize = 64;

/// Where the guest's frames wait.
struct Inbox {
    frames: Mutex<VecDeque<Vec<u8>>>,
    bell: OwnedFd,
    limits: Limits,
    /// The thread has frames for which the guest has no room.
    full: AtomicBool,
}

impl Inbox {
    fn ring(&self) {
        // Full it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// The card's end.
pub(super) struct UserSink(Arc<Inbox>);

impl FrameSink for UserSink {
    fn send(&mut self, _pair: usize, packet: &[u8]) {
        self.0.limits.take_outward(packet.len() - HEADER);
        let mut frames = lock(&self.0.frames);
        frames.push_back(packet[HEADER..].to_vec());
        if frames.len() == 1 {
            self.0.ring();
        }
    }

    fn is_ready(&mut self, _pair: usize) -> bool {
        let ready = lock(&self.0.frames).len() < MAX_FRAMES && self.0.limits.may_go_out();
        if !ready && self.0.limits.hold() {
            self.0.ring();
        }
        ready
    }

    fn has_room(&mut self, _pair: usize) {
        if self.0.full.swap(false, Ordering::SeqCst) {
            self.0.ring();
        }
    }
}

/// The thread's end: the network and its sockets.
pub(crate) struct Backend {
    network: Network,
    sockets: Sockets,
    inbox: Arc<Inbox>,
    /// Packets for the guest.
    outbox: VecDeque<Vec<u8>>,
    begun: Instant,
}

impl Backend {
    /// A network as described, with the ports that are forwarded already listening.
    ///
    /// # Errors
    /// What couldn't be had, and what the host said.
    pub(super) fn open(
        user: &UserNet,
        options: &NetOptions,
        shared: &Arc<SharedRate>,
    ) -> Result<(Self, UserSink), (String, io::Error)> {
        let setting_up = |error: io::Error| ("set up user networking".to_owned(), error);
        let bell =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|error| setting_up(error.into()))?;
        let limits = Limits::new(options.rate_in, options.rate_out, shared);
        let inbox = Arc::new(Inbox { frames: Mutex::default(), bell, limits, full: AtomicBool::new(false) });
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
        let backend = Self { network, sockets, inbox: inbox.clone(), outbox: VecDeque::new(), begun: Instant::now() };
        Ok((backend, UserSink(inbox)))
    }

    /// Works until the VM ends.
    pub(super) fn work(mut self, card: &Card, control: &Control) {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            let network = self.network.deadline().map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
            let limits = &self.inbox.limits;
            let wait = [network, limits.inward_wait(), limits.held_wait()].into_iter().flatten().min();
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
            if !self.release(card, control) || !self.settle(card, control) {
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

    /// Lets the card go on with frames that had to wait, if they need wait no more; whether the VM goes on.
    fn release(&self, card: &Card, control: &Control) -> bool {
        let limits = &self.inbox.limits;
        if limits.held_wait().is_none_or(|wait| !wait.is_zero()) {
            return true;
        }
        limits.release();
        control.while_running(|| card.transmit()).is_some()
    }

    /// Does what the network wants; whether the VM goes on.
    fn settle(&mut self, card: &Card, control: &Control) -> bool {
        loop {
            let limits = &self.inbox.limits;
            // What may not go to the guest yet waits in the network, whose windows fill.
            let output =
                if self.outbox.len() < BATCH && limits.inward_wait().is_none() { self.network.poll() } else { None };
            match output {
                Some(Output::Frame(frame)) => {
                    limits.take_inward(frame.len());
                    self.outbox.push_back([&[0; HEADER], &frame[..]].concat());
                }
                Some(other) => {
                    let now = self.now();
                    self.sockets.obey(&mut self.network, now, other);
                }
                None if self.outbox.is_empty() => return true,
                None => {
                    let (outbox, full) = (&mut self.outbox, &self.inbox.full);
                    if control.while_running(|| card.receive(0, &mut Outbox(outbox), full)).is_none() {
                        return false;
                    }
                    if !self.outbox.is_empty() {
                        return true;
                    }
                }
            }
        }
    }
}

/// Packets for the card.
struct Outbox<'a>(&'a mut VecDeque<Vec<u8>>);

impl super::Packets for Outbox<'_> {
    fn first(&mut self) -> Option<&mut [u8]> {
        self.0.front_mut().map(Vec::as_mut_slice)
    }

    fn taken(&mut self) {
        self.0.pop_front();
    }
}
