//! Changing the size of the disk, and emptying it.

use std::sync::atomic::Ordering;

use super::image::{Alone, Inner, Qcow2};
use super::options::Preallocation;
use crate::{Error, Result, ZeroFlags};

impl Inner {
    /// Stores the size in the header, after everything before it.
    fn store_size(&self, alone: &Alone<'_>, size: u64) -> Result<()> {
        self.commit_with(&alone.committing, true)?;
        let mut state = self.state();
        let mut header = state.stored_header.clone();
        header.size = size;
        self.store_header(&mut state, header)?;
        self.file.flush()?;
        state.header.size = size;
        self.size.store(size, Ordering::Release);
        for bitmap in &mut state.bitmaps {
            bitmap.resize(size);
        }
        Ok(())
    }

    fn grow(&self, alone: &Alone<'_>, size: u64, preallocation: Preallocation) -> Result<()> {
        let old = self.size();
        // Machine state, or what a shrinking that was cut off has left, may lie where the disk is about to be.
        self.drop_beyond(self.geometry.align_up(old))?;
        let entries = self.geometry.l1_entries(size);
        self.state().grow_l1(&self.file, entries)?;
        // What the last cluster holds beyond the end must not show, nor the backing file behind it.
        let edge = self.geometry.align_up(old).min(size);
        let backing_end = self.backing().map_or(0, |backing| backing.size()).min(size);
        let end = edge.max(backing_end);
        self.store_size(alone, size)?;
        if old < end {
            self.zero_guest(old, end - old, ZeroFlags { may_unmap: true, ..ZeroFlags::default() })?;
        }
        if let (Some(data), true) = (&self.data_file, self.data_file_raw) {
            data.ensure(size)?;
        }
        self.preallocate(old..size, preallocation)
    }

    fn shrink(&self, alone: &Alone<'_>, size: u64) -> Result<()> {
        let old = self.size();
        if !self.state().snapshots.is_empty() && self.state().geometry.version < 3 {
            return Err(Error::Unsupported("Can't resize a v2 image which has snapshots".into()));
        }
        // The size first: what is beyond it doesn't matter any more.
        self.store_size(alone, size)?;
        let gone = self.geometry.align_up(size);
        if gone < old {
            self.drop_beyond(gone)?;
        }
        self.settle(&alone.committing)
    }

    /// Takes every reference of guest clusters from `guest` on away.
    fn drop_beyond(&self, guest: u64) -> Result<()> {
        let geometry = self.geometry;
        let mut state = self.state();
        let first_table = geometry.l1_entries(guest) as usize;
        let gone = state.l1.get(first_table..).unwrap_or_default().to_vec();
        for index in first_table..state.l1.len() {
            if state.l1[index] != 0 {
                state.set_l1(index, 0);
            }
        }
        state.release_references(&self.file, &gone)?;
        let end = (first_table as u64) << geometry.l1_shift();
        if guest < end && state.l2_table(&self.file, guest)?.is_some() {
            let table = state.l2_table_for_write(&self.file, guest)?;
            for at in (guest..end).step_by(geometry.cluster_size() as usize) {
                let old = state.cluster_in(table, at)?;
                if !old.is_unallocated() || old.data != 0 {
                    state.set_cluster(table, at, &super::entry::Cluster::default())?;
                    state.release_cluster(&old);
                }
            }
        }
        state.map_metadata();
        Ok(())
    }
}

impl Qcow2 {
    /// Changes the size of the disk, rounded up to a multiple of 512; shrinking discards what lies beyond. New bytes read
    /// as zeros, even if a backing file has some there.
    ///
    /// # Errors
    /// Version 2 images with snapshots, sizes that are too large, errors of the file.
    pub fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        let inner = &self.0;
        if size > i64::MAX as u64 - 512 {
            return Err(Error::Invalid("Image size is too large".into()));
        }
        let size = size.next_multiple_of(512);
        let alone = inner.alone_to_write()?;
        if !inner.state().snapshots.is_empty() && inner.state().geometry.version < 3 {
            return Err(Error::Unsupported("Can't resize a v2 image which has snapshots".into()));
        }
        {
            let mut state = inner.state();
            if !state.bitmaps.is_empty() {
                inner.mark_bitmaps_in_use(&mut state)?;
            }
        }
        match size.cmp(&inner.size()) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => inner.grow(&alone, size, preallocation),
            std::cmp::Ordering::Less => inner.shrink(&alone, size),
        }
    }

    /// Gives every allocated cluster back, so that the backing file shows through everywhere (after a commit).
    ///
    /// # Errors
    /// Errors of the file.
    pub fn make_empty(&self) -> Result<()> {
        let alone = self.0.alone_to_write()?;
        self.0.commit_with(&alone.committing, true)?;
        self.0.drop_beyond(0)?;
        self.0.settle(&alone.committing)
    }
}
