//! L2 entries as values: standard and extended entries, compressed cluster descriptors. Not the tables they lie in.

use super::geometry::{COPIED, Geometry, OFFSET_MASK, be64};

const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// What an L2 entry says of one guest cluster. Standard entries are seen as clusters of a single subcluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cluster {
    /// The host offset; 0 if no host cluster belongs to it, or if it is compressed.
    pub(super) host: u64,
    /// Whether the host cluster's refcount is exactly one, so that it can be written in place.
    pub(super) copied: bool,
    /// The subclusters whose data lie in the host cluster.
    pub(super) data: u32,
    /// The subclusters that read as zeros.
    pub(super) zero: u32,
    /// The compressed data, in which case all the above are empty.
    pub(super) compressed: Option<CompressedCluster>,
}

/// Where compressed data lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompressedCluster {
    /// The first byte's host offset.
    pub(super) host: u64,
    /// Bytes up to the end of the last 512 byte sector.
    pub(super) len: u64,
}

/// What a subcluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unallocated,
    Zero,
    Data,
    Compressed,
}

impl Cluster {
    /// Reads entry `index` of a table; the index is within the table.
    pub(super) fn read(geometry: &Geometry, table: &[u8], index: usize) -> Self {
        let at = index * geometry.entry_bytes();
        let entry = be64(table, at);
        if entry & COMPRESSED != 0 {
            let shift = 62 - (geometry.cluster_bits - 8);
            let host = entry & ((1 << shift) - 1) & 0x00ff_ffff_ffff_ffff;
            let sectors = (entry >> shift & ((1 << (geometry.cluster_bits - 8)) - 1)) + 1;
            let len = sectors * 512 - (host & 511);
            return Self { compressed: Some(CompressedCluster { host, len }), ..Self::default() };
        }
        let host = entry & OFFSET_MASK;
        // Offset 0 means that there is no host cluster, except for the first one of a data file.
        let there = host != 0 || geometry.data_file && entry & COPIED != 0;
        let copied = there && entry & COPIED != 0;
        if geometry.extended_l2 {
            let bitmap = be64(table, at + 8);
            return Self { host, copied, data: bitmap as u32, zero: (bitmap >> 32) as u32, compressed: None };
        }
        let zero = u32::from(geometry.version >= 3 && entry & ZERO != 0);
        let data = u32::from(there && zero == 0);
        Self { host, copied, data, zero, compressed: None }
    }

    /// Writes entry `index` of a table.
    pub(super) fn write(&self, geometry: &Geometry, table: &mut [u8], index: usize) {
        let at = index * geometry.entry_bytes();
        let (entry, bitmap) = self.encode(geometry);
        table[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        if geometry.extended_l2 {
            table[at + 8..at + 16].copy_from_slice(&bitmap.to_be_bytes());
        }
    }

    fn encode(&self, geometry: &Geometry) -> (u64, u64) {
        if let Some(CompressedCluster { host, len }) = self.compressed {
            let shift = 62 - (geometry.cluster_bits - 8);
            let sectors = ((host & 511) + len).div_ceil(512) - 1;
            return (COMPRESSED | sectors << shift | host, 0);
        }
        let flags = if self.copied && self.has_host() { COPIED } else { 0 };
        if geometry.extended_l2 {
            return (self.host | flags, u64::from(self.zero) << 32 | u64::from(self.data));
        }
        (self.host | flags | u64::from(self.zero & 1), 0)
    }

    /// What subcluster `index` is.
    pub(super) fn kind(&self, index: u32) -> Kind {
        if self.compressed.is_some() {
            Kind::Compressed
        } else if self.zero >> index & 1 != 0 {
            Kind::Zero
        } else if self.data >> index & 1 != 0 && self.has_host() {
            Kind::Data
        } else {
            Kind::Unallocated
        }
    }

    /// Whether a host cluster belongs to it: one at offset 0, in a data file, is only ever this cluster's.
    pub(super) fn has_host(&self) -> bool {
        self.compressed.is_none() && (self.host != 0 || self.copied)
    }

    /// Whether nothing at all is said of the cluster.
    pub(super) fn is_unallocated(&self) -> bool {
        !self.has_host() && self.zero == 0 && self.compressed.is_none()
    }

    /// Which rule of the format the entry breaks, if any.
    pub(super) fn problem(&self, geometry: &Geometry) -> Option<&'static str> {
        if geometry.in_cluster(self.host) != 0 {
            Some("is not aligned to a cluster")
        } else if self.data & self.zero != 0 {
            Some("has subclusters that are both allocated and zero")
        } else if geometry.extended_l2 && !self.has_host() && self.data != 0 {
            Some("has allocated subclusters without a host cluster")
        } else {
            None
        }
    }
}

impl CompressedCluster {
    /// The host clusters touched: the first one's offset, and how many.
    pub(super) fn host_clusters(&self, geometry: &Geometry) -> (u64, u64) {
        let first = self.host & !(geometry.cluster_size() - 1);
        let last = (self.host + self.len.max(1) - 1) & !(geometry.cluster_size() - 1);
        (first, ((last - first) >> geometry.cluster_bits) + 1)
    }
}
