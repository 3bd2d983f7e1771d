//! The parts of a group: each is started, watched, restarted and stopped. What they are is the caller's.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Group, Phase, Reason, Sole, View, Wanted};
use crate::event::Event;
use crate::time::Time;

/// Longest wait between two restarts of a part that keeps failing, when no other node can take it.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);

/// One part's settings, in the words of resource agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitConfig {
    /// What people call it, such as `vm web`.
    pub name: String,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How long an orderly stop may take before it becomes a hard one.
    pub stop_timeout: Duration,
    /// Between two checks while it runs; none if not given.
    pub monitor: Option<Duration>,
    /// Restarts on this node within `window` before the group goes to the other.
    pub restarts: u32,
    /// Within which restarts count.
    pub window: Duration,
    /// Its start may let a mirror write without the peer.
    pub mirror: bool,
}

/// What is to be done with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start it, in this epoch; `force`: even on data of which only an operator says that they are the right ones.
    Start {
        /// The fencing token.
        epoch: u64,
        /// Mirrors may write without the peer: somebody knows that it is outdated.
        alone: bool,
        /// An operator insisted.
        force: bool,
    },
    /// Stop it in good order, or at once and by any means.
    Stop {
        /// At once.
        hard: bool,
    },
    /// Look whether it runs.
    Monitor,
}

/// How a part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// It doesn't run.
    Stopped,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It failed, and waits to be started again.
    Failed,
}

#[derive(Debug)]
pub(super) struct Unit {
    config: UnitConfig,
    pub(super) state: UnitState,
    /// The operation under way.
    operation: Option<(u64, Operation)>,
    /// When the operation is given up, the next check is due, or a restart.
    due: Option<Time>,
    failures: VecDeque<Time>,
}

impl Unit {
    pub(super) fn new(config: UnitConfig, state: UnitState) -> Self {
        Self { config, state, operation: None, due: None, failures: VecDeque::new() }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// It runs: when it is looked at next.
    pub(super) fn watch(&mut self, now: Time) {
        self.state = UnitState::Running;
        self.due = self.config.monitor.map(|interval| now.after(interval));
    }

    pub(super) fn forgive(&mut self) {
        self.failures.clear();
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// What is under way.
    pub(super) fn operation(&self) -> Option<Operation> {
        self.operation.map(|(_, operation)| operation)
    }

    fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Counts a failure at `now`; how many there were within the window.
    fn count(&mut self, now: Time) -> u32 {
        let window = self.config.window;
        self.failures.retain(|at| now.since(*at) < window);
        if self.failures.len() < 1000 {
            self.failures.push_back(now);
        }
        u32::try_from(self.failures.len()).unwrap_or(u32::MAX)
    }
}

impl Group {
    /// The parts and how they stand.
    pub(crate) fn unit_states(&self) -> impl Iterator<Item = (&str, UnitState)> {
        self.units.iter().map(|unit| (unit.name(), unit.state))
    }

    pub(super) fn operate(&mut self, now: Time, index: usize, operation: Operation) {
        self.serial += 1;
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.operation = Some((self.serial, operation));
        if matches!(operation, Operation::Start { alone: true, .. }) && unit.config.mirror {
            self.let_alone = self.serial;
            self.data.in_sync = false;
        }
        let (state, limit) = match operation {
            Operation::Start { .. } => (UnitState::Starting, unit.config.start_timeout),
            Operation::Stop { .. } => (UnitState::Stopping, unit.config.stop_timeout),
            Operation::Monitor => (UnitState::Running, unit.config.start_timeout),
        };
        unit.state = state;
        unit.due = Some(now.after(limit));
        self.wanted.push_back(Wanted::Unit { unit: index, serial: self.serial, operation });
    }

    /// An operation is over. Late news of one that was given up count for nothing.
    pub(crate) fn unit_done(&mut self, now: Time, index: usize, serial: u64, result: Result<(), String>) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let Some((_, operation)) = unit.operation.filter(|(current, _)| *current == serial) else { return };
        unit.operation = None;
        match (operation, result) {
            (Operation::Start { .. } | Operation::Monitor, Ok(())) => unit.watch(now),
            (Operation::Stop { .. }, Ok(())) => (unit.state, unit.due) = (UnitState::Stopped, None),
            (Operation::Stop { hard }, Err(why)) => {
                // Tried again, by any means.
                unit.due = Some(now.after(Duration::from_secs(u64::from(hard))));
                let (group, unit) = (self.name(), self.unit_name(index));
                self.event(Event::StopFailed { group, unit, why });
            }
            (Operation::Start { .. } | Operation::Monitor, Err(why)) => self.unit_failed(now, index, why),
        }
    }

    fn unit_name(&self, index: usize) -> String {
        self.units.get(index).map(|unit| unit.name().to_owned()).unwrap_or_default()
    }

    /// It doesn't run, or nobody knows: it is taken down and, if that may be, started again.
    fn unit_failed(&mut self, now: Time, index: usize, why: String) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let count = unit.count(now);
        unit.state = UnitState::Failed;
        unit.operation = None;
        // The first restart comes at once.
        let exponent = count.saturating_sub(1).min(6);
        let backoff = if exponent == 0 { Duration::ZERO } else { Duration::from_secs(1 << exponent) };
        unit.due = Some(now.after(backoff.min(LONGEST_BACKOFF)));
        let (group, unit) = (self.name(), self.unit_name(index));
        self.event(Event::UnitFailed { group, unit, why, count });
    }

    /// Starts what isn't started, looks at what runs, restarts what failed. True if the phase changed.
    pub(super) fn drive_units(&mut self, view: View<'_>) -> bool {
        let now = view.now;
        for index in 0..self.units.len() {
            let unit = &self.units[index];
            let due = unit.is_due(now);
            match (unit.state, unit.operation) {
                (UnitState::Running, None) if due => self.operate(now, index, Operation::Monitor),
                (UnitState::Running, Some(_)) if due => {
                    self.unit_failed(now, index, "it didn't answer in time".into());
                }
                (UnitState::Starting, _) if due => {
                    self.unit_failed(now, index, "it didn't start in time".into());
                }
                (UnitState::Stopping, _) if due => self.operate(now, index, Operation::Stop { hard: true }),
                _ => {}
            }
            if self.units[index].state == UnitState::Failed && self.recover(view, index) {
                return true;
            }
        }
        if self.durable.maintenance && matches!(self.phase, Phase::Active) {
            return false;
        }
        self.start_next(now)
    }

    /// A part that failed: once more here, or the peer's turn.
    fn recover(&mut self, view: View<'_>, index: usize) -> bool {
        if self.durable.maintenance {
            return false;
        }
        let unit = &self.units[index];
        let starting = matches!(self.phase, Phase::Starting);
        let exhausted = u32::try_from(unit.failures.len()).unwrap_or(u32::MAX) > unit.config.restarts;
        if exhausted && (starting || self.peer_can_take(view)) {
            self.stop(Reason::Failed, false);
            return true;
        }
        if unit.is_due(view.now) {
            // What is left of it goes first; stopped, it is started in its turn.
            self.operate(view.now, index, Operation::Stop { hard: true });
        }
        false
    }

    fn start_next(&mut self, now: Time) -> bool {
        let Some(index) = self.units.iter().position(|unit| unit.state != UnitState::Running) else {
            if matches!(self.phase, Phase::Starting) {
                let took = now.since(self.since);
                self.event(Event::Active { group: self.name(), epoch: self.durable.epoch, took });
                self.phase = Phase::Active;
                return true;
            }
            return false;
        };
        if self.units[index].state == UnitState::Stopped {
            let (epoch, alone) = (self.durable.epoch, self.durable.sole == Sole::This);
            let operation = Operation::Start { epoch, alone, force: self.forced };
            self.operate(now, index, operation);
        }
        false
    }
}
