//! How an image's numbers divide: clusters, subclusters, L2 tables, refcount blocks; and big-endian fields in bytes. Not
//! where anything lies.

use crate::Error;

/// The format's name in errors.
pub(super) const FORMAT: &str = "qcow2";

/// The largest L1 table that is accepted, in entries (32 MiB, QEMU's limit).
pub(super) const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;
/// The largest refcount table that is accepted, in bytes (8 MiB, QEMU's limit).
pub(super) const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Bits 9 to 55 of a table entry: a host offset.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63 of an L1 or L2 entry: the refcount is exactly one.
pub(super) const COPIED: u64 = 1 << 63;

/// An error about a damaged image.
pub(super) fn corrupt(problem: impl Into<String>) -> Error {
    Error::Corrupt { format: FORMAT, problem: problem.into() }
}

/// The big-endian 16 bit field at `at`; the caller has checked the length.
pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32 bit field at `at`; the caller has checked the length.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The big-endian 64 bit field at `at`; the caller has checked the length.
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// A table of 64 bit entries from its bytes; a rest of less than 8 bytes is left out.
pub(super) fn be64_table(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect()
}

/// The bytes of a table of 64 bit entries.
pub(super) fn be64_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

/// The fixed numbers of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// log2 of the cluster size in bytes: 9 to 21.
    pub(super) cluster_bits: u32,
    /// Whether L2 entries are 16 bytes with a subcluster bitmap.
    pub(super) extended_l2: bool,
    /// 2 or 3.
    pub(super) version: u32,
    /// log2 of the bits of a reference count: 0 to 6.
    pub(super) refcount_order: u32,
    /// Whether guest data lies in an external data file, where a cluster may begin at offset 0.
    pub(super) data_file: bool,
}

impl Geometry {
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of one L2 entry.
    pub(super) fn entry_bytes(&self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// log2 of the entries of an L2 table.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.extended_l2 { 4 } else { 3 }
    }

    pub(super) fn l2_entries(&self) -> u64 {
        1 << self.l2_bits()
    }

    /// log2 of the guest bytes under one L1 entry.
    pub(super) fn l1_shift(&self) -> u32 {
        self.cluster_bits + self.l2_bits()
    }

    pub(super) fn l1_index(&self, guest: u64) -> u64 {
        guest >> self.l1_shift()
    }

    pub(super) fn l2_index(&self, guest: u64) -> usize {
        ((guest >> self.cluster_bits) & (self.l2_entries() - 1)) as usize
    }

    pub(super) fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// log2 of the bytes of a subcluster.
    pub(super) fn subcluster_bits(&self) -> u32 {
        self.cluster_bits - if self.extended_l2 { 5 } else { 0 }
    }

    /// The mask of all subclusters.
    pub(super) fn full_mask(&self) -> u32 {
        if self.extended_l2 { u32::MAX } else { 1 }
    }

    /// The subclusters that `[from, to)` within a cluster touches.
    pub(super) fn touched_mask(&self, from: u64, to: u64) -> u32 {
        if from >= to {
            return 0;
        }
        let first = (from >> self.subcluster_bits()) as u32;
        let last = ((to - 1) >> self.subcluster_bits()) as u32;
        let upto = if last >= 31 { u32::MAX } else { (1 << (last + 1)) - 1 };
        upto & !((1u32 << first) - 1)
    }

    /// Clusters that `bytes` take.
    pub(super) fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    pub(super) fn align_up(&self, offset: u64) -> u64 {
        offset.saturating_add(self.cluster_size() - 1) & !(self.cluster_size() - 1)
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_entries(&self, size: u64) -> u64 {
        (size >> self.l1_shift()) + u64::from(size & ((1 << self.l1_shift()) - 1) != 0)
    }

    /// Reference counts in one refcount block.
    pub(super) fn block_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// The highest reference count that can be stored.
    pub(super) fn max_refcount(&self) -> u64 {
        if self.refcount_order == 6 { u64::MAX } else { (1 << (1u32 << self.refcount_order)) - 1 }
    }
}
