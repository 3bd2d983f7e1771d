//! What happened, in words that say why.

use std::time::Duration;

use crate::group::Reason;
use crate::heartbeat::PeerState;

/// One line of a cluster's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Event {
    /// A link carries packets both ways.
    #[error("link {} is up", .link + 1)]
    LinkUp { link: usize },
    /// It doesn't any more.
    #[error("link {} is down", .link + 1)]
    LinkDown { link: usize },
    /// First, or again.
    #[error("the peer is there")]
    PeerAlive,
    /// Another start of its daemon.
    #[error("the peer's daemon was restarted")]
    PeerRestarted,
    /// Silence that isn't long enough.
    #[error("the peer is late: {missed} heartbeats missed")]
    PeerLate { missed: u64 },
    /// Silence that is.
    #[error("the peer is dead: {missed} heartbeats missed on every link, silence for {silence:.2?}")]
    PeerDead { missed: u64, silence: Duration },
    /// Not since the start.
    #[error("the peer wasn't heard within {after:?} of the start: taken for dead")]
    PeerNeverHeard { after: Duration },
    /// The fence command worked.
    #[error("{group}: the peer is fenced")]
    Fenced { group: String },
    /// It didn't.
    #[error("{group}: the peer could not be fenced: {why}")]
    FenceFailed { group: String, why: String },
    /// Permission is there.
    #[error(
        "{group}: {}, {}epoch {epoch}{}",
        match .peer { PeerState::Alive | PeerState::Late => "starts with the peer's word", _ => "takes over from a silent peer" },
        match (.lease, .fenced) { (true, _) => "lease granted, ", (_, true) => "peer fenced, ", _ => "" },
        if *.insisted { ", as the operator insists" } else { "" }
    )]
    Starts { group: String, epoch: u64, peer: PeerState, lease: bool, fenced: bool, insisted: bool },
    /// Everything in it is started.
    #[error("{group}: active in epoch {epoch}, started in {took:.2?}")]
    Active { group: String, epoch: u64, took: Duration },
    /// It ran when this process started.
    #[error("{group}: found running, adopted in epoch {epoch}")]
    Adopted { group: String, epoch: u64 },
    /// It is being stopped.
    #[error("{group}: stops (epoch {epoch}): {reason}")]
    Stops { group: String, epoch: u64, reason: Reason },
    /// It is.
    #[error("{group}: stopped")]
    Stopped { group: String },
    /// A part failed.
    #[error("{group}: {unit} failed ({count} within its window): {why}")]
    UnitFailed { group: String, unit: String, why: String, count: u32 },
    /// A part can't be stopped.
    #[error("{group}: {unit} can't be stopped: {why}")]
    StopFailed { group: String, unit: String, why: String },
    /// Mirrors write without the peer from now on.
    #[error("{group}: goes on without the peer's copy (epoch {epoch}): the peer is outdated")]
    GoesAlone { group: String, epoch: u64 },
    /// The peer has everything.
    #[error("{group}: the peer has all data again")]
    Redundant { group: String },
    /// Both wrote without the other.
    #[error(
        "{group}: both nodes have written without the other (split brain): the peer runs the group, what only this node wrote is outdated"
    )]
    BothSole { group: String },
}
