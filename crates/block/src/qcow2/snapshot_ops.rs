//! Making, applying and deleting internal snapshots: what they do to L1 tables and reference counts, in an order that
//! never leaves a reference without its count. From version 3 on the dirty bit covers the time in which flags and counts
//! can't agree.

use std::collections::HashSet;
use std::sync::Arc;

use super::geometry::{COPIED, OFFSET_MASK, be64_bytes, be64_table, corrupt};
use super::host::HostFile;
use super::image::{Alone, Inner, Qcow2};
use super::options::OpenOptions;
use super::report::{NewSnapshot, SnapshotInfo};
use super::snapshot::{self, Snapshot};
use super::state::{Run, State};
use crate::{Error, Result, Storage};

impl State {
    /// Calls `visit` with every run of host clusters that the tree under an L1 table refers to, L2 tables included.
    pub(super) fn for_each_reference(
        &mut self,
        file: &HostFile,
        l1: &[u64],
        mut visit: impl FnMut(&mut Self, Run) -> Result<()>,
    ) -> Result<()> {
        let geometry = self.geometry;
        let bits = geometry.cluster_bits;
        let mut seen = HashSet::new();
        for entry in l1 {
            let host = entry & OFFSET_MASK;
            if host == 0 {
                continue;
            }
            // Each table stands for other guest clusters; this also bounds the time that a hostile image takes.
            if geometry.in_cluster(host) != 0 || host >= file.len() || !seen.insert(host) {
                return Err(corrupt(format!(
                    "L2 table offset {host:#x} is unaligned, outside of the file or used twice"
                )));
            }
            let table = self.l2.load(file, host)?.to_vec();
            let mut run: Run = (host >> bits, 1);
            for index in 0..geometry.l2_entries() as usize {
                let cluster = super::entry::Cluster::read(&geometry, &table, index);
                let (first, count) = match cluster.compressed {
                    Some(compressed) => compressed.host_clusters(&geometry),
                    None if cluster.has_host() && !self.header.has_data_file() => (cluster.host, 1),
                    None => continue,
                };
                let first = first >> bits;
                if run.0 + run.1 == first {
                    run.1 += count;
                } else {
                    visit(self, std::mem::replace(&mut run, (first, count)))?;
                }
            }
            visit(self, run)?;
        }
        Ok(())
    }

    /// Adds a reference to everything under an L1 table; takes back what was added if that fails half-way.
    pub(super) fn add_references(&mut self, file: &HostFile, l1: &[u64]) -> Result<()> {
        let mut added: Vec<Run> = Vec::new();
        let result = self.for_each_reference(file, l1, |state, run| {
            state.refcounts.add(file, run.0, run.1, 1)?;
            added.push(run);
            Ok(())
        });
        if result.is_err() {
            for run in added {
                self.free_unused(file, run);
            }
        }
        result
    }

    /// Takes a reference from everything under an L1 table away, later.
    pub(super) fn release_references(&mut self, file: &HostFile, l1: &[u64]) -> Result<()> {
        self.for_each_reference(file, l1, |state, (first, count)| {
            state.release(first << state.geometry.cluster_bits, count);
            Ok(())
        })
    }

    /// Sets or clears the flags that say which clusters of the active tables are ours alone.
    pub(super) fn refresh_copied(&mut self, file: &HostFile) -> Result<()> {
        let geometry = self.geometry;
        for index in 0..self.l1.len() {
            let host = self.l1[index] & OFFSET_MASK;
            if host == 0 {
                continue;
            }
            let alone = self.refcounts.get(file, host >> geometry.cluster_bits)? == 1;
            if (self.l1[index] & COPIED != 0) != alone {
                self.set_l1(index, host | if alone { COPIED } else { 0 });
            }
            self.l2.load(file, host)?;
            for entry in 0..geometry.l2_entries() {
                let guest = ((index as u64) << geometry.l1_shift()) + (entry << geometry.cluster_bits);
                // A cluster in between may have pushed the table out of memory.
                self.l2.load(file, host)?;
                let mut cluster = self.cluster_in(host, guest)?;
                if !cluster.has_host() {
                    continue;
                }
                // A data file's clusters aren't counted: each is its guest cluster's alone.
                let alone = self.header.has_data_file()
                    || self.refcounts.get(file, cluster.host >> geometry.cluster_bits)? == 1;
                if cluster.copied != alone {
                    cluster.copied = alone;
                    self.set_cluster(host, guest, &cluster)?;
                }
            }
        }
        Ok(())
    }
}

fn check_supported(state: &State) -> Result<()> {
    if state.header.has_data_file() {
        return Err(Error::Unsupported("internal snapshots don't go together with an external data file".into()));
    }
    Ok(())
}

impl Inner {
    fn find_snapshot(&self, id_or_name: &str) -> Result<usize> {
        let state = self.state();
        let by_id = state.snapshots.iter().position(|snapshot| snapshot.id == id_or_name);
        by_id
            .or_else(|| state.snapshots.iter().position(|snapshot| snapshot.name == id_or_name))
            .ok_or_else(|| Error::Invalid(format!("Could not find snapshot '{id_or_name}': snapshot not found")))
    }

    /// Writes a table to a new place, makes everything so far durable, and has the header name it.
    fn switch_snapshots(&self, alone: &Alone<'_>, snapshots: Vec<Snapshot>) -> Result<()> {
        let bytes = snapshot::to_bytes(&snapshots);
        let (place, old) = {
            let mut state = self.state();
            let bits = state.geometry.cluster_bits;
            let clusters = state.geometry.clusters(bytes.len() as u64);
            let place = if clusters == 0 { (0, 0) } else { state.allocate(&self.file, clusters, true)? };
            if let Err(error) = self.file.write(&bytes, place.0 << bits) {
                state.free_unused(&self.file, place);
                return Err(error);
            }
            let old = (state.header.snapshots_offset, snapshot::table_len(&state.snapshots));
            (place, old)
        };
        self.commit_with(&alone.committing, true)?;
        let mut state = self.state();
        let bits = state.geometry.cluster_bits;
        let mut header = state.stored_header.clone();
        header.snapshots_offset = place.0 << bits;
        header.snapshot_count = snapshots.len() as u32;
        self.store_header(&mut state, header)?;
        self.file.flush()?;
        state.header.snapshots_offset = place.0 << bits;
        state.header.snapshot_count = snapshots.len() as u32;
        state.snapshots = snapshots;
        if old.0 != 0 {
            let clusters = state.geometry.clusters(old.1);
            state.release(old.0, clusters);
        }
        Ok(())
    }

    fn create_snapshot(&self, alone: &Alone<'_>, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.settle(&alone.committing)?;
        let (snapshot, mut snapshots) = {
            let mut state = self.state();
            check_supported(&state)?;
            let ids = state.snapshots.iter().filter_map(|snapshot| snapshot.id.parse::<u64>().ok());
            let id = (ids.max().unwrap_or(0) + 1).to_string();
            self.set_dirty(&mut state)?;
            let l1 = state.l1.clone();
            state.add_references(&self.file, &l1)?;
            let clusters = state.geometry.clusters(l1.len() as u64 * 8).max(1);
            let place = state.allocate(&self.file, clusters, true);
            let place = match place {
                Ok(place) => place.0 << state.geometry.cluster_bits,
                Err(error) => {
                    state.release_references(&self.file, &l1)?;
                    return Err(error);
                }
            };
            // The tables are shared from now on; neither side may write to them or to what they refer to.
            state.refresh_copied(&self.file)?;
            let shared: Vec<u64> = l1.iter().map(|entry| entry & !COPIED).collect();
            self.file.write(&be64_bytes(&shared), place)?;
            let snapshot = Snapshot::new(id, new, self.size(), (place, l1.len() as u32));
            (snapshot, state.snapshots.clone())
        };
        let info = snapshot.info();
        snapshots.push(snapshot);
        self.switch_snapshots(alone, snapshots)?;
        Ok(info)
    }

    fn apply_snapshot(&self, alone: &Alone<'_>, index: usize) -> Result<()> {
        self.settle(&alone.committing)?;
        let (new_l1, place, size) = {
            let mut state = self.state();
            check_supported(&state)?;
            let snapshot = state.snapshots[index].clone();
            let needed = state.geometry.l1_entries(snapshot.disk_size);
            let mut l1 = self.snapshot_l1(&snapshot)?;
            l1.resize(l1.len().max(needed as usize).max(1), 0);
            l1.iter_mut().for_each(|entry| *entry &= !COPIED);
            self.set_dirty(&mut state)?;
            state.add_references(&self.file, &l1)?;
            let clusters = state.geometry.clusters(l1.len() as u64 * 8);
            let place = match state.allocate(&self.file, clusters, true) {
                Ok(place) => place.0 << state.geometry.cluster_bits,
                Err(error) => {
                    state.release_references(&self.file, &l1)?;
                    return Err(error);
                }
            };
            self.file.write(&be64_bytes(&l1), place)?;
            (l1, place, snapshot.disk_size)
        };
        self.commit_with(&alone.committing, true)?;
        let mut state = self.state();
        let mut header = state.stored_header.clone();
        (header.l1_offset, header.l1_entries, header.size) = (place, new_l1.len() as u32, size);
        self.store_header(&mut state, header)?;
        self.file.flush()?;
        let old_place = (state.header.l1_offset, state.geometry.clusters(state.l1.len() as u64 * 8));
        let old_l1 = std::mem::replace(&mut state.l1, new_l1);
        (state.header.l1_offset, state.header.l1_entries, state.header.size) = (place, state.l1.len() as u32, size);
        self.size.store(size, std::sync::atomic::Ordering::Release);
        state.release_references(&self.file, &old_l1)?;
        state.release(old_place.0, old_place.1);
        state.map_metadata();
        for bitmap in &mut state.bitmaps {
            bitmap.resize(size);
        }
        Ok(())
    }

    fn delete_snapshot(&self, alone: &Alone<'_>, index: usize) -> Result<()> {
        self.settle(&alone.committing)?;
        let (removed, l1, snapshots) = {
            let mut state = self.state();
            let mut snapshots = state.snapshots.clone();
            let removed = snapshots.remove(index);
            let l1 = self.snapshot_l1(&removed)?;
            self.set_dirty(&mut state)?;
            (removed, l1, snapshots)
        };
        self.switch_snapshots(alone, snapshots)?;
        let mut state = self.state();
        state.release_references(&self.file, &l1)?;
        let clusters = state.geometry.clusters(u64::from(removed.l1_entries) * 8);
        state.release(removed.l1_offset, clusters);
        Ok(())
    }

    /// Lets the counts fall that an operation released, brings the flags in line with the counts, and clears the dirty
    /// bit: also after a failure, which leaves nothing but unused clusters.
    pub(super) fn settle_flags(&self, alone: &Alone<'_>) -> Result<()> {
        self.commit_with(&alone.committing, true)?;
        self.state().refresh_copied(&self.file)?;
        self.settle(&alone.committing)
    }

    /// The L1 table of a snapshot.
    pub(super) fn snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        let mut bytes = vec![0; snapshot.l1_entries as usize * 8];
        self.file.read(&mut bytes, snapshot.l1_offset)?;
        Ok(be64_table(&bytes))
    }
}

impl Qcow2 {
    /// The internal snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.0.state().snapshots.iter().map(Snapshot::info).collect()
    }

    /// Makes an internal snapshot. Machine state written before belongs to it from then on.
    ///
    /// # Errors
    /// Names that are too long, images with an external data file, errors of the file.
    pub fn snapshot_create(&self, snapshot: &NewSnapshot) -> Result<SnapshotInfo> {
        if snapshot.name.len() > usize::from(u16::MAX) {
            return Err(Error::Invalid("the snapshot's name is too long".into()));
        }
        let alone = self.0.alone_to_write()?;
        let made = self.0.create_snapshot(&alone, snapshot);
        if made.is_ok() && snapshot.vm_state_size > 0 {
            self.0.discard_vmstate()?;
        }
        self.0.settle_flags(&alone).and(made)
    }

    /// Goes back to a snapshot, found by its ID or else its name. The disk gets the size it had then.
    ///
    /// # Errors
    /// No such snapshot, errors of the file.
    pub fn snapshot_apply(&self, id_or_name: &str) -> Result<()> {
        let alone = self.0.alone_to_write()?;
        let index = self.0.find_snapshot(id_or_name)?;
        let done = self.0.apply_snapshot(&alone, index);
        self.0.settle_flags(&alone).and(done)
    }

    /// Deletes a snapshot, found by its ID or else its name.
    ///
    /// # Errors
    /// No such snapshot, errors of the file.
    pub fn snapshot_delete(&self, id_or_name: &str) -> Result<()> {
        let alone = self.0.alone_to_write()?;
        let index = self.0.find_snapshot(id_or_name)?;
        let done = self.0.delete_snapshot(&alone, index);
        self.0.settle_flags(&alone).and(done)
    }

    /// A read-only image of a snapshot's disk. It must not be used any more once the snapshot is deleted.
    ///
    /// # Errors
    /// No such snapshot, errors of the file.
    pub fn open_snapshot(&self, id_or_name: &str) -> Result<Arc<Qcow2>> {
        let inner = &self.0;
        let alone = inner.alone();
        let index = inner.find_snapshot(id_or_name)?;
        if !inner.read_only {
            inner.commit_with(&alone.committing, true)?;
        }
        let (mut header, snapshot) = {
            let state = inner.state();
            (state.header.clone(), state.snapshots[index].clone())
        };
        (header.l1_offset, header.l1_entries) = (snapshot.l1_offset, snapshot.l1_entries);
        header.size = snapshot.disk_size;
        (header.snapshot_count, header.bitmaps) = (0, None);
        if header.geometry().l1_entries(header.size) > u64::from(header.l1_entries) {
            return Err(corrupt("Snapshot L1 table is too small"));
        }
        let file = HostFile::new(Arc::clone(inner.file.storage()));
        let data_file = inner.data_file.as_ref().map(|data| HostFile::new(Arc::clone(data.storage())));
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let state = State::load(&file, header, options.l2_cache_bytes, options.refcount_cache_bytes)?;
        let view = super::open::assemble(file, data_file, inner.backing(), state, inner.crypt.clone(), &options);
        Ok(Arc::new(Qcow2(Arc::new(view))))
    }
}

/// A snapshot's disk is storage too.
const _: fn(Arc<Qcow2>) -> Arc<dyn Storage> = |view| view;
