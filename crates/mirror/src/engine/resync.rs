//! Resync, pulled by the target block by block, and online verify: digests are compared, and only blocks that differ
//! and aren't zero are sent. A bit is cleared when the target has the block durably.

use std::collections::BTreeSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Engine;
use super::link::PeerDisk;
use super::local::Purpose;
use crate::api::{DataOp, Event};
use crate::generation::Generations;
use crate::metadata::BLOCK;
use crate::wire::{BlockState, Message, Payload};

/// This node is being brought up to date.
pub(super) struct Target {
    /// What the source's generations will be then.
    adopt: Generations,
    started: bool,
    in_flight: BTreeSet<u64>,
    written: Vec<u64>,
    flushing: bool,
}

impl Target {
    pub(super) fn new(adopt: Generations, started: bool) -> Self {
        Self { adopt, started, in_flight: BTreeSet::new(), written: Vec::new(), flushing: false }
    }
}

fn digest(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

impl Engine {
    pub(super) fn target_may_start(&mut self) {
        if let Some(target) = &mut self.target {
            target.started = true;
        }
    }

    pub(super) fn target_has_bitmap(&self) -> bool {
        self.target.as_ref().is_some_and(|t| t.started)
    }

    pub(super) fn pump_resync(&mut self) -> bool {
        self.pump_verify();
        if self.finish.is_some_and(|version| self.meta.durable() >= version) {
            self.finish = None;
            self.send(Message::SyncFinished);
            self.event(Event::InSync);
        }
        // Two in flight keep it going; more only when nobody else wants the disks.
        let limit = if self.foreground_busy() { 2 } else { self.config.sync_in_flight.max(1) };
        let ready = self.attached && self.meta.durable() >= self.gate;
        let Some(target) = self.target.as_mut().filter(|t| t.started && ready) else { return false };
        let mut next = Vec::new();
        let mut from = 0;
        while !self.paused && target.in_flight.len() < limit {
            let Some(block) = self.meta.next_marked(from) else { break };
            from = block + 1;
            if target.in_flight.insert(block) {
                next.push(block);
            }
        }
        let flush = !target.flushing && !target.written.is_empty();
        let blocks = if flush { std::mem::take(&mut target.written) } else { Vec::new() };
        target.flushing |= flush;
        let finished = target.in_flight.is_empty() && self.meta.marked() == 0;
        let adopt = target.adopt;
        let moved = flush || !next.is_empty() || finished;
        for block in next {
            let read = self.block_read(block);
            self.submit(read, Purpose::Digest { block, verify: false });
        }
        if flush {
            self.submit(DataOp::Flush, Purpose::SyncFlush { blocks });
        }
        if finished {
            self.target = None;
            self.meta.change(|s| {
                s.generations = adopt;
                s.consistent = true;
                s.crashed = false;
            });
            self.finish = Some(self.meta.wanted());
        }
        moved
    }

    pub(super) fn digest_done(&mut self, block: u64, verify: bool, data: &[u8]) {
        let digest = digest(data);
        self.send(if verify {
            Message::VerifyRequest { block, digest }
        } else {
            Message::SyncRequest { block, digest }
        });
    }

    /// The source, or the side that is asked to verify, has read its block.
    pub(super) fn compared(&mut self, block: u64, theirs: &[u8; 32], verify: bool, data: &Arc<[u8]>) {
        let equal = digest(data) == *theirs;
        if verify {
            if !equal {
                self.meta.set(block, true);
            }
            self.send(Message::VerifyReply { block, equal });
            return;
        }
        let state = if equal {
            BlockState::Equal
        } else if data.iter().all(|b| *b == 0) {
            BlockState::Zero
        } else {
            BlockState::Data(data.clone())
        };
        self.send(Message::SyncReply { block, state });
    }

    pub(super) fn sync_reply(&mut self, block: u64, state: BlockState) {
        let offset = block.saturating_mul(BLOCK);
        let length = BLOCK.min(self.config.size.saturating_sub(offset));
        let newer = self.in_flight(&(offset..offset.saturating_add(length)));
        let Some(target) = self.target.as_mut().filter(|t| t.in_flight.contains(&block)) else { return };
        let payload = match state {
            BlockState::Equal => {
                target.written.push(block);
                return;
            }
            // A write of our own is under way that this may not contain: ask again.
            _ if newer => {
                target.in_flight.remove(&block);
                return;
            }
            BlockState::Zero => Payload::Zeroes { length, unmap: true },
            BlockState::Data(data) if data.len() as u64 == length => Payload::Data(data),
            BlockState::Data(_) => {
                self.drop_link();
                return;
            }
        };
        self.submit(DataOp::Write { offset, payload }, Purpose::SyncWrite { block });
    }

    pub(super) fn sync_written(&mut self, block: u64) {
        if let Some(target) = &mut self.target {
            target.written.push(block);
        }
    }

    pub(super) fn sync_flushed(&mut self, blocks: &[u64]) {
        let Some(target) = &mut self.target else { return };
        target.flushing = false;
        target.in_flight.retain(|b| !blocks.contains(b));
        for block in blocks {
            self.meta.set(*block, false);
            self.send(Message::Synced { block: *block });
        }
    }

    /// The peer has everything and says so durably.
    pub(super) fn peer_finished(&mut self) {
        if self.peer_disk == PeerDisk::Inconsistent && self.meta.marked() == 0 {
            self.peer_disk = PeerDisk::UpToDate;
            self.meta.change(|s| s.generations.settle());
            self.event(Event::InSync);
        }
    }

    pub(super) fn start_verify(&mut self) {
        self.verify = Some((0, 0));
        self.verify_block(0);
    }

    fn verify_block(&mut self, block: u64) {
        let read = self.block_read(block);
        self.submit(read, Purpose::Digest { block, verify: true });
    }

    fn pump_verify(&mut self) {
        if let Some((next, differ)) = self.verify.filter(|v| v.0 >= self.meta.blocks()) {
            self.verify = None;
            debug_assert!(next == self.meta.blocks());
            self.event(Event::Verified(differ));
        }
    }

    pub(super) fn verified(&mut self, block: u64, equal: bool) {
        let Some((next, differ)) = self.verify.filter(|v| v.0 == block) else { return };
        if !equal {
            self.meta.set(block, true);
        }
        self.verify = Some((next + 1, differ + u64::from(!equal)));
        if next + 1 < self.meta.blocks() {
            self.verify_block(next + 1);
        }
    }
}
