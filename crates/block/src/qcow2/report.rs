//! What an image says of itself: information, snapshots, bitmaps, measurements and the result of a check, as plain values
//! in the vocabulary of `qemu-img --output=json`. Nothing here reads or decides.

use serde::Serialize;

use crate::crypto::LuksInfo;

/// What `qemu-img info` prints as format specific information.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// "0.10" or "1.1".
    pub compat: String,
    /// "zlib" or "zstd".
    pub compression_type: String,
    /// Whether reference counts may be postponed (version 3 only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Persistent bitmaps, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<Vec<BitmapInfo>>,
    /// Bits of a reference count.
    pub refcount_bits: u32,
    /// Whether the image is marked corrupt (version 3 only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether L2 entries have subcluster bitmaps (version 3 only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
    /// The external data file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether the external data file is a raw image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// How the image is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<EncryptionInfo>,
}

/// How an image is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "format", rename_all = "kebab-case")]
pub enum EncryptionInfo {
    /// The legacy scheme.
    Aes,
    /// LUKS.
    Luks(LuksInfo),
}

/// A persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// "in-use" (not stored properly: inconsistent), "auto" (records writes).
    pub flags: Vec<String>,
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// A number, as a string.
    pub id: String,
    /// What the user called it.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds within the second.
    pub date_nsec: u32,
    /// Whole seconds of the machine's clock.
    pub vm_clock_sec: u64,
    /// Nanoseconds within the clock's second.
    pub vm_clock_nsec: u32,
    /// Instructions executed, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
    /// The disk's size in bytes when the snapshot was made.
    #[serde(skip)]
    pub disk_size: u64,
}

/// What is recorded with a new snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// What the user calls it; at most 65535 bytes.
    pub name: String,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds within the second.
    pub date_nsec: u32,
    /// Nanoseconds of the machine's clock.
    pub vm_clock_nsec: u64,
    /// Bytes of machine state, written before with [`Qcow2::vmstate_write`](super::Qcow2::vmstate_write).
    pub vm_state_size: u64,
    /// Instructions executed, where they were counted.
    pub icount: Option<u64>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// Errors that can destroy data.
    pub corruptions: u64,
    /// Clusters that are allocated and not used.
    pub leaks: u64,
    /// Corruptions put right.
    pub corruptions_fixed: u64,
    /// Leaks put right.
    pub leaks_fixed: u64,
    /// What could not be checked.
    pub check_errors: u64,
    /// Guest clusters in the disk.
    pub total_clusters: u64,
    /// Of these, allocated in this image.
    pub allocated_clusters: u64,
    /// Of these, not following their predecessor in the file.
    pub fragmented_clusters: u64,
    /// Of these, compressed.
    pub compressed_clusters: u64,
    /// Where the last used cluster ends, in bytes.
    pub image_end_offset: u64,
    /// What was found, one line each; at most 1000 are kept.
    #[serde(skip)]
    pub messages: Vec<String>,
}

/// Bytes a new image would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measurement {
    /// With just the source's data allocated.
    pub required: u64,
    /// With everything allocated.
    pub fully_allocated: u64,
    /// For copies of the source's persistent bitmaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
}
