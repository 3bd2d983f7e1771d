//! What an engine tells of itself, for people and for whoever drives it. Changes nothing.

use super::Engine;
use super::link::{Link, PeerDisk};
use crate::generation::Generations;
use crate::metadata::BLOCK;

/// The link, as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// None, and none wanted until [`crate::Admin::Connect`].
    Standalone,
    /// None yet.
    Connecting,
    /// Up; the two are comparing what they have.
    Handshake,
    /// The two replicate.
    Connected,
}

/// A replica's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// Not known, as the peer isn't connected.
    Unknown,
    /// The disk failed and is out of use.
    Failed,
    /// Incomplete: half a copy.
    Inconsistent,
    /// One consistent state, which may be old.
    Consistent,
    /// Complete, as far as both know.
    UpToDate,
}

/// A snapshot of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Status {
    /// This node is primary.
    pub primary: bool,
    /// It is giving that up, once what was written is on both disks.
    pub demoting: bool,
    /// The peer is primary.
    pub peer_primary: bool,
    /// The link.
    pub link: LinkState,
    /// The local data.
    pub disk: DiskState,
    /// The peer's data.
    pub peer_disk: DiskState,
    /// Bytes in blocks that are marked as differing.
    pub out_of_sync: u64,
    /// This node is receiving a resync.
    pub target: bool,
    /// Resync is halted here.
    pub paused: bool,
    /// The block that a verify has come to, and of how many.
    pub verify: Option<(u64, u64)>,
    /// Writes that are not yet safe on both sides.
    pub pending: usize,
    /// A primary that waits for permission to go on without its peer.
    pub frozen: bool,
    /// At the next connection this side gives way.
    pub discard: bool,
    /// The highest epoch seen.
    pub epoch: u64,
    /// The history of the data.
    pub generations: Generations,
    /// Every change of the metadata is durable and nothing is under way.
    pub settled: bool,
}

impl Engine {
    /// How things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        let consistent = self.meta.superblock().consistent;
        Status {
            primary: self.primary,
            demoting: self.demoting,
            peer_primary: self.peer_primary,
            link: match self.link {
                Link::Standalone => LinkState::Standalone,
                Link::Down => LinkState::Connecting,
                Link::Greeting | Link::Greeted => LinkState::Handshake,
                Link::Connected => LinkState::Connected,
            },
            disk: match (self.attached, consistent) {
                (false, _) => DiskState::Failed,
                (true, false) => DiskState::Inconsistent,
                (true, true)
                    if self.primary || self.peer_is_up_to_date() || self.peer_disk == PeerDisk::Inconsistent =>
                {
                    DiskState::UpToDate
                }
                (true, true) => DiskState::Consistent,
            },
            peer_disk: match self.peer_disk {
                PeerDisk::Unknown => DiskState::Unknown,
                PeerDisk::Diskless => DiskState::Failed,
                PeerDisk::Inconsistent => DiskState::Inconsistent,
                PeerDisk::UpToDate => DiskState::UpToDate,
            },
            out_of_sync: self.meta.marked().saturating_mul(BLOCK).min(self.config.size),
            target: self.target.is_some(),
            paused: self.paused,
            verify: self.verify.map(|(next, _)| (next, self.meta.blocks())),
            pending: self.entries.len() + self.held.len(),
            frozen: self.frozen(),
            discard: self.discard,
            epoch: self.epoch(),
            generations: self.generations(),
            settled: !self.attached || self.meta.durable() == self.meta.wanted() && self.entries.is_empty(),
        }
    }
}
