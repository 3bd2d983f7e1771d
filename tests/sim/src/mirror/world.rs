//! The simulated world: two nodes, their disks, the link, a consumer and an arbiter, driven by a queue of events.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use ferro_mirror::generation::Decision;
use ferro_mirror::wire::{Message, Payload};
use ferro_mirror::{
    Admin, BLOCK, Config, Congestion, DataOp, Engine, Event, Input, MetaOp, Output, Protocol, Request, Time,
};

use super::disk::{Disk, SECTOR};
use super::oracle::Oracle;
use crate::rng::Rng;

const SIZE: u64 = 48 * BLOCK;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Outcome {
    pub writes: u64,
    pub reads: u64,
    pub flushes: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub promotions: u64,
    pub resyncs: u64,
}

enum Done {
    Data { op: u64, request: DataOp, mark: u64 },
    Meta { op: u64, request: MetaOp, mark: u64 },
}

enum What {
    Disk { node: usize, boot: u64, done: Done },
    Link { to: usize, link: u64 },
    LinkUp { link: u64 },
    Consumer,
    Arbiter,
    Fault,
    Boot { node: usize },
    Timer { node: usize, boot: u64 },
}

struct Node {
    engine: Option<Engine>,
    boot: u64,
    data: Disk,
    meta: Disk,
    inbox: VecDeque<Message>,
}

enum Pending {
    Write { tag: u64, sectors: Range<usize> },
    Read { sectors: Range<usize> },
    Flush { issued: u64 },
}

/// One run.
pub struct World {
    rng: Rng,
    now: u64,
    serial: u64,
    queue: BTreeMap<(u64, u64), What>,
    nodes: [Node; 2],
    link: u64,
    linked: bool,
    cut: bool,
    oracle: Oracle,
    pending: BTreeMap<u64, (usize, Pending)>,
    next_id: u64,
    epoch: u64,
    /// The only node that may be primary, as the other lacks writes.
    sole: Option<usize>,
    /// Nodes that hold every acknowledged write.
    valid: [bool; 2],
    faults: bool,
    consuming: bool,
    failure: Option<String>,
    outcome: Outcome,
}

fn config(node: usize, entropy: u64) -> Config {
    Config {
        node: u8::from(node == 1),
        size: SIZE,
        protocol: Protocol::C,
        extent: 4 * BLOCK,
        log_extents: 3,
        max_in_flight: 16,
        congestion: Congestion::Block,
        sync_in_flight: 8,
        fencing: true,
        entropy,
    }
}

impl World {
    /// Two blank nodes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let node = |n| Node {
            engine: None,
            boot: 0,
            data: Disk::new(vec![0; usize::try_from(SIZE).unwrap_or(0)]),
            meta: Disk::new(Engine::format(&config(n, 0))),
            inbox: VecDeque::new(),
        };
        Self {
            rng: Rng::new(seed),
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            nodes: [node(0), node(1)],
            link: 0,
            linked: false,
            cut: false,
            oracle: Oracle::new(usize::try_from(SIZE).unwrap_or(0) / SECTOR),
            pending: BTreeMap::new(),
            next_id: 0,
            epoch: 0,
            sole: Some(0),
            valid: [true, false],
            faults: true,
            consuming: true,
            failure: None,
            outcome: Outcome::default(),
        }
    }

    /// Runs with faults, then without, and holds the world against its rules.
    ///
    /// # Errors
    ///
    /// What was violated.
    pub fn run(&mut self) -> Result<Outcome, String> {
        self.boot(0);
        self.boot(1);
        self.admin(0, Admin::Primary { epoch: None, force: true, alone: true });
        self.epoch = 1;
        self.after(1, What::LinkUp { link: 0 });
        self.after(10, What::Consumer);
        self.after(5, What::Arbiter);
        self.after(500, What::Fault);
        self.drive(2_500)?;
        self.faults = false;
        self.cut = false;
        for node in 0..2 {
            if self.nodes[node].engine.is_none() {
                self.boot(node);
            }
        }
        for _ in 0..40 {
            self.drive(500)?;
            self.consuming = false;
            if self.quiet() {
                return self.equal().map(|()| self.outcome);
            }
        }
        Err(format!("no quiescence: {}", self.describe()))
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|n| match &n.engine {
            None => "down".to_owned(),
            Some(e) => format!(
                "[primary {} consistent {} connected {} peer {} marked {} {:?}]",
                e.is_primary(),
                e.is_consistent(),
                e.is_connected(),
                e.peer_is_up_to_date(),
                e.out_of_sync(),
                e.generations()
            ),
        });
        let nodes: Vec<_> = nodes.collect();
        format!(
            "{} linked {} sole {:?} valid {:?} pending {}",
            nodes.join(" "),
            self.linked,
            self.sole,
            self.valid,
            self.pending.len()
        )
    }

    fn quiet(&self) -> bool {
        self.pending.is_empty()
            && self.nodes.iter().all(|n| {
                n.engine.as_ref().is_some_and(|e| e.peer_is_up_to_date() && e.is_consistent() && e.out_of_sync() == 0)
            })
            && self.nodes.iter().any(|n| n.engine.as_ref().is_some_and(Engine::is_primary))
    }

    fn equal(&self) -> Result<(), String> {
        let (a, b) = (&self.nodes[0].data.view, &self.nodes[1].data.view);
        for (s, (x, y)) in a.chunks(SECTOR).zip(b.chunks(SECTOR)).enumerate() {
            if x != y {
                return Err(format!("sector {s} differs in sync: {} and {}", tag_of(x), tag_of(y)));
            }
            if !self.oracle.allows(s, tag_of(x)) {
                return Err(format!("sector {s} holds {}, not one of {:?}", tag_of(x), self.oracle.expected(s)));
            }
        }
        Ok(())
    }

    fn after(&mut self, delay: u64, what: What) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), what);
    }

    fn drive(&mut self, duration: u64) -> Result<(), String> {
        let end = self.now + duration;
        while let Some(((at, _), what)) = self.queue.pop_first_before(end) {
            self.now = at;
            self.happen(what);
            if let Some(failure) = self.failure.take() {
                return Err(format!("at {}: {failure}; {}", self.now, self.describe()));
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Disk { node, boot, done } if boot == self.nodes[node].boot => self.disk_done(node, done),
            What::Link { to, link } if link == self.link && self.linked => {
                if let Some(message) = self.nodes[to].inbox.pop_front() {
                    self.tell(to, Input::Message(message));
                }
            }
            What::LinkUp { link } if link == self.link && !self.linked => self.link_up(),
            What::Consumer => self.consume(),
            What::Arbiter => self.arbitrate(),
            What::Fault if self.faults => self.fault(),
            What::Boot { node } if self.nodes[node].engine.is_none() => self.boot(node),
            What::Timer { node, boot } if boot == self.nodes[node].boot => self.tell(node, Input::Timer),
            _ => {}
        }
    }

    fn boot(&mut self, node: usize) {
        let entropy = self.rng.bits();
        match Engine::new(config(node, entropy), &self.nodes[node].meta.view) {
            Ok(engine) => self.nodes[node].engine = Some(engine),
            Err(error) => self.failure = Some(format!("node {node} can't start: {error}")),
        }
        self.collect(node);
        self.after(20, What::LinkUp { link: self.link });
    }

    fn crash(&mut self, node: usize) {
        self.outcome.crashes += 1;
        self.nodes[node].engine = None;
        let boot = self.nodes[node].boot;
        self.nodes[node].boot += 1;
        let (mut data, mut meta) = (Vec::new(), Vec::new());
        for what in self.queue.values() {
            match what {
                What::Disk {
                    node: n,
                    boot: b,
                    done: Done::Data { request: DataOp::Write { offset, payload }, .. },
                } if (*n, *b) == (node, boot) => {
                    data.push((place(*offset), bytes_of(payload)));
                }
                What::Disk { node: n, boot: b, done: Done::Meta { request: MetaOp::Write { offset, bytes }, .. } }
                    if (*n, *b) == (node, boot) =>
                {
                    meta.push((place(*offset), bytes.clone()));
                }
                _ => {}
            }
        }
        self.nodes[node].data.crash(data, &mut self.rng);
        self.nodes[node].meta.crash(meta, &mut self.rng);
        let lost: Vec<u64> = self.pending.iter().filter(|(_, p)| p.0 == node).map(|(id, _)| *id).collect();
        for id in lost {
            self.finish(id, None);
        }
        self.valid[node] = false;
        if self.valid == [false; 2] {
            self.oracle.caches_lost();
            match self.sole {
                Some(n) => self.valid[n] = true,
                None => self.valid = [true; 2],
            }
        }
        self.unlink();
        let delay = 30 + self.rng.below(400);
        self.after(delay, What::Boot { node });
    }

    fn unlink(&mut self) {
        if !self.linked {
            return;
        }
        self.linked = false;
        self.link += 1;
        for node in 0..2 {
            self.nodes[node].inbox.clear();
            self.tell(node, Input::LinkDown);
        }
        let delay = 20 + self.rng.below(60);
        self.after(delay, What::LinkUp { link: self.link });
    }

    fn link_up(&mut self) {
        if self.cut || self.nodes.iter().any(|n| n.engine.is_none()) {
            self.after(50, What::LinkUp { link: self.link });
            return;
        }
        self.linked = true;
        for node in 0..2 {
            self.tell(node, Input::LinkUp);
        }
    }

    fn fault(&mut self) {
        match self.rng.below(6) {
            0 => self.crash_if_up(0),
            1 => self.crash_if_up(1),
            2 => {
                self.crash_if_up(0);
                self.crash_if_up(1);
            }
            3 => {
                self.outcome.cuts += 1;
                self.unlink();
            }
            4 => {
                self.outcome.cuts += 1;
                self.cut = true;
                self.unlink();
            }
            _ => self.cut = false,
        }
        let delay = 1 + self.rng.below(300);
        self.after(delay, What::Fault);
    }

    fn crash_if_up(&mut self, node: usize) {
        if self.nodes[node].engine.is_some() {
            self.crash(node);
        }
    }

    fn is(&self, node: usize, what: impl Fn(&Engine) -> bool) -> bool {
        self.nodes[node].engine.as_ref().is_some_and(what)
    }

    /// What a cluster does: one primary, which goes on alone or is fenced when the link breaks.
    fn arbitrate(&mut self) {
        self.after(25, What::Arbiter);
        let primary = (0..2).find(|n| self.is(*n, Engine::is_primary));
        if let Some(node) = primary {
            let connected = self.is(node, Engine::is_connected);
            if connected && self.is(node, Engine::peer_is_up_to_date) && self.rng.one_in(40) {
                self.admin(node, Admin::Secondary);
            } else if !connected && !self.linked && self.sole != Some(node) {
                let other = 1 - node;
                let takeover = self.valid[other] && self.is(other, Engine::is_consistent) && self.rng.one_in(3);
                if takeover || self.sole.is_some() || !self.valid[node] || !self.is(node, Engine::is_consistent) {
                    self.crash(node);
                } else {
                    self.sole = Some(node);
                    self.valid[1 - node] = false;
                    self.admin(node, Admin::GoAlone);
                }
            } else if !connected && self.sole == Some(node) {
                self.admin(node, Admin::GoAlone);
            }
            return;
        }
        let first = place(self.rng.below(2));
        for node in [first, 1 - first] {
            let through_peer = self.valid[1 - node] && self.is(node, Engine::peer_is_up_to_date);
            let allowed = through_peer || self.valid[node] && self.sole.is_none_or(|n| n == node);
            // A force that nobody should need is refused by the arbiter; a promotion without valid data by the engine.
            if !self.is(node, |_| true) || !allowed {
                continue;
            }
            self.epoch += 1;
            self.admin(node, Admin::Primary { epoch: Some(self.epoch), force: false, alone: true });
            if self.is(node, Engine::is_primary) {
                self.outcome.promotions += 1;
                if !self.is(node, Engine::is_connected) {
                    self.sole = Some(node);
                    self.valid[1 - node] = false;
                }
                break;
            }
        }
    }

    fn consume(&mut self) {
        let delay = 1 + self.rng.below(6);
        self.after(delay, What::Consumer);
        let Some(node) = (0..2).find(|n| self.is(*n, Engine::is_primary)) else { return };
        if self.pending.len() > 12 || !self.consuming {
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        let sectors = place(SIZE) / SECTOR;
        let first = place(self.rng.below(sectors as u64 - 20));
        let range = first..first + 1 + place(self.rng.below(20));
        let (offset, length) = ((range.start * SECTOR) as u64, (range.len() * SECTOR) as u64);
        let (pending, request) = match self.rng.below(8) {
            0..=3 => {
                self.outcome.writes += 1;
                self.oracle.issue(id, range.clone(), self.now);
                let data: Arc<[u8]> = id.to_le_bytes().repeat(range.len() * SECTOR / 8).into();
                let request = Request::Write { offset, payload: Payload::Data(data), fua: self.rng.one_in(8) };
                (Pending::Write { tag: id, sectors: range }, request)
            }
            4..=6 => {
                self.outcome.reads += 1;
                (Pending::Read { sectors: range }, Request::Read { offset, length })
            }
            _ => {
                self.outcome.flushes += 1;
                (Pending::Flush { issued: self.now }, Request::Flush)
            }
        };
        self.pending.insert(id, (node, pending));
        self.tell(node, Input::Request { id, request });
    }

    /// A request was answered, or its node crashed.
    fn finish(&mut self, id: u64, data: Option<&[u8]>) {
        let Some((_, pending)) = self.pending.remove(&id) else {
            self.failure = Some(format!("request {id} was answered twice"));
            return;
        };
        match pending {
            Pending::Write { tag, sectors } => self.oracle.end(tag, sectors, self.now, data.is_some()),
            Pending::Flush { issued } if data.is_some() => self.oracle.flushed(issued),
            Pending::Read { sectors } => {
                for (s, sector) in sectors.zip(data.unwrap_or_default().chunks(SECTOR)) {
                    if !self.oracle.allows(s, tag_of(sector)) {
                        let expected = self.oracle.expected(s);
                        self.failure = Some(format!("sector {s} read as {}, not {expected:?}", tag_of(sector)));
                    }
                }
            }
            Pending::Flush { .. } => {}
        }
    }

    fn disk_done(&mut self, node: usize, done: Done) {
        let n = &mut self.nodes[node];
        let input = match done {
            Done::Data { op, request, mark } => {
                let mut bytes: Arc<[u8]> = [].into();
                match request {
                    DataOp::Read { offset, length } => {
                        bytes = n.data.view[place(offset)..place(offset + length)].into();
                    }
                    DataOp::Write { offset, payload } => n.data.write(place(offset), bytes_of(&payload)),
                    DataOp::Flush => n.data.flush(mark),
                }
                Input::DataDone { op, result: Ok(bytes) }
            }
            Done::Meta { op, request, mark } => {
                match request {
                    MetaOp::Write { offset, bytes } => n.meta.write(place(offset), bytes),
                    MetaOp::Flush => n.meta.flush(mark),
                }
                Input::MetaDone { op, result: Ok(()) }
            }
        };
        self.tell(node, input);
    }

    fn admin(&mut self, node: usize, command: Admin) {
        self.tell(node, Input::Admin(command));
    }

    fn tell(&mut self, node: usize, input: Input) {
        if let Some(engine) = &mut self.nodes[node].engine {
            engine.handle(Time(self.now * 1_000_000), input);
            self.collect(node);
        }
    }

    /// Takes an engine's outputs into the world.
    fn collect(&mut self, node: usize) {
        let boot = self.nodes[node].boot;
        let mut drop_link = false;
        while let Some(output) = self.nodes[node].engine.as_mut().and_then(Engine::poll) {
            let delay = 1 + self.rng.below(8);
            match output {
                Output::Data { op, request } => {
                    let mark = self.nodes[node].data.mark();
                    self.after(delay, What::Disk { node, boot, done: Done::Data { op, request, mark } });
                }
                Output::Meta { op, request } => {
                    let mark = self.nodes[node].meta.mark();
                    self.after(delay, What::Disk { node, boot, done: Done::Meta { op, request, mark } });
                }
                Output::Send(message) if self.linked => self.send(1 - node, &message),
                Output::DropLink => drop_link = true,
                Output::Reply { id, result } => self.finish(id, result.ok().as_deref()),
                Output::Event(event) => self.event(node, event),
                Output::Send(_) | Output::AdminReply(_) => {}
            }
        }
        if let Some(due) = self.nodes[node].engine.as_ref().and_then(Engine::deadline) {
            self.after((due.0 / 1_000_000).saturating_sub(self.now).max(1), What::Timer { node, boot });
        }
        if drop_link {
            self.unlink();
        }
    }

    fn send(&mut self, to: usize, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        match Message::decode(&bytes) {
            Ok(Some((decoded, used))) if used == bytes.len() && decoded == *message => {
                self.nodes[to].inbox.push_back(decoded);
            }
            other => self.failure = Some(format!("{message:?} decodes as {other:?}")),
        }
        let delay = 1 + self.rng.below(10);
        self.after(delay, What::Link { to, link: self.link });
    }

    fn event(&mut self, node: usize, event: Event) {
        match event {
            Event::Handshake(Decision::SplitBrain | Decision::Unrelated | Decision::NoSource) => {
                self.failure = Some(format!("node {node} reports {event:?} though an arbiter decides"));
            }
            Event::Handshake(Decision::Target { .. }) => {
                // The source may have finished a resync that nobody noticed: its data say whether it is valid.
                let source = &self.nodes[1 - node].data.view;
                let stale = source.chunks(SECTOR).enumerate().find(|(s, c)| !self.oracle.allows(*s, tag_of(c)));
                if let Some((sector, content)) = stale {
                    let (tag, expected) = (tag_of(content), self.oracle.expected(sector));
                    self.failure = Some(format!("the source of {node} has {tag} in sector {sector}, not {expected:?}"));
                }
                self.valid[node] = false;
                self.valid[1 - node] = true;
                self.sole = Some(1 - node);
            }
            Event::Handshake(Decision::InSync) | Event::InSync => {
                // Only the side that was the source, or a primary, may conclude that the other has everything.
                let both = self.is(node, Engine::peer_is_up_to_date) && self.valid[node];
                if event == Event::InSync {
                    self.outcome.resyncs += 1;
                }
                if both {
                    self.sole = None;
                    self.valid[1 - node] |= self.is(1 - node, Engine::is_consistent);
                }
            }
            _ => {}
        }
    }
}

trait PopBefore {
    fn pop_first_before(&mut self, end: u64) -> Option<((u64, u64), What)>;
}

impl PopBefore for BTreeMap<(u64, u64), What> {
    fn pop_first_before(&mut self, end: u64) -> Option<((u64, u64), What)> {
        let first = self.first_entry()?;
        (first.key().0 <= end).then(|| first.remove_entry())
    }
}

fn place(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn bytes_of(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::Data(bytes) => bytes.to_vec(),
        Payload::Zeroes { length, .. } => vec![0; place(*length)],
    }
}

/// The tag that fills a sector; a sector of mixed content has none that any write has.
fn tag_of(sector: &[u8]) -> u64 {
    let (words, _) = sector.as_chunks::<8>();
    match words {
        [first, rest @ ..] if rest.iter().all(|w| w == first) => u64::from_le_bytes(*first),
        _ => u64::MAX,
    }
}
