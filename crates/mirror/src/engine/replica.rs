//! What the peer asks of this node's disk, in the order it asked: writes and barriers of a primary, reads of a node
//! without valid data, blocks for its resync.

use super::Engine;
use super::link::PeerDisk;
use super::local::Purpose;
use crate::api::{DataOp, Protocol};
use crate::metadata::BLOCK;
use crate::wire::{Message, Payload};

impl Engine {
    pub(super) fn pump_incoming(&mut self) -> bool {
        let durable = self.meta.durable();
        while self.late_acks.front().is_some_and(|(version, _)| *version <= durable) {
            if let Some((_, seq)) = self.late_acks.pop_front() {
                self.send(Message::Written { seq });
            }
        }
        let mut moved = false;
        // What the handshake changed has to be durable first; a barrier holds back what follows it.
        while !self.peer_barrier && durable >= self.gate && self.attached {
            let Some(message) = self.incoming.pop_front() else { break };
            if matches!(message, Message::Barrier { .. }) && self.peer_writes > 0 {
                self.incoming.push_front(message);
                break;
            }
            if self.marks_first(&message) {
                self.incoming.push_front(message);
                break;
            }
            self.serve(message);
            moved = true;
        }
        moved
    }

    /// A primary without a disk has no activity log, so the mark has to be durable here before the bytes may be: true if
    /// the write has to wait for that.
    fn marks_first(&mut self, message: &Message) -> bool {
        let Message::Write { epoch, offset, payload, .. } = message else { return false };
        let range = *offset..offset.saturating_add(payload.len());
        if self.peer_disk != PeerDisk::Diskless || *epoch < self.epoch() || self.primary || !self.contains(&range) {
            return false;
        }
        let before = self.meta.wanted();
        self.mark_alone(range);
        self.gate = self.gate.max(self.meta.wanted());
        before != self.meta.wanted()
    }

    fn serve(&mut self, message: Message) {
        match message {
            Message::Write { seq, epoch, offset, payload } => self.peer_write(seq, epoch, offset, payload),
            Message::Barrier { number } => {
                self.peer_barrier = true;
                self.submit(DataOp::Flush, Purpose::PeerBarrier { number });
            }
            Message::Read { seq, offset, length } => {
                if offset.checked_add(length).is_some_and(|end| self.contains(&(offset..end))) {
                    self.submit(DataOp::Read { offset, length }, Purpose::PeerRead { seq });
                } else {
                    self.send(Message::ReadReply { seq, data: None });
                }
            }
            Message::SyncRequest { block, digest } => self.compare(block, digest, false),
            Message::VerifyRequest { block, digest } => self.compare(block, digest, true),
            _ => self.drop_link(),
        }
    }

    fn compare(&mut self, block: u64, digest: [u8; 32], verify: bool) {
        if block >= self.meta.blocks() {
            self.drop_link();
            return;
        }
        let read = self.block_read(block);
        self.submit(read, Purpose::Compare { block, digest, verify });
    }

    /// The read of one block; the last one may be shorter.
    pub(super) fn block_read(&self, block: u64) -> DataOp {
        let offset = block * BLOCK;
        DataOp::Read { offset, length: BLOCK.min(self.config.size - offset) }
    }

    fn peer_write(&mut self, seq: u64, epoch: u64, offset: u64, payload: Payload) {
        if epoch < self.epoch() || self.primary {
            let epoch = self.epoch();
            self.send(Message::Refused { epoch });
            return;
        }
        if !offset.checked_add(payload.len()).is_some_and(|end| self.contains(&(offset..end))) {
            self.drop_link();
            return;
        }
        if self.config.protocol == Protocol::B {
            self.send(Message::Received { seq });
        }
        self.peer_writes += 1;
        self.submit(DataOp::Write { offset, payload }, Purpose::PeerWrite { seq });
    }

    pub(super) fn peer_write_done(&mut self, seq: u64, request: &DataOp) {
        self.peer_writes = self.peer_writes.saturating_sub(1);
        if let (PeerDisk::Diskless, DataOp::Write { offset, payload }) = (self.peer_disk, request) {
            // The primary's own disk doesn't get this: it will need it.
            self.mark_alone(*offset..*offset + payload.len());
            self.late_acks.push_back((self.meta.wanted(), seq));
        } else {
            self.send(Message::Written { seq });
        }
    }
}
