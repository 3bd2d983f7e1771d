//! The queue in front of the local disk: operations on overlapping bytes are done one after another in the order of
//! their arrival, if one of them writes. That order is what both replicas have in common.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::api::DataOp;

/// What an operation is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Write { seq: u64 },
    Read { id: u64 },
    Barrier { number: u64 },
    PeerWrite { seq: u64 },
    PeerRead { seq: u64 },
    PeerBarrier { number: u64 },
    Digest { block: u64, verify: bool },
    Compare { block: u64, digest: [u8; 32], verify: bool },
    SyncWrite { block: u64 },
    SyncFlush { blocks: Vec<u64> },
}

pub(super) struct Op {
    pub(super) request: DataOp,
    pub(super) purpose: Purpose,
    /// The connection it belongs to, for what the peer asked.
    pub(super) link: u64,
}

impl Op {
    fn range(&self) -> Range<u64> {
        match &self.request {
            DataOp::Read { offset, length } => *offset..offset + length,
            DataOp::Write { offset, payload } => *offset..offset + payload.len(),
            DataOp::Flush => 0..0,
        }
    }

    fn conflicts(&self, other: &Op) -> bool {
        let (a, b) = (self.range(), other.range());
        let writes = |o: &Op| matches!(o.request, DataOp::Write { .. });
        (writes(self) || writes(other)) && a.start < b.end && b.start < a.end
    }
}

#[derive(Default)]
pub(super) struct LocalQueue {
    waiting: VecDeque<Op>,
    started: BTreeMap<u64, Op>,
    next: u64,
}

impl LocalQueue {
    pub(super) fn submit(&mut self, request: DataOp, purpose: Purpose, link: u64) {
        self.waiting.push_back(Op { request, purpose, link });
    }

    /// Starts one operation that nothing before it conflicts with: its number, and what it is.
    pub(super) fn start(&mut self) -> Option<(u64, &Op)> {
        let free = (0..self.waiting.len()).find(|at| {
            let op = &self.waiting[*at];
            !self.started.values().chain(self.waiting.iter().take(*at)).any(|o| o.conflicts(op))
        })?;
        let op = self.waiting.remove(free)?;
        self.next += 1;
        Some((self.next, self.started.entry(self.next).or_insert(op)))
    }

    pub(super) fn finish(&mut self, number: u64) -> Option<Op> {
        self.started.remove(&number)
    }

    /// Writes of the peer are under way.
    pub(super) fn has_peer_writes(&self) -> bool {
        self.waiting.iter().chain(self.started.values()).any(|o| matches!(o.purpose, Purpose::PeerWrite { .. }))
    }

    /// Takes back what hasn't started.
    pub(super) fn drain_waiting(&mut self) -> Vec<Op> {
        self.waiting.drain(..).collect()
    }
}
