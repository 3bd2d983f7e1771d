//! One node's side of a mirror: takes inputs, keeps the state, hands out outputs. What belongs to the consumer's
//! requests, the link, the peer's requests and the resync is in the modules of these names.

mod admin;
mod link;
mod local;
mod replica;
mod requests;
mod resync;
mod status;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::api::{Config, DataOp, DiskError, Event, Input, MetaOp, Output, Protocol, Time};
use crate::metadata::Metadata;
use crate::pages::MetadataError;
use crate::wire::Message;
use link::{Link, PeerDisk};
use local::{LocalQueue, Purpose};
use requests::{Barrier, Entry, Flush, RemoteRead};
use resync::Target;
pub use status::{DiskState, LinkState, Status};

/// Longest request of a consumer, in bytes.
pub const MAX_REQUEST: u64 = 4 << 20;
/// Requests that a consumer may have waiting.
pub const MAX_QUEUE: usize = 1024;
/// How long writes wait for a barrier when nobody asks for one.
const BARRIER_IDLE: u64 = 100_000_000;

/// The replication engine of one resource on one node.
pub struct Engine {
    config: Config,
    now: Time,
    entropy: u64,
    outputs: VecDeque<Output>,
    meta: Metadata,
    meta_waiting: usize,
    meta_next: u64,
    attached: bool,
    primary: bool,
    demoting: bool,
    /// A primary without its peer may go on.
    alone: bool,
    /// A new generation was begun since the peer was lost.
    advanced: bool,
    /// The metadata version that holds the activity log, and what promotion changed.
    log_version: u64,
    greeting: Option<crate::wire::Hello>,
    early: Option<crate::wire::Hello>,
    discard: bool,
    link: Link,
    link_number: u64,
    peer_disk: PeerDisk,
    peer_primary: bool,
    local: LocalQueue,
    // The primary's side.
    held: VecDeque<(u64, crate::api::Request)>,
    entries: BTreeMap<u64, Entry>,
    next_seq: u64,
    active: BTreeMap<u32, u32>,
    barriers: BTreeMap<u64, Barrier>,
    barrier: u64,
    flushes: Vec<Flush>,
    reads: BTreeMap<u64, (u64, u64)>,
    remote_reads: BTreeMap<u64, RemoteRead>,
    barrier_due: Option<Time>,
    // The peer's requests.
    incoming: VecDeque<Message>,
    peer_writes: usize,
    peer_barrier: bool,
    gate: u64,
    late_acks: VecDeque<(u64, u64)>,
    // Resync and verify.
    target: Option<Target>,
    paused: bool,
    finish: Option<u64>,
    verify: Option<(u64, u64)>,
}

impl Engine {
    /// The metadata file with which a new replica begins.
    #[must_use]
    pub fn format(config: &Config) -> Vec<u8> {
        Metadata::blank(config.size)
    }

    /// Starts from the content of the metadata file. No link is up.
    ///
    /// # Errors
    ///
    /// If the metadata are damaged or for another size.
    pub fn new(config: Config, metadata: &[u8]) -> Result<Self, MetadataError> {
        let meta = Metadata::load(metadata, config.size, config.extent)?;
        let mut engine = Self {
            entropy: config.entropy,
            config,
            now: Time::default(),
            outputs: VecDeque::new(),
            meta,
            meta_waiting: 0,
            meta_next: 0,
            attached: true,
            primary: false,
            demoting: false,
            alone: false,
            advanced: false,
            log_version: 0,
            greeting: None,
            early: None,
            discard: false,
            link: Link::Down,
            link_number: 0,
            peer_disk: PeerDisk::Unknown,
            peer_primary: false,
            local: LocalQueue::default(),
            held: VecDeque::new(),
            entries: BTreeMap::new(),
            next_seq: 0,
            active: BTreeMap::new(),
            barriers: BTreeMap::new(),
            barrier: 1,
            flushes: Vec::new(),
            reads: BTreeMap::new(),
            remote_reads: BTreeMap::new(),
            barrier_due: None,
            incoming: VecDeque::new(),
            peer_writes: 0,
            peer_barrier: false,
            gate: 0,
            late_acks: VecDeque::new(),
            target: None,
            paused: false,
            finish: None,
            verify: None,
        };
        engine.settle();
        Ok(engine)
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = now.max(self.now);
        match input {
            Input::Request { id, request } => self.request(id, request),
            Input::DataDone { op, result } => self.data_done(op, &result),
            Input::MetaDone { result, .. } => self.meta_done(result),
            Input::LinkUp => self.link_up(),
            Input::LinkDown => self.link_down(),
            Input::Message(message) => self.message(message),
            Input::Admin(command) => self.admin(command),
            Input::Timer => {}
        }
        if self.barrier_due.is_some_and(|due| due <= self.now) {
            self.start_barrier();
        }
        self.settle();
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the engine wants [`Input::Timer`].
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.barrier_due
    }

    /// Whether this node is primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Whether the local data are complete, as far as this node knows.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.attached && self.meta.superblock().consistent
    }

    /// Whether the handshake with the peer is done and the two replicate.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link == Link::Connected
    }

    /// Whether the peer has all data, as far as this node knows.
    #[must_use]
    pub fn peer_is_up_to_date(&self) -> bool {
        self.is_connected() && self.peer_disk == PeerDisk::UpToDate
    }

    /// Blocks that are marked as out of sync.
    #[must_use]
    pub fn out_of_sync(&self) -> u64 {
        self.meta.marked()
    }

    /// The highest epoch seen.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.meta.superblock().epoch
    }

    /// The history of the local data.
    #[must_use]
    pub fn generations(&self) -> crate::generation::Generations {
        self.meta.superblock().generations
    }

    fn send(&mut self, message: Message) {
        self.outputs.push_back(Output::Send(message));
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A new generation identifier (`SplitMix64`); never 0.
    fn identifier(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.entropy;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).max(1)
    }

    fn submit(&mut self, request: DataOp, purpose: Purpose) {
        self.local.submit(request, purpose, self.link_number);
    }

    fn contains(&self, range: &Range<u64>) -> bool {
        range.start < range.end && range.end <= self.config.size && range.end - range.start <= MAX_REQUEST
    }

    fn synchronous(&self) -> bool {
        self.config.protocol == Protocol::C
    }

    /// Does everything that has become possible.
    fn settle(&mut self) {
        loop {
            self.greet();
            let mut moved = self.pump_requests();
            moved |= self.pump_barriers();
            moved |= self.pump_incoming();
            moved |= self.pump_resync();
            moved |= self.pump_local();
            moved |= self.answer();
            if !moved {
                break;
            }
        }
        // The activity log counts after a crash until everything in it is marked, or safe.
        let marked = self.meta.durable() == self.meta.wanted() && self.entries.is_empty();
        if !self.primary && self.meta.superblock().primary && marked {
            self.meta.change(|s| s.primary = false);
        }
        if self.attached
            && let Some(writes) = self.meta.begin()
        {
            self.meta_waiting = writes.len();
            for (offset, bytes) in writes {
                self.meta_op(MetaOp::Write { offset, bytes });
            }
        }
    }

    fn meta_op(&mut self, request: MetaOp) {
        self.meta_next += 1;
        self.outputs.push_back(Output::Meta { op: self.meta_next, request });
    }

    fn meta_done(&mut self, result: Result<(), DiskError>) {
        if result.is_err() {
            self.detach();
        } else if self.meta_waiting > 0 {
            self.meta_waiting -= 1;
            if self.meta_waiting == 0 {
                self.meta_op(MetaOp::Flush);
            }
        } else {
            self.meta.end();
        }
    }

    fn pump_local(&mut self) -> bool {
        let mut moved = false;
        while self.attached {
            let Some((op, started)) = self.local.start() else { break };
            let (request, purpose, link) = (started.request.clone(), started.purpose.clone(), started.link);
            if let Purpose::Write { seq } = purpose {
                // Sent as it starts: the peer then sees overlapping writes and resync replies in our disk's order.
                self.replicate(seq);
            } else if link != self.link_number
                && (matches!(purpose, Purpose::SyncWrite { .. })
                    // What was told to be received (protocol B) is written, whatever has become of the link.
                    || matches!(purpose, Purpose::PeerWrite { .. }) && self.config.protocol != Protocol::B)
            {
                self.local.finish(op);
                continue;
            }
            self.outputs.push_back(Output::Data { op, request });
            moved = true;
        }
        moved
    }

    fn data_done(&mut self, op: u64, result: &Result<Arc<[u8]>, DiskError>) {
        let Some(op) = self.local.finish(op) else { return };
        match (&op.purpose, result) {
            (Purpose::Write { seq }, _) => self.local_write_done(*seq, result.is_ok()),
            (Purpose::Read { id }, Ok(data)) => self.local_read_done(*id, data.clone()),
            (Purpose::Read { id }, Err(_)) => self.local_read_failed(*id),
            (Purpose::Barrier { number }, Ok(_)) => self.barrier_flushed(*number),
            _ if result.is_err() || op.link != self.link_number => {}
            (Purpose::PeerWrite { seq }, _) => self.peer_write_done(*seq, &op.request),
            (Purpose::PeerRead { seq }, Ok(data)) => {
                self.send(Message::ReadReply { seq: *seq, data: Some(data.clone()) });
            }
            (Purpose::PeerBarrier { number }, _) => {
                self.peer_barrier = false;
                self.send(Message::BarrierDone { number: *number });
            }
            (Purpose::Digest { block, verify }, Ok(data)) => self.digest_done(*block, *verify, data),
            (Purpose::Compare { block, digest, verify }, Ok(data)) => self.compared(*block, digest, *verify, data),
            (Purpose::SyncWrite { block }, _) => self.sync_written(*block),
            (Purpose::SyncFlush { blocks }, _) => self.sync_flushed(blocks),
            _ => {}
        }
        if result.is_err() {
            self.detach();
        }
    }
}
