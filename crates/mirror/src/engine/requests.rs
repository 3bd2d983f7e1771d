//! The consumer's requests at the primary: the activity log before the data, the bitmap before the acknowledgement,
//! barriers, and what happens to what is under way when a disk or the peer is lost.

use std::ops::Range;
use std::sync::Arc;

use super::link::PeerDisk;
use super::local::Purpose;
use super::{BARRIER_IDLE, Engine, Link, MAX_QUEUE};
use crate::api::{Congestion, DataOp, Event, Output, Protocol, Request, RequestError, Time};
use crate::wire::{Message, Payload};

/// A write from its start until a crash of either node can no longer lose it unnoticed.
pub(super) struct Entry {
    id: u64,
    range: Range<u64>,
    payload: Payload,
    fua: bool,
    local: Local,
    sent: bool,
    received: bool,
    written: bool,
    /// Metadata that have to be durable before the answer.
    meta: u64,
    barrier: u64,
    answered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Local {
    Busy,
    Done,
    Failed,
}

/// Makes the writes before it durable on both sides.
#[derive(Default)]
pub(super) struct Barrier {
    submitted: bool,
    local: bool,
    peer: bool,
}

pub(super) struct Flush {
    id: u64,
    barrier: u64,
    meta: u64,
}

pub(super) struct RemoteRead {
    id: u64,
    offset: u64,
    length: u64,
}

impl Engine {
    fn reply(&mut self, id: u64, result: Result<Arc<[u8]>, RequestError>) {
        self.outputs.push_back(Output::Reply { id, result });
    }

    pub(super) fn request(&mut self, id: u64, request: Request) {
        let range = match &request {
            Request::Read { offset, length } => Some((*offset, *length)),
            Request::Write { offset, payload, .. } => Some((*offset, payload.len())),
            Request::Flush => None,
        };
        let inside = range.is_none_or(|(at, n)| at.checked_add(n).is_some_and(|end| self.contains(&(at..end))));
        if !self.primary {
            self.reply(id, Err(RequestError::NotPrimary));
        } else if !inside {
            self.reply(id, Err(RequestError::Range));
        } else if self.held.len() >= MAX_QUEUE {
            self.reply(id, Err(RequestError::QueueFull));
        } else {
            self.held.push_back((id, request));
        }
    }

    /// The primary may neither answer nor begin anything: the peer may have been promoted meanwhile.
    pub(super) fn frozen(&self) -> bool {
        self.primary && self.config.fencing && !self.alone && self.link != Link::Connected
    }

    /// The peer takes part in writes.
    pub(super) fn replicating(&self) -> bool {
        self.link == Link::Connected && matches!(self.peer_disk, PeerDisk::UpToDate | PeerDisk::Inconsistent)
    }

    fn has_data(&self) -> bool {
        self.is_consistent() || self.peer_is_up_to_date()
    }

    pub(super) fn pump_requests(&mut self) -> bool {
        let mut moved = false;
        while self.primary && !self.demoting && !self.frozen() && !self.greeting() {
            let Some((id, request)) = self.held.front().cloned() else { break };
            if !self.has_data() {
                self.reply(id, Err(RequestError::NoData));
            } else if !self.begin(id, request) {
                break;
            }
            self.held.pop_front();
            moved = true;
        }
        moved
    }

    /// False if it has to wait.
    fn begin(&mut self, id: u64, request: Request) -> bool {
        match request {
            Request::Read { offset, length } => self.begin_read(id, offset, length),
            Request::Write { offset, payload, fua } => return self.begin_write(id, offset, payload, fua),
            Request::Flush => self.begin_flush(id),
        }
        true
    }

    fn begin_read(&mut self, id: u64, offset: u64, length: u64) {
        // Before the peer's bitmap has come, nobody knows which blocks are stale.
        let stale = !self.meta.superblock().consistent
            && (!self.target_has_bitmap() || self.meta.touches_marked(&(offset..offset + length)));
        if self.attached && !stale {
            self.reads.insert(id, (offset, length));
            self.submit(DataOp::Read { offset, length }, Purpose::Read { id });
        } else {
            self.read_remotely(id, offset, length);
        }
    }

    fn read_remotely(&mut self, id: u64, offset: u64, length: u64) {
        if !self.peer_is_up_to_date() {
            self.reply(id, Err(RequestError::NoData));
            return;
        }
        self.next_seq += 1;
        let seq = self.next_seq;
        self.remote_reads.insert(seq, RemoteRead { id, offset, length });
        self.send(Message::Read { seq, offset, length });
    }

    pub(super) fn local_read_done(&mut self, id: u64, data: Arc<[u8]>) {
        if self.reads.remove(&id).is_some() {
            self.reply(id, Ok(data));
        }
    }

    pub(super) fn local_read_failed(&mut self, id: u64) {
        if let Some((offset, length)) = self.reads.remove(&id) {
            self.read_remotely(id, offset, length);
        }
    }

    pub(super) fn remote_read_done(&mut self, seq: u64, data: Option<Arc<[u8]>>) {
        if let Some(read) = self.remote_reads.remove(&seq) {
            let data = data.filter(|d| d.len() as u64 == read.length);
            self.reply(read.id, data.ok_or(RequestError::NoData));
        }
    }

    fn extents(&self, range: &Range<u64>) -> Range<u32> {
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        number(range.start / self.config.extent)..number(range.end.div_ceil(self.config.extent))
    }

    fn begin_write(&mut self, id: u64, offset: u64, payload: Payload, fua: bool) -> bool {
        let range = offset..offset + payload.len();
        let waiting = self.entries.values().filter(|e| e.sent && !e.written).count();
        if waiting >= self.config.max_in_flight {
            if self.config.congestion == Congestion::FallBehind && self.config.protocol == Protocol::A {
                self.drop_link();
            }
            return false;
        }
        if self.entries.len() >= MAX_QUEUE || !self.activate(&range) {
            let current = self.barrier;
            if self.entries.values().any(|e| e.barrier == current) {
                self.start_barrier();
            }
            return false;
        }
        if self.attached && self.meta.durable() < self.log_version {
            return false;
        }
        for extent in self.extents(&range) {
            *self.active.entry(extent).or_default() += 1;
        }
        self.next_seq += 1;
        let seq = self.next_seq;
        let entry = Entry {
            id,
            range: range.clone(),
            payload: payload.clone(),
            fua,
            local: if self.attached { Local::Busy } else { Local::Failed },
            sent: false,
            received: false,
            written: false,
            meta: 0,
            barrier: 0,
            answered: false,
        };
        self.entries.insert(seq, entry);
        if !self.replicating() {
            self.mark_alone(range);
        }
        if self.attached {
            self.submit(DataOp::Write { offset, payload }, Purpose::Write { seq });
        } else {
            self.replicate(seq);
        }
        true
    }

    /// Puts the extents of `range` into the activity log; false if it is full of busy ones. Whether the log is durable
    /// is asked separately.
    fn activate(&mut self, range: &Range<u64>) -> bool {
        let missing: Vec<u32> = self.extents(range).filter(|e| !self.meta.log().contains(e)).collect();
        if missing.is_empty() || !self.attached {
            return true;
        }
        let idle: Vec<u32> = self
            .meta
            .log()
            .iter()
            .copied()
            .filter(|e| !self.active.contains_key(e) && !self.extents(range).contains(e))
            .collect();
        let excess = (self.meta.log().len() + missing.len()).saturating_sub(self.config.log_extents);
        if excess > idle.len() {
            return false;
        }
        self.meta.change_log(|log| {
            for old in &idle[..excess] {
                log.remove(old);
            }
            log.extend(missing);
        });
        self.log_version = self.meta.wanted();
        true
    }

    /// Data are written that the peer doesn't get: they are marked, and a new generation begins if the current one is
    /// known to the peer.
    pub(super) fn mark_alone(&mut self, range: Range<u64>) {
        self.meta.mark(range);
        // Half a copy begins no generation: what it lacks, and these bytes, come from the peer again.
        let entitled = if self.primary { !self.frozen() } else { self.peer_disk == PeerDisk::Diskless };
        if entitled && !self.advanced && self.meta.superblock().consistent {
            self.advanced = true;
            let new = self.identifier();
            self.meta.advance(new);
        }
    }

    /// The write `seq` starts: sends it, or marks what it covers.
    pub(super) fn replicate(&mut self, seq: u64) {
        let replicating = self.replicating();
        let (barrier, epoch) = (self.barrier, self.epoch());
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.barrier = barrier;
        if replicating {
            entry.sent = true;
            let (offset, payload) = (entry.range.start, entry.payload.clone());
            self.send(Message::Write { seq, epoch, offset, payload });
            self.barrier_due.get_or_insert(Time(self.now.0 + BARRIER_IDLE));
        } else {
            let range = entry.range.clone();
            self.mark_alone(range);
        }
        let wanted = self.meta.wanted();
        if let Some(entry) = self.entries.get_mut(&seq).filter(|e| !e.sent) {
            entry.meta = wanted;
        }
    }

    pub(super) fn local_write_done(&mut self, seq: u64, ok: bool) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.local = if ok { Local::Done } else { Local::Failed };
        }
    }

    pub(super) fn peer_has(&mut self, seq: u64, written: bool) {
        if let Some(entry) = self.entries.get_mut(&seq).filter(|e| e.sent) {
            entry.received = true;
            entry.written |= written;
        }
    }

    /// A write to `range` was sent that the peer hasn't done: what it says of these bytes may be older.
    pub(super) fn in_flight(&self, range: &Range<u64>) -> bool {
        self.entries.values().any(|e| !e.answered && e.range.start < range.end && range.start < e.range.end)
            || self
                .entries
                .values()
                .any(|e| e.sent && !e.written && e.range.start < range.end && range.start < e.range.end)
    }

    pub(super) fn foreground_busy(&self) -> bool {
        !self.held.is_empty() || self.entries.values().any(|e| !e.answered) || self.peer_writes > 0
    }

    /// Begins a barrier over everything started so far; returns its number.
    pub(super) fn start_barrier(&mut self) -> u64 {
        self.barrier_due = None;
        let number = self.barrier;
        self.barrier += 1;
        let sent = self.replicating();
        if sent {
            self.send(Message::Barrier { number });
        }
        self.barriers.insert(number, Barrier { peer: !sent, ..Barrier::default() });
        number
    }

    fn begin_flush(&mut self, id: u64) {
        let barrier = self.start_barrier();
        self.flushes.push(Flush { id, barrier, meta: self.meta.wanted() });
    }

    pub(super) fn barrier_flushed(&mut self, number: u64) {
        if let Some(barrier) = self.barriers.get_mut(&number) {
            barrier.local = true;
        }
    }

    pub(super) fn barrier_done_at_peer(&mut self, number: u64) {
        for (_, barrier) in self.barriers.range_mut(..=number) {
            barrier.peer = true;
        }
    }

    pub(super) fn pump_barriers(&mut self) -> bool {
        // What the peer wrote as a primary is older than anything written here, so a flush covers it.
        if self.barriers.is_empty() || self.local.has_peer_writes() {
            return false;
        }
        let ready = self.barriers.iter().find(|(number, b)| {
            !b.submitted && !self.entries.values().any(|e| e.barrier <= **number && e.local == Local::Busy)
        });
        let Some(number) = ready.map(|(n, _)| *n) else { return false };
        let attached = self.attached;
        if let Some(barrier) = self.barriers.get_mut(&number) {
            barrier.submitted = true;
            barrier.local = !attached;
        }
        if attached {
            self.submit(DataOp::Flush, Purpose::Barrier { number });
        }
        true
    }

    /// Answers what is done, and forgets what is safe.
    pub(super) fn answer(&mut self) -> bool {
        if self.frozen() {
            return false;
        }
        let before = self.outputs.len();
        let durable = self.meta.durable();
        let (protocol, attached) = (self.config.protocol, self.attached);
        let complete = self.meta.superblock().consistent;
        let mut done = Vec::new();
        for entry in self.entries.values_mut().filter(|e| !e.answered) {
            let peer = !entry.sent
                || match protocol {
                    // Half a copy is no place where a write is safe.
                    _ if !complete => entry.written,
                    Protocol::A => true,
                    Protocol::B => entry.received,
                    Protocol::C => entry.written,
                };
            let result = match entry.local {
                Local::Done if !entry.sent && !complete => Err(RequestError::NoData),
                Local::Done if peer && (entry.meta <= durable || !attached) => Ok(()),
                Local::Failed if entry.sent && entry.written => Ok(()),
                Local::Failed if !entry.sent => Err(RequestError::NoData),
                _ => continue,
            };
            entry.answered = true;
            done.push((entry.id, entry.fua, result));
        }
        let moved = !done.is_empty();
        for (id, fua, result) in done {
            match result {
                Ok(()) if fua => self.begin_flush(id),
                Ok(()) => self.reply(id, Ok([].into())),
                Err(error) => self.reply(id, Err(error)),
            }
        }
        self.answer_flushes(durable);
        self.forget(durable);
        moved || before != self.outputs.len()
    }

    fn answer_flushes(&mut self, durable: u64) {
        let flushes = std::mem::take(&mut self.flushes);
        for flush in flushes {
            let barrier = self.barriers.get(&flush.barrier);
            let local = barrier.is_none_or(|b| b.local);
            let peer = barrier.is_none_or(|b| b.peer);
            let wait = self.synchronous() || !self.is_consistent();
            if !self.has_data() {
                self.reply(flush.id, Err(RequestError::NoData));
            } else if local && (peer || !wait) && (flush.meta <= durable || !self.attached) {
                self.reply(flush.id, Ok([].into()));
            } else {
                self.flushes.push(flush);
            }
        }
    }

    /// Forgets barriers and writes that are durable on both sides, or marked durably as missing at the peer.
    fn forget(&mut self, durable: u64) {
        let flushes = &self.flushes;
        self.barriers.retain(|n, b| !(b.local && b.peer) || flushes.iter().any(|f| f.barrier <= *n));
        let oldest = self.barriers.keys().next().copied().unwrap_or(self.barrier);
        let attached = self.attached;
        let active = &mut self.active;
        let extent = self.config.extent;
        self.entries.retain(|_, e| {
            let safe = if e.sent { e.barrier < oldest && e.written } else { e.meta <= durable || !attached };
            let keep = !(e.answered && safe) || e.local == Local::Busy;
            if !keep {
                for at in e.range.start / extent..e.range.end.div_ceil(extent) {
                    let at = u32::try_from(at).unwrap_or(u32::MAX);
                    if let Some(count) = active.get_mut(&at) {
                        *count -= 1;
                        if *count == 0 {
                            active.remove(&at);
                        }
                    }
                }
            }
            keep
        });
        if self.demoting && self.entries.is_empty() && self.flushes.is_empty() && self.barriers.is_empty() {
            self.demoting = false;
            self.stop_being_primary(Event::BecameSecondary);
        }
    }

    /// The peer is lost: what it may not have durably is marked.
    pub(super) fn requests_lose_peer(&mut self) {
        let mut ranges = Vec::new();
        for entry in self.entries.values_mut() {
            if std::mem::take(&mut entry.sent) {
                ranges.push(entry.range.clone());
            }
        }
        let go_on = self.primary && !self.config.fencing;
        for range in ranges {
            self.meta.mark(range.clone());
            if go_on {
                self.mark_alone(range);
            }
        }
        self.require_metadata();
        for barrier in self.barriers.values_mut() {
            barrier.peer = true;
        }
        self.barrier_due = None;
        for read in std::mem::take(&mut self.remote_reads).into_values() {
            self.begin_read(read.id, read.offset, read.length);
        }
    }

    /// Nothing under way is answered before the metadata as they are now are durable.
    pub(super) fn require_metadata(&mut self) {
        let wanted = self.meta.wanted();
        for entry in self.entries.values_mut().filter(|e| !e.sent) {
            entry.meta = wanted;
        }
        for flush in &mut self.flushes {
            flush.meta = wanted;
        }
    }

    /// The cluster lets this primary go on without its peer.
    pub(super) fn go_alone(&mut self) {
        let ranges: Vec<_> = self.entries.values().filter(|e| !e.sent).map(|e| e.range.clone()).collect();
        for range in ranges {
            self.mark_alone(range);
        }
        self.alone = true;
        self.require_metadata();
    }

    /// Fails everything the consumer waits for.
    pub(super) fn fail_requests(&mut self, error: RequestError) {
        let mut ids: Vec<u64> = self.held.drain(..).map(|(id, _)| id).collect();
        ids.extend(std::mem::take(&mut self.reads).into_keys());
        ids.extend(std::mem::take(&mut self.remote_reads).into_values().map(|r| r.id));
        ids.extend(self.flushes.drain(..).map(|f| f.id));
        for entry in self.entries.values_mut().filter(|e| !e.answered) {
            entry.answered = true;
            ids.push(entry.id);
        }
        for id in ids {
            self.reply(id, Err(error));
        }
    }

    /// The local disk failed: go on through the peer, if it can.
    pub(super) fn detach(&mut self) {
        if !std::mem::take(&mut self.attached) {
            return;
        }
        self.event(Event::Detached);
        if self.primary && self.peer_is_up_to_date() {
            self.send(Message::Detached);
        } else {
            self.drop_link();
        }
        let waiting = self.local.drain_waiting();
        for op in waiting {
            match op.purpose {
                Purpose::Write { seq } => {
                    self.replicate(seq);
                    self.local_write_done(seq, false);
                }
                Purpose::Read { id } => self.local_read_failed(id),
                Purpose::Barrier { number } => self.barrier_flushed(number),
                _ => {}
            }
        }
        for barrier in self.barriers.values_mut() {
            barrier.local = true;
        }
    }
}
