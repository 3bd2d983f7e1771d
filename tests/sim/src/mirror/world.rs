//! The simulated world: two nodes, their disks, the link, a consumer and an arbiter, driven by a queue of events.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use ferro_mirror::wire::{Message, Payload};
use ferro_mirror::{Admin, BLOCK, Config, Congestion, DataOp, Engine, Input, MetaOp, Output, Protocol, Time};

use super::disk::{Disk, SECTOR};
use super::oracle::Oracle;
use crate::rng::Rng;

pub(super) const SIZE: u64 = 48 * BLOCK;

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
    pub detached: u64,
    pub verifies: u64,
    pub splits: u64,
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// When a write is acknowledged.
    pub protocol: Protocol,
    /// Disks fail.
    pub disk_errors: bool,
}

/// What of a node's disks fails.
#[derive(Clone, Copy, Default)]
pub(super) struct Broken {
    pub(super) data: bool,
    pub(super) meta: bool,
}

pub(super) enum Done {
    Data { op: u64, request: DataOp, mark: u64 },
    Meta { op: u64, request: MetaOp, mark: u64 },
}

pub(super) enum What {
    Disk { node: usize, boot: u64, done: Done },
    Link { to: usize, link: u64 },
    LinkUp { link: u64 },
    Consumer,
    Arbiter,
    Fault,
    Boot { node: usize },
    Timer { node: usize, boot: u64 },
}

pub(super) struct Node {
    pub(super) engine: Option<Engine>,
    pub(super) boot: u64,
    pub(super) data: Disk,
    pub(super) meta: Disk,
    pub(super) inbox: VecDeque<Message>,
    pub(super) broken: Broken,
}

pub(super) enum Pending {
    Write { sectors: Range<usize> },
    Read { sectors: Range<usize> },
    Flush { issued: u64 },
}

/// One run.
pub struct World {
    pub(super) setup: Setup,
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) serial: u64,
    pub(super) queue: BTreeMap<(u64, u64), What>,
    pub(super) nodes: [Node; 2],
    pub(super) link: u64,
    pub(super) linked: bool,
    pub(super) cut: bool,
    /// One, or in a split brain one a node.
    pub(super) oracles: Vec<Oracle>,
    pub(super) pending: BTreeMap<u64, (usize, Pending)>,
    pub(super) next_id: u64,
    pub(super) epoch: u64,
    /// The only node that may be primary, as the other lacks writes.
    pub(super) sole: Option<usize>,
    /// Nodes that hold every acknowledged write.
    pub(super) valid: [bool; 2],
    /// A primary that crashed while the other was valid, as long as nobody took over.
    pub(super) returning: Option<usize>,
    pub(super) last_primary: usize,
    /// When the two last compared what they have.
    pub(super) compared: u64,
    /// While somebody waits for a verify: what it found.
    pub(super) verified: Option<Option<u64>>,
    pub(super) arbitrating: bool,
    pub(super) faults: bool,
    pub(super) consuming: bool,
    pub(super) failure: Option<String>,
    pub(super) outcome: Outcome,
    /// Prints what happens.
    pub verbose: bool,
}

pub(super) fn config(node: usize, protocol: Protocol, entropy: u64) -> Config {
    Config {
        node: u8::from(node == 1),
        size: SIZE,
        protocol,
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
    pub fn new(seed: u64, setup: Setup) -> Self {
        let node = |n| Node {
            engine: None,
            boot: 0,
            data: Disk::new(vec![0; usize::try_from(SIZE).unwrap_or(0)]),
            meta: Disk::new(Engine::format(&config(n, setup.protocol, 0))),
            inbox: VecDeque::new(),
            broken: Broken::default(),
        };
        Self {
            setup,
            rng: Rng::new(seed),
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            nodes: [node(0), node(1)],
            link: 0,
            linked: false,
            cut: false,
            oracles: vec![Oracle::new(usize::try_from(SIZE).unwrap_or(0) / SECTOR)],
            pending: BTreeMap::new(),
            next_id: 0,
            epoch: 0,
            sole: Some(0),
            valid: [true, false],
            returning: None,
            last_primary: 0,
            compared: 0,
            verified: None,
            arbitrating: true,
            faults: true,
            consuming: true,
            failure: None,
            outcome: Outcome::default(),
            verbose: false,
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
            self.nodes[node].broken = Broken::default();
            if self.nodes[node].engine.is_none() {
                self.boot(node);
            }
        }
        self.settle()?;
        self.finale()?;
        Ok(self.outcome)
    }

    /// Lets everything come to rest, and compares the replicas.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for _ in 0..40 {
            self.drive(500)?;
            self.consuming = false;
            if self.quiet() {
                return self.equal();
            }
        }
        Err(format!("no quiescence: {}", self.describe()))
    }

    pub(super) fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|n| match &n.engine {
            None => "down".to_owned(),
            Some(e) => format!(
                "[primary {} consistent {} link {:?} peer {} marked {} {:?}]",
                e.is_primary(),
                e.is_consistent(),
                e.status().link,
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

    pub(super) fn quiet(&self) -> bool {
        self.pending.is_empty()
            && self.nodes.iter().all(|n| {
                n.engine.as_ref().is_some_and(|e| {
                    e.peer_is_up_to_date() && e.is_consistent() && e.out_of_sync() == 0 && e.status().pending == 0
                })
            })
            && self.nodes.iter().any(|n| n.engine.as_ref().is_some_and(Engine::is_primary))
    }

    pub(super) fn equal(&self) -> Result<(), String> {
        let (a, b) = (&self.nodes[0].data.view, &self.nodes[1].data.view);
        for (s, (x, y)) in a.chunks(SECTOR).zip(b.chunks(SECTOR)).enumerate() {
            if x != y {
                return Err(format!("sector {s} differs in sync: {} and {}", tag_of(x), tag_of(y)));
            }
            if !self.oracles[0].allows(s, tag_of(x)) {
                return Err(format!("sector {s} holds {}, not one of {:?}", tag_of(x), self.oracles[0].expected(s)));
            }
        }
        Ok(())
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>6} {}", self.now, what());
        }
    }

    pub(super) fn after(&mut self, delay: u64, what: What) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), what);
    }

    pub(super) fn drive(&mut self, duration: u64) -> Result<(), String> {
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

    pub(super) fn is(&self, node: usize, what: impl Fn(&Engine) -> bool) -> bool {
        self.nodes[node].engine.as_ref().is_some_and(what)
    }

    pub(super) fn admin(&mut self, node: usize, command: Admin) {
        self.say(|| format!("node {node} is told {command:?}"));
        self.tell(node, Input::Admin(command));
    }

    pub(super) fn tell(&mut self, node: usize, input: Input) {
        if let Some(engine) = &mut self.nodes[node].engine {
            engine.handle(Time(self.now * 1_000_000), input);
            self.collect(node);
        }
    }

    /// Takes an engine's outputs into the world.
    pub(super) fn collect(&mut self, node: usize) {
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

pub(super) fn place(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

pub(super) fn bytes_of(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::Data(bytes) => bytes.to_vec(),
        Payload::Zeroes { length, .. } => vec![0; place(*length)],
    }
}

/// The tag that fills a sector; a sector of mixed content has none that any write has.
pub(super) fn tag_of(sector: &[u8]) -> u64 {
    let (words, _) = sector.as_chunks::<8>();
    match words {
        [first, rest @ ..] if rest.iter().all(|w| w == first) => u64::from_le_bytes(*first),
        _ => u64::MAX,
    }
}
