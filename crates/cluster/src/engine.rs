//! One node of a pair: heartbeats and groups together. [`Cluster::handle`] takes what happens, [`Cluster::poll`] says what is
//! to be done, [`Cluster::deadline`] when it wants to be called again.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::Event;
use crate::group::{
    Command, Data, Durable, Found, Group, GroupConfig, Operation, Report, Surroundings, UnitState, View, Waiting,
    Wanted,
};
use crate::heartbeat::{self, Heartbeat, LinkState, PeerState, Rejected, Timing};
use crate::lease::Party;
use crate::seal::{Key, number};
use crate::time::{NodeId, Time};

/// Who decides which node may run a group when the nodes can't see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arbiter {
    /// A witness on a third machine, by leases.
    Witness,
    /// A command that switches the peer off.
    Fence,
    /// Nobody: a cut cable makes both nodes active.
    None,
}

/// A pair as one of its nodes sees it.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The pair's name.
    pub cluster: String,
    /// What authenticates packets to and from the peer and the witness.
    pub key: Key,
    /// Links to the peer.
    pub links: usize,
    /// Heartbeat's times.
    pub timing: Timing,
    /// Who decides.
    pub arbiter: Arbiter,
    /// For how long a lease is asked for; at least twice keepalive.
    pub lease: Duration,
    /// A number that no earlier start of this node had.
    pub incarnation: u64,
    /// What is run.
    pub groups: Vec<GroupConfig>,
}

/// What a node is told.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Input {
    /// A packet came by a link.
    Packet { link: usize, bytes: Vec<u8> },
    /// A packet came from the witness.
    Witness { bytes: Vec<u8> },
    /// An [`Output::Unit`] is over.
    UnitDone { group: usize, unit: usize, serial: u64, result: Result<(), String> },
    /// The fence command is over.
    FenceDone { group: usize, result: Result<(), String> },
    /// How the mirrored data of a group stand now.
    Data { group: usize, data: Data },
    /// An [`Output::Persist`] is durable.
    Persisted { group: usize, version: u64 },
    /// The deadline has passed.
    Timer,
    /// This node is to give everything up in good order.
    ShutDown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Output {
    /// Send to the peer by this link.
    Send { link: usize, bytes: Vec<u8> },
    /// Send to the witness.
    Ask { bytes: Vec<u8> },
    /// Start, stop or look at a part of a group, then give [`Input::UnitDone`]. One part's are carried out in order; a stop ends
    /// a start that isn't finished.
    Unit { group: usize, unit: usize, serial: u64, operation: Operation },
    /// Switch the peer off, make sure that it is, then give [`Input::FenceDone`].
    Fence { group: usize },
    /// Let the group's mirrors write without the peer.
    GoAlone { group: usize, serial: u64 },
    /// Write this down durably, in order, then give [`Input::Persisted`].
    Persist { group: usize, version: u64, durable: Durable },
    /// For the log.
    Event(Event),
}

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Run nothing on this node, or as usual again.
    Standby(bool),
    /// Start and stop nothing by itself, or as usual again.
    Maintenance(bool),
    /// Move a group, or all of them, to this or the other node.
    MoveTo(NodeId),
    /// Start here although nobody vouches for the data or the peer.
    Promote,
    /// Forget failures.
    CleanUp,
}

/// Why an operator's wish is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No such group.
    #[error("there is no group '{0}'")]
    NoGroup(String),
    /// It runs on neither node.
    #[error("the group doesn't run here: start it first")]
    NotHere,
    /// The other node is away.
    #[error("the peer isn't there")]
    PeerAway,
    /// The other node can't take it.
    #[error("the peer can't run it: 'ferro cluster status' there says why")]
    PeerUnable,
    /// This node can't.
    #[error("this node can't run it: {0}")]
    Unable(String),
    /// Not all data are on both nodes.
    #[error("not all data are on both nodes yet: 'ferro mirror status' shows the progress")]
    NotInSync,
    /// It runs there.
    #[error("the peer has the group: 'ferro cluster move' brings it here")]
    PeerHasIt,
    /// Nothing is moved in maintenance.
    #[error("the group is in maintenance: 'ferro cluster maintenance off' first")]
    Maintenance,
}

/// A group for people to look at.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Its name.
    pub name: String,
    /// What this node does with it, and what it tells the peer.
    pub own: Report,
    /// What the peer says.
    pub peer: Option<Report>,
    /// What is remembered.
    pub durable: Durable,
    /// Its parts.
    pub units: Vec<(String, UnitState)>,
    /// Why it isn't started here.
    pub waiting: Option<Waiting>,
    /// Until when this node may run it; `None` if without end, or not here.
    pub permission: Option<Time>,
    /// Whether the witness has answered lately; `None` if it isn't asked.
    pub witness: Option<bool>,
    /// It failed here.
    pub failed: bool,
    /// The peer has declared it differently.
    pub differs: bool,
}

/// One node of a pair.
#[derive(Debug)]
pub struct Cluster {
    heartbeat: Heartbeat,
    groups: Vec<Group>,
    arbiter: Arbiter,
    now: Time,
    events: VecDeque<Event>,
}

impl Cluster {
    /// Starts at `now`, with what is found of each group, in order.
    #[must_use]
    pub fn new(now: Time, config: &Config, found: &[Found]) -> Self {
        let heartbeat = heartbeat::Config {
            node: config.node,
            cluster: config.cluster.clone(),
            key: config.key.clone(),
            links: config.links,
            timing: config.timing,
            incarnation: config.incarnation,
        };
        let arbiter = config.arbiter;
        let groups = config.groups.iter().enumerate().map(|(index, group)| {
            let found = found.get(index).cloned().unwrap_or_default();
            let party = Party {
                key: config.key.clone(),
                cluster: number(&config.cluster),
                group: number(&group.name),
                node: config.node,
                incarnation: config.incarnation,
                lease: config.lease,
                interval: config.timing.keepalive,
                exists: arbiter == Arbiter::Witness,
            };
            let place = Surroundings { node: config.node, arbiter, deadtime: config.timing.deadtime, party };
            Group::new(now, group.clone(), place, &found)
        });
        let groups = groups.collect();
        let mut cluster =
            Self { heartbeat: Heartbeat::new(now, heartbeat), groups, arbiter, now, events: VecDeque::new() };
        cluster.settle();
        cluster
    }

    /// Takes one input.
    ///
    /// # Errors
    /// Only of [`Input::Packet`]: why a packet counts for nothing.
    pub fn handle(&mut self, now: Time, input: Input) -> Result<(), Rejected> {
        self.now = now.max(self.now);
        let now = self.now;
        let mut result = Ok(());
        match input {
            Input::Packet { link, bytes } => result = self.heartbeat.receive(now, link, &bytes),
            Input::Witness { bytes } => {
                let _taken = self.groups.iter_mut().any(|group| group.witness_answer(now, &bytes));
            }
            Input::UnitDone { group, unit, serial, result } => {
                self.with(group, |group| group.unit_done(now, unit, serial, result));
            }
            Input::FenceDone { group, result } => self.with(group, |group| group.fenced(now, result)),
            Input::Data { group, data } => self.with(group, |group| group.data(data)),
            Input::Persisted { group, version } => self.with(group, |group| group.saved(version)),
            Input::Timer => {}
            Input::ShutDown => self.groups.iter_mut().for_each(Group::shut_down),
        }
        self.settle();
        result
    }

    fn with(&mut self, group: usize, what: impl FnOnce(&mut Group)) {
        if let Some(group) = self.groups.get_mut(group) {
            what(group);
        }
    }

    fn settle(&mut self) {
        // Packets that wait come before the timer: the caller gives them first.
        if self.now >= self.heartbeat.deadline() {
            self.heartbeat.tick(self.now);
        }
        while let Some(event) = self.heartbeat.event() {
            self.events.push_back(event);
        }
        for group in &mut self.groups {
            let report = find(self.heartbeat.reports(), &group.name());
            group.advance(view(self.now, &self.heartbeat, report.as_ref()));
        }
        let reports = self.groups.iter().map(Group::report).collect();
        self.heartbeat.report(self.now, reports);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            if let Some(wanted) = group.poll() {
                return Some(match wanted {
                    Wanted::Persist { version, durable } => Output::Persist { group: index, version, durable },
                    Wanted::Unit { unit, serial, operation } => Output::Unit { group: index, unit, serial, operation },
                    Wanted::Fence => Output::Fence { group: index },
                    Wanted::GoAlone { serial } => Output::GoAlone { group: index, serial },
                    Wanted::Event(event) => Output::Event(event),
                });
            }
            if self.arbiter == Arbiter::Witness
                && let Some(bytes) = group.witness_packet()
            {
                return Some(Output::Ask { bytes });
            }
        }
        self.heartbeat.packet().map(|(link, bytes)| Output::Send { link, bytes })
    }

    /// When [`Input::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let groups = self.groups.iter().filter_map(|group| {
            let report = find(self.heartbeat.reports(), &group.name());
            group.deadline(view(self.now, &self.heartbeat, report.as_ref()))
        });
        groups.chain([self.heartbeat.deadline()]).min().unwrap_or(self.now)
    }

    /// Carries out an operator's wish, for one group or for all.
    ///
    /// # Errors
    /// Why not.
    pub fn admin(&mut self, now: Time, group: Option<&str>, admin: Admin) -> Result<(), AdminError> {
        self.now = now.max(self.now);
        if let Some(name) = group
            && !self.groups.iter().any(|group| group.name() == name)
        {
            return Err(AdminError::NoGroup(name.into()));
        }
        let command = match admin {
            Admin::Standby(on) => Command::Standby(on),
            Admin::Maintenance(on) => Command::Maintenance(on),
            Admin::MoveTo(node) => Command::MoveTo(node),
            Admin::Promote => Command::Promote,
            Admin::CleanUp => Command::CleanUp,
        };
        let mut result = Ok(());
        for item in self.groups.iter_mut().filter(|item| group.is_none_or(|name| item.name() == name)) {
            let report = find(self.heartbeat.reports(), &item.name());
            let refused = item.command(view(self.now, &self.heartbeat, report.as_ref()), command);
            result = result.and(refused);
        }
        self.settle();
        result
    }

    /// How the peer stands.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.heartbeat.peer()
    }

    /// How the links stand.
    #[must_use]
    pub fn links(&self) -> Vec<LinkState> {
        self.heartbeat.links()
    }

    /// Until when this node may run what it runs: the earliest end of a group's permission. What runs longer than that without
    /// this engine's word has to be stopped by other means.
    #[must_use]
    pub fn permission(&self) -> Option<Time> {
        let here = self.groups.iter().filter(|group| group.is_here());
        here.filter_map(|group| group.permission(view(self.now, &self.heartbeat, None))).min()
    }

    /// Whether a group is being started, runs, or is being stopped here.
    #[must_use]
    pub fn is_here(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(Group::is_here)
    }

    /// All groups, in order.
    #[must_use]
    pub fn overview(&self) -> Vec<Overview> {
        let overview = |group: &Group| {
            let peer = find(self.heartbeat.reports(), &group.name());
            group.overview(view(self.now, &self.heartbeat, peer.as_ref()))
        };
        self.groups.iter().map(overview).collect()
    }
}

fn find(reports: &[Report], name: &str) -> Option<Report> {
    reports.iter().find(|report| report.group == number(name)).copied()
}

fn view<'a>(now: Time, heartbeat: &Heartbeat, report: Option<&'a Report>) -> View<'a> {
    View { now, peer: heartbeat.peer(), report, trusted: heartbeat.trusted_until() }
}
