//! Cluster-sized metadata tables (L2 tables, refcount blocks) in memory: bounded, written back later. Knows their host
//! offsets and bytes, not their meaning; the order of writing back is the image's business.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::geometry::corrupt;
use super::host::HostFile;
use crate::Result;

struct Table {
    bytes: Arc<Vec<u8>>,
    /// The bytes that differ from the file.
    dirty: Option<Range<usize>>,
    /// Being written back now: must stay in memory until that is done.
    writing: bool,
    used: bool,
}

/// A changed part of a table, ready to be written.
#[derive(Clone)]
pub(super) struct Piece {
    /// The table's host offset.
    pub(super) host: u64,
    /// The changed bytes of the table.
    pub(super) range: Range<usize>,
    /// The whole table.
    pub(super) bytes: Arc<Vec<u8>>,
}

impl Piece {
    pub(super) fn write(&self, file: &HostFile) -> Result<()> {
        file.write(&self.bytes[self.range.clone()], self.host + self.range.start as u64)
    }
}

/// The tables.
pub(super) struct TableCache {
    tables: HashMap<u64, Table>,
    /// Candidates for eviction, in the order in which they came, with a second chance for those in use.
    queue: VecDeque<u64>,
    table_bytes: usize,
    limit: usize,
    dirty: usize,
}

impl TableCache {
    /// For tables of `table_bytes`, together `limit_bytes` but at least two.
    pub(super) fn new(table_bytes: usize, limit_bytes: usize) -> Self {
        let limit = (limit_bytes / table_bytes).max(2);
        Self { tables: HashMap::new(), queue: VecDeque::new(), table_bytes, limit, dirty: 0 }
    }

    /// Whether so much is waiting to be written back that it should be done now.
    pub(super) fn is_under_pressure(&self) -> bool {
        self.dirty * 2 > self.limit
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// The table at `host`, read from the file if it isn't in memory.
    pub(super) fn load(&mut self, file: &HostFile, host: u64) -> Result<&[u8]> {
        if !self.tables.contains_key(&host) {
            if host >= file.len() {
                return Err(corrupt(format!("a table at {host:#x} lies beyond the end of the file")));
            }
            let mut bytes = vec![0; self.table_bytes];
            file.read(&mut bytes, host)?;
            self.insert(host, bytes, false);
        }
        match self.tables.get_mut(&host) {
            Some(table) => {
                table.used = true;
                Ok(&table.bytes)
            }
            None => Err(corrupt("a table vanished from memory")),
        }
    }

    /// The table at `host` if it is in memory.
    pub(super) fn get(&self, host: u64) -> Option<&[u8]> {
        self.tables.get(&host).map(|table| table.bytes.as_slice())
    }

    /// Puts a table in, with all of it to be written if `dirty`.
    pub(super) fn insert(&mut self, host: u64, bytes: Vec<u8>, dirty: bool) {
        self.evict();
        let range = dirty.then_some(0..bytes.len());
        self.dirty += usize::from(dirty);
        let table = Table { bytes: Arc::new(bytes), dirty: range, writing: false, used: true };
        match self.tables.insert(host, table) {
            Some(old) => self.dirty -= usize::from(old.dirty.is_some()),
            None => self.queue.push_back(host),
        }
    }

    /// The table at `host`, of which `range` is about to change. It must have been loaded.
    pub(super) fn edit(&mut self, host: u64, range: Range<usize>) -> Option<&mut Vec<u8>> {
        let table = self.tables.get_mut(&host)?;
        table.used = true;
        match &mut table.dirty {
            Some(dirty) => *dirty = dirty.start.min(range.start)..dirty.end.max(range.end),
            None => {
                table.dirty = Some(range);
                self.dirty += 1;
            }
        }
        Some(Arc::make_mut(&mut table.bytes))
    }

    /// Forgets a table, changed or not.
    pub(super) fn remove(&mut self, host: u64) {
        if let Some(table) = self.tables.remove(&host) {
            self.dirty -= usize::from(table.dirty.is_some());
            self.queue.retain(|&queued| queued != host);
        }
    }

    /// What has to be written, in order of host offset. Until [`TableCache::written`] it stays in memory.
    pub(super) fn take_dirty(&mut self) -> Vec<Piece> {
        if self.dirty == 0 {
            return Vec::new();
        }
        let mut pieces = Vec::with_capacity(self.dirty);
        for (&host, table) in &mut self.tables {
            if let Some(dirty) = table.dirty.take() {
                table.writing = true;
                // Whole 4 KiB blocks, so that the host doesn't have to read before it writes.
                let range = dirty.start & !4095..(dirty.end.next_multiple_of(4096)).min(table.bytes.len());
                pieces.push(Piece { host, range, bytes: Arc::clone(&table.bytes) });
            }
        }
        self.dirty = 0;
        pieces.sort_unstable_by_key(|piece| piece.host);
        pieces
    }

    /// Says that `pieces` were written, or else have to be written again.
    pub(super) fn written(&mut self, pieces: &[Piece], done: bool) {
        for piece in pieces {
            let Some(table) = self.tables.get_mut(&piece.host) else { continue };
            table.writing = false;
            if !done {
                self.edit(piece.host, piece.range.clone());
            }
        }
    }

    fn evict(&mut self) {
        let mut tries = 64;
        while self.tables.len() >= self.limit && tries > 0 {
            tries -= 1;
            let Some(host) = self.queue.pop_front() else { return };
            let Some(table) = self.tables.get_mut(&host) else { continue };
            if table.dirty.is_some() || table.writing || std::mem::take(&mut table.used) {
                self.queue.push_back(host);
            } else {
                self.tables.remove(&host);
            }
        }
    }
}
