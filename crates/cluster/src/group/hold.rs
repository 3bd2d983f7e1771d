//! While a group starts and runs here: the permission that has to go on, the data that have to become this node's alone
//! when the peer is lost, and the reasons to let go.

use super::{Fence, Group, Phase, Reason, Sole, View, Wanted};
use crate::engine::{AdminError, Arbiter};
use crate::event::Event;
use crate::lease::Wish;
use crate::time::Time;
use crate::witness::message::{Denial, SoleWish};

impl Group {
    /// Until when this node may run the group; `None` if without end.
    pub(crate) fn permission(&self, view: View<'_>) -> Option<Time> {
        if self.place.arbiter != Arbiter::Witness {
            return None;
        }
        let sources = [self.lease.until(self.durable.epoch), view.trusted, self.inherited];
        Some(sources.into_iter().flatten().max().unwrap_or_default())
    }

    /// When to begin to stop, so that all is over before the permission is.
    pub(super) fn permission_deadline(&self, view: View<'_>) -> Option<Time> {
        if !matches!(self.phase, Phase::Starting | Phase::Active) {
            return None;
        }
        self.permission(view).map(|until| until.before(self.place.deadtime / 8))
    }

    /// Starting or active.
    pub(super) fn hold(&mut self, view: View<'_>) -> bool {
        if let Some(reason) = self.must_let_go(view) {
            self.stop(reason, true);
            return true;
        }
        self.care_for_sole(view);
        self.keep_lease();
        if self.drive_units(view) {
            return true;
        }
        if !matches!(self.phase, Phase::Active) {
            return false;
        }
        let Some(reason) = self.may_let_go(view) else { return false };
        self.stop(reason, false);
        true
    }

    fn keep_lease(&mut self) {
        let epoch = self.durable.epoch;
        let sole = match self.durable.sole {
            Sole::This => SoleWish::Set,
            _ if self.wants_sole() => SoleWish::Set,
            // Only once it is written down that this node doesn't count on being the only one.
            Sole::Nobody if self.may_share() && self.is_saved() => SoleWish::Clear,
            Sole::Nobody | Sole::Peer => SoleWish::Keep,
        };
        let forgotten = |refusal: crate::lease::Refusal| refusal.denial == Denial::NotHolder && refusal.epoch < epoch;
        if self.lease.refusal().is_some_and(forgotten) {
            // Another witness, or one that has lost its memory.
            self.lease.acquire(Wish { epoch, sole, vouch: true, agreed: false, force: false });
        } else {
            self.lease.keep(epoch, sole);
        }
    }

    /// What ends a group here at once, whatever runs in it.
    fn must_let_go(&self, view: View<'_>) -> Option<Reason> {
        if self.permission_deadline(view).is_some_and(|due| view.now >= due) {
            return Some(Reason::PermissionEnds);
        }
        let refused = self
            .lease
            .refusal()
            .is_some_and(|refusal| refusal.denial == Denial::NotHolder && refusal.epoch > self.durable.epoch);
        let report = view.report.filter(|report| view.alive() && report.role.is_running());
        let superseded = report.is_some_and(|report| report.epoch > self.durable.epoch);
        (refused || superseded).then_some(Reason::Superseded)
    }

    /// What ends it here in good order, once the peer can go on with it.
    fn may_let_go(&mut self, view: View<'_>) -> Option<Reason> {
        if self.durable.maintenance {
            return None;
        }
        if self.durable.standby {
            return Some(Reason::Standby);
        }
        let able = self.peer_can_take(view);
        if able && view.report.is_some_and(|report| report.wants) {
            return Some(Reason::Moved);
        }
        let back = self.config.failback.filter(|_| able && self.config.preferred != self.place.node);
        let Some(delay) = back else {
            self.failback_at = None;
            return None;
        };
        let at = *self.failback_at.get_or_insert(view.now.after(delay));
        (view.now >= at).then_some(Reason::Failback)
    }

    /// Whether the peer could go on with what runs here, losing nothing.
    pub(super) fn peer_can_take(&self, view: View<'_>) -> bool {
        let synced = |in_sync: bool| !self.config.mirrored || self.data.in_sync && in_sync;
        view.alive() && view.report.is_some_and(|report| report.eligible && synced(report.in_sync))
    }

    /// Whether an operator may move the group away.
    pub(super) fn may_go(&self, view: View<'_>) -> Result<(), AdminError> {
        if !view.alive() {
            return Err(AdminError::PeerAway);
        }
        match view.report {
            Some(report) if !report.eligible => Err(AdminError::PeerUnable),
            Some(_) if self.peer_can_take(view) => Ok(()),
            Some(_) => Err(AdminError::NotInSync),
            None => Err(AdminError::PeerUnable),
        }
    }

    /// Mirrors wait for the permission to write without the peer, or a start has it as its condition.
    pub(super) fn wants_sole(&self) -> bool {
        let waits = matches!(self.phase, Phase::Starting | Phase::Active) && self.data.frozen;
        self.config.mirrored && (waits || self.claims_sole())
    }

    /// The peer has everything again, so that it may take over.
    fn may_share(&self) -> bool {
        self.data.in_sync && !self.data.frozen
    }

    /// Whether somebody who is asked before the peer starts knows that its data are outdated.
    pub(super) fn somebody_knows(&self, view: View<'_>, epoch: u64) -> bool {
        let witness = self.place.arbiter == Arbiter::Witness
            && self.lease.until(epoch).is_some()
            && self.lease.sole() == Some(self.place.node);
        let peer = view.alive()
            && view.report.is_some_and(|report| report.outdated == self.turn && self.was_sole && report.epoch >= epoch);
        let silent = !view.alive();
        let gone = match self.place.arbiter {
            Arbiter::None => silent,
            Arbiter::Fence => silent && self.fence == Fence::Done,
            Arbiter::Witness => false,
        };
        witness || peer || gone
    }

    fn care_for_sole(&mut self, view: View<'_>) {
        if !self.config.mirrored {
            return;
        }
        if self.wants_sole() {
            if self.durable.sole == Sole::This {
                if self.is_saved() {
                    self.serial += 1;
                    self.let_alone = self.serial;
                    self.wanted.push_back(Wanted::GoAlone { serial: self.serial });
                    // Asked for again if the mirror still waits.
                    self.data.frozen = false;
                }
            } else if self.somebody_knows(view, self.durable.epoch) {
                let epoch = self.durable.epoch;
                self.event(Event::GoesAlone { group: self.name(), epoch });
                self.change(|durable| (durable.sole, durable.sole_epoch) = (Sole::This, epoch));
            } else if self.place.arbiter == Arbiter::Fence && !view.alive() {
                match self.fence {
                    Fence::Idle => drop(self.start_fence()),
                    Fence::Failed { again } if again <= view.now => drop(self.start_fence()),
                    _ => {}
                }
            }
        } else if self.durable.sole == Sole::This && self.may_share() {
            self.event(Event::Redundant { group: self.name() });
            self.change(|durable| durable.sole = Sole::Nobody);
        }
    }
}
