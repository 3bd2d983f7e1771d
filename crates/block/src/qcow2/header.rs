//! The header of an image with its extensions: parsed once, with every rule about it checked, and written back. What its
//! offsets point at is not read here.

use super::geometry::{Geometry, MAX_L1_ENTRIES, MAX_REFTABLE_BYTES, be32, be64, corrupt};
use crate::{Error, Result};

pub(super) const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a version 2 header.
const V2_LEN: usize = 72;
/// Bytes of a version 3 header as it is written here.
pub(super) const V3_LEN: usize = 112;
/// The most that is read for header, extensions and backing file name.
pub(super) const MAX_HEADER: usize = 2 << 20;
const MAX_SNAPSHOTS: u32 = 65536;

/// Incompatible feature: reference counts may be wrong.
pub(super) const INCOMPAT_DIRTY: u64 = 1;
/// Incompatible feature: the image is damaged.
pub(super) const INCOMPAT_CORRUPT: u64 = 2;
/// Incompatible feature: an external data file.
pub(super) const INCOMPAT_DATA_FILE: u64 = 4;
/// Incompatible feature: the compression type field is set.
pub(super) const INCOMPAT_COMPRESSION: u64 = 8;
/// Incompatible feature: extended L2 entries.
pub(super) const INCOMPAT_EXTENDED_L2: u64 = 16;
const INCOMPAT_KNOWN: u64 = 31;
/// Compatible feature: lazy reference counts.
pub(super) const COMPAT_LAZY: u64 = 1;
/// Autoclear feature: the bitmaps extension is valid.
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1;
/// Autoclear feature: the data file is a raw image.
pub(super) const AUTOCLEAR_DATA_RAW: u64 = 2;
const AUTOCLEAR_KNOWN: u64 = 3;

pub(super) const EXT_END: u32 = 0;
pub(super) const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const EXT_FEATURES: u32 = 0x6803_f857;
pub(super) const EXT_BITMAPS: u32 = 0x2385_2875;
pub(super) const EXT_CRYPTO: u32 = 0x0537_be77;
pub(super) const EXT_DATA_FILE: u32 = 0x4441_5441;

/// How data are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CryptMethod {
    None,
    Aes,
    Luks,
}

/// The bitmaps extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BitmapsExtension {
    pub(super) count: u32,
    /// Bytes of the bitmap directory.
    pub(super) directory_size: u64,
    pub(super) directory_offset: u64,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawHeader {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt: CryptMethod,
    pub(super) l1_entries: u32,
    pub(super) l1_offset: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshot_count: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    /// 0: zlib, 1: zstd.
    pub(super) compression_type: u8,
    pub(super) backing_file: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<String>,
    pub(super) bitmaps: Option<BitmapsExtension>,
    /// Offset and length in bytes of the LUKS header.
    pub(super) luks: Option<(u64, u64)>,
    /// Fields beyond those known here, kept.
    pub(super) extra: Vec<u8>,
    /// Extensions that are not known here, kept.
    pub(super) unknown: Vec<(u32, Vec<u8>)>,
}

impl RawHeader {
    pub(super) fn geometry(&self) -> Geometry {
        Geometry {
            cluster_bits: self.cluster_bits,
            extended_l2: self.incompatible & INCOMPAT_EXTENDED_L2 != 0,
            version: self.version,
            refcount_order: self.refcount_order,
            data_file: self.has_data_file(),
        }
    }

    pub(super) fn has_data_file(&self) -> bool {
        self.incompatible & INCOMPAT_DATA_FILE != 0
    }

    pub(super) fn data_file_raw(&self) -> bool {
        self.has_data_file() && self.autoclear & AUTOCLEAR_DATA_RAW != 0
    }

    /// Parses the beginning of a file: at least the first cluster, or all of a shorter file.
    ///
    /// # Errors
    /// What isn't qcow2, breaks a rule, or uses features that are not known.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < V2_LEN || be32(bytes, 0) != MAGIC {
            return Err(Error::Invalid("Image is not in qcow2 format".into()));
        }
        let version = be32(bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::Unsupported(format!("Unsupported qcow2 version {version}")));
        }
        let mut header = Self::parse_v2(bytes, version)?;
        let header_len = if version == 2 { V2_LEN } else { header.parse_v3(bytes)? };
        let cluster = &bytes[..bytes.len().min(1 << header.cluster_bits)];
        let backing_offset = be64(bytes, 8);
        let extensions_end = if backing_offset == 0 { cluster.len() as u64 } else { backing_offset };
        let extensions_end = extensions_end.min(cluster.len() as u64) as usize;
        let names = header.parse_extensions(cluster, header_len, extensions_end)?;
        header.check_features(&names)?;
        header.backing_file = parse_backing_name(cluster, backing_offset, be32(bytes, 16))?;
        header.check_layout()?;
        Ok(header)
    }

    fn parse_v2(bytes: &[u8], version: u32) -> Result<Self> {
        let cluster_bits = be32(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::Unsupported(format!("Unsupported cluster size: 2^{cluster_bits}")));
        }
        let crypt = match be32(bytes, 32) {
            0 => CryptMethod::None,
            1 => CryptMethod::Aes,
            2 => CryptMethod::Luks,
            other => return Err(Error::Unsupported(format!("Unsupported encryption method {other}"))),
        };
        Ok(Self {
            version,
            cluster_bits,
            size: be64(bytes, 24),
            crypt,
            l1_entries: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            reftable_offset: be64(bytes, 48),
            reftable_clusters: be32(bytes, 56),
            snapshot_count: be32(bytes, 60),
            snapshots_offset: be64(bytes, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression_type: 0,
            backing_file: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            luks: None,
            extra: Vec::new(),
            unknown: Vec::new(),
        })
    }

    /// Reads the fields of version 3; returns the header's length.
    fn parse_v3(&mut self, bytes: &[u8]) -> Result<usize> {
        if bytes.len() < 104 {
            return Err(corrupt("qcow2 header too short"));
        }
        self.incompatible = be64(bytes, 72);
        self.compatible = be64(bytes, 80);
        self.autoclear = be64(bytes, 88);
        self.refcount_order = be32(bytes, 96);
        let len = be32(bytes, 100) as usize;
        if len < 104 {
            return Err(corrupt("qcow2 header too short"));
        }
        if len > 1 << self.cluster_bits || len > bytes.len() {
            return Err(corrupt("qcow2 header exceeds cluster size"));
        }
        if self.refcount_order > 6 {
            return Err(corrupt("Reference count entry width too large; may not exceed 64 bits"));
        }
        if len > 104 {
            self.compression_type = bytes[104];
        }
        if len > V3_LEN {
            self.extra = bytes[V3_LEN..len].to_vec();
        }
        Ok(len)
    }

    /// Reads the extensions between `at` and `end`; returns the image's own names of features.
    fn parse_extensions(&mut self, bytes: &[u8], mut at: usize, end: usize) -> Result<Vec<(u8, u8, String)>> {
        let mut names = Vec::new();
        while at + 8 <= end {
            let (kind, len) = (be32(bytes, at), be32(bytes, at + 4) as usize);
            at += 8;
            if kind == EXT_END {
                break;
            }
            if len > end - at {
                return Err(corrupt("Header extension too large"));
            }
            let data = &bytes[at..at + len];
            self.parse_extension(kind, data, &mut names)?;
            at += len.next_multiple_of(8);
        }
        Ok(names)
    }

    fn parse_extension(&mut self, kind: u32, data: &[u8], names: &mut Vec<(u8, u8, String)>) -> Result<()> {
        let text = || String::from_utf8_lossy(data).into_owned();
        match kind {
            EXT_BACKING_FORMAT => self.backing_format = Some(text()),
            EXT_DATA_FILE => self.data_file = Some(text()),
            EXT_FEATURES => names.extend(data.chunks_exact(48).map(|entry| {
                let name = entry[2..].split(|&byte| byte == 0).next().unwrap_or_default();
                (entry[0], entry[1], String::from_utf8_lossy(name).into_owned())
            })),
            EXT_CRYPTO => {
                if data.len() < 16 || self.crypt != CryptMethod::Luks {
                    return Err(corrupt("CRYPTO header extension only expected with LUKS encryption method"));
                }
                self.luks = Some((be64(data, 0), be64(data, 8)));
            }
            EXT_BITMAPS if self.version >= 3 => {
                if data.len() != 24 {
                    return Err(corrupt("bitmaps_ext: Invalid extension length"));
                }
                if self.autoclear & AUTOCLEAR_BITMAPS != 0 {
                    self.bitmaps = Some(BitmapsExtension {
                        count: be32(data, 0),
                        directory_size: be64(data, 8),
                        directory_offset: be64(data, 16),
                    });
                }
            }
            _ => self.unknown.push((kind, data.to_vec())),
        }
        Ok(())
    }

    fn check_features(&self, names: &[(u8, u8, String)]) -> Result<()> {
        let unknown = self.incompatible & !INCOMPAT_KNOWN;
        if unknown != 0 {
            let listed: Vec<String> = (0..64u8)
                .filter(|bit| unknown >> bit & 1 != 0)
                .map(|bit| match names.iter().find(|name| name.0 == 0 && name.1 == bit) {
                    Some((_, _, name)) => name.clone(),
                    None => format!("Unknown incompatible feature: {:x}", 1u64 << bit),
                })
                .collect();
            return Err(Error::Unsupported(format!("Unsupported qcow2 feature(s): {}", listed.join(", "))));
        }
        let compression_bit = self.incompatible & INCOMPAT_COMPRESSION != 0;
        match self.compression_type {
            0 if compression_bit => Err(corrupt("Compression type incompatible feature bit must not be set")),
            0 => Ok(()),
            1 if compression_bit => Ok(()),
            1 => Err(corrupt("Compression type incompatible feature bit must be set")),
            other => Err(Error::Unsupported(format!("qcow2: unknown compression type: {other}"))),
        }
    }

    fn check_layout(&self) -> Result<()> {
        let geometry = self.geometry();
        let check_offset = |offset: u64, bytes: u64, what: &str| {
            let end = offset.checked_add(bytes).filter(|&end| end <= i64::MAX as u64);
            if geometry.in_cluster(offset) != 0 || end.is_none() {
                return Err(corrupt(format!("Invalid {what} offset")));
            }
            Ok(())
        };
        if geometry.extended_l2 && self.cluster_bits < 14 {
            return Err(corrupt("extended L2 entries need clusters of at least 16384 bytes"));
        }
        if self.size > i64::MAX as u64 {
            return Err(corrupt("Image is too big"));
        }
        let needed = geometry.l1_entries(self.size);
        if u64::from(self.l1_entries) > MAX_L1_ENTRIES || needed > MAX_L1_ENTRIES {
            return Err(corrupt("Active L1 table too large"));
        }
        if needed > u64::from(self.l1_entries) {
            return Err(corrupt("L1 table is too small"));
        }
        check_offset(self.l1_offset, u64::from(self.l1_entries) * 8, "L1 table")?;
        let reftable_bytes = u64::from(self.reftable_clusters) << self.cluster_bits;
        if self.reftable_clusters == 0 || reftable_bytes > MAX_REFTABLE_BYTES.max(geometry.cluster_size()) {
            return Err(corrupt("Reference count table is missing or too large"));
        }
        check_offset(self.reftable_offset, reftable_bytes, "reference count table")?;
        if self.snapshot_count > MAX_SNAPSHOTS {
            return Err(corrupt("Snapshot table too large"));
        }
        check_offset(self.snapshots_offset, u64::from(self.snapshot_count) * 40, "snapshot table")?;
        if let Some((offset, len)) = self.luks {
            check_offset(offset, len, "encryption header")?;
            if !(592..=64 << 20).contains(&len) {
                return Err(corrupt("encryption header of an impossible length"));
            }
        }
        if self.crypt == CryptMethod::Luks && self.luks.is_none() {
            return Err(corrupt("LUKS encryption without its header"));
        }
        Ok(())
    }

    /// Clears what this program doesn't keep up when it writes: unknown autoclear features.
    pub(super) fn clear_unknown_autoclear(&mut self) {
        self.autoclear &= AUTOCLEAR_KNOWN;
    }
}

fn parse_backing_name(cluster: &[u8], offset: u64, len: u32) -> Result<Option<String>> {
    if offset == 0 {
        return Ok(None);
    }
    if len > 1023 {
        return Err(corrupt("Backing file name too long"));
    }
    let end = offset.checked_add(u64::from(len)).filter(|&end| end <= cluster.len() as u64);
    let Some(end) = end else { return Err(corrupt("Invalid backing file offset")) };
    Ok(Some(String::from_utf8_lossy(&cluster[offset as usize..end as usize]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RawHeader {
        RawHeader {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            crypt: CryptMethod::None,
            l1_entries: 2,
            l1_offset: 0x30000,
            reftable_offset: 0x10000,
            reftable_clusters: 1,
            snapshot_count: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: COMPAT_LAZY,
            autoclear: AUTOCLEAR_BITMAPS,
            refcount_order: 4,
            compression_type: 0,
            backing_file: Some("base.raw".into()),
            backing_format: Some("raw".into()),
            data_file: None,
            bitmaps: Some(BitmapsExtension { count: 2, directory_size: 64, directory_offset: 0x50000 }),
            luks: None,
            extra: Vec::new(),
            unknown: vec![(0x1234_5678, vec![1, 2, 3])],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let header = header();
        let bytes = header.to_bytes().unwrap();
        assert_eq!(RawHeader::parse(&bytes).unwrap(), header);
    }

    #[test]
    fn unknown_features_are_refused_by_name() {
        let mut header = header();
        header.incompatible = 1 << 40;
        let error = RawHeader::parse(&header.to_bytes().unwrap()).unwrap_err();
        assert!(error.to_string().contains("Unknown incompatible feature: 10000000000"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        for (at, value) in [(20, 60u32), (20, 8), (36, u32::MAX), (4, 4), (32, 9), (56, u32::MAX), (60, u32::MAX)] {
            let mut bytes = header().to_bytes().unwrap();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            assert!(RawHeader::parse(&bytes).is_err(), "field at {at} = {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse_or_fail(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..700), sane: bool) {
            if sane && bytes.len() > 24 {
                bytes[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
                bytes[20..24].copy_from_slice(&[0, 0, 0, 9]);
            }
            if let Ok(header) = RawHeader::parse(&bytes) {
                let _ = header.to_bytes();
            }
        }
    }
}
