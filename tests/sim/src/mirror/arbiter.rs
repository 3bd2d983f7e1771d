//! What a cluster does: one primary, which goes on alone or is fenced when the link breaks; and what it knows of who holds
//! all data.

use ferro_mirror::generation::Decision;
use ferro_mirror::{Admin, DiskState, Engine, Event, Protocol};

use super::disk::SECTOR;
use super::world::{What, World, place, tag_of};

impl World {
    /// What a cluster does: one primary, which goes on alone or is fenced when the link breaks.
    pub(super) fn arbitrate(&mut self) {
        self.after(25, What::Arbiter);
        if !self.arbitrating {
            return;
        }
        for node in 0..2 {
            let serving = self.is(node, |e| e.is_primary() && e.peer_is_up_to_date());
            if self.failed(node) && serving && self.rng.one_in(20) {
                self.admin(node, Admin::Secondary);
            } else if self.failed(node) && !serving && self.rng.one_in(8) {
                self.crash(node);
            }
        }
        let primary = (0..2).find(|n| self.is(*n, Engine::is_primary));
        if let Some(node) = primary {
            let connected = self.is(node, Engine::is_connected);
            if connected && self.is(node, Engine::peer_is_up_to_date) && self.rng.one_in(40) {
                let command = if self.rng.one_in(3) { Admin::Verify } else { Admin::Secondary };
                self.admin(node, command);
            } else if !connected && !self.linked && self.sole != Some(node) {
                let other = 1 - node;
                let takeover = self.valid[other] && self.is(other, Engine::is_consistent) && self.rng.one_in(3);
                if takeover || self.sole.is_some() || !self.valid[node] || !self.is(node, Engine::is_consistent) {
                    self.crash(node);
                } else {
                    self.sole = Some(node);
                    self.valid[1 - node] = false;
                    self.admin(node, Admin::GoAlone);
                }
            } else if !connected && self.sole == Some(node) {
                self.admin(node, Admin::GoAlone);
            }
            return;
        }
        let first = place(self.rng.below(2));
        for node in [first, 1 - first] {
            let through_peer = self.valid[1 - node] && self.is(node, Engine::peer_is_up_to_date);
            let allowed = through_peer || self.valid[node] && self.sole.is_none_or(|n| n == node);
            // A force that nobody should need is refused by the arbiter; a promotion without valid data by the engine.
            if !self.is(node, |_| true) || !allowed {
                continue;
            }
            self.epoch += 1;
            self.admin(node, Admin::Primary { epoch: Some(self.epoch), force: false, alone: true });
            if self.is(node, Engine::is_primary) {
                self.outcome.promotions += 1;
                self.last_primary = node;
                if !self.is(node, Engine::is_connected) {
                    if self.returning.take().is_some_and(|n| n != node) {
                        self.taken_over(node);
                    }
                    self.sole = Some(node);
                    self.valid[1 - node] = false;
                }
                break;
            }
        }
    }

    pub(super) fn event(&mut self, node: usize, event: Event) {
        self.say(|| format!("node {node}: {event:?}; {}", self.describe()));
        match event {
            Event::Handshake(Decision::SplitBrain) if self.oracles.len() == 2 => self.outcome.splits += 1,
            // Nobody arbitrates.
            _ if self.oracles.len() == 2 => {}
            Event::Handshake(Decision::SplitBrain | Decision::Unrelated | Decision::NoSource) => {
                self.failure = Some(format!("node {node} reports {event:?} though an arbiter decides"));
            }
            Event::Handshake(Decision::Target { .. }) => {
                self.compared = self.now;
                match self.returning.take() {
                    Some(n) if n == node => self.taken_over(1 - node),
                    Some(_) => self.oracles[0].caches_lost(),
                    None => {}
                }
                // The source may have finished a resync that nobody noticed: its data say whether it is valid.
                let source = &self.nodes[1 - node].data.view;
                let stale = source.chunks(SECTOR).enumerate().find(|(s, c)| !self.oracles[0].allows(*s, tag_of(c)));
                if let Some((sector, content)) = stale {
                    let (tag, expected) = (tag_of(content), self.oracles[0].expected(sector));
                    self.failure = Some(format!("the source of {node} has {tag} in sector {sector}, not {expected:?}"));
                }
                self.valid[node] = false;
                self.valid[1 - node] = true;
                self.sole = Some(1 - node);
            }
            Event::Handshake(Decision::InSync) | Event::InSync => {
                // Only the side that was the source, or a primary, may conclude that the other has everything.
                let both = self.is(node, Engine::peer_is_up_to_date) && self.valid[node];
                if event == Event::InSync {
                    self.outcome.resyncs += 1;
                } else {
                    self.returning = None;
                    self.compared = self.now;
                }
                if both {
                    self.sole = None;
                    self.oracles[0].synced(self.compared);
                    self.valid[1 - node] |= self.is(1 - node, Engine::is_consistent);
                }
            }
            Event::Detached => self.detached(node),
            Event::Verified(blocks) => {
                self.outcome.verifies += 1;
                if blocks > 0 && self.verified.is_none() {
                    self.failure = Some(format!("{blocks} blocks differ though nobody changed them"));
                }
                self.verified = self.verified.map(|_| Some(blocks));
            }
            Event::BecameSecondary if self.is(node, Engine::peer_is_up_to_date) => self.oracles[0].synced(self.now),
            _ => {}
        }
    }

    /// A disk failed: who has all data now?
    fn detached(&mut self, node: usize) {
        self.outcome.detached += 1;
        let other = 1 - node;
        if self.is(node, |e| e.is_primary() && e.peer_is_up_to_date()) {
            if !self.valid[other] {
                self.failure = Some(format!("node {node} goes on through a peer that isn't valid"));
            }
            self.sole = Some(other);
        }
        self.valid[node] &= !self.valid[other];
    }

    /// `node` goes on without what the other had acknowledged and not told it.
    pub(super) fn taken_over(&mut self, node: usize) {
        self.say(|| format!("node {node} takes over"));
        self.oracles[0].taken_over(self.setup.protocol == Protocol::A);
    }

    pub(super) fn failed(&self, node: usize) -> bool {
        self.is(node, |e| e.status().disk == DiskState::Failed)
    }
}
