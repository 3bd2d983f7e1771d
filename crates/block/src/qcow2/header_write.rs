//! The bytes of a header: fixed fields, extensions, the names of features, the backing file's name.

use super::header::{
    CryptMethod, EXT_BACKING_FORMAT, EXT_BITMAPS, EXT_CRYPTO, EXT_DATA_FILE, EXT_END, EXT_FEATURES, MAGIC, RawHeader,
    V3_LEN,
};
use crate::{Error, Result};

/// The names of the features that are known here: (type, bit, name).
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

impl RawHeader {
    /// The header's bytes, to be written at the beginning of the file.
    ///
    /// # Errors
    /// A backing file name that finds no room in the first cluster.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = self.fixed_fields();
        // First what changes while an image is in use, so that it lies within the first 512 bytes.
        if let (Some(bitmaps), true) = (self.bitmaps, self.version >= 3) {
            let mut data = [bitmaps.count.to_be_bytes(), [0; 4]].concat();
            data.extend(bitmaps.directory_size.to_be_bytes());
            data.extend(bitmaps.directory_offset.to_be_bytes());
            push_extension(&mut bytes, EXT_BITMAPS, &data);
        }
        if let Some((offset, len)) = self.luks {
            let data = [offset.to_be_bytes(), len.to_be_bytes()].concat();
            push_extension(&mut bytes, EXT_CRYPTO, &data);
        }
        if let Some(format) = &self.backing_format {
            push_extension(&mut bytes, EXT_BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            push_extension(&mut bytes, EXT_DATA_FILE, name.as_bytes());
        }
        for (kind, data) in &self.unknown {
            push_extension(&mut bytes, *kind, data);
        }
        let backing = self.backing_file.as_deref().unwrap_or_default();
        let cluster_size = 1 << self.cluster_bits;
        if self.version >= 3 && bytes.len() + FEATURE_NAMES.len() * 48 + 16 + backing.len() <= cluster_size {
            push_extension(&mut bytes, EXT_FEATURES, &feature_names());
        }
        push_extension(&mut bytes, EXT_END, &[]);
        if !backing.is_empty() {
            let offset = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&offset.to_be_bytes());
            bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
            bytes.extend(backing.as_bytes());
        }
        if bytes.len() > cluster_size {
            return Err(Error::Invalid("the backing file's name finds no room in the image's first cluster".into()));
        }
        Ok(bytes)
    }

    fn fixed_fields(&self) -> Vec<u8> {
        let crypt = match self.crypt {
            CryptMethod::None => 0u32,
            CryptMethod::Aes => 1,
            CryptMethod::Luks => 2,
        };
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(self.version.to_be_bytes());
        bytes.extend([0; 12]);
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(crypt.to_be_bytes());
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes.extend(self.reftable_offset.to_be_bytes());
        bytes.extend(self.reftable_clusters.to_be_bytes());
        bytes.extend(self.snapshot_count.to_be_bytes());
        bytes.extend(self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            bytes.extend(self.incompatible.to_be_bytes());
            bytes.extend(self.compatible.to_be_bytes());
            bytes.extend(self.autoclear.to_be_bytes());
            bytes.extend(self.refcount_order.to_be_bytes());
            let len = (V3_LEN + self.extra.len()).next_multiple_of(8);
            bytes.extend((len as u32).to_be_bytes());
            bytes.push(self.compression_type);
            bytes.extend([0; 7]);
            bytes.extend(&self.extra);
            bytes.resize(len, 0);
        }
        bytes
    }
}

fn push_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn feature_names() -> Vec<u8> {
    let mut table = Vec::with_capacity(FEATURE_NAMES.len() * 48);
    for (kind, bit, name) in FEATURE_NAMES {
        let start = table.len();
        table.extend([kind, bit]);
        table.extend(name.as_bytes());
        table.resize(start + 48, 0);
    }
    table
}
