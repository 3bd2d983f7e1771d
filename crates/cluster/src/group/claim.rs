//! From doing nothing to the permission to start: whether this node should have the group, and what has to say yes.

use std::time::Duration;

use super::{Fence, Group, Phase, Report, Role, Sole, View, Wanted};
use crate::engine::{AdminError, Arbiter};
use crate::event::Event;
use crate::heartbeat::PeerState;
use crate::lease::Wish;
use crate::time::{NodeId, Time};
use crate::witness::message::{Denial, SoleWish};

/// How long a start waits for mirrors to meet their peers before it goes on without them.
const MEETING: Duration = Duration::from_secs(3);
/// Between two attempts after a refusal that time alone won't lift.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a group isn't started here, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    /// An operator said so.
    #[error("this node is in standby: 'ferro cluster online' ends that")]
    Standby,
    /// An operator said so.
    #[error("the group is in maintenance: 'ferro cluster maintenance off' ends that")]
    Maintenance,
    /// It failed here.
    #[error("it failed here: see the events, then 'ferro cluster cleanup'")]
    Failed,
    /// Half a copy.
    #[error("the data here are incomplete: the peer has to be there to complete them")]
    Unusable,
    /// Older than the peer's.
    #[error(
        "the peer has newer data: start the peer; if it is lost for good, 'ferro cluster promote --force' here gives up what only it has"
    )]
    Outdated,
    /// Just started.
    #[error("waiting for the peer, which may have the group (initdead)")]
    Initial,
    /// It is there.
    #[error("the peer has it")]
    PeerHasIt,
    /// It is to start.
    #[error("the peer is to start it")]
    PeerFirst,
    /// Neither may.
    #[error("neither node is able to run it: see 'ferro cluster status' on both")]
    NobodyAble,
    /// Other configuration.
    #[error("the peer doesn't know this group: 'ferro up' the same file there")]
    PeerLacksGroup,
    /// No answer.
    #[error("the witness doesn't answer, and the peer isn't there: nobody can say that the peer isn't running it")]
    WitnessSilent,
    /// The lease isn't over.
    #[error("the peer's lease at the witness isn't over")]
    LeaseHeld,
    /// As the witness knows.
    #[error(
        "the witness knows that only the peer has all data: start the peer; if it is lost for good, 'ferro cluster promote --force' here gives up what only it has"
    )]
    PeerIsSole,
    /// The witness lost its memory.
    #[error(
        "this witness knows nothing of the group, which has run before, and can't say that the data here are the newest: start the peer, or 'ferro cluster promote --force'"
    )]
    NoRecord,
    /// Started cold and alone, with a fence.
    #[error(
        "this node has not met the peer since it started, which may have newer data: start the peer, or 'ferro cluster promote --force'"
    )]
    Cold,
    /// The fence command didn't work.
    #[error("the peer is silent and couldn't be fenced: see the events; fencing is tried again")]
    FenceFailed,
    /// It is under way.
    #[error("the peer is being fenced")]
    Fencing,
    /// Permission is being asked for.
    #[error("waiting for the peer's word")]
    PeerWord,
}

/// An attempt to get permission.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) epoch: u64,
    /// The peer was silent when it began.
    alone: bool,
    since: Time,
    /// Granted, and being written down.
    granted: Option<bool>,
}

impl Claim {
    /// When it has to be looked at again, though nothing happens.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Time> {
        let span = if self.alone { patience } else { MEETING };
        self.granted.is_none().then(|| self.since.after(span))
    }
}

/// The first epoch above `seen` that is this node's to take.
pub(super) fn next_epoch(node: NodeId, seen: u64) -> u64 {
    let next = seen.saturating_add(1);
    if next % 2 == u64::from(node.index()) { next } else { next.saturating_add(1) }
}

impl Group {
    /// Idle: starts a claim if this node should have the group.
    pub(super) fn consider(&mut self, view: View<'_>) -> bool {
        if let Err(waiting) = self.may_claim(view) {
            self.waiting = Some(waiting);
            return false;
        }
        let seen = self.durable.epoch.max(view.report.map_or(0, |report| report.epoch));
        let seen = seen.max(self.lease.refusal().map_or(0, |refusal| refusal.epoch));
        let epoch = next_epoch(self.place.node, seen);
        self.waiting = None;
        self.phase = Phase::Claiming(Claim { epoch, alone: !view.alive(), since: view.now, granted: None });
        true
    }

    fn may_claim(&self, view: View<'_>) -> Result<(), Waiting> {
        if let Some(why) = self.disabled() {
            return Err(why);
        }
        if self.retry.is_some_and(|at| at > view.now) {
            return Err(self.waiting.unwrap_or(Waiting::WitnessSilent));
        }
        match view.peer {
            PeerState::Unknown if self.insisted => Ok(()),
            PeerState::Unknown => Err(Waiting::Initial),
            PeerState::Alive | PeerState::Late => {
                let report = view.report.ok_or(Waiting::PeerLacksGroup)?;
                match report.role {
                    Role::Starting | Role::Active | Role::Stopping => return Err(Waiting::PeerHasIt),
                    Role::Claiming | Role::Stopped => {}
                }
                match self.designated(report) {
                    Some(node) if node == self.place.node => Ok(()),
                    Some(_) => Err(Waiting::PeerFirst),
                    None => Err(Waiting::NobodyAble),
                }
            }
            PeerState::Dead => {
                let knows = self.contact || self.durable.sole == Sole::This || self.insisted;
                if self.place.arbiter == Arbiter::Fence && self.config.mirrored && !knows {
                    return Err(Waiting::Cold);
                }
                Ok(())
            }
        }
    }

    /// What keeps this node from running the group, whatever the peer does.
    fn disabled(&self) -> Option<Waiting> {
        if self.durable.maintenance {
            return Some(Waiting::Maintenance);
        }
        if self.durable.standby {
            return Some(Waiting::Standby);
        }
        if self.failed.is_some() {
            return Some(Waiting::Failed);
        }
        if self.insisted {
            return None;
        }
        if self.durable.sole == Sole::Peer {
            return Some(Waiting::Outdated);
        }
        (self.config.mirrored && !self.data.usable).then_some(Waiting::Unusable)
    }

    /// Which node should have the group, both being there: the same answer on both, once each knows the other's report.
    pub(super) fn designated(&self, report: &Report) -> Option<NodeId> {
        let (this, peer) = (self.place.node, self.place.node.peer());
        if self.insisted {
            return Some(this);
        }
        match (self.is_eligible(), report.eligible) {
            (false, false) => return None,
            (true, false) => return Some(this),
            (false, true) => return Some(peer),
            (true, true) => {}
        }
        // Both only after a split brain: the later one's go on, the earlier one's wait for an operator.
        let own = if self.durable.sole == Sole::This { self.durable.sole_epoch } else { 0 };
        let choices = [
            (own > report.sole_epoch, this),
            (report.sole_epoch > own, peer),
            (self.yields, peer),
            (report.yields, this),
            (self.wants, this),
            (report.wants, peer),
        ];
        Some(choices.into_iter().find(|(speaks, _)| *speaks).map_or(self.config.preferred, |(_, node)| node))
    }

    fn abandon(&mut self, why: Waiting, again: Option<Time>) -> bool {
        if let Phase::Claiming(claim) = &self.phase {
            self.lease.release(claim.epoch);
        }
        self.change(|durable| durable.active = false);
        self.waiting = Some(why);
        self.retry = again;
        self.phase = Phase::Idle;
        // Not considered again before something has changed.
        false
    }

    /// Whether the group's data have to be made this node's alone before it starts.
    fn starts_alone(&self) -> bool {
        self.config.mirrored && !self.data.in_sync
    }

    /// Claiming: looks whether the permission is there.
    pub(super) fn pursue(&mut self, view: View<'_>) -> bool {
        let Phase::Claiming(claim) = &self.phase else { return false };
        let (alone, epoch, since) = (claim.alone, claim.epoch, claim.since);
        let granted = claim.granted;
        if alone == view.alive() {
            return self.abandon(Waiting::PeerWord, None);
        }
        if let Some(sole) = granted {
            return self.begin(view, epoch, sole);
        }
        if let Some(why) = self.disabled() {
            return self.abandon(why, None);
        }
        if alone { self.pursue_alone(view, epoch, since) } else { self.pursue_together(view, epoch, since) }
    }

    fn pursue_together(&mut self, view: View<'_>, epoch: u64, since: Time) -> bool {
        let Some(report) = view.report else { return self.abandon(Waiting::PeerLacksGroup, None) };
        match report.role {
            Role::Starting | Role::Active | Role::Stopping => return self.abandon(Waiting::PeerHasIt, None),
            Role::Claiming if self.designated(report) != Some(self.place.node) => {
                return self.abandon(Waiting::PeerFirst, None);
            }
            Role::Claiming | Role::Stopped => {}
        }
        if report.epoch > epoch {
            return self.raise(report.epoch);
        }
        self.waiting = Some(Waiting::PeerWord);
        let meeting = self.starts_alone() && view.now < since.after(MEETING);
        if report.role == Role::Claiming || report.epoch != epoch || meeting {
            return false;
        }
        let sole = self.starts_alone();
        if self.place.arbiter == Arbiter::Witness {
            let wish = if sole { SoleWish::Set } else { SoleWish::Keep };
            let wish = Wish { epoch, sole: wish, vouch: true, agreed: !report.sole, force: self.insisted };
            self.lease.acquire(wish);
            if let Some(refusal) = self.lease.refusal() {
                return match refusal.denial {
                    Denial::OldEpoch => self.raise(refusal.epoch),
                    // The peer's is about to end: it runs nothing.
                    Denial::Held | Denial::NotHolder => false,
                    Denial::PeerIsSole => self.abandon(Waiting::PeerIsSole, Some(view.now.after(AGAIN))),
                    Denial::NoRecord => self.abandon(Waiting::NoRecord, Some(view.now.after(AGAIN))),
                };
            }
            // A silent witness is no obstacle: the peer itself has given its word.
            let silent = view.now >= since.after(self.place.deadtime) && !self.lease.reachable(view.now);
            if self.lease.until(epoch).is_none() && !silent {
                return false;
            }
        }
        self.grant(epoch, sole)
    }

    fn pursue_alone(&mut self, view: View<'_>, epoch: u64, since: Time) -> bool {
        // Mirrors write without the peer from the start.
        let sole = self.config.mirrored;
        match self.place.arbiter {
            Arbiter::None => self.grant(epoch, sole),
            Arbiter::Fence => match self.fence {
                Fence::Done => self.grant(epoch, sole),
                Fence::Failed { again } if again > view.now => {
                    self.waiting = Some(Waiting::FenceFailed);
                    false
                }
                Fence::Running => false,
                // Should both nodes live, the one that has the group shoots first.
                _ if view.now < since.after(self.patience()) => false,
                Fence::Idle | Fence::Failed { .. } => {
                    self.waiting = Some(Waiting::Fencing);
                    self.start_fence()
                }
            },
            Arbiter::Witness => {
                let wish = Wish {
                    epoch,
                    sole: if sole { SoleWish::Set } else { SoleWish::Keep },
                    vouch: self.durable.sole == Sole::This || self.contact,
                    agreed: false,
                    force: self.insisted,
                };
                self.lease.acquire(wish);
                if self.lease.until(epoch).is_some() {
                    return self.grant(epoch, sole);
                }
                let again = Some(view.now.after(AGAIN));
                match self.lease.refusal().map(|refusal| (refusal.denial, refusal.epoch)) {
                    Some((Denial::OldEpoch, seen)) => return self.raise(seen),
                    Some((Denial::PeerIsSole, _)) => return self.abandon(Waiting::PeerIsSole, again),
                    Some((Denial::NoRecord, _)) => return self.abandon(Waiting::NoRecord, again),
                    Some((Denial::Held | Denial::NotHolder, _)) => self.waiting = Some(Waiting::LeaseHeld),
                    None => self.waiting = Some(Waiting::WitnessSilent),
                }
                false
            }
        }
    }

    /// How long a node that hasn't got the group waits before it fences.
    pub(super) fn patience(&self) -> Duration {
        if self.place.arbiter == Arbiter::Fence { self.place.deadtime / 2 } else { Duration::ZERO }
    }

    pub(super) fn start_fence(&mut self) -> bool {
        self.fence = Fence::Running;
        self.wanted.push_back(Wanted::Fence);
        true
    }

    fn raise(&mut self, seen: u64) -> bool {
        let node = self.place.node;
        if let Phase::Claiming(claim) = &mut self.phase {
            let former = claim.epoch;
            claim.epoch = next_epoch(node, seen);
            self.lease.release(former);
        }
        true
    }

    fn grant(&mut self, epoch: u64, sole: bool) -> bool {
        if let Phase::Claiming(claim) = &mut self.phase {
            claim.granted = Some(sole);
        }
        self.change(|durable| (durable.epoch, durable.active) = (epoch, true));
        true
    }

    /// Whether the claim is one for data that only this node has.
    pub(super) fn claims_sole(&self) -> bool {
        matches!(&self.phase, Phase::Claiming(claim) if claim.granted == Some(true))
    }

    /// Permission is there: once that is written down, and somebody knows that the peer is outdated if it is to be, it
    /// starts.
    fn begin(&mut self, view: View<'_>, epoch: u64, sole: bool) -> bool {
        if !self.is_saved() {
            return false;
        }
        if sole && self.durable.sole != Sole::This {
            if self.somebody_knows(view, epoch) {
                self.change(|durable| (durable.sole, durable.sole_epoch) = (Sole::This, epoch));
                return true;
            }
            return false;
        }
        let (peer, lease) = (view.peer, self.lease.until(epoch).is_some());
        let fenced = self.fence == Fence::Done;
        self.event(Event::Starts { group: self.name(), epoch, peer, lease, fenced, insisted: self.insisted });
        self.forced = self.insisted;
        (self.wants, self.insisted, self.yields, self.waiting, self.retry) = (false, false, false, None, None);
        self.inherited = None;
        self.since = view.now;
        if self.config.mirrored && self.durable.sole == Sole::This {
            // What was so before the start, which is the next operation, says nothing of what is so after it.
            self.let_alone = self.serial + 1;
            self.data.in_sync = false;
        }
        self.phase = Phase::Starting;
        true
    }

    /// Whether an operator may move the group to this node.
    pub(super) fn may_come(&self, view: View<'_>) -> Result<(), AdminError> {
        if let Some(why) = self.disabled() {
            return Err(AdminError::Unable(why.to_string()));
        }
        if !view.alive() {
            return Err(AdminError::PeerAway);
        }
        if self.config.mirrored && !self.data.in_sync {
            return Err(AdminError::NotInSync);
        }
        Ok(())
    }
}
