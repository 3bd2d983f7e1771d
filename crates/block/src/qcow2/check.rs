//! Checking an image: every reference is counted and compared with the stored reference counts. Putting right what was
//! found is in `repair`.

use std::collections::{BTreeMap, HashSet};

use super::bitmap::{load_table, parse_directory};
use super::entry::Cluster;
use super::geometry::{COPIED, Geometry, MAX_REFTABLE_BYTES, OFFSET_MASK};
use super::image::{Inner, Qcow2};
use super::options::Repair;
use super::refcount::read_count;
use super::report::CheckReport;
use super::state::State;
use crate::Result;

const MAX_MESSAGES: usize = 1000;
const CHUNK: u64 = 4096;

/// How often each host cluster is referred to. Takes memory only where something is.
#[derive(Default)]
pub(super) struct References {
    chunks: BTreeMap<u64, Vec<u32>>,
}

impl References {
    pub(super) fn get(&self, cluster: u64) -> u64 {
        self.chunks.get(&(cluster / CHUNK)).map_or(0, |chunk| u64::from(chunk[(cluster % CHUNK) as usize]))
    }

    fn add(&mut self, cluster: u64) {
        let chunk = self.chunks.entry(cluster / CHUNK).or_insert_with(|| vec![0; CHUNK as usize]);
        let count = &mut chunk[(cluster % CHUNK) as usize];
        *count = count.saturating_add(1);
    }

    /// Every cluster that is referred to, with how often.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.chunks.iter().flat_map(|(&chunk, counts)| {
            let numbered = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            numbered.map(move |(index, &count)| (chunk * CHUNK + index as u64, u64::from(count)))
        })
    }

    /// The number after the highest cluster that is referred to.
    pub(super) fn end(&self) -> u64 {
        self.chunks.keys().next_back().map_or(0, |chunk| (chunk + 1) * CHUNK)
    }
}

/// What can be put right in a table, noted while walking.
pub(super) enum Fix {
    /// An L1 entry of the active table that can't be.
    L1(usize),
    /// An entry of an active L2 table that can't be: table and guest offset.
    L2(u64, u64),
    /// An entry of the refcount table that can't be.
    Reftable(usize),
}

/// A check under way.
pub(super) struct Checker<'a> {
    inner: &'a Inner,
    geometry: Geometry,
    pub(super) references: References,
    pub(super) report: CheckReport,
    pub(super) fixes: Vec<Fix>,
    /// Where a leak or a wrong count was found: cluster, stored count, references.
    pub(super) wrong: Vec<(u64, u64, u64)>,
    pub(super) wrong_flags: u64,
    next_host: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn new(inner: &'a Inner, state: &State) -> Self {
        Self {
            inner,
            geometry: state.geometry,
            references: References::default(),
            report: CheckReport::default(),
            fixes: Vec::new(),
            wrong: Vec::new(),
            wrong_flags: 0,
            next_host: 0,
        }
    }

    fn say(&mut self, message: String) {
        if self.report.messages.len() < MAX_MESSAGES {
            self.report.messages.push(message);
        }
    }

    fn corruption(&mut self, message: &str) {
        self.report.corruptions += 1;
        self.say(format!("ERROR {message}"));
    }

    /// Counts a reference to a byte range of the file.
    fn refer(&mut self, host: u64, len: u64, what: &str) {
        let end = host.checked_add(len).filter(|&end| end <= self.inner.file.len().saturating_add(16 << 20));
        let Some(end) = end else {
            self.corruption(&format!("{what} at {host:#x} lies beyond the end of the image file"));
            return;
        };
        for cluster in host >> self.geometry.cluster_bits..end.div_ceil(self.geometry.cluster_size()) {
            self.references.add(cluster);
        }
    }

    /// Counts everything, and compares.
    pub(super) fn run(&mut self, state: &mut State) -> Result<()> {
        self.refer(0, self.geometry.cluster_size(), "header");
        self.report.total_clusters = self.geometry.clusters(self.inner.size());
        let l1 = state.l1.clone();
        self.walk(state, &l1, state.header.l1_offset, true)?;
        let mut seen = HashSet::from([state.header.l1_offset]);
        for snapshot in state.snapshots.clone() {
            if snapshot.l1_entries > 0 && !seen.insert(snapshot.l1_offset) {
                self.corruption(&format!("snapshot {} shares its L1 table with another", snapshot.id));
                continue;
            }
            let l1 = self.inner.snapshot_l1(&snapshot)?;
            self.walk(state, &l1, snapshot.l1_offset, false)?;
        }
        if state.header.snapshot_count > 0 {
            let len = super::snapshot::table_len(&state.snapshots);
            self.refer(state.header.snapshots_offset, len, "snapshot table");
        }
        if let Some((offset, len)) = state.header.luks {
            self.refer(offset, len, "encryption header");
        }
        self.walk_bitmaps(state)?;
        self.walk_refcounts(state)?;
        self.compare(state)
    }

    fn walk(&mut self, state: &mut State, l1: &[u64], offset: u64, active: bool) -> Result<()> {
        if !l1.is_empty() {
            self.refer(offset, l1.len() as u64 * 8, "L1 table");
        }
        let mut seen = HashSet::new();
        for (index, &entry) in l1.iter().enumerate() {
            let host = entry & OFFSET_MASK;
            if host == 0 {
                continue;
            }
            if self.geometry.in_cluster(host) != 0 || host >= self.inner.file.len() || !seen.insert(host) {
                self.corruption(&format!("L2 table offset {host:#x} is invalid (L1 index {index})"));
                if active {
                    self.fixes.push(Fix::L1(index));
                }
                continue;
            }
            self.refer(host, self.geometry.cluster_size(), "L2 table");
            // As QEMU counts it: where one table ends, no fragment does.
            self.next_host = 0;
            let table = state.l2.load(&self.inner.file, host)?.to_vec();
            for entry in 0..self.geometry.l2_entries() as usize {
                let guest =
                    ((index as u64) << self.geometry.l1_shift()) + ((entry as u64) << self.geometry.cluster_bits);
                self.visit(Cluster::read(&self.geometry, &table, entry), host, guest, active);
            }
        }
        Ok(())
    }

    fn visit(&mut self, cluster: Cluster, table: u64, guest: u64, active: bool) {
        let external = self.inner.data_file.is_some();
        let counted = active && guest < self.inner.size();
        if let Some(compressed) = cluster.compressed {
            if external || cluster.problem(&self.geometry).is_some() {
                self.corruption(&format!("compressed cluster at guest offset {guest:#x} can't be"));
                if active {
                    self.fixes.push(Fix::L2(table, guest));
                }
                return;
            }
            if counted {
                self.report.allocated_clusters += 1;
                self.report.compressed_clusters += 1;
                // Compressed clusters are fragmented by nature: QEMU counts them so, too.
                self.report.fragmented_clusters += 1;
            }
            let (host, count) = compressed.host_clusters(&self.geometry);
            self.refer(host, count << self.geometry.cluster_bits, "compressed cluster");
            return;
        }
        if let Some(problem) = cluster.problem(&self.geometry) {
            self.corruption(&format!("L2 entry for guest offset {guest:#x} {problem}"));
            if active {
                self.fixes.push(Fix::L2(table, guest));
            }
            return;
        }
        if !cluster.has_host() {
            return;
        }
        if counted {
            self.report.allocated_clusters += 1;
            if self.next_host != 0 && self.next_host != cluster.host {
                self.report.fragmented_clusters += 1;
            }
            self.next_host = cluster.host + self.geometry.cluster_size();
        }
        if !external {
            self.refer(cluster.host, self.geometry.cluster_size(), "data cluster");
        }
    }

    fn walk_bitmaps(&mut self, state: &State) -> Result<()> {
        let Some(extension) = state.stored_header.bitmaps else { return Ok(()) };
        self.refer(extension.directory_offset, extension.directory_size, "bitmap directory");
        if extension.directory_size > 64 << 20 {
            return Ok(());
        }
        let mut directory = vec![0; extension.directory_size as usize];
        self.inner.file.read(&mut directory, extension.directory_offset)?;
        let bitmaps = parse_directory(&directory, extension.count, &self.geometry, self.inner.size());
        let bitmaps = match bitmaps {
            Ok(bitmaps) => bitmaps,
            Err(error) => {
                self.corruption(&error.to_string());
                return Ok(());
            }
        };
        for bitmap in bitmaps.iter().filter(|bitmap| bitmap.table.0 != 0) {
            self.refer(bitmap.table.0, u64::from(bitmap.table.1) * 8, "bitmap table");
            let Ok(table) = load_table(&self.inner.file, bitmap) else { continue };
            for host in table.iter().map(|entry| entry & OFFSET_MASK).filter(|&host| host != 0) {
                self.refer(host, self.geometry.cluster_size(), "bitmap data");
            }
        }
        Ok(())
    }

    fn walk_refcounts(&mut self, state: &State) -> Result<()> {
        let offset = state.refcounts.table_offset;
        let len = state.refcounts.table_clusters << self.geometry.cluster_bits;
        self.refer(offset, len.min(MAX_REFTABLE_BYTES.max(self.geometry.cluster_size())), "refcount table");
        let mut seen = HashSet::new();
        for (index, &entry) in state.refcounts.table.iter().enumerate() {
            let host = entry & OFFSET_MASK;
            if host == 0 {
                continue;
            }
            if self.geometry.in_cluster(host) != 0 || host >= self.inner.file.len() || !seen.insert(host) {
                self.corruption(&format!("refcount block {index} at {host:#x} is invalid"));
                self.fixes.push(Fix::Reftable(index));
                continue;
            }
            self.refer(host, self.geometry.cluster_size(), "refcount block");
        }
        Ok(())
    }

    fn compare(&mut self, state: &mut State) -> Result<()> {
        let entries = self.geometry.block_entries();
        let bad: HashSet<usize> = self
            .fixes
            .iter()
            .filter_map(|fix| if let Fix::Reftable(index) = fix { Some(*index) } else { None })
            .collect();
        let mut last_used = self.references.iter().last().map_or(0, |(cluster, _)| cluster);
        let mut covered = HashSet::new();
        for index in 0..state.refcounts.table.len() {
            let host = state.refcounts.table[index] & OFFSET_MASK;
            if host == 0 || bad.contains(&index) {
                continue;
            }
            covered.insert(index as u64);
            let block = state.refcounts.blocks.load(&self.inner.file, host)?.to_vec();
            for entry in 0..entries as usize {
                let cluster = index as u64 * entries + entry as u64;
                let count = read_count(&block, self.geometry.refcount_order, entry);
                if count > 0 {
                    last_used = last_used.max(cluster);
                }
                self.judge(cluster, count);
            }
        }
        let missing: Vec<u64> = self
            .references
            .iter()
            .map(|(cluster, _)| cluster)
            .filter(|cluster| !covered.contains(&(cluster / entries)))
            .collect();
        missing.into_iter().for_each(|cluster| self.judge(cluster, 0));
        self.report.image_end_offset = (last_used + 1) << self.geometry.cluster_bits;
        self.compare_flags(state)
    }

    fn judge(&mut self, cluster: u64, count: u64) {
        let references = self.references.get(cluster);
        if count == references {
            return;
        }
        self.wrong.push((cluster, count, references));
        if count > references {
            self.report.leaks += 1;
            self.say(format!("Leaked cluster {cluster} refcount={count} reference={references}"));
        } else {
            self.corruption(&format!("cluster {cluster} refcount={count} reference={references}"));
        }
    }

    /// The stored count of a cluster; `last` is the refcount block that was looked at last, with its number.
    fn count(&self, state: &mut State, last: &mut (u64, Vec<u8>), cluster: u64) -> u64 {
        let entries = self.geometry.block_entries();
        let (index, entry) = (cluster / entries, (cluster % entries) as usize);
        if last.0 != index {
            let host = state.refcounts.table.get(index as usize).map_or(0, |entry| entry & OFFSET_MASK);
            let block = if host == 0 { None } else { state.refcounts.blocks.load(&self.inner.file, host).ok() };
            *last = (index, block.map(<[u8]>::to_vec).unwrap_or_default());
        }
        if last.1.is_empty() { 0 } else { read_count(&last.1, self.geometry.refcount_order, entry) }
    }

    /// Compares the "ours alone" flags of the active tables with the counts.
    fn compare_flags(&mut self, state: &mut State) -> Result<()> {
        let mut last = (u64::MAX, Vec::new());
        for index in 0..state.l1.len() {
            let entry = state.l1[index];
            let host = entry & OFFSET_MASK;
            if host == 0 || self.geometry.in_cluster(host) != 0 || host >= self.inner.file.len() {
                continue;
            }
            let alone = state.refcounts.get(&self.inner.file, host >> self.geometry.cluster_bits).unwrap_or(0) == 1;
            if (entry & COPIED != 0) != alone {
                self.wrong_flags += 1;
                self.corruption(&format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x}"));
            }
            let table = state.l2.load(&self.inner.file, host)?.to_vec();
            for entry in 0..self.geometry.l2_entries() as usize {
                let cluster = Cluster::read(&self.geometry, &table, entry);
                if !cluster.has_host() || cluster.problem(&self.geometry).is_some() {
                    continue;
                }
                let number = cluster.host >> self.geometry.cluster_bits;
                // A data file's clusters aren't counted: each is its guest cluster's alone.
                let alone = self.inner.data_file.is_some() || self.count(state, &mut last, number) == 1;
                if cluster.copied != alone {
                    self.wrong_flags += 1;
                    self.corruption(&format!("OFLAG_COPIED data cluster at {:#x}", cluster.host));
                }
            }
        }
        Ok(())
    }
}

impl Qcow2 {
    /// Compares reference counts with references, and repairs.
    ///
    /// # Errors
    /// Errors of the file, and repair of a read-only image; what is wrong with the image is in the report.
    pub fn check(&self, repair: Repair) -> Result<CheckReport> {
        self.0.check(repair)
    }
}
