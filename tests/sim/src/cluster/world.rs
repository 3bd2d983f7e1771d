//! The simulated world: an event queue, the two nodes with their clocks, disks and running things, links, the arbiter.

use std::collections::BTreeMap;
use std::time::Duration;

use super::node::Node;
use crate::Rng;
use ferro_cluster::group::{Data, Operation};
use ferro_cluster::witness::{Output as WitnessOutput, Record, Witness};
use ferro_cluster::{Input, Key, NodeId, Output, Time};

pub(crate) const DEADTIME: u64 = 400;
const MS: u64 = 1_000_000;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arbitration {
    /// A witness that grants leases.
    Witness,
    /// A fence that works.
    Fence,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Starts of the group in a new epoch.
    pub starts: u64,
    /// Of machines and daemons.
    pub crashes: u64,
    /// Acknowledged ones.
    pub writes: u64,
}

enum What {
    ToNode { node: usize, boot: u64, input: Input },
    ToWitness { from: usize, bytes: Vec<u8> },
    WitnessStored { boot: u64, version: u64, records: Vec<Record> },
    Saved { node: usize, boot: u64, version: u64, durable: ferro_cluster::group::Durable },
    Operated { node: usize, boot: u64, unit: usize, serial: u64, operation: Operation },
    Fenced { node: usize, boot: u64 },
    GoAlone { node: usize, boot: u64, serial: u64 },
    Wake { node: usize, boot: u64 },
    Boot { node: usize, machine: bool },
    BootWitness,
    Guard { node: usize },
    Mirror,
    Fault,
}

/// One run.
pub struct World {
    /// Print what happens.
    pub verbose: bool,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    serial: u64,
    queue: BTreeMap<(u64, u64), What>,
    nodes: [Node; 2],
    witness: Option<Witness<usize>>,
    witness_boot: u64,
    records: Vec<Record>,
    /// By direction: from node 0 to 1, and back.
    cut: [bool; 2],
    witness_cut: [bool; 2],
    mirror_cut: bool,
    /// The mirrors are connected.
    connected: bool,
    /// The newest write that was acknowledged.
    acknowledged: u64,
    faults: bool,
    failure: Option<String>,
    outcome: Outcome,
}

pub(crate) fn key() -> Key {
    Key::new(b"the secret of the world").expect("long enough")
}

impl World {
    /// Two machines that are off.
    #[must_use]
    pub fn new(seed: u64, arbitration: Arbitration) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = [0, 1].map(|index| Node::new(index, &mut rng, arbitration));
        Self {
            verbose: false,
            rng,
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            nodes,
            witness: None,
            witness_boot: 0,
            records: Vec::new(),
            cut: [false; 2],
            witness_cut: [false; 2],
            mirror_cut: false,
            connected: false,
            acknowledged: 0,
            faults: true,
            failure: None,
            outcome: Outcome::default(),
        }
    }

    fn after(&mut self, delay: u64, what: What) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), what);
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>9.3} {}", self.now as f64 / MS as f64, text());
        }
    }

    /// Runs with faults, then without; then one node has to run the group.
    ///
    /// # Errors
    ///
    /// What was violated.
    pub fn run(&mut self) -> Result<Outcome, String> {
        self.after(0, What::BootWitness);
        for node in 0..2 {
            let delay = self.rng.below(300 * MS);
            self.after(delay, What::Boot { node, machine: true });
        }
        self.after(10 * MS, What::Mirror);
        self.after(1500 * MS, What::Fault);
        self.drive(40_000 * MS)?;
        self.say(|| "no more faults".into());
        self.faults = false;
        (self.cut, self.witness_cut, self.mirror_cut) = ([false; 2], [false; 2], false);
        self.drive(15_000 * MS)?;
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        if running != 1 || !self.connected || self.nodes[0].version != self.nodes[1].version {
            let states: Vec<_> = self.nodes.iter().map(Node::describe).collect();
            return Err(format!("it doesn't recover: {}", states.join("; ")));
        }
        Ok(self.outcome)
    }

    fn drive(&mut self, duration: u64) -> Result<(), String> {
        let end = self.now + duration;
        while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= end) {
            let ((at, _), what) = first.remove_entry();
            self.now = at;
            self.happen(what);
            if self.nodes.iter().filter(|node| node.is_running()).count() > 1 {
                self.failure = Some("both nodes run the group".into());
            }
            if let Some(failure) = self.failure.take() {
                let states: Vec<_> = self.nodes.iter().map(Node::describe).collect();
                return Err(format!("at {} ms: {failure}: {}", self.now / MS, states.join("; ")));
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: What) {
        match what {
            What::ToNode { node, boot, input } if self.nodes[node].is_up(boot) => self.tell(node, input),
            What::Wake { node, boot } if self.nodes[node].is_up(boot) && self.nodes[node].wake == self.now => {
                self.tell(node, Input::Timer);
            }
            What::ToWitness { from, bytes } => {
                let now = Time(self.now);
                if let Some(witness) = &mut self.witness {
                    witness.receive(now, from, &bytes);
                    self.collect_witness();
                }
            }
            What::WitnessStored { boot, version, records } if boot == self.witness_boot => {
                self.records = records;
                if let Some(witness) = &mut self.witness {
                    witness.stored(version);
                    self.collect_witness();
                }
            }
            What::Saved { node, boot, version, durable } if self.nodes[node].is_up(boot) => {
                self.nodes[node].save(version, durable);
                self.tell(node, Input::Persisted { group: 0, version });
            }
            What::Operated { node, boot, unit, serial, operation } => {
                self.operated(node, boot, unit, serial, operation);
            }
            What::GoAlone { node, boot, serial } if self.nodes[node].is_up(boot) => {
                self.nodes[node].alone = !self.connected && self.nodes[node].is_running();
                self.nodes[node].confirmed = serial;
            }
            What::Fenced { node, boot } if self.nodes[node].is_up(boot) => {
                self.crash(1 - node, true);
                self.tell(node, Input::FenceDone { group: 0, result: Ok(()) });
            }
            What::Boot { node, machine } if self.nodes[node].cluster.is_none() => self.boot(node, machine),
            What::BootWitness if self.witness.is_none() => {
                let session = self.rng.bits();
                self.witness = Some(Witness::new(Time(self.now), session, [("pair".into(), key())], &self.records));
            }
            What::Guard { node } => self.nodes[node].guard(self.now),
            What::Mirror => self.mirror(),
            What::Fault if self.faults => self.fault(),
            _ => {}
        }
    }

    fn boot(&mut self, node: usize, machine: bool) {
        self.say(|| format!("node {node} boots, machine {machine}"));
        let incarnation = self.rng.bits();
        self.nodes[node].boot(self.now, incarnation);
        self.collect(node);
    }

    fn crash(&mut self, node: usize, machine: bool) {
        self.say(|| format!("node {node} crashes, machine {machine}"));
        self.outcome.crashes += 1;
        let up = self.nodes[node].cluster.is_some();
        self.nodes[node].crash(machine);
        if machine {
            self.connected = false;
        }
        if up {
            let longest = if machine { 3000 } else { 600 };
            let delay = (10 + self.rng.below(longest)) * MS;
            self.after(delay, What::Boot { node, machine });
        }
    }

    fn fault(&mut self) {
        let node = usize::from(self.rng.below(2) == 1);
        let what = self.rng.below(10);
        self.say(|| format!("fault {what} at node {node}"));
        match what {
            0 | 1 => self.crash(node, true),
            2 => self.crash(node, false),
            3 => {
                self.crash(0, true);
                self.crash(1, true);
            }
            4 => self.cut = [true; 2],
            5 => self.cut[node] = true,
            6 => self.witness_cut[node] = true,
            7 => self.mirror_cut = true,
            8 => {
                self.witness = None;
                self.witness_boot += 1;
                let delay = self.rng.below(2000) * MS;
                self.after(delay, What::BootWitness);
            }
            _ => (self.cut, self.witness_cut, self.mirror_cut) = ([false; 2], [false; 2], false),
        }
        if self.rng.below(3) == 0 {
            (self.cut, self.witness_cut, self.mirror_cut) = ([false; 2], [false; 2], false);
        }
        if self.mirror_cut || self.cut == [true; 2] {
            self.connected = false;
        }
        let delay = (1 + self.rng.below(2500)) * MS;
        self.after(delay, What::Fault);
    }

    /// The data: a version on each node; writes at the one that runs, copies while connected.
    fn mirror(&mut self) {
        self.after(7 * MS, What::Mirror);
        let up = self.nodes.iter().all(|node| node.machine);
        if up && !self.mirror_cut && !self.cut.iter().any(|cut| *cut) && !self.connected && self.rng.below(10) == 0 {
            self.connected = true;
            self.nodes.iter_mut().for_each(|node| node.alone = false);
        }
        if self.connected && self.nodes[0].version != self.nodes[1].version && self.rng.below(20) == 0 {
            let newest = self.nodes[0].version.max(self.nodes[1].version);
            self.nodes.iter_mut().for_each(|node| node.version = newest);
        }
        let equal = self.nodes[0].version == self.nodes[1].version;
        for index in 0..2 {
            if self.nodes[index].is_running() {
                let before = self.nodes[index].version;
                if before < self.acknowledged {
                    self.failure = Some(format!("node {index} runs with {before}, {} is lost", self.acknowledged));
                }
                if self.connected && equal || self.nodes[index].alone {
                    self.acknowledged += 1;
                    self.outcome.writes += 1;
                    self.nodes[index].version = self.acknowledged;
                    if self.connected && equal {
                        self.nodes[1 - index].version = self.acknowledged;
                    }
                }
            }
        }
        for index in 0..2 {
            let node = &self.nodes[index];
            let in_sync = self.connected && self.nodes[0].version == self.nodes[1].version;
            let frozen = node.is_running() && !self.connected && !node.alone;
            let data = Data { usable: true, in_sync, frozen, confirmed: node.confirmed };
            // Late, but in order.
            let (delay, boot) = (30 * MS, node.boot);
            self.after(delay, What::ToNode { node: index, boot, input: Input::Data { group: 0, data } });
        }
    }

    fn operated(&mut self, node: usize, boot: u64, unit: usize, serial: u64, operation: Operation) {
        // What a daemon had begun goes on when it dies, but not when the machine does.
        if !self.nodes[node].carries_on(boot) || self.nodes[node].is_cancelled(boot, unit, serial, operation) {
            return;
        }
        let connected = self.connected;
        let (takes_over, result) = self.nodes[node].operate(self.now, unit, operation, connected);
        if matches!(operation, Operation::Start { .. }) && self.nodes[node].is_up(boot) {
            self.nodes[node].confirmed = serial;
        }
        if takes_over {
            self.outcome.starts += 1;
        }
        self.say(|| format!("node {node}: {operation:?} of {unit}: {result:?}"));
        if self.nodes[node].is_up(boot) {
            self.tell(node, Input::UnitDone { group: 0, unit, serial, result });
        }
    }

    fn tell(&mut self, node: usize, input: Input) {
        let now = self.nodes[node].clock(self.now);
        if let Some(cluster) = &mut self.nodes[node].cluster {
            let _ = cluster.handle(now, input);
            self.collect(node);
        }
    }

    fn collect(&mut self, node: usize) {
        let boot = self.nodes[node].boot;
        while let Some(output) = self.nodes[node].cluster.as_mut().and_then(ferro_cluster::Cluster::poll) {
            let delay = (1 + self.rng.below(15)) * MS;
            match output {
                Output::Send { bytes, .. } if !self.cut[node] && self.rng.below(20) > 0 => {
                    let to = 1 - node;
                    let boot = self.nodes[to].boot;
                    self.after(delay, What::ToNode { node: to, boot, input: Input::Packet { link: 0, bytes } });
                }
                Output::Ask { bytes } if !self.witness_cut[node] && self.rng.below(20) > 0 => {
                    self.after(delay, What::ToWitness { from: node, bytes });
                }
                Output::Send { .. } | Output::Ask { .. } => {}
                Output::Unit { unit, serial, operation, .. } => {
                    self.nodes[node].issued(unit, serial, operation);
                    let delay = match operation {
                        // Quick enough for what is left of the permission.
                        Operation::Stop { hard: true } => self.rng.below(10) * MS,
                        _ => self.rng.below(150) * MS,
                    };
                    self.after(delay, What::Operated { node, boot, unit, serial, operation });
                }
                Output::Fence { .. } => self.after(delay * 5, What::Fenced { node, boot }),
                Output::GoAlone { serial, .. } => self.after(delay, What::GoAlone { node, boot, serial }),
                Output::Persist { version, durable, .. } => {
                    self.after(delay * 3, What::Saved { node, boot, version, durable });
                }
                Output::Event(event) => self.say(|| format!("node {node}: {event}")),
            }
        }
        let Some(cluster) = &self.nodes[node].cluster else { return };
        let (deadline, permission) = (cluster.deadline(), cluster.permission());
        let wake = self.nodes[node].when(deadline).saturating_sub(self.now).max(MS / 4);
        // Only the latest of them counts.
        self.nodes[node].wake = self.now + wake;
        self.after(wake, What::Wake { node, boot });
        let former = self.nodes[node].permission;
        self.nodes[node].permission = permission.map(|until| self.nodes[node].when(until));
        if former != self.nodes[node].permission
            && let Some(until) = self.nodes[node].permission
        {
            // The guard lives beside the daemon, and acts if that doesn't.
            let margin = Duration::from_millis(DEADTIME / 16);
            let due = until.saturating_sub(u64::try_from(margin.as_nanos()).unwrap_or(0));
            self.after(due.saturating_sub(self.now), What::Guard { node });
        }
    }

    fn collect_witness(&mut self) {
        let mut outputs = Vec::new();
        while let Some(output) = self.witness.as_mut().and_then(Witness::poll) {
            outputs.push(output);
        }
        for output in outputs {
            let delay = (1 + self.rng.below(15)) * MS;
            match output {
                WitnessOutput::Store { version, records } => {
                    let boot = self.witness_boot;
                    self.after(delay, What::WitnessStored { boot, version, records });
                }
                WitnessOutput::Send(to, bytes) if !self.witness_cut[to] => {
                    let boot = self.nodes[to].boot;
                    self.after(delay, What::ToNode { node: to, boot, input: Input::Witness { bytes } });
                }
                WitnessOutput::Send(..) => {}
            }
        }
    }
}

pub(crate) fn id(index: usize) -> NodeId {
    if index == 0 { NodeId::Zero } else { NodeId::One }
}
