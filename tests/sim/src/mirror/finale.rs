//! What an operator is needed for, once everything else has come to rest: rotten bits that a verify finds, and a split brain.

use std::collections::BTreeSet;

use ferro_mirror::{Admin, BLOCK, Engine};

use super::disk::SECTOR;
use super::world::{What, World, place, tag_of};

impl World {
    pub(super) fn finale(&mut self) -> Result<(), String> {
        self.arbitrating = false;
        self.drive(300)?;
        let primary = (0..2).find(|n| self.is(*n, Engine::is_primary)).unwrap_or(0);
        if !self.is(primary, Engine::is_primary) {
            self.epoch += 1;
            self.admin(primary, Admin::Primary { epoch: Some(self.epoch), force: false, alone: false });
        }
        match self.rng.below(3) {
            0 => self.rot(primary),
            1 => self.split(primary),
            _ => Ok(()),
        }
    }

    fn rot(&mut self, primary: usize) -> Result<(), String> {
        let other = 1 - primary;
        while self.is(primary, |e| e.status().verify.is_some()) {
            self.drive(100)?;
        }
        let count = self.rng.below(4);
        let blocks: BTreeSet<usize> =
            (0..count).map(|_| place(self.rng.below(self.nodes[0].data.view.len() as u64))).collect();
        for at in &blocks {
            self.nodes[other].data.corrupt(*at);
        }
        let blocks: BTreeSet<usize> = blocks.into_iter().map(|at| at / place(BLOCK)).collect();
        if !blocks.is_empty() {
            (self.valid[other], self.sole) = (false, Some(primary));
        }
        self.consuming = self.rng.one_in(2);
        let busy = self.consuming;
        self.verified = Some(None);
        self.admin(primary, Admin::Verify);
        for _ in 0..20 {
            self.drive(200)?;
        }
        self.arbitrating = true;
        match self.verified.take().flatten() {
            Some(found) if found == blocks.len() as u64 || busy && found < blocks.len() as u64 => {}
            found => return Err(format!("verify found {found:?} of {} rotten blocks", blocks.len())),
        }
        self.unlink();
        self.settle()
    }

    /// Both are primary without each other, and one gives way.
    fn split(&mut self, primary: usize) -> Result<(), String> {
        let other = 1 - primary;
        self.cut = true;
        self.unlink();
        self.admin(primary, Admin::GoAlone);
        self.admin(other, Admin::Primary { epoch: None, force: true, alone: true });
        self.oracles = vec![self.oracles[0].clone(), self.oracles[0].clone()];
        for node in 0..2 {
            self.ask(node, 0);
        }
        self.drive(200)?;
        self.consuming = true;
        let duration = 1 + self.rng.below(500);
        self.drive(duration)?;
        if self.rng.one_in(3) {
            let node = place(self.rng.below(2));
            self.lose_power(node);
            self.oracle(node).caches_lost();
            self.after(50, What::Boot { node });
        }
        self.consuming = false;
        self.drive(500)?;
        if !self.pending.is_empty() {
            return Err(format!("{} requests aren't answered by primaries alone", self.pending.len()));
        }
        self.cut = false;
        self.drive(1000)?;
        for node in 0..2 {
            self.holds(node, node)?;
        }
        let loser = place(self.rng.below(2));
        for node in 0..2 {
            self.admin(node, Admin::Secondary);
        }
        self.drive(300)?;
        self.admin(loser, Admin::DiscardMyData);
        for node in 0..2 {
            self.admin(node, Admin::Connect);
        }
        for _ in 0..40 {
            self.drive(500)?;
            let settled = |e: &Engine| e.peer_is_up_to_date() && e.is_consistent() && e.out_of_sync() == 0;
            if (0..2).all(|n| self.is(n, settled)) {
                self.holds(1 - loser, 1 - loser)?;
                return self.holds(loser, 1 - loser);
            }
        }
        Err(format!("the split brain doesn't end: {}", self.describe()))
    }

    /// The disk of `node` holds what the consumer at `writer` may read.
    fn holds(&mut self, node: usize, writer: usize) -> Result<(), String> {
        let view = self.nodes[node].data.view.clone();
        for (s, sector) in view.chunks(SECTOR).enumerate() {
            let tag = tag_of(sector);
            if !self.oracle(writer).allows(s, tag) {
                let expected = self.oracle(writer).expected(s);
                return Err(format!("sector {s} of node {node} holds {tag}, not one of {expected:?} of {writer}"));
            }
        }
        Ok(())
    }
}
