//! Reference counts of host clusters and the allocation of clusters: the refcount table in memory, refcount blocks in a
//! cache. Nothing is written here; what changed is handed out for writing back in the order that crash consistency asks for.

use std::ops::Range;

use super::geometry::{Geometry, MAX_REFTABLE_BYTES, OFFSET_MASK, be64_table, corrupt};
use super::host::HostFile;
use super::table_cache::TableCache;
use crate::{Error, Result};

/// The reference counts of one image.
pub(super) struct Refcounts {
    geometry: Geometry,
    /// Host offsets of refcount blocks; 0 where there is none.
    pub(super) table: Vec<u64>,
    /// Where the table lies.
    pub(super) table_offset: u64,
    /// Clusters that the table takes.
    pub(super) table_clusters: u64,
    /// Entries of the table that differ from the file.
    pub(super) table_dirty: Option<Range<usize>>,
    /// The table has moved, and the header doesn't say so yet.
    pub(super) moved: bool,
    pub(super) blocks: TableCache,
    /// No cluster below this one is free.
    hint: u64,
    /// Old places of the table, to be freed once the header doesn't name them any more.
    pub(super) left_behind: Vec<(u64, u64)>,
    /// New table clusters and blocks, for the metadata map.
    pub(super) new_metadata: Vec<(u64, u64)>,
}

/// Reads refcount `index` of a block.
pub(super) fn read_count(block: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let bits = 1usize << order;
            let bit = index * bits;
            u64::from(block[bit / 8] >> (bit % 8)) & ((1 << bits) - 1)
        }
        3 => u64::from(block[index]),
        4 => u64::from(super::geometry::be16(block, index * 2)),
        5 => u64::from(super::geometry::be32(block, index * 4)),
        _ => super::geometry::be64(block, index * 8),
    }
}

/// Writes refcount `index` of a block; the value fits.
pub(super) fn write_count(block: &mut [u8], order: u32, index: usize, value: u64) {
    match order {
        0..=2 => {
            let bits = 1usize << order;
            let bit = index * bits;
            let mask = ((1u8 << bits) - 1) << (bit % 8);
            block[bit / 8] = block[bit / 8] & !mask | (value as u8) << (bit % 8);
        }
        3 => block[index] = value as u8,
        4 => block[index * 2..index * 2 + 2].copy_from_slice(&(value as u16).to_be_bytes()),
        5 => block[index * 4..index * 4 + 4].copy_from_slice(&(value as u32).to_be_bytes()),
        _ => block[index * 8..index * 8 + 8].copy_from_slice(&value.to_be_bytes()),
    }
}

/// The bytes of a block that refcounts `first..=last` lie in.
fn byte_range(order: u32, first: usize, last: usize) -> Range<usize> {
    (first << order) / 8..((last + 1) << order).div_ceil(8)
}

impl Refcounts {
    /// Reads the refcount table.
    pub(super) fn load(file: &HostFile, geometry: Geometry, offset: u64, clusters: u64, cache: usize) -> Result<Self> {
        let bytes = clusters.saturating_mul(geometry.cluster_size());
        if bytes > MAX_REFTABLE_BYTES {
            return Err(corrupt("Image does not contain a reference count table that is small enough"));
        }
        if geometry.in_cluster(offset) != 0 || offset.checked_add(bytes).is_none() || offset >= file.len() {
            return Err(corrupt("Invalid reference count table offset"));
        }
        let mut table = vec![0; bytes as usize];
        file.read(&mut table, offset)?;
        Ok(Self::new(geometry, be64_table(&table), offset, cache))
    }

    /// Reference counts with this table, which lies at `offset` and takes whole clusters.
    pub(super) fn new(geometry: Geometry, table: Vec<u64>, offset: u64, cache: usize) -> Self {
        Self {
            geometry,
            table_clusters: geometry.clusters(table.len() as u64 * 8),
            table,
            table_offset: offset,
            table_dirty: None,
            moved: false,
            blocks: TableCache::new(geometry.cluster_size() as usize, cache),
            hint: 0,
            left_behind: Vec::new(),
            new_metadata: Vec::new(),
        }
    }

    /// The host offset of block `index`, or `None` if there is none.
    fn block(&self, index: u64) -> Result<Option<u64>> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index)).copied().unwrap_or(0);
        let host = entry & OFFSET_MASK;
        if self.geometry.in_cluster(host) != 0 {
            return Err(corrupt(format!("Refblock offset {host:#x} unaligned (reftable index: {index:#x})")));
        }
        Ok((host != 0).then_some(host))
    }

    /// The refcount of host cluster number `cluster`.
    pub(super) fn get(&mut self, file: &HostFile, cluster: u64) -> Result<u64> {
        let entries = self.geometry.block_entries();
        let Some(host) = self.block(cluster / entries)? else { return Ok(0) };
        let block = self.blocks.load(file, host)?;
        Ok(read_count(block, self.geometry.refcount_order, (cluster % entries) as usize))
    }

    /// Adds `delta` to the refcounts of `count` clusters from `first` on. Refcount blocks that are missing are made.
    ///
    /// Returns the ranges whose refcount came to 0: (first cluster, count).
    pub(super) fn add(&mut self, file: &HostFile, first: u64, count: u64, delta: i64) -> Result<Vec<(u64, u64)>> {
        let entries = self.geometry.block_entries();
        let order = self.geometry.refcount_order;
        let max = self.geometry.max_refcount();
        let mut freed: Vec<(u64, u64)> = Vec::new();
        let (mut cluster, end) = (first, first.saturating_add(count));
        while cluster < end {
            let stop = end.min((cluster / entries + 1) * entries);
            let host = match self.block(cluster / entries)? {
                Some(host) => host,
                None if delta > 0 => self.make_block(file, cluster / entries)?,
                None => return Err(corrupt(format!("cluster {cluster} is freed but has no reference count"))),
            };
            let (from, to) = ((cluster % entries) as usize, ((stop - 1) % entries) as usize);
            let block = self.blocks.load(file, host)?;
            for index in from..=to {
                let value = read_count(block, order, index).checked_add_signed(delta);
                if value.is_none_or(|value| value > max) {
                    let what = if delta < 0 { "falls below 0" } else { "exceeds its maximum" };
                    return Err(Error::Invalid(format!("reference count of cluster {cluster} {what}")));
                }
            }
            let Some(block) = self.blocks.edit(host, byte_range(order, from, to)) else {
                return Err(corrupt("refcount block vanished"));
            };
            for index in from..=to {
                let value = read_count(block, order, index).saturating_add_signed(delta);
                write_count(block, order, index, value);
                if value == 0 {
                    let at = cluster + (index - from) as u64;
                    self.hint = self.hint.min(at);
                    match freed.last_mut() {
                        Some((start, count)) if *start + *count == at => *count += 1,
                        _ => freed.push((at, 1)),
                    }
                }
            }
            cluster = stop;
        }
        Ok(freed)
    }

    /// Sets one refcount, for repair.
    pub(super) fn set(&mut self, file: &HostFile, cluster: u64, value: u64) -> Result<()> {
        let old = self.get(file, cluster)?;
        if old != value {
            self.add(file, cluster, 1, value.wrapping_sub(old) as i64)?;
        }
        Ok(())
    }

    /// Allocates up to `count` clusters in one piece (exactly `count` if `exact`), with a refcount of 1: the first one's
    /// number, and how many.
    pub(super) fn allocate(&mut self, file: &HostFile, count: u64, exact: bool) -> Result<(u64, u64)> {
        loop {
            let (start, len) = self.find_free(file, count, exact)?;
            let entries = self.geometry.block_entries();
            let missing = (start / entries..=(start + len - 1) / entries).find(|&index| !self.has_block(index));
            if let Some(index) = missing {
                self.grow_table(file, index)?;
                self.place_block(file, index, start)?;
                continue;
            }
            self.add(file, start, len, 1)?;
            if start == self.hint || !exact {
                self.hint = start + len;
            }
            return Ok((start, len));
        }
    }

    /// Has the next allocation look for free clusters from `cluster` on.
    pub(super) fn allocate_from(&mut self, cluster: u64) {
        self.hint = cluster;
    }

    /// The clusters that the table and its blocks take.
    pub(super) fn structure_clusters(&self) -> impl Iterator<Item = u64> {
        let first = self.table_offset >> self.geometry.cluster_bits;
        let blocks = self.table.iter().map(|entry| (entry & OFFSET_MASK) >> self.geometry.cluster_bits);
        (first..first + self.table_clusters).chain(blocks.filter(|&cluster| cluster != 0))
    }

    fn has_block(&self, index: u64) -> bool {
        self.table.get(index as usize).is_some_and(|&entry| entry & OFFSET_MASK != 0)
    }

    /// The first free run at or after the hint.
    fn find_free(&mut self, file: &HostFile, count: u64, exact: bool) -> Result<(u64, u64)> {
        let entries = self.geometry.block_entries();
        let order = self.geometry.refcount_order;
        // Cluster 0 is the header, whatever a damaged image says.
        let (mut start, mut len) = (self.hint.max(1), 0);
        let mut first_free = None;
        loop {
            let at = start + len;
            let host = self.block(at / entries)?;
            let block = match host {
                Some(host) => Some(self.blocks.load(file, host)?),
                None => None,
            };
            for index in at % entries..entries {
                let free = block.is_none_or(|block| read_count(block, order, index as usize) == 0);
                if free {
                    first_free.get_or_insert(start + len);
                    len += 1;
                } else if len > 0 && !exact {
                    return Ok((start, len));
                } else {
                    start += len + 1;
                    len = 0;
                }
                if len == count {
                    if let Some(free) = first_free {
                        self.hint = free;
                    }
                    return Ok((start, len));
                }
            }
            if (start + len) >> (55 - self.geometry.cluster_bits) != 0 {
                return Err(Error::Invalid("the image has reached the largest size of the format".into()));
            }
        }
    }

    /// Makes the block with number `index`, somewhere.
    fn make_block(&mut self, file: &HostFile, index: u64) -> Result<u64> {
        self.grow_table(file, index)?;
        // Growing the table may have made it.
        if let Some(host) = self.block(index)? {
            return Ok(host);
        }
        loop {
            let (at, _) = self.find_free(file, 1, true)?;
            let covering = at / self.geometry.block_entries();
            if covering == index || self.has_block(covering) {
                return self.place_block(file, index, at);
            }
            self.grow_table(file, covering)?;
            if !self.has_block(covering) {
                self.place_block(file, covering, at)?;
            }
        }
    }

    /// Puts block `index` at the free cluster `at`, whose own refcount lies in this or an existing block.
    pub(super) fn place_block(&mut self, file: &HostFile, index: u64, at: u64) -> Result<u64> {
        if self.has_block(index) {
            return Ok(self.table[index as usize] & OFFSET_MASK);
        }
        let host = at << self.geometry.cluster_bits;
        self.blocks.insert(host, vec![0; self.geometry.cluster_size() as usize], true);
        self.set_table(index as usize, host);
        self.new_metadata.push((at, 1));
        self.add(file, at, 1, 1)?;
        Ok(host)
    }

    pub(super) fn set_table(&mut self, index: usize, host: u64) {
        self.table[index] = host;
        self.table_dirty = Some(match self.table_dirty.take() {
            Some(dirty) => dirty.start.min(index)..dirty.end.max(index + 1),
            None => index..index + 1,
        });
    }

    /// Moves the table if it has no room for entry `index`.
    fn grow_table(&mut self, file: &HostFile, index: u64) -> Result<()> {
        let old = self.table.len() as u64;
        if index < old {
            return Ok(());
        }
        let per_cluster = self.geometry.cluster_size() / 8;
        let wanted = (index + 2).max(old + old / 2).next_multiple_of(per_cluster);
        if wanted * 8 > MAX_REFTABLE_BYTES.max(self.geometry.cluster_size()) {
            return Err(Error::Invalid("the image has reached the largest size of its refcount table".into()));
        }
        self.table.resize(wanted as usize, 0);
        self.table_dirty = Some(0..wanted as usize);
        let (start, len) = self.allocate(file, wanted / per_cluster, true)?;
        if self.table.len() as u64 != wanted {
            // Finding room has already moved the table to a place that is large enough.
            self.add(file, start, len, -1)?;
            return Ok(());
        }
        self.left_behind.push((self.table_offset >> self.geometry.cluster_bits, self.table_clusters));
        self.table_offset = start << self.geometry.cluster_bits;
        self.table_clusters = len;
        self.table_dirty = Some(0..self.table.len());
        self.moved = true;
        self.new_metadata.push((start, len));
        Ok(())
    }
}
