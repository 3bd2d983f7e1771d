//! Zeroing and discarding: where the tables can say it, only they change. Ranges of less than a subcluster are written.

use std::io::IoSlice;
use std::ops::Range;

use super::entry::Cluster;
use super::image::Inner;
use super::state::State;
use crate::{Result, ZeroFlags};

/// How many literal zeros are written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Inner {
    /// Makes a range read as zeros. The caller is inside the gate and has checked the range.
    pub(super) fn zero_guest(&self, guest: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let geometry = self.geometry;
        let unit = 1u64 << geometry.subcluster_bits();
        let end = guest + len;
        // The end of the disk is as good as the end of a cluster.
        let disk_end = if end == self.size() { end.next_multiple_of(unit) } else { end };
        let (start, stop) = (guest.next_multiple_of(unit), disk_end & !(unit - 1));
        if self.data_file_raw {
            self.data().ensure(end)?;
            self.data().storage().write_zeroes(guest, len, flags)?;
        }
        if start >= stop {
            return self.write_zeros(guest..end);
        }
        self.write_zeros(guest..start)?;
        let mut at = start;
        while at < stop {
            let next = stop.min(((at >> geometry.l1_shift()) + 1) << geometry.l1_shift());
            let literal = {
                let clusters = at >> geometry.cluster_bits..next.div_ceil(geometry.cluster_size());
                let mut state = self.settled(&clusters);
                state.check_writable()?;
                self.zero_in_table(&mut state, at..next, flags.may_unmap)?
            };
            for range in literal {
                self.write_zeros(range.start..range.end.min(self.size().max(end)))?;
            }
            at = next;
        }
        self.write_zeros(stop.min(end)..end)
    }

    /// Writes zeros where there are none yet.
    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(ZEROS.len() as u64);
            if !self.reads_as_zero(at, count)? {
                self.write_guest(&[IoSlice::new(&ZEROS[..count as usize])], at)?;
            }
            at += count;
        }
        Ok(())
    }

    /// Marks subclusters under one L2 table as zeros; returns ranges that have to be written instead.
    fn zero_in_table(&self, state: &mut State, range: Range<u64>, may_unmap: bool) -> Result<Vec<Range<u64>>> {
        let geometry = state.geometry;
        let size = geometry.cluster_size();
        let shows_below = self.shows_below();
        if !shows_below && state.l2_table(&self.file, range.start)?.is_none() {
            return Ok(Vec::new());
        }
        let mut literal = Vec::new();
        let mut table = None;
        let mut first = range.start & !(size - 1);
        while first < range.end {
            let from = range.start.max(first) - first;
            let to = (range.end - first).min(size);
            let mask = geometry.touched_mask(from, to);
            let old = state.cluster(&self.file, first)?;
            if let Some(new) = self.zeroed(state, &old, mask, may_unmap, shows_below) {
                if new != old {
                    let table = match table {
                        Some(table) => table,
                        None => *table.insert(state.l2_table_for_write(&self.file, first)?),
                    };
                    state.set_cluster(table, first, &new)?;
                    if new.host != old.host || old.compressed.is_some() {
                        state.release_cluster(&old);
                    }
                }
            } else {
                literal.push(first + from..first + to);
            }
            first += size;
        }
        Ok(literal)
    }

    /// A cluster with some of its subclusters zeroed, or `None` if that can only be written.
    fn zeroed(&self, state: &State, old: &Cluster, mask: u32, unmap: bool, shows_below: bool) -> Option<Cluster> {
        let full = state.geometry.full_mask();
        if old.is_unallocated() && !shows_below {
            return Some(*old);
        }
        if state.geometry.version < 3 {
            return (!shows_below).then(Cluster::default);
        }
        if mask != full {
            if old.compressed.is_some() {
                return None;
            }
            return Some(Cluster { data: old.data & !mask, zero: old.zero | mask, ..*old });
        }
        let keeps = old.has_host() && old.copied && (!unmap || self.data_file_raw);
        let host = if keeps { old.host } else { 0 };
        Some(Cluster { host, copied: keeps, data: 0, zero: full, compressed: None })
    }

    /// Gives the host clusters of whole guest clusters back. The caller is inside the gate and has checked the range.
    pub(super) fn discard_guest(&self, guest: u64, len: u64) -> Result<()> {
        let geometry = self.geometry;
        let size = geometry.cluster_size();
        let end = guest + len;
        let end = if end == self.size() { end.next_multiple_of(size) } else { end };
        let (mut at, stop) = (guest.next_multiple_of(size), end & !(size - 1));
        // What a raw data file holds must stay what the guest sees; zeros below version 3 can't hide a backing file.
        if self.data_file_raw {
            return Ok(());
        }
        while at < stop {
            let next = stop.min(((at >> geometry.l1_shift()) + 1) << geometry.l1_shift());
            let clusters = at >> geometry.cluster_bits..next >> geometry.cluster_bits;
            let mut state = self.settled(&clusters);
            state.check_writable()?;
            if state.geometry.version >= 3 || !self.shows_below() {
                self.discard_in_table(&mut state, at..next)?;
            }
            drop(state);
            at = next;
        }
        Ok(())
    }

    fn discard_in_table(&self, state: &mut State, range: Range<u64>) -> Result<()> {
        if state.l2_table(&self.file, range.start)?.is_none() {
            return Ok(());
        }
        let geometry = state.geometry;
        let zero = if self.shows_below() { geometry.full_mask() } else { 0 };
        let mut table = None;
        for first in range.step_by(geometry.cluster_size() as usize) {
            let old = state.cluster(&self.file, first)?;
            let allocated = old.has_host() || old.compressed.is_some();
            if !allocated && (zero != 0 || old.is_unallocated()) {
                continue;
            }
            let table = match table {
                Some(table) => table,
                None => *table.insert(state.l2_table_for_write(&self.file, first)?),
            };
            state.set_cluster(table, first, &Cluster { zero, ..Cluster::default() })?;
            if let (Some(data), true) = (&self.data_file, old.has_host()) {
                data.discard(old.host, geometry.cluster_size());
            }
            state.release_cluster(&old);
        }
        Ok(())
    }
}
