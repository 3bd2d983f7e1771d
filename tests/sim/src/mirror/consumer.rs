//! The consumer of the device, and the disks below it.

use std::sync::Arc;

use ferro_mirror::wire::Payload;
use ferro_mirror::{DataOp, DiskError, Engine, Input, MetaOp, Request};

use super::disk::SECTOR;
use super::oracle::Oracle;
use super::world::{Done, Pending, SIZE, What, World, bytes_of, place, tag_of};

impl World {
    pub(super) fn consume(&mut self) {
        let delay = 1 + self.rng.below(6);
        self.after(delay, What::Consumer);
        let first = if self.oracles.len() == 2 { place(self.rng.below(2)) } else { 0 };
        let Some(node) = [first, 1 - first].into_iter().find(|n| self.is(*n, Engine::is_primary)) else { return };
        if self.pending.len() > 12 || !self.consuming {
            return;
        }
        let kind = self.rng.below(9);
        self.ask(node, kind);
    }

    /// Up to 4: writes; up to 7: reads; else a flush.
    pub(super) fn ask(&mut self, node: usize, kind: u64) {
        self.next_id += 1;
        let id = self.next_id;
        let sectors = place(SIZE) / SECTOR;
        let first = place(self.rng.below(sectors as u64 - 20));
        let range = first..first + 1 + place(self.rng.below(20));
        let (offset, length) = ((range.start * SECTOR) as u64, (range.len() * SECTOR) as u64);
        let now = self.now;
        let (pending, request) = match kind {
            0..=4 => {
                self.outcome.writes += 1;
                let (tag, payload) = if kind == 4 {
                    (0, Payload::Zeroes { length, unmap: self.rng.one_in(2) })
                } else {
                    (id, Payload::Data(id.to_le_bytes().repeat(range.len() * SECTOR / 8).into()))
                };
                self.oracle(node).issue(id, tag, range.clone(), now);
                (Pending::Write { sectors: range }, Request::Write { offset, payload, fua: self.rng.one_in(8) })
            }
            5..=7 => {
                self.outcome.reads += 1;
                (Pending::Read { sectors: range }, Request::Read { offset, length })
            }
            _ => {
                self.outcome.flushes += 1;
                (Pending::Flush { issued: now }, Request::Flush)
            }
        };
        self.say(|| format!("node {node} is asked {id}: kind {kind} at {offset}, {length}"));
        self.pending.insert(id, (node, pending));
        self.tell(node, Input::Request { id, request });
    }

    /// What the consumer at `node` may read.
    pub(super) fn oracle(&mut self, node: usize) -> &mut Oracle {
        let at = node.min(self.oracles.len() - 1);
        &mut self.oracles[at]
    }

    /// A request was answered, or its node crashed.
    pub(super) fn finish(&mut self, id: u64, data: Option<&[u8]>) {
        let Some((node, pending)) = self.pending.remove(&id) else {
            self.failure = Some(format!("request {id} was answered twice"));
            return;
        };
        let now = self.now;
        self.say(|| format!("node {node} answers {id}: {}", data.is_some()));
        match pending {
            Pending::Write { sectors } => self.oracle(node).end(id, sectors, now, data.is_some()),
            Pending::Flush { issued } if data.is_some() => self.oracle(node).flushed(issued),
            Pending::Read { sectors } => {
                for (s, sector) in sectors.zip(data.unwrap_or_default().chunks(SECTOR)) {
                    if !self.oracle(node).allows(s, tag_of(sector)) {
                        let expected = self.oracle(node).expected(s);
                        self.failure = Some(format!("sector {s} read as {}, not {expected:?}", tag_of(sector)));
                    }
                }
            }
            Pending::Flush { .. } => {}
        }
    }

    pub(super) fn disk_done(&mut self, node: usize, done: Done) {
        if self.fails(node, &done) {
            return;
        }
        let n = &mut self.nodes[node];
        let input = match done {
            Done::Data { op, request, mark } => {
                let mut bytes: Arc<[u8]> = [].into();
                match request {
                    DataOp::Read { offset, length } => {
                        bytes = n.data.view[place(offset)..place(offset + length)].into();
                    }
                    DataOp::Write { offset, payload } => n.data.write(place(offset), bytes_of(&payload)),
                    DataOp::Flush => n.data.flush(mark),
                }
                Input::DataDone { op, result: Ok(bytes) }
            }
            Done::Meta { op, request, mark } => {
                match request {
                    MetaOp::Write { offset, bytes } => n.meta.write(place(offset), bytes),
                    MetaOp::Flush => n.meta.flush(mark),
                }
                Input::MetaDone { op, result: Ok(()) }
            }
        };
        self.tell(node, input);
    }

    /// The disk is broken; of a write, a part may have been done.
    fn fails(&mut self, node: usize, done: &Done) -> bool {
        let n = &mut self.nodes[node];
        let input = match done {
            Done::Data { op, request, .. } if n.broken.data => {
                if let DataOp::Write { offset, payload } = request {
                    let mut bytes = bytes_of(payload);
                    bytes.truncate(place(self.rng.below(1 + (bytes.len() / SECTOR) as u64)) * SECTOR);
                    n.data.write(place(*offset), bytes);
                }
                Input::DataDone { op: *op, result: Err(DiskError) }
            }
            Done::Meta { op, .. } if n.broken.meta => Input::MetaDone { op: *op, result: Err(DiskError) },
            _ => return false,
        };
        self.tell(node, input);
        true
    }
}
