//! The link: greeting, the handshake's conclusion, the peer's messages, and its loss.

use super::resync::Target;
use super::{Engine, MAX_QUEUE};
use crate::api::{Event, Output, Protocol, RequestError};
use crate::generation::{Decision, Replica, decide};
use crate::wire::{Hello, Message, VERSIONS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// None, and none wanted.
    Standalone,
    /// None.
    Down,
    /// Up; nothing was said yet, as the metadata are being written.
    Greeting,
    /// The greeting was sent; the peer's is awaited.
    Greeted,
    /// The replicas are compared.
    Connected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerDisk {
    Unknown,
    Diskless,
    Inconsistent,
    UpToDate,
}

/// Bytes of the bitmap in one message.
const BITMAP_CHUNK: u64 = 32 << 10;

impl Engine {
    pub(super) fn link_up(&mut self) {
        if self.link != Link::Down || !self.attached {
            self.outputs.push_back(Output::DropLink);
            return;
        }
        self.link_number += 1;
        self.early = None;
        self.link = Link::Greeting;
    }

    /// Says hello once what it says is durable and nothing is under way that would change it.
    pub(super) fn greet(&mut self) {
        if self.link != Link::Greeting || self.meta.durable() < self.meta.wanted() {
            return;
        }
        self.link = Link::Greeted;
        let hello = self.hello();
        self.greeting = Some(hello);
        self.send(Message::Hello(hello));
        if let Some(theirs) = self.early.take() {
            self.handshake(&theirs);
        }
    }

    /// The handshake has begun: nothing may change that the greeting told.
    pub(super) fn greeting(&self) -> bool {
        matches!(self.link, Link::Greeting | Link::Greeted)
    }

    fn hello(&self) -> Hello {
        let s = self.meta.superblock();
        Hello {
            versions: VERSIONS,
            size: self.config.size,
            epoch: s.epoch,
            protocol: match self.config.protocol {
                Protocol::A => 0,
                Protocol::B => 1,
                Protocol::C => 2,
            },
            attached: self.attached,
            replica: Replica {
                node: self.config.node,
                generations: s.generations,
                marked: self.meta.marked() > 0,
                consistent: s.consistent,
                crashed: s.crashed,
                primary: self.primary,
                discard: self.discard,
            },
        }
    }

    pub(super) fn link_down(&mut self) {
        if matches!(self.link, Link::Down | Link::Standalone) {
            return;
        }
        self.link = Link::Down;
        self.lose_peer();
    }

    /// Closes the link; another may come.
    pub(super) fn drop_link(&mut self) {
        if !matches!(self.link, Link::Down | Link::Standalone) {
            self.outputs.push_back(Output::DropLink);
            self.link_down();
        }
    }

    /// Closes the link, and none may come until an operator says so.
    pub(super) fn stand_alone(&mut self) {
        self.drop_link();
        self.link = Link::Standalone;
    }

    fn lose_peer(&mut self) {
        self.link_number += 1;
        self.peer_disk = PeerDisk::Unknown;
        self.peer_primary = false;
        self.incoming.clear();
        self.peer_writes = 0;
        self.peer_barrier = false;
        self.late_acks.clear();
        self.target = None;
        self.finish = None;
        self.verify = None;
        self.requests_lose_peer();
        self.event(Event::PeerLost);
    }

    pub(super) fn message(&mut self, message: Message) {
        match (self.link, message) {
            (Link::Greeted, Message::Hello(hello)) => self.handshake(&hello),
            (Link::Greeting, Message::Hello(hello)) => self.early = Some(hello),
            (Link::Connected, Message::Hello(_)) => self.drop_link(),
            (Link::Connected, message) => self.connected_message(message),
            // Sent before the peer knew that the link is gone.
            (Link::Down | Link::Standalone, _) => {}
            _ => self.drop_link(),
        }
    }

    fn handshake(&mut self, peer: &Hello) {
        let Some(me) = self.greeting.take() else { return };
        let common = me.versions.0.max(peer.versions.0) <= me.versions.1.min(peer.versions.1);
        let same = (me.size, me.protocol) == (peer.size, peer.protocol) && me.replica.node != peer.replica.node;
        if !common || !same || !peer.attached {
            self.event(Event::Incompatible);
            self.stand_alone();
            return;
        }
        if self.primary && peer.epoch > me.epoch {
            self.event(Event::Fenced);
            self.stop_being_primary(Event::BecameSecondary);
        }
        // What the peer concludes from our greeting, in which we may still have been primary.
        let decision = decide(&me.replica, &peer.replica, self.synchronous());
        self.event(Event::Handshake(decision));
        // A primary's data never change under its consumer, unless it has lost its right to them.
        let (mine, theirs) = (me.replica.primary, peer.replica.primary);
        let wrong = match decision {
            Decision::Source { .. } => theirs && me.epoch <= peer.epoch,
            Decision::Target { .. } => mine && peer.epoch <= me.epoch,
            _ => mine && theirs && me.epoch == peer.epoch,
        };
        if matches!(decision, Decision::SplitBrain | Decision::Unrelated | Decision::NoSource)
            || wrong && mine && theirs
        {
            self.stand_alone();
            return;
        }
        if wrong {
            // It cures itself once that primary gives up, so both keep looking for each other.
            self.event(Event::PrimaryBehind);
            self.drop_link();
            return;
        }
        self.meta.change(|s| (s.epoch, s.shared) = (s.epoch.max(peer.epoch), true));
        self.link = Link::Connected;
        self.peer_primary = theirs && me.epoch <= peer.epoch;
        self.discard = false;
        self.act_on(decision, peer);
        self.gate = self.meta.wanted();
    }

    fn act_on(&mut self, decision: Decision, peer: &Hello) {
        (self.alone, self.advanced) = (false, false);
        match decision {
            Decision::Source { full } => {
                self.peer_disk = PeerDisk::Inconsistent;
                self.meta.change(|s| s.crashed = false);
                self.share_bitmap(full);
            }
            Decision::Target { full } => {
                self.peer_disk = PeerDisk::UpToDate;
                self.target = Some(Target::new(peer.replica.generations.adopted(), full));
                self.meta.change(|s| s.consistent = false);
                self.share_bitmap(full);
            }
            Decision::InSync => {
                self.peer_disk = PeerDisk::UpToDate;
                self.meta.change(|s| {
                    s.crashed = false;
                    s.generations.settle();
                });
            }
            _ => self.peer_disk = PeerDisk::Unknown,
        }
    }

    fn share_bitmap(&mut self, full: bool) {
        if full {
            self.meta.mark(0..self.config.size);
            return;
        }
        let mut first = 0;
        while first < self.meta.blocks() {
            let bits: Vec<u8> = (0..BITMAP_CHUNK.min((self.meta.blocks() - first).div_ceil(8)))
                .map(|byte| (0..8).fold(0, |b, n| b | u8::from(self.marked_at(first + byte * 8 + n)) << n))
                .collect();
            if bits.iter().any(|b| *b != 0) {
                self.send(Message::Bitmap { first, bits });
            }
            first += BITMAP_CHUNK * 8;
        }
        self.send(Message::BitmapEnd);
    }

    fn marked_at(&self, block: u64) -> bool {
        block < self.meta.blocks() && self.meta.is_marked(block)
    }

    fn connected_message(&mut self, message: Message) {
        match message {
            Message::Bitmap { first, bits } => {
                for (at, byte) in (0..).zip(&bits) {
                    for n in (0..8).filter(|n| byte >> n & 1 == 1) {
                        self.meta.set(first.saturating_add(at * 8 + n), true);
                    }
                }
            }
            Message::BitmapEnd => self.target_may_start(),
            Message::Received { seq } => self.peer_has(seq, false),
            Message::Written { seq } => self.peer_has(seq, true),
            Message::BarrierDone { number } => self.barrier_done_at_peer(number),
            Message::ReadReply { seq, data } => self.remote_read_done(seq, data),
            Message::SyncReply { block, state } => self.sync_reply(block, state),
            Message::Synced { block } => self.meta.set(block, false),
            Message::SyncFinished => self.peer_finished(),
            Message::VerifyReply { block, equal } => self.verified(block, equal),
            Message::Detached => {
                self.peer_disk = PeerDisk::Diskless;
                self.target = None;
                // What the failed disk holds is stale from here on.
                self.mark_alone(0..0);
            }
            Message::Promoted { epoch } => self.peer_promoted(epoch),
            Message::Demoted => self.peer_primary = false,
            Message::Refused { epoch } => {
                self.meta.change(|s| s.epoch = s.epoch.max(epoch));
                if self.primary {
                    self.event(Event::Fenced);
                    self.stop_being_primary(Event::BecameSecondary);
                }
                self.drop_link();
            }
            queued if self.incoming.len() < 4 * MAX_QUEUE => self.incoming.push_back(queued),
            _ => self.drop_link(),
        }
    }

    fn peer_promoted(&mut self, epoch: u64) {
        if epoch <= self.epoch() {
            let epoch = self.epoch();
            self.send(Message::Refused { epoch });
            return;
        }
        if self.primary {
            self.event(Event::Fenced);
            self.stop_being_primary(Event::BecameSecondary);
            self.drop_link();
        }
        self.meta.change(|s| s.epoch = epoch);
        self.peer_primary = true;
        // Its writes would pass the comparison on their way here.
        self.verify = None;
    }

    /// Fails what isn't answered and keeps what the peer may not have.
    pub(super) fn stop_being_primary(&mut self, event: Event) {
        self.primary = false;
        self.demoting = false;
        self.fail_requests(RequestError::NotPrimary);
        if self.link == Link::Connected {
            self.send(Message::Demoted);
        }
        self.event(event);
    }
}
