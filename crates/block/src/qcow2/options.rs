//! What a caller may choose when an image is created, opened, checked or amended. Not what an existing image says of
//! itself: that is the header.

use crate::Result;
use crate::crypto::{LuksOptions, Secret};

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compat {
    /// Version 2: `compat=0.10`.
    V2,
    /// Version 3: `compat=1.1`.
    V3,
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate streams.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// What is allocated when an image is created or grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    Off,
    /// All tables, and clusters that are holes in the file.
    Metadata,
    /// As [`Preallocation::Metadata`], with host space reserved.
    Falloc,
    /// As [`Preallocation::Metadata`], with zeroes written everywhere.
    Full,
}

/// How an image is to be encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncryptionOptions {
    /// The legacy scheme: AES-128-CBC under the bare passphrase. Insecure; for old images only.
    Aes,
    /// LUKS version 1 within the image.
    Luks(LuksOptions),
}

/// What [`create`](super::create) makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes the guest sees; rounded up to a multiple of 512.
    pub size: u64,
    /// The version of the format.
    pub compat: Compat,
    /// log2 of the cluster size in bytes: 9 to 21.
    pub cluster_bits: u32,
    /// Bits of a reference count: 1, 2, 4 … 64; 16 in version 2.
    pub refcount_bits: u32,
    /// Whether reference counts may be postponed (version 3).
    pub lazy_refcounts: bool,
    /// Whether L2 entries have subcluster bitmaps (version 3, clusters of 16 KiB or more).
    pub extended_l2: bool,
    /// The compression of compressed clusters; anything but zlib needs version 3.
    pub compression: Compression,
    /// What is allocated at once.
    pub preallocation: Preallocation,
    /// The backing file's name as it is to be stored, at most 1023 bytes.
    pub backing_file: Option<String>,
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// The external data file's name as it is to be stored.
    pub data_file: Option<String>,
    /// Whether the external data file stays readable as a raw image.
    pub data_file_raw: bool,
    /// Encryption; needs a secret.
    pub encryption: Option<EncryptionOptions>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            compat: Compat::V3,
            cluster_bits: 16,
            refcount_bits: 16,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Zlib,
            preallocation: Preallocation::Off,
            backing_file: None,
            backing_format: None,
            data_file: None,
            data_file_raw: false,
            encryption: None,
        }
    }
}

impl CreateOptions {
    /// Refuses what the format can't do, in qemu-img's words.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with the reason.
    pub fn validate(&self) -> Result<()> {
        use crate::Error::Invalid;
        let refuse = |reason: &str| Err(Invalid(reason.to_string()));
        if !(9..=21).contains(&self.cluster_bits) {
            return refuse("Cluster size must be a power of two between 512 and 2048k");
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse("Refcount width must be a power of two and may not exceed 64 bits");
        }
        if self.compat == Compat::V2 {
            let wanted = if self.refcount_bits != 16 {
                "Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or \
                 greater)"
            } else if self.lazy_refcounts {
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
            } else if self.extended_l2 {
                "Extended L2 entries are only supported with compatibility level 1.1 and above (use compat=1.1 or \
                 greater)"
            } else if self.compression != Compression::Zlib {
                "Non-zlib compression type is only supported with compatibility level 1.1 and above (use compat=1.1 or \
                 greater)"
            } else if self.data_file.is_some() {
                "External data files are only supported with compatibility level 1.1 and above (use compat=1.1 or \
                 greater)"
            } else {
                ""
            };
            if !wanted.is_empty() {
                return refuse(wanted);
            }
        }
        if self.extended_l2 && self.cluster_bits < 14 {
            return refuse("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
        }
        if self.backing_format.is_some() && self.backing_file.is_none() {
            return refuse("Backing format cannot be used without backing file");
        }
        if self.backing_file.as_ref().is_some_and(|name| name.len() > 1023) {
            return refuse("Backing file name is too long: 1023 bytes are allowed");
        }
        if self.preallocation != Preallocation::Off && self.backing_file.is_some() && !self.extended_l2 {
            return refuse(
                "Backing file and preallocation can only be used at the same time if extended_l2 is enabled",
            );
        }
        if self.data_file_raw && self.data_file.is_none() {
            return refuse("data-file-raw requires data-file");
        }
        if self.data_file_raw && self.backing_file.is_some() {
            return refuse("Backing file and data-file-raw cannot be used at the same time");
        }
        if self.data_file_raw && self.encryption.is_some() {
            return refuse("Encryption and data-file-raw cannot be used at the same time");
        }
        if self.size > i64::MAX as u64 - 512 {
            return refuse("Image size is too large");
        }
        Ok(())
    }
}

/// How an image is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Refuse every write, and change nothing in the file.
    pub read_only: bool,
    /// The passphrase, for encrypted images.
    pub secret: Option<Secret>,
    /// Open an encrypted image without a passphrase, for what needs only metadata (info, check, snapshot list).
    pub no_io: bool,
    /// Rebuild the reference counts of an image whose dirty bit is set. Without it such an image can't be written.
    pub repair_dirty: bool,
    /// Open although the corrupt bit is set or snapshots can't be read: for repair.
    pub for_check: bool,
    /// Postpone reference counts, or not, instead of what the image says.
    pub lazy_refcounts: Option<bool>,
    /// Bytes of L2 tables kept in memory; at least one table is.
    pub l2_cache_bytes: usize,
    /// Bytes of refcount blocks kept in memory; at least one block is.
    pub refcount_cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            secret: None,
            no_io: false,
            repair_dirty: true,
            for_check: false,
            lazy_refcounts: None,
            l2_cache_bytes: 32 << 20,
            refcount_cache_bytes: 8 << 20,
        }
    }
}

/// What [`Qcow2::check`](super::Qcow2::check) puts right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// Clusters counted higher than they are used.
    Leaks,
    /// Everything that can be.
    All,
}

/// A change to an image's properties; `None` leaves one as it is.
#[derive(Debug, Clone, Default)]
pub struct AmendOptions {
    /// The version of the format.
    pub compat: Option<Compat>,
    /// Whether reference counts may be postponed.
    pub lazy_refcounts: Option<bool>,
    /// Bits of a reference count.
    pub refcount_bits: Option<u32>,
    /// The external data file stays readable as a raw image; can only be switched off.
    pub data_file_raw: Option<bool>,
    /// The external data file's name.
    pub data_file: Option<String>,
    /// A LUKS key slot to fill or to erase.
    pub key_slot: Option<KeySlotChange>,
}

/// A change to the key slots of a LUKS encrypted image.
#[derive(Debug, Clone)]
pub enum KeySlotChange {
    /// Puts a new passphrase into a slot: the given one, or the first free one.
    Add {
        /// The new passphrase.
        new_secret: Secret,
        /// Slot 0 to 7.
        slot: Option<usize>,
        /// Milliseconds of one CPU that a guess shall cost.
        iter_time_ms: u64,
    },
    /// Erases one slot.
    EraseSlot {
        /// Slot 0 to 7.
        slot: usize,
        /// Erase even the last one: the data is then lost.
        force: bool,
    },
    /// Erases every slot that a passphrase opens.
    EraseSecret {
        /// The passphrase.
        old_secret: Secret,
        /// Erase even the last one: the data is then lost.
        force: bool,
    },
}
