//! A card plugged into a TAP interface of the host. One thread for each of the interface's queues brings packets in, many at
//! a time; the guest's go out in the thread that serves the card.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferro_devices::network::{FrameSink, HEADER, MAX_FRAME, Offloads};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tracing::{debug, warn};

use super::Card;
use super::rate::{Limits, SharedRate};
use crate::control::Control;
use crate::description::NetOptions;

/// Packets brought in at one time.
const BATCH: usize = 64;

/// One queue of the interface.
struct Queue {
    tap: File,
    /// Wakes the queue's thread.
    bell: OwnedFd,
    /// The thread has packets for which the guest has no room.
    full: AtomicBool,
}

impl Queue {
    fn ring(&self) {
        // Full it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// An interface as its card and its threads share it.
pub(crate) struct Tap {
    name: String,
    queues: Vec<Queue>,
    /// Packets have a header before them.
    header: bool,
    limits: Limits,
}

/// The card's end of a TAP interface.
pub(super) struct TapSink(Arc<Tap>);

impl Tap {
    /// Attaches to an interface.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn open(name: &str, options: &NetOptions, shared: &Arc<SharedRate>) -> io::Result<(Arc<Self>, TapSink)> {
        let wanted = ferro_sys::tap::Wanted { queues: options.queues, header: options.offload };
        let attached = ferro_sys::tap::attach(name, wanted).or_else(|error| {
            // A kernel or an interface without the header: the guest computes its checksums itself.
            let plain = ferro_sys::tap::Wanted { header: false, ..wanted };
            if wanted.header { ferro_sys::tap::attach(name, plain).map_err(|_| error) } else { Err(error) }
        })?;
        if attached.queues.len() < usize::from(options.queues) {
            warn!("the TAP interface {name} has one queue (ip tuntap add … multi_queue makes it with several)");
        }
        let queue = |tap| {
            let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            Ok(Queue { tap, bell, full: AtomicBool::new(false) })
        };
        let queues = attached.queues.into_iter().map(queue).collect::<io::Result<_>>()?;
        let limits = Limits::new(options.rate_in, options.rate_out, shared);
        let tap = Arc::new(Self { name: name.to_owned(), queues, header: attached.header, limits });
        Ok((tap.clone(), TapSink(tap)))
    }

    /// The interface goes when this process ends, however it ends. One of another's is left as it is.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn let_go(&self) -> io::Result<()> {
        match self.queues.first().map(|queue| ferro_sys::tap::let_go(&queue.tap)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    /// Brings packets from the interface to the card until the VM ends.
    ///
    /// # Errors
    /// A thread that can't be started.
    pub(super) fn connect(self: &Arc<Self>, card: &Card, control: &Arc<Control>) -> io::Result<()> {
        for index in 0..self.queues.len() {
            let (tap, card, control) = (self.clone(), card.clone(), control.clone());
            let work = move || tap.work(index, &card, &control);
            std::thread::Builder::new().name("net-in".into()).spawn(work)?;
        }
        Ok(())
    }

    fn work(&self, index: usize, card: &Card, control: &Control) {
        let queue = &self.queues[index];
        let mut batch = Batch::new(self.header);
        loop {
            let inward = self.limits.inward_wait();
            let held = self.limits.held_wait().filter(|_| index == 0);
            let listening = batch.is_empty() && inward.is_none();
            if let Err(error) = queue.wait(listening, [inward.filter(|_| batch.is_empty()), held]) {
                warn!("packets of {} are no longer brought in: {error}", self.name);
                return;
            }
            if batch.is_empty()
                && let Err(error) = batch.fill(&queue.tap, &self.limits)
            {
                debug!("the TAP interface {} is gone: {error}", self.name);
                return;
            }
            let release = index == 0 && self.limits.held_wait().is_some_and(|wait| wait.is_zero());
            if batch.is_empty() && !release {
                continue;
            }
            let went_on = control.while_running(|| {
                card.receive(index, &mut batch.waiting(), &queue.full);
                if release {
                    self.limits.release();
                    card.transmit();
                }
            });
            if went_on.is_none() {
                return;
            }
        }
    }
}

impl Queue {
    /// Waits for a packet, if it is listened for, for the bell, or until one of the times has passed.
    fn wait(&self, listening: bool, until: [Option<Duration>; 2]) -> io::Result<()> {
        let timeout = until.into_iter().flatten().min();
        let timeout =
            timeout.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
        let mut events = [PollFd::new(&self.bell, PollFlags::IN), PollFd::new(&self.tap, PollFlags::IN)];
        let count = if listening { 2 } else { 1 };
        match poll(&mut events[..count], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut count = [0; 8];
        // Nothing was rung.
        let _ = rustix::io::read(&self.bell, &mut count);
        Ok(())
    }
}

/// Packets between the interface and the card.
struct Batch {
    buffers: Vec<Vec<u8>>,
    lens: Vec<usize>,
    next: usize,
    /// Where a packet read from the interface goes in its buffer.
    at: usize,
}

impl Batch {
    fn new(header: bool) -> Self {
        Self { buffers: vec![], lens: vec![], next: 0, at: if header { 0 } else { HEADER } }
    }

    fn is_empty(&self) -> bool {
        self.next == self.lens.len()
    }

    /// Reads what waits, as far as the rate allows.
    fn fill(&mut self, mut tap: &File, limits: &Limits) -> io::Result<()> {
        self.lens.clear();
        self.next = 0;
        while self.lens.len() < BATCH && limits.inward_wait().is_none() {
            let index = self.lens.len();
            if index == self.buffers.len() {
                self.buffers.push(vec![0; HEADER + MAX_FRAME]);
            }
            match tap.read(&mut self.buffers[index][self.at..]) {
                Ok(len) => {
                    let len = self.at + len;
                    limits.take_inward(len.saturating_sub(HEADER));
                    self.lens.push(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The packets that the card has not taken yet.
    fn waiting(&mut self) -> Waiting<'_> {
        Waiting { batch: self }
    }
}

/// Packets for a card.
pub(super) struct Waiting<'a> {
    batch: &'a mut Batch,
}

impl super::Packets for Waiting<'_> {
    fn first(&mut self) -> Option<&mut [u8]> {
        let Batch { buffers, lens, next, at } = &mut *self.batch;
        let len = *lens.get(*next)?;
        let packet = &mut buffers[*next][..len];
        if *at > 0 {
            packet[..HEADER].fill(0);
        }
        Some(packet)
    }

    fn taken(&mut self) {
        self.batch.next += 1;
    }
}

impl FrameSink for TapSink {
    fn send(&mut self, pair: usize, packet: &[u8]) {
        let Self(tap) = self;
        tap.limits.take_outward(packet.len() - HEADER);
        let from = if tap.header { 0 } else { HEADER };
        // An interface that is down, or whose queue on the host is full, loses the packet, as a switch would.
        let _ = (&tap.queues[pair % tap.queues.len()].tap).write(&packet[from..]);
    }

    fn is_ready(&mut self, _pair: usize) -> bool {
        let ready = self.0.limits.may_go_out();
        if !ready && self.0.limits.hold() {
            self.0.queues[0].ring();
        }
        ready
    }

    fn offloads(&self) -> Offloads {
        if self.0.header { Offloads::ALL } else { Offloads::default() }
    }

    fn guest_takes(&mut self, takes: Offloads) {
        let Self(tap) = self;
        if !tap.header {
            return;
        }
        let Offloads { checksum, tso4, tso6, ecn } = takes;
        if let Err(error) =
            ferro_sys::tap::set_offloads(&tap.queues[0].tap, ferro_sys::tap::Offloads { checksum, tso4, tso6, ecn })
        {
            warn!("the TAP interface {} doesn't take the guest's offloads: {error}", tap.name);
        }
    }

    fn has_room(&mut self, _pair: usize) {
        self.0.queues.iter().filter(|queue| queue.full.swap(false, Ordering::SeqCst)).for_each(Queue::ring);
    }
}
