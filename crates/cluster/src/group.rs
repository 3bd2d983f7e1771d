//! One resource group on one node: when to start it, when to stop it, and with what right.
//!
//! A group runs in an *epoch*, a number that only one node ever has (node 0 takes even ones, node 1 odd ones) and that
//! grows. To start, a node needs permission:
//!
//! - of a living peer: the peer has taken the new epoch for its own highest, while it runs nothing;
//! - of the witness, when the peer is dead or silent: a lease in the new epoch;
//! - of a fence command that has switched the peer off;
//! - of nobody, where the arbiter is `none`.
//!
//! With a witness, permission ends: with the lease, or `deadtime` after the last packet that the peer is known to have
//! counted, whichever is later. Before it ends, everything is stopped.
//!
//! Data are a matter of their own. A node whose peer lacks writes is the group's *sole* holder of valid data. That has to
//! be known by somebody else (the witness, or the peer itself, as *outdated*) before a mirror may write without its peer,
//! and a node that is outdated doesn't start by itself. The newest data thus win when both nodes start cold.

mod claim;
mod hold;
mod report;
mod units;
mod unwind;

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::Arbiter;
use crate::event::Event;
use crate::heartbeat::PeerState;
use crate::lease::{Lease, Party};
use crate::time::{NodeId, Time};
use claim::Claim;
pub use claim::Waiting;
pub use report::{Report, Role};
use units::Unit;
pub use units::{Operation, UnitConfig, UnitState};
pub use unwind::Reason;

/// A group's settings.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Its name; the same on both nodes.
    pub name: String,
    /// What it consists of, in the order of starting.
    pub units: Vec<UnitConfig>,
    /// Where it runs if nothing else speaks for either node.
    pub preferred: NodeId,
    /// Move back to the preferred node by itself, this long after that can take it.
    pub failback: Option<Duration>,
    /// Whether there are mirrored data, of which [`Data`] tells.
    pub mirrored: bool,
    /// A number made of what the group is declared to be, by which nodes notice that their declarations differ.
    pub fingerprint: u64,
    /// After a failed start or too many failures this node tries again by itself; never if not given.
    pub failure_timeout: Option<Duration>,
}

/// How the group's mirrored data on this node stand, all mirrors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Data {
    /// Complete, though perhaps not the newest. False for half a copy, a failed disk, and as long as nothing is known.
    pub usable: bool,
    /// Connected to the peer, and both have everything.
    pub in_sync: bool,
    /// Writes wait for the permission to go on without the peer.
    pub frozen: bool,
    /// The highest serial number of a start or a [`crate::Output::GoAlone`] that was carried out before this was looked at.
    /// Reports have to come in the order in which they were made.
    pub confirmed: u64,
}

/// Whose data are the only valid ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sole {
    /// As far as is known here, both nodes'.
    #[default]
    Nobody,
    /// This node's.
    This,
    /// The peer's: this node is outdated.
    Peer,
}

/// What a node has to remember of a group over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Durable {
    /// The highest epoch seen.
    pub epoch: u64,
    /// It was being started or ran here in that epoch, and hasn't been stopped.
    pub active: bool,
    /// Whose data are valid.
    pub sole: Sole,
    /// The epoch in which this node's became the only valid ones.
    pub sole_epoch: u64,
    /// An operator wants nothing to run here.
    pub standby: bool,
    /// An operator wants nothing to be started or stopped by itself.
    pub maintenance: bool,
}

/// What a node finds of a group when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What was remembered.
    pub durable: Durable,
    /// Some of it runs, started by an earlier process of this node: the end of the permission under which it does.
    pub adopted: Option<Time>,
    /// Which parts run.
    pub running: Vec<bool>,
}

/// What a group wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Wanted {
    Persist { version: u64, durable: Durable },
    Unit { unit: usize, serial: u64, operation: Operation },
    Fence,
    GoAlone { serial: u64 },
    Event(Event),
}

/// What an operator wants of a group on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Standby(bool),
    Maintenance(bool),
    MoveTo(NodeId),
    Promote,
    CleanUp,
}

/// How the world looks at one moment.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) now: Time,
    pub(crate) peer: PeerState,
    pub(crate) report: Option<&'a Report>,
    pub(crate) trusted: Option<Time>,
}

impl View<'_> {
    fn alive(&self) -> bool {
        matches!(self.peer, PeerState::Alive | PeerState::Late)
    }
}

#[derive(Debug)]
enum Phase {
    Idle,
    Claiming(Claim),
    Starting,
    Active,
    Stopping { reason: Reason, hard: bool },
}

/// A fence command's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    Idle,
    Running,
    /// The peer has been switched off since it was last heard.
    Done,
    Failed {
        again: Time,
    },
}

/// What is the same for all groups of a node.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) node: NodeId,
    pub(crate) arbiter: Arbiter,
    pub(crate) deadtime: Duration,
    pub(crate) party: Party,
}

/// A group on this node.
#[derive(Debug)]
pub(crate) struct Group {
    config: GroupConfig,
    place: Surroundings,
    durable: Durable,
    version: u64,
    saved: u64,
    phase: Phase,
    units: Vec<Unit>,
    serial: u64,
    data: Data,
    lease: Lease,
    fence: Fence,
    /// The peer was heard since this process started, and last said that its data aren't the only valid ones.
    contact: bool,
    /// Permission that an earlier process of this node had.
    inherited: Option<Time>,
    /// This node has stopped in favour of the other.
    yields: bool,
    /// An operator wants the group here.
    wants: bool,
    /// An operator insists on this node.
    insisted: bool,
    /// An operator insisted on what runs now.
    forced: bool,
    /// It failed here, perhaps until then.
    failed: Option<Option<Time>>,
    /// Says to the peer which wish for being sole this is.
    turn: u64,
    /// The last operation by which mirrors may have gone on without the peer.
    let_alone: u64,
    was_sole: bool,
    /// The peer's turn from which this node is outdated.
    outdated_by: u64,
    waiting: Option<Waiting>,
    retry: Option<Time>,
    failback_at: Option<Time>,
    /// The peer is there and has said nothing of this group.
    stranger_since: Option<Time>,
    since: Time,
    wanted: VecDeque<Wanted>,
}

impl Group {
    /// What an earlier process of this node has started is gone on with.
    pub(crate) fn new(now: Time, config: GroupConfig, place: Surroundings, found: &Found) -> Self {
        let Found { durable, adopted, running } = found.clone();
        let adopts = durable.active && adopted.is_some();
        let runs = |index: usize| adopts && running.get(index).copied().unwrap_or(false);
        let state = |index| if runs(index) { UnitState::Running } else { UnitState::Stopped };
        let units = config.units.iter().enumerate().map(|(index, unit)| Unit::new(unit.clone(), state(index)));
        let units = units.collect();
        let place_turn = place.party.incarnation;
        let mut group = Self {
            lease: Lease::new(place.party.clone()),
            config,
            place,
            durable,
            version: 0,
            saved: 0,
            phase: if adopts { Phase::Active } else { Phase::Idle },
            units,
            serial: 0,
            data: Data::default(),
            fence: Fence::Idle,
            contact: false,
            inherited: adopted.filter(|_| adopts),
            yields: false,
            wants: false,
            insisted: false,
            forced: false,
            failed: None,
            turn: place_turn,
            let_alone: 0,
            was_sole: false,
            outdated_by: 0,
            waiting: None,
            retry: None,
            failback_at: None,
            stranger_since: None,
            since: now,
            wanted: VecDeque::new(),
        };
        if adopts {
            let running = group.units.iter_mut().filter(|unit| unit.state == UnitState::Running);
            running.for_each(|unit| unit.watch(now));
            group.event(Event::Adopted { group: group.name(), epoch: durable.epoch });
        } else if durable.active {
            // The machine went down with it.
            group.change(|durable| durable.active = false);
        }
        group
    }

    pub(crate) fn name(&self) -> String {
        self.config.name.clone()
    }

    pub(crate) fn durable(&self) -> Durable {
        self.durable
    }

    pub(crate) fn poll(&mut self) -> Option<Wanted> {
        self.wanted.pop_front()
    }

    pub(crate) fn witness_packet(&mut self) -> Option<Vec<u8>> {
        self.lease.packet()
    }

    pub(crate) fn witness_answer(&mut self, now: Time, bytes: &[u8]) -> bool {
        self.lease.receive(now, bytes)
    }

    pub(crate) fn saved(&mut self, version: u64) {
        self.saved = self.saved.max(version);
    }

    pub(crate) fn data(&mut self, data: Data) {
        // What was so before mirrors were allowed to go on alone says nothing of what is so since.
        if data.confirmed >= self.let_alone {
            self.data = data;
        }
    }

    pub(crate) fn fenced(&mut self, now: Time, result: Result<(), String>) {
        if self.fence != Fence::Running {
            return;
        }
        let group = self.name();
        match result {
            Ok(()) => {
                self.fence = Fence::Done;
                self.event(Event::Fenced { group });
            }
            Err(why) => {
                self.fence = Fence::Failed { again: now.after(self.place.deadtime.max(Duration::from_secs(5))) };
                self.event(Event::FenceFailed { group, why });
            }
        }
    }

    /// Whether the group is being started, runs, or is being stopped here.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Active | Phase::Stopping { .. })
    }

    /// A peer that is there but knows nothing of this group can't give its word. With a witness that is as good as a dead
    /// one, once it has had time to tell.
    fn without_stranger<'a>(&mut self, view: View<'a>) -> View<'a> {
        if !view.alive() || view.report.is_some() || self.place.arbiter != Arbiter::Witness {
            self.stranger_since = None;
            return view;
        }
        let since = *self.stranger_since.get_or_insert(view.now);
        if view.now < since.after(self.place.deadtime) { view } else { View { peer: PeerState::Dead, ..view } }
    }

    /// Does everything that has become possible.
    pub(crate) fn advance(&mut self, view: View<'_>) {
        let view = self.without_stranger(view);
        self.learn(view);
        // Each phase leads to another at most a few times; the bound is against a mistake.
        for _ in 0..16 {
            let moved = match &self.phase {
                Phase::Idle => self.consider(view),
                Phase::Claiming(_) => self.pursue(view),
                Phase::Starting | Phase::Active => self.hold(view),
                Phase::Stopping { .. } => self.unwind(view),
            };
            if !moved {
                break;
            }
        }
        // The peer may count on its data again only once this node won't claim otherwise after a crash.
        let unsaved = self.was_sole && !self.is_saved();
        let sole = self.durable.sole == Sole::This || self.wants_sole() || unsaved;
        if sole && !self.was_sole {
            self.turn = self.turn.wrapping_add(1).max(1);
        }
        self.was_sole = sole;
        self.lease.tick(view.now);
    }

    /// Takes over what the peer says.
    fn learn(&mut self, view: View<'_>) {
        if self.failed.flatten().is_some_and(|until| until <= view.now) {
            self.failed = None;
        }
        if !view.alive() {
            return;
        }
        if matches!(self.fence, Fence::Done | Fence::Failed { .. }) {
            self.fence = Fence::Idle;
        }
        // Whoever says that only its data are valid is believed, also when it has stopped.
        self.contact = view.report.is_some_and(|report| !report.sole);
        let Some(report) = view.report else { return };
        // Not while it only claims: where both may, it is this that keeps the preferred one from taking the group back.
        if matches!(report.role, Role::Starting | Role::Active) {
            self.yields = false;
        }
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        if report.epoch > self.durable.epoch {
            self.change(|durable| durable.epoch = report.epoch);
        }
        let current = report.epoch >= self.durable.epoch;
        if report.sole {
            self.outdated_by = report.turn;
        }
        if report.sole && current && report.role != Role::Stopped && self.durable.sole != Sole::Peer {
            if self.durable.sole == Sole::This {
                self.event(Event::BothSole { group: self.name() });
            }
            self.change(|durable| durable.sole = Sole::Peer);
        } else if self.durable.sole == Sole::Peer && !report.sole && current && self.data.in_sync {
            self.change(|durable| durable.sole = Sole::Nobody);
        }
    }

    fn change(&mut self, how: impl FnOnce(&mut Durable)) {
        let before = self.durable;
        how(&mut self.durable);
        if self.durable != before {
            self.version += 1;
            self.wanted.push_back(Wanted::Persist { version: self.version, durable: self.durable });
        }
    }

    fn is_saved(&self) -> bool {
        self.saved == self.version
    }

    fn event(&mut self, event: Event) {
        self.wanted.push_back(Wanted::Event(event));
    }

    /// Whether this node could run the group if it had the permission.
    fn is_eligible(&self) -> bool {
        !self.durable.standby
            && !self.durable.maintenance
            && self.failed.is_none()
            && self.durable.sole != Sole::Peer
            && (!self.config.mirrored || self.data.usable)
    }

    /// What the peer is to know.
    pub(crate) fn report(&self) -> Report {
        let (role, epoch) = match &self.phase {
            Phase::Idle => (Role::Stopped, self.durable.epoch),
            Phase::Claiming(claim) => (Role::Claiming, claim.epoch),
            Phase::Starting => (Role::Starting, self.durable.epoch),
            Phase::Active => (Role::Active, self.durable.epoch),
            Phase::Stopping { .. } => (Role::Stopping, self.durable.epoch),
        };
        Report {
            group: crate::seal::number(&self.config.name),
            role,
            // Only what is durable is promised.
            epoch: if role == Role::Stopped && !self.is_saved() { 0 } else { epoch },
            sole: self.was_sole,
            sole_epoch: if self.durable.sole == Sole::This { self.durable.sole_epoch } else { 0 },
            turn: self.turn,
            outdated: if self.durable.sole == Sole::Peer && self.is_saved() { self.outdated_by } else { 0 },
            yields: self.yields,
            wants: self.wants,
            eligible: self.is_eligible(),
            in_sync: self.data.in_sync,
            fingerprint: self.config.fingerprint,
        }
    }

    pub(crate) fn deadline(&self, view: View<'_>) -> Option<Time> {
        let times = [
            self.retry,
            self.failed.flatten(),
            self.failback_at,
            self.stranger_since.map(|since| since.after(self.place.deadtime)),
            self.lease.deadline(),
            self.permission_deadline(view),
            match self.fence {
                Fence::Failed { again } if matches!(self.phase, Phase::Claiming(_)) || self.wants_sole() => Some(again),
                _ => None,
            },
            match &self.phase {
                Phase::Claiming(claim) => claim.deadline(self.patience()),
                _ => None,
            },
        ];
        let times = times.into_iter().chain(self.units.iter().map(Unit::deadline)).flatten();
        // What is past and can't be helped isn't waited for.
        times.filter(|time| *time > view.now).min()
    }

    pub(crate) fn command(&mut self, view: View<'_>, command: Command) -> Result<(), crate::engine::AdminError> {
        use crate::engine::AdminError;
        match command {
            Command::Standby(standby) => self.change(|durable| durable.standby = standby),
            Command::Maintenance(on) => self.change(|durable| durable.maintenance = on),
            Command::CleanUp => {
                self.failed = None;
                self.retry = None;
                self.units.iter_mut().for_each(Unit::forgive);
            }
            Command::MoveTo(node) => {
                let here = node == self.place.node;
                if self.durable.maintenance {
                    return Err(AdminError::Maintenance);
                }
                match (here, self.is_here()) {
                    (true, true) => {}
                    (true, false) => {
                        self.may_come(view)?;
                        self.wants = true;
                    }
                    (false, true) => {
                        self.may_go(view)?;
                        self.stop(Reason::Moved, false);
                    }
                    (false, false) => return Err(AdminError::NotHere),
                }
            }
            Command::Promote => {
                if view.alive() && view.report.is_some_and(|report| report.role != Role::Stopped) {
                    return Err(AdminError::PeerHasIt);
                }
                if !self.is_here() {
                    self.insisted = true;
                    self.retry = None;
                    self.failed = None;
                }
            }
        }
        Ok(())
    }
}

impl Group {
    /// The group for people to look at.
    pub(crate) fn overview(&self, view: View<'_>) -> crate::engine::Overview {
        // A node that wants nothing of the witness doesn't ask it.
        let asks = self.place.arbiter == Arbiter::Witness && !matches!(self.phase, Phase::Idle);
        let witness = asks.then(|| self.lease.reachable(view.now));
        crate::engine::Overview {
            name: self.name(),
            own: self.report(),
            peer: view.report.copied(),
            durable: self.durable(),
            units: self.unit_states().map(|(name, state)| (name.to_owned(), state)).collect(),
            waiting: self.waiting.filter(|_| !self.is_here()),
            permission: self.permission(view).filter(|_| self.is_here()),
            witness,
            failed: self.failed.is_some(),
            differs: view.alive() && view.report.is_some_and(|peer| peer.fingerprint != self.config.fingerprint),
        }
    }
}
