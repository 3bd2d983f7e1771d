//! Writing all reference counts anew, with another width.

use std::collections::HashSet;

use super::check::Checker;
use super::geometry::be64_bytes;
use super::image::{Alone, Inner};
use super::refcount::Refcounts;
use crate::{Error, Result};

impl Inner {
    /// Changes the width of reference counts: a new refcount table with its blocks is written behind everything else, then
    /// the header names it.
    pub(super) fn change_refcount_bits(&self, alone: &Alone<'_>, bits: u32) -> Result<()> {
        if !bits.is_power_of_two() || bits > 64 {
            return Err(Error::Invalid("Refcount width must be a power of two and may not exceed 64 bits".into()));
        }
        if self.state().geometry.version < 3 {
            return Err(Error::Invalid(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above \
                                       (use compat=1.1 or greater)"
                    .into(),
            ));
        }
        self.settle(&alone.committing)?;
        let mut state = self.state();
        let mut checker = Checker::new(self, &state);
        checker.run(&mut state)?;
        if checker.report.corruptions > 0 {
            return Err(Error::Invalid("the image has to be repaired before its refcount width is changed".into()));
        }
        let mut geometry = state.geometry;
        geometry.refcount_order = bits.trailing_zeros();
        // The new structure grows from one cluster in free space, as that of a new image does.
        let old = &state.refcounts;
        let own: HashSet<u64> = old.structure_clusters().collect();
        let end = checker.references.end().max(self.file.len().div_ceil(geometry.cluster_size()));
        let table = vec![0; geometry.cluster_size() as usize / 8];
        let mut new = Refcounts::new(geometry, table, end << geometry.cluster_bits, self.refcount_cache_bytes);
        new.allocate_from(end + 1);
        for (cluster, count) in checker.references.iter() {
            let count = if own.contains(&cluster) { count.saturating_sub(1) } else { count };
            if count > geometry.max_refcount() {
                return Err(Error::Invalid(format!(
                    "cluster {cluster} has more references than {bits} bits can count"
                )));
            }
            if count > 0 {
                new.add(&self.file, cluster, 1, count as i64)?;
            }
        }
        if new.table_offset >> geometry.cluster_bits == end {
            new.add(&self.file, end, 1, 1)?;
        }
        let blocks = new.blocks.take_dirty();
        for piece in &blocks {
            piece.write(&self.file)?;
        }
        new.blocks.written(&blocks, true);
        self.file.write(&be64_bytes(&new.table), new.table_offset)?;
        self.file.flush()?;
        (new.table_dirty, new.moved) = (None, false);
        new.left_behind.clear();
        new.new_metadata.clear();
        new.allocate_from(0);
        let mut header = state.stored_header.clone();
        header.refcount_order = geometry.refcount_order;
        (header.reftable_offset, header.reftable_clusters) = (new.table_offset, new.table_clusters as u32);
        self.store_header(&mut state, header.clone())?;
        self.file.flush()?;
        (state.header, state.geometry, state.refcounts) = (header, geometry, new);
        state.fresh = state.fresh.max(geometry.align_up(self.file.len()));
        state.map_metadata();
        Ok(())
    }
}
