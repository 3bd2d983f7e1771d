//! Writing metadata back, in an order that leaves at worst leaked clusters whenever it is cut off:
//!
//! 1. refcount blocks (counts only rise here), then the refcount table, then the header if the table moved;
//! 2. a barrier, which also makes guest data durable before anything refers to it;
//! 3. L2 tables; a barrier; the L1 table, and the header if it moved; a barrier;
//! 4. only now do the counts of clusters fall that lost their references, and only now can they be used again.
//!
//! The lock is not held while writing: what is written is what the metadata was when the batch was taken.

use std::sync::{MutexGuard, PoisonError};

use super::geometry::be64_bytes;
use super::header::{INCOMPAT_DIRTY, RawHeader};
use super::image::Inner;
use super::state::{Run, State};
use super::table_cache::Piece;
use crate::Result;

/// How many runs of clusters may wait for a moment without requests before one is made.
const MAX_WAITING: usize = 4096;

/// A part of a table: host offset and bytes.
type Patch = (u64, Vec<u8>);

/// What is written back in one go.
#[derive(Default)]
struct Batch {
    blocks: Vec<Piece>,
    reftable: Option<(Patch, std::ops::Range<usize>)>,
    reftable_header: Option<(u64, u32)>,
    l2: Vec<Piece>,
    l1: Option<(Patch, std::ops::Range<usize>)>,
    l1_header: Option<(u64, u32)>,
    pending: Vec<Run>,
    left_behind: Vec<Run>,
}

impl Batch {
    fn has_references(&self) -> bool {
        !self.l2.is_empty() || self.l1.is_some()
    }
}

impl State {
    /// Takes what has changed. Reference counts stay behind if `lazy`.
    fn take_batch(&mut self, lazy: bool) -> Batch {
        let mut batch = Batch::default();
        if !lazy {
            batch.blocks = self.refcounts.blocks.take_dirty();
        }
        // The table names new blocks: it can wait as long as they do.
        if let Some(range) = (!lazy).then(|| self.refcounts.table_dirty.take()).flatten() {
            let bytes = be64_bytes(&self.refcounts.table[range.clone()]);
            batch.reftable = Some(((self.refcounts.table_offset + range.start as u64 * 8, bytes), range));
            if std::mem::take(&mut self.refcounts.moved) {
                batch.reftable_header = Some((self.refcounts.table_offset, self.refcounts.table_clusters as u32));
                batch.left_behind = std::mem::take(&mut self.refcounts.left_behind);
            }
        }
        batch.l2 = self.l2.take_dirty();
        if let Some(range) = self.l1_dirty.take() {
            let bytes = be64_bytes(&self.l1[range.clone()]);
            batch.l1 = Some(((self.header.l1_offset + range.start as u64 * 8, bytes), range));
            if std::mem::take(&mut self.l1_moved) {
                batch.l1_header = Some((self.header.l1_offset, self.header.l1_entries));
            }
        }
        batch.pending = std::mem::take(&mut self.pending);
        batch
    }

    /// Puts back what could not be written.
    fn untake(&mut self, batch: Batch) {
        self.refcounts.blocks.written(&batch.blocks, false);
        self.l2.written(&batch.l2, false);
        let merge = |old: Option<std::ops::Range<usize>>, new: std::ops::Range<usize>| match old {
            Some(old) => Some(old.start.min(new.start)..old.end.max(new.end)),
            None => Some(new),
        };
        if let Some((_, range)) = batch.reftable {
            self.refcounts.table_dirty = merge(self.refcounts.table_dirty.take(), range);
        }
        if let Some((_, range)) = batch.l1 {
            self.l1_dirty = merge(self.l1_dirty.take(), range);
        }
        self.refcounts.moved |= batch.reftable_header.is_some();
        self.l1_moved |= batch.l1_header.is_some();
        self.pending.extend(batch.pending);
        self.refcounts.left_behind.extend(batch.left_behind);
    }
}

impl Inner {
    /// Makes everything durable that was written before the call. Must not be called from within the gate.
    pub(super) fn commit(&self) -> Result<()> {
        let guard = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit_with(&guard, false)
    }

    /// As [`Inner::commit`]; `exclusive` says that the caller has the image for itself already.
    pub(super) fn commit_with(&self, _committing: &MutexGuard<'_, ()>, exclusive: bool) -> Result<()> {
        let batch = {
            let mut state = self.state();
            let lazy = self.lazy_refcounts && !state.refcounts.blocks.is_under_pressure() && !exclusive;
            let mut batch = state.take_batch(lazy);
            let postponed = lazy && batch.has_references() && state.refcounts.blocks.is_dirty();
            if postponed && let Err(error) = self.set_dirty(&mut state) {
                state.untake(batch);
                return Err(error);
            }
            batch.left_behind.dedup();
            batch
        };
        if let Err(error) = self.write_batch(&batch) {
            self.state().untake(batch);
            return Err(error);
        }
        let mut state = self.state();
        state.refcounts.blocks.written(&batch.blocks, true);
        state.l2.written(&batch.l2, true);
        state.freeable.extend(batch.pending.into_iter().chain(batch.left_behind));
        let waiting = state.freeable.len();
        drop(state);
        if waiting == 0 || exclusive {
            return self.free();
        }
        // A flush doesn't wait for requests, unless too much has gathered.
        let gate = if waiting > MAX_WAITING { Some(self.gate.exclusive()) } else { self.gate.try_exclusive() };
        if gate.is_some() { self.free() } else { Ok(()) }
    }

    fn write_batch(&self, batch: &Batch) -> Result<()> {
        for piece in &batch.blocks {
            piece.write(&self.file)?;
        }
        if let Some(((offset, bytes), _)) = &batch.reftable {
            self.file.flush()?;
            self.file.write(bytes, *offset)?;
        }
        if let Some((offset, clusters)) = batch.reftable_header {
            self.file.flush()?;
            let mut state = self.state();
            (state.header.reftable_offset, state.header.reftable_clusters) = (offset, clusters);
            let mut header = state.stored_header.clone();
            (header.reftable_offset, header.reftable_clusters) = (offset, clusters);
            self.store_header(&mut state, header)?;
        }
        self.flush_data()?;
        if !batch.has_references() {
            return Ok(());
        }
        for piece in &batch.l2 {
            piece.write(&self.file)?;
        }
        if let Some(((offset, bytes), _)) = &batch.l1 {
            if !batch.l2.is_empty() {
                self.file.flush()?;
            }
            self.file.write(bytes, *offset)?;
        }
        if let Some((offset, entries)) = batch.l1_header {
            self.file.flush()?;
            let mut state = self.state();
            let mut header = state.stored_header.clone();
            (header.l1_offset, header.l1_entries) = (offset, entries);
            self.store_header(&mut state, header)?;
        }
        self.file.flush()
    }

    /// Makes guest data durable.
    fn flush_data(&self) -> Result<()> {
        if let Some(data) = &self.data_file {
            data.flush()?;
        }
        self.file.flush()
    }

    /// Lets counts fall. The caller has the image for itself, so no request is using these clusters.
    fn free(&self) -> Result<()> {
        let mut state = self.state();
        let runs = std::mem::take(&mut state.freeable);
        let bits = state.geometry.cluster_bits;
        *self.decompressed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut result = Ok(());
        for (first, count) in runs {
            // A damaged image may free what isn't counted: go on, but say it.
            match state.refcounts.add(&self.file, first, count, -1) {
                Ok(freed) => {
                    for (first, count) in freed {
                        state.forget(first, count);
                        self.file.discard(first << bits, count << bits);
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Writes `header` and remembers it as stored. Makes nothing durable.
    pub(super) fn store_header(&self, state: &mut State, header: RawHeader) -> Result<()> {
        self.file.write(&header.to_bytes()?, 0)?;
        state.stored_header = header;
        Ok(())
    }

    /// Marks reference counts as unreliable, durably.
    pub(super) fn set_dirty(&self, state: &mut State) -> Result<()> {
        if state.stored_header.incompatible & INCOMPAT_DIRTY != 0 || state.header.version < 3 {
            return Ok(());
        }
        let mut header = state.stored_header.clone();
        header.incompatible |= INCOMPAT_DIRTY;
        self.store_header(state, header)?;
        state.header.incompatible |= INCOMPAT_DIRTY;
        self.file.flush()
    }

    /// Writes everything back, including counts that fell, and clears the dirty bit. The caller has the image for itself.
    pub(super) fn settle(&self, committing: &MutexGuard<'_, ()>) -> Result<()> {
        // Freeing changes counts, which makes another round.
        for _ in 0..4 {
            self.commit_with(committing, true)?;
            let state = self.state();
            if state.pending.is_empty() && !state.refcounts.blocks.is_dirty() && !state.l2.is_dirty() {
                break;
            }
        }
        let mut state = self.state();
        if state.stored_header.incompatible & INCOMPAT_DIRTY != 0 {
            let mut header = state.stored_header.clone();
            header.incompatible &= !INCOMPAT_DIRTY;
            self.store_header(&mut state, header)?;
            state.header.incompatible &= !INCOMPAT_DIRTY;
            self.file.flush()?;
        }
        Ok(())
    }
}

impl State {
    /// Forgets what is remembered of clusters that are free now: cached tables, room for compressed data.
    fn forget(&mut self, first: u64, count: u64) {
        let bits = self.geometry.cluster_bits;
        if (first..first + count).contains(&(self.compressed_room.start >> bits)) {
            self.compressed_room = 0..0;
        }
        for cluster in first..first + count {
            if self.l2.get(cluster << bits).is_some() {
                self.l2.remove(cluster << bits);
            }
        }
    }
}
