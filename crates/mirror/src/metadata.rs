//! What a replica remembers across crashes: role, epoch, generations, the activity log and the bitmap of blocks the
//! peer may lack, on double-buffered pages; and which changes are durable. Writes nothing itself.
//!
//! Page 0 is the superblock, page 1 the activity log, the rest is the bitmap, one bit per block of [`BLOCK`] bytes.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::generation::{Generations, HISTORY};
use crate::pages::{BODY, MetadataError, Pages};

/// Bytes of the device that one bit of the bitmap stands for.
pub const BLOCK: u64 = 4096;
/// Most extents that the activity log can hold.
pub const LOG_CAPACITY: usize = (BODY - 4) / 4;
/// Where the superblock's flags are, behind its words.
const FLAGS: usize = 8 * (4 + HISTORY);
const BITS: u64 = BODY as u64 * 8;

/// The superblock's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) size: u64,
    pub(crate) epoch: u64,
    pub(crate) generations: Generations,
    pub(crate) consistent: bool,
    pub(crate) primary: bool,
    pub(crate) crashed: bool,
    /// The peer was connected in the current generation and may have it.
    pub(crate) shared: bool,
}

pub(crate) struct Metadata {
    pages: Pages,
    superblock: Superblock,
    log: BTreeSet<u32>,
    marked: u64,
    wanted: u64,
    writing: Option<u64>,
    durable: u64,
}

fn page_count(size: u64) -> usize {
    2 + usize::try_from(size.div_ceil(BLOCK).div_ceil(BITS)).unwrap_or(usize::MAX - 2)
}

impl Metadata {
    /// The metadata file of a replica that has no data yet.
    pub(crate) fn blank(size: u64) -> Vec<u8> {
        let mut pages = Pages::new(page_count(size));
        store(&Superblock { size, ..Superblock::default() }, pages.body_mut(0));
        pages.image()
    }

    /// Reads the file, and marks what a primary was writing when it went down.
    pub(crate) fn load(file: &[u8], size: u64, extent: u64) -> Result<Self, MetadataError> {
        let pages = Pages::load(file, page_count(size))?;
        let superblock = restore(pages.body(0));
        if superblock.size != size {
            return Err(MetadataError::Size(superblock.size, size));
        }
        let word = |at: usize| u32::from_le_bytes(pages.body(1)[at..at + 4].try_into().unwrap_or_default());
        let count = (word(0) as usize).min(LOG_CAPACITY);
        let log: BTreeSet<u32> = (0..count).map(|i| word(4 + 4 * i)).collect();
        let marked =
            (2..page_count(size)).map(|p| pages.body(p).iter().map(|b| u64::from(b.count_ones())).sum::<u64>()).sum();
        let mut loaded = Self { pages, superblock, log, marked, wanted: 0, writing: None, durable: 0 };
        if superblock.primary {
            for at in loaded.log.clone() {
                let start = u64::from(at).saturating_mul(extent).min(size);
                loaded.mark(start..(start + extent).min(size));
            }
            // `primary` stays until the marks are durable.
            loaded.change(|s| s.crashed = true);
        }
        Ok(loaded)
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Begins generation `new`.
    pub(crate) fn advance(&mut self, new: u64) {
        self.change(|s| {
            s.generations.advance(new, s.shared);
            (s.shared, s.crashed) = (false, false);
        });
    }

    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut Superblock)) {
        let before = self.superblock;
        edit(&mut self.superblock);
        if before != self.superblock {
            store(&self.superblock, self.pages.body_mut(0));
            self.wanted += 1;
        }
    }

    pub(crate) fn log(&self) -> &BTreeSet<u32> {
        &self.log
    }

    pub(crate) fn change_log(&mut self, edit: impl FnOnce(&mut BTreeSet<u32>)) {
        edit(&mut self.log);
        let body = self.pages.body_mut(1);
        body[..4].copy_from_slice(&u32::try_from(self.log.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (at, extent) in body[4..].chunks_exact_mut(4).zip(&self.log) {
            at.copy_from_slice(&extent.to_le_bytes());
        }
        self.wanted += 1;
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.superblock.size.div_ceil(BLOCK)
    }

    pub(crate) fn marked(&self) -> u64 {
        self.marked
    }

    pub(crate) fn is_marked(&self, block: u64) -> bool {
        let (page, byte, bit) = place(block);
        self.pages.body(page)[byte] & bit != 0
    }

    /// Whether any block that `range` (in bytes) touches is marked.
    pub(crate) fn touches_marked(&self, range: &Range<u64>) -> bool {
        self.marked != 0 && (range.start / BLOCK..range.end.div_ceil(BLOCK)).any(|b| self.is_marked(b))
    }

    /// Marks every block that `range` (in bytes) touches.
    pub(crate) fn mark(&mut self, range: Range<u64>) {
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK).min(self.blocks()) {
            self.set(block, true);
        }
    }

    /// Sets or clears the bit of one block.
    pub(crate) fn set(&mut self, block: u64, on: bool) {
        if block >= self.blocks() || self.is_marked(block) == on {
            return;
        }
        let (page, byte, bit) = place(block);
        self.pages.body_mut(page)[byte] ^= bit;
        self.marked = if on { self.marked + 1 } else { self.marked - 1 };
        self.wanted += 1;
    }

    /// The first marked block at or after `from`.
    pub(crate) fn next_marked(&self, from: u64) -> Option<u64> {
        if self.marked == 0 {
            return None;
        }
        (from..self.blocks()).find(|b| self.is_marked(*b))
    }

    /// The version that holds every change made so far.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// The version that a crash leaves at least.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Begins to write what changed, unless that is going on: the writes, to be followed by a flush.
    pub(crate) fn begin(&mut self) -> Option<Vec<(u64, Vec<u8>)>> {
        if self.writing.is_some() || self.durable == self.wanted {
            return None;
        }
        self.writing = Some(self.wanted);
        Some(self.pages.take_dirty())
    }

    /// The flush after [`begin`](Self::begin) is done.
    pub(crate) fn end(&mut self) {
        if let Some(version) = self.writing.take() {
            self.durable = version;
        }
    }
}

fn place(block: u64) -> (usize, usize, u8) {
    let within = block % BITS;
    // Both fit: a page has some 32,000 bits, and the pages are in memory.
    (2 + (block / BITS) as usize, (within / 8) as usize, 1 << (within % 8))
}

fn store(s: &Superblock, body: &mut [u8]) {
    let g = s.generations;
    let words = [s.size, s.epoch, g.current, g.bitmap].into_iter().chain(g.history);
    for (at, word) in body.chunks_exact_mut(8).zip(words) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    body[FLAGS] =
        u8::from(s.consistent) | u8::from(s.primary) << 1 | u8::from(s.crashed) << 2 | u8::from(s.shared) << 3;
}

fn restore(body: &[u8]) -> Superblock {
    let word = |n: usize| u64::from_le_bytes(body[n * 8..n * 8 + 8].try_into().unwrap_or_default());
    Superblock {
        size: word(0),
        epoch: word(1),
        generations: Generations { current: word(2), bitmap: word(3), history: std::array::from_fn(|n| word(4 + n)) },
        consistent: body[FLAGS] & 1 != 0,
        primary: body[FLAGS] & 2 != 0,
        crashed: body[FLAGS] & 4 != 0,
        shared: body[FLAGS] & 8 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(meta: &mut Metadata, file: &mut [u8]) {
        for (offset, bytes) in meta.begin().unwrap() {
            file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        meta.end();
    }

    #[test]
    fn a_crashed_primary_has_its_active_extents_marked() {
        let size = 64 * BLOCK;
        let mut file = Metadata::blank(size);
        let mut meta = Metadata::load(&file, size, 4 * BLOCK).unwrap();
        meta.change(|s| (s.primary, s.epoch, s.generations.current) = (true, 5, 77));
        meta.change_log(|log| {
            log.insert(3);
        });
        meta.mark(BLOCK + 5..BLOCK + 6);
        assert_eq!(meta.durable(), 0);
        written(&mut meta, &mut file);
        assert_eq!(meta.durable(), meta.wanted());
        let again = Metadata::load(&file, size, 4 * BLOCK).unwrap();
        assert_eq!(again.marked(), 5);
        assert_eq!((again.next_marked(0), again.next_marked(2)), (Some(1), Some(12)));
        assert!(again.superblock().crashed);
        assert_eq!((again.superblock().epoch, again.superblock().generations.current), (5, 77));
        assert!(matches!(Metadata::load(&file, size * 2, BLOCK), Err(MetadataError::Size(..))));
    }
}
