//! Stopping a group: its parts in reverse, the lease given back, the peer told.

use super::units::{Operation, UnitState};
use super::{Group, Phase, View};
use crate::event::Event;

/// Why a group is stopped here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// An operator wants it on the other node.
    #[error("moved to the other node")]
    Moved,
    /// An operator wants nothing here.
    #[error("this node goes to standby")]
    Standby,
    /// The preferred node is back.
    #[error("the preferred node can take it back")]
    Failback,
    /// A part failed too often, or didn't start.
    #[error("it failed here")]
    Failed,
    /// Neither peer nor witness can be reached.
    #[error("neither the peer nor the witness has been heard, and the lease is about to end")]
    PermissionEnds,
    /// Somebody has a later epoch.
    #[error("the other node has taken over in a later epoch")]
    Superseded,
    /// The daemon ends.
    #[error("this node shuts down")]
    Shutdown,
}

impl Reason {
    /// Whether the peer is to go on with it.
    fn yields(self) -> bool {
        matches!(self, Self::Moved | Self::Standby | Self::Failback | Self::Failed | Self::Shutdown)
    }
}

impl Group {
    /// Begins to stop; what is being stopped already is stopped harder if so wanted.
    pub(crate) fn stop(&mut self, reason: Reason, hard: bool) {
        if !matches!(self.phase, Phase::Stopping { .. }) {
            self.event(Event::Stops { group: self.name(), epoch: self.durable.epoch, reason });
        }
        self.phase = Phase::Stopping { reason, hard };
        self.failback_at = None;
    }

    /// Stops the group for good: this node's daemon ends.
    pub(crate) fn shut_down(&mut self) {
        match self.phase {
            Phase::Starting | Phase::Active => self.stop(Reason::Shutdown, false),
            Phase::Idle | Phase::Claiming(_) | Phase::Stopping { .. } => {}
        }
        self.failed = Some(None);
    }

    /// Stopping: what runs is stopped, last part first.
    pub(super) fn unwind(&mut self, view: View<'_>) -> bool {
        let Phase::Stopping { reason, mut hard } = self.phase else { return false };
        // An orderly stop, too, has to be over before the permission is.
        let ends = self.permission(view).map(|until| until.before(self.place.deadtime / 8));
        hard |= ends.is_some_and(|ends| view.now >= ends);
        self.phase = Phase::Stopping { reason, hard };
        for index in (0..self.units.len()).rev() {
            let unit = &self.units[index];
            let under_way = unit.operation();
            match (unit.state, under_way) {
                (UnitState::Stopped, _) => continue,
                (UnitState::Stopping, Some(Operation::Stop { hard: already })) => {
                    let late = unit.deadline().is_some_and(|due| due <= view.now);
                    if late || hard && !already {
                        self.operate(view.now, index, Operation::Stop { hard: true });
                    }
                }
                (UnitState::Stopping, _) if unit.deadline().is_none_or(|due| due <= view.now) => {
                    self.operate(view.now, index, Operation::Stop { hard: true });
                }
                (UnitState::Stopping, _) => {}
                (UnitState::Failed, _) => self.operate(view.now, index, Operation::Stop { hard: true }),
                (UnitState::Starting | UnitState::Running, _) => {
                    self.operate(view.now, index, Operation::Stop { hard });
                }
            }
            // In good order one waits for the other; hard stops go out together.
            if !hard {
                return false;
            }
        }
        if self.units.iter().any(|unit| unit.state != UnitState::Stopped) {
            return false;
        }
        self.finish_stop(view, reason)
    }

    fn finish_stop(&mut self, view: View<'_>, reason: Reason) -> bool {
        self.change(|durable| durable.active = false);
        self.lease.release(self.durable.epoch);
        self.yields = reason.yields();
        if reason == Reason::Failed {
            self.failed = Some(self.config.failure_timeout.map(|timeout| view.now.after(timeout)));
        }
        self.units.iter_mut().for_each(super::units::Unit::forgive);
        self.inherited = None;
        self.forced = false;
        self.retry = None;
        self.event(Event::Stopped { group: self.name() });
        self.phase = Phase::Idle;
        true
    }
}
