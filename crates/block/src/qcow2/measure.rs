//! How large an image would become. Nothing is read or written.

use super::options::{CreateOptions, EncryptionOptions, Preallocation};
use super::report::Measurement;
use crate::crypto::Luks;
use crate::{Error, Result};

/// The data that a new image would hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measure {
    /// Bytes of the clusters that will be allocated: every cluster that isn't all zeros, whole.
    pub allocated: u64,
    /// Bytes for copies of the source's bitmaps, as [`bitmap_bytes`] says it for each.
    pub bitmaps: Option<u64>,
}

/// Bytes that a copy of a bitmap takes: clusters of bits and its table.
pub fn bitmap_bytes(disk_size: u64, granularity: u64, cluster_size: u64) -> u64 {
    let bits = disk_size.div_ceil(granularity.max(1));
    let clusters = bits.div_ceil(8).div_ceil(cluster_size);
    clusters * cluster_size + (clusters * 8).next_multiple_of(cluster_size)
}

/// Computes what a new image with `options` would take, given the data in it.
///
/// # Errors
/// Options that don't go together, and sizes that are too large.
pub fn measure(options: &CreateOptions, data: &Measure) -> Result<Measurement> {
    options.validate()?;
    let cluster = 1u64 << options.cluster_bits;
    let size = options.size.next_multiple_of(512).next_multiple_of(cluster);
    let entry = if options.extended_l2 { 16 } else { 8 };
    let per_table = cluster / entry;
    let l2_entries = (size / cluster).next_multiple_of(per_table);
    let l1_entries = l2_entries / per_table;
    if l1_entries > super::geometry::MAX_L1_ENTRIES {
        return Err(Error::Invalid("The image size is too large (try using a larger cluster size)".into()));
    }
    let luks = match &options.encryption {
        Some(EncryptionOptions::Luks(luks)) => Luks::new_len(luks).next_multiple_of(cluster),
        _ => 0,
    };
    // Header, L1 and L2 tables, then reference counts for all of that and for themselves.
    let mut tables = cluster + l2_entries * entry + (l1_entries * 8).next_multiple_of(cluster);
    tables += refcount_bytes((tables + size) / cluster, cluster, options.refcount_bits);
    let fully_allocated = tables + luks + size;
    let all = matches!(options.preallocation, Preallocation::Falloc | Preallocation::Full);
    let allocated = if all { size } else { data.allocated.min(size) };
    Ok(Measurement { required: fully_allocated - size + allocated, fully_allocated, bitmaps: data.bitmaps })
}

/// Bytes of refcount table and blocks for so many clusters and themselves.
fn refcount_bytes(clusters: u64, cluster: u64, bits: u32) -> u64 {
    let per_block = cluster * 8 / u64::from(bits);
    let (mut blocks, mut table) = (0, 0);
    loop {
        let total = clusters + blocks + table;
        let new_blocks = total.div_ceil(per_block);
        let new_table = (new_blocks * 8).div_ceil(cluster);
        if (new_blocks, new_table) == (blocks, table) {
            return (blocks + table) * cluster;
        }
        (blocks, table) = (new_blocks, new_table);
    }
}
