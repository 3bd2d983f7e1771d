//! The metadata of an open image: header, L1 table, L2 tables, reference counts, and what is in flight. One owner behind
//! one lock; nothing here transfers guest data or decides when metadata is written back.

use std::collections::HashSet;
use std::ops::Range;

use super::bitmap::Bitmap;
use super::entry::Cluster;
use super::geometry::{COPIED, Geometry, OFFSET_MASK, be64_table, corrupt};
use super::header::RawHeader;
use super::host::HostFile;
use super::refcount::Refcounts;
use super::snapshot::Snapshot;
use super::table_cache::TableCache;
use crate::{Error, Result};

/// How far beyond the end of the file a cluster may lie that is written: a file may have been cut after its last data.
const MAX_BEYOND_END: u64 = 64 << 20;

/// Host clusters: the first one's number, and how many.
pub(super) type Run = (u64, u64);

/// The metadata.
pub(super) struct State {
    pub(super) geometry: Geometry,
    /// The header as it is to be.
    pub(super) header: RawHeader,
    /// The header as it is in the file.
    pub(super) stored_header: RawHeader,
    pub(super) l1: Vec<u64>,
    /// Entries of the L1 table that differ from the file.
    pub(super) l1_dirty: Option<Range<usize>>,
    /// The L1 table has moved, and the header in the file doesn't say so yet.
    pub(super) l1_moved: bool,
    pub(super) l2: TableCache,
    pub(super) refcounts: Refcounts,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) bitmaps: Vec<Bitmap>,
    /// The bitmaps in the file are marked as out of date.
    pub(super) bitmaps_in_use: bool,
    /// References taken away, whose counts fall once the references are gone from the file too.
    pub(super) pending: Vec<Run>,
    /// References that are gone from the file, whose counts fall as soon as no request is under way.
    pub(super) freeable: Vec<Run>,
    /// Guest clusters whose mapping is about to change.
    pub(super) in_flight: Vec<Range<u64>>,
    /// From this host offset on, the file was grown by us and not written yet: it reads as zeros.
    pub(super) fresh: u64,
    /// Numbers of host clusters that hold active metadata; nothing else may be written there.
    pub(super) metadata: HashSet<u64>,
    /// Room left in the host cluster that takes compressed data: next byte and end.
    pub(super) compressed_room: Range<u64>,
    /// A reason to refuse writes.
    pub(super) broken: Option<String>,
}

impl State {
    /// Reads the L1 table and the refcount table that `header` names.
    pub(super) fn load(file: &HostFile, header: RawHeader, l2_cache: usize, refcount_cache: usize) -> Result<Self> {
        if header.l1_entries > 0 && header.l1_offset >= file.len() {
            return Err(corrupt("Invalid L1 table offset: it lies beyond the end of the file"));
        }
        let mut bytes = vec![0; header.l1_entries as usize * 8];
        file.read(&mut bytes, header.l1_offset)?;
        let (offset, clusters) = (header.reftable_offset, u64::from(header.reftable_clusters));
        let refcounts = Refcounts::load(file, header.geometry(), offset, clusters, refcount_cache)?;
        Ok(Self::new(file, header, be64_table(&bytes), refcounts, l2_cache))
    }

    /// The metadata of an image without snapshots and bitmaps.
    pub(super) fn new(file: &HostFile, header: RawHeader, l1: Vec<u64>, refcounts: Refcounts, l2_cache: usize) -> Self {
        let geometry = header.geometry();
        let mut state = Self {
            geometry,
            stored_header: header.clone(),
            header,
            l1,
            l1_dirty: None,
            l1_moved: false,
            l2: TableCache::new(geometry.cluster_size() as usize, l2_cache),
            refcounts,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            bitmaps_in_use: false,
            pending: Vec::new(),
            freeable: Vec::new(),
            in_flight: Vec::new(),
            fresh: geometry.align_up(file.len()),
            metadata: HashSet::new(),
            compressed_room: 0..0,
            broken: None,
        };
        state.map_metadata();
        state
    }

    /// Notes which host clusters hold active metadata.
    pub(super) fn map_metadata(&mut self) {
        let bits = self.geometry.cluster_bits;
        self.metadata.clear();
        self.metadata.insert(0);
        let l1_clusters = self.geometry.clusters(self.l1.len() as u64 * 8);
        self.metadata.extend((0..l1_clusters).map(|index| (self.header.l1_offset >> bits) + index));
        let reftable = self.refcounts.table_offset >> bits;
        self.metadata.extend((0..self.refcounts.table_clusters).map(|index| reftable + index));
        let tables = self.l1.iter().chain(&self.refcounts.table).map(|entry| (entry & OFFSET_MASK) >> bits);
        self.metadata.extend(tables.filter(|&cluster| cluster != 0));
    }

    /// Refuses to treat a host cluster of the image file as data if metadata lie there.
    /// Nor may it lie far beyond the end of the file, which would grow without bounds.
    pub(super) fn check_writable_place(&mut self, file: &HostFile, host: u64, len: u64) -> Result<()> {
        if self.header.has_data_file() {
            return Ok(());
        }
        if host > file.len().saturating_add(MAX_BEYOND_END) {
            return Err(corrupt(format!("guest data at {host:#x} lie beyond the end of the file")));
        }
        let bits = self.geometry.cluster_bits;
        for cluster in host >> bits..(host + len).div_ceil(self.geometry.cluster_size()) {
            if self.metadata.contains(&cluster) {
                let problem = format!("guest data would overwrite metadata at {:#x}", cluster << bits);
                self.broken = Some(problem.clone());
                return Err(corrupt(problem));
            }
        }
        Ok(())
    }

    /// Refuses writes to an image that can't take them any more.
    pub(super) fn check_writable(&self) -> Result<()> {
        match &self.broken {
            Some(problem) => Err(corrupt(problem.clone())),
            None => Ok(()),
        }
    }

    /// The L2 table for a guest offset, in memory: its host offset, or `None` if there is none.
    pub(super) fn l2_table(&mut self, file: &HostFile, guest: u64) -> Result<Option<u64>> {
        let index = self.geometry.l1_index(guest);
        let entry = self.l1.get(index as usize).copied().unwrap_or(0);
        let host = entry & OFFSET_MASK;
        if host == 0 {
            return Ok(None);
        }
        if self.geometry.in_cluster(host) != 0 {
            return Err(corrupt(format!("L2 table offset {host:#x} unaligned (L1 index: {index:#x})")));
        }
        self.l2.load(file, host)?;
        Ok(Some(host))
    }

    /// What is said of the guest cluster at `guest`.
    pub(super) fn cluster(&mut self, file: &HostFile, guest: u64) -> Result<Cluster> {
        let Some(host) = self.l2_table(file, guest)? else { return Ok(Cluster::default()) };
        self.cluster_in(host, guest)
    }

    /// As [`State::cluster`], from a table that has just been loaded.
    pub(super) fn cluster_in(&self, table: u64, guest: u64) -> Result<Cluster> {
        let Some(bytes) = self.l2.get(table) else { return Err(corrupt("L2 table vanished from memory")) };
        let cluster = Cluster::read(&self.geometry, bytes, self.geometry.l2_index(guest));
        match cluster.problem(&self.geometry) {
            Some(problem) => Err(corrupt(format!("L2 entry for guest offset {guest:#x} {problem}"))),
            None => Ok(cluster),
        }
    }

    /// The L2 table for a guest offset, made or copied so that it may be changed: its host offset.
    pub(super) fn l2_table_for_write(&mut self, file: &HostFile, guest: u64) -> Result<u64> {
        let index = self.geometry.l1_index(guest) as usize;
        let old = self.l2_table(file, guest)?;
        let Some(&entry) = self.l1.get(index) else { return Err(corrupt("guest offset beyond the L1 table")) };
        if let (Some(host), true) = (old, entry & COPIED != 0) {
            return Ok(host);
        }
        let bytes = match old.and_then(|host| self.l2.get(host)) {
            Some(bytes) => bytes.to_vec(),
            None => vec![0; self.geometry.cluster_size() as usize],
        };
        let (cluster, _) = self.allocate(file, 1, true)?;
        let host = cluster << self.geometry.cluster_bits;
        self.l2.insert(host, bytes, true);
        self.metadata.insert(cluster);
        self.set_l1(index, host | COPIED);
        if let Some(old) = old {
            self.metadata.remove(&(old >> self.geometry.cluster_bits));
            self.release(old, 1);
        }
        Ok(host)
    }

    pub(super) fn set_l1(&mut self, index: usize, entry: u64) {
        self.l1[index] = entry;
        self.l1_dirty = Some(match self.l1_dirty.take() {
            Some(dirty) => dirty.start.min(index)..dirty.end.max(index + 1),
            None => index..index + 1,
        });
    }

    /// Changes the entry of a guest cluster in a table from [`State::l2_table_for_write`].
    pub(super) fn set_cluster(&mut self, table: u64, guest: u64, cluster: &Cluster) -> Result<()> {
        let (geometry, index) = (self.geometry, self.geometry.l2_index(guest));
        let at = index * geometry.entry_bytes();
        let Some(bytes) = self.l2.edit(table, at..at + geometry.entry_bytes()) else {
            return Err(corrupt("L2 table vanished from memory"));
        };
        cluster.write(&geometry, bytes, index);
        Ok(())
    }

    /// Allocates up to `count` host clusters in one piece (exactly `count` if `exact`).
    pub(super) fn allocate(&mut self, file: &HostFile, count: u64, exact: bool) -> Result<Run> {
        let (start, len) = self.refcounts.allocate(file, count, exact)?;
        let bits = self.geometry.cluster_bits;
        for (first, count) in std::mem::take(&mut self.refcounts.new_metadata) {
            self.metadata.extend(first..first + count);
            self.fresh = self.fresh.max((first + count) << bits);
        }
        if let Some(cluster) = (start..start + len).find(|cluster| self.metadata.contains(cluster)) {
            let problem = format!("metadata at {:#x} is counted as free", cluster << bits);
            self.broken = Some(problem.clone());
            return Err(corrupt(problem));
        }
        if let Err(error) = file.ensure((start + len) << bits) {
            self.refcounts.add(file, start, len, -1)?;
            return Err(error);
        }
        self.fresh = self.fresh.max((start + len) << bits);
        Ok((start, len))
    }

    /// Allocates clusters for guest data: as [`State::allocate`], and whether they are known to read as zeros.
    pub(super) fn allocate_data(&mut self, file: &HostFile, count: u64) -> Result<(Run, bool)> {
        let fresh = self.fresh;
        let (start, len) = self.allocate(file, count, false)?;
        Ok(((start, len), start << self.geometry.cluster_bits >= fresh))
    }

    /// Takes a reference to `count` host clusters away. Their counts fall later.
    pub(super) fn release(&mut self, host: u64, count: u64) {
        let first = host >> self.geometry.cluster_bits;
        match self.pending.last_mut() {
            Some((start, len)) if *start + *len == first => *len += count,
            _ => self.pending.push((first, count)),
        }
    }

    /// Takes the reference of an L2 entry away.
    pub(super) fn release_cluster(&mut self, cluster: &Cluster) {
        if self.header.has_data_file() {
            return;
        }
        if let Some(compressed) = cluster.compressed {
            let (host, count) = compressed.host_clusters(&self.geometry);
            self.release(host, count);
        } else if cluster.has_host() {
            self.release(cluster.host, 1);
        }
    }

    /// Takes references from clusters that never got into any table.
    pub(super) fn free_unused(&mut self, file: &HostFile, run: Run) {
        if let Err(error) = self.refcounts.add(file, run.0, run.1, -1) {
            tracing::warn!(%error, "clusters leaked");
        }
    }

    /// Whether any guest cluster of `range` is about to change.
    pub(super) fn is_in_flight(&self, range: &Range<u64>) -> bool {
        self.in_flight.iter().any(|other| other.start < range.end && range.start < other.end)
    }

    /// Makes the L1 table at least `entries` long, moving it if needed.
    pub(super) fn grow_l1(&mut self, file: &HostFile, entries: u64) -> Result<()> {
        if entries <= self.l1.len() as u64 {
            return Ok(());
        }
        if entries > super::geometry::MAX_L1_ENTRIES {
            return Err(Error::Invalid("the L1 table would be too large".into()));
        }
        let old = (self.header.l1_offset, self.geometry.clusters(self.l1.len() as u64 * 8));
        let clusters = self.geometry.clusters(entries * 8).max(1);
        if clusters > old.1 {
            let (start, _) = self.allocate(file, clusters, true)?;
            self.release(old.0, old.1);
            let bits = self.geometry.cluster_bits;
            for cluster in old.0 >> bits..(old.0 >> bits) + old.1 {
                self.metadata.remove(&cluster);
            }
            self.metadata.extend(start..start + clusters);
            self.header.l1_offset = start << bits;
        }
        self.l1.resize(entries as usize, 0);
        self.header.l1_entries = entries as u32;
        self.l1_dirty = Some(0..self.l1.len());
        self.l1_moved = true;
        Ok(())
    }

    /// Whether metadata should be written back soon, for want of memory.
    pub(super) fn is_under_pressure(&self) -> bool {
        self.l2.is_under_pressure() || self.refcounts.blocks.is_under_pressure() || self.pending.len() > 4096
    }
}
