//! Persistent dirty bitmaps in memory, and their form in the file: directory, tables, clusters of bits. When they are
//! loaded and stored is in `bitmap_ops`.

use std::collections::BTreeMap;

use super::geometry::{Geometry, OFFSET_MASK, be16, be32, be64, be64_table, corrupt};
use super::header::RawHeader;
use super::host::HostFile;
use super::report::BitmapInfo;
use crate::{Error, Result};

const IN_USE: u32 = 1;
const AUTO: u32 = 2;
const KNOWN_FLAGS: u32 = 7;
const ENTRY_LEN: usize = 24;
/// QEMU's limits: bitmaps in an image, bytes of the directory, entries of one table, bytes of one bitmap.
const MAX_BITMAPS: u32 = 65535;
const MAX_DIRECTORY: u64 = MAX_BITMAPS as u64 * (ENTRY_LEN as u64 + 1023 + 7);
const MAX_TABLE: u64 = 0x800_0000;
const MAX_BITS_BYTES: u64 = 512 << 20;
/// The longest name, in bytes.
pub(super) const MAX_NAME: usize = 1023;

/// The bits of one cluster of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// All set.
    Ones,
    /// As stored: the lowest bit of a byte stands for the lowest offset.
    Bits(Vec<u8>),
}

/// A bitmap.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    pub(super) name: String,
    pub(super) granularity_bits: u32,
    /// Records writes.
    pub(super) auto: bool,
    /// Was not stored properly: can only be removed.
    pub(super) inconsistent: bool,
    /// Host offset and entries of the table in the file; 0 if it has none yet.
    pub(super) table: (u64, u32),
    cluster_bits: u32,
    disk_size: u64,
    chunks: BTreeMap<u64, Chunk>,
}

impl Bitmap {
    /// An empty bitmap for a disk of `disk_size` bytes.
    ///
    /// # Errors
    /// Sizes that the format can't hold.
    pub(super) fn new(name: &str, granularity_bits: u32, cluster_bits: u32, disk_size: u64) -> Result<Self> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::Invalid(format!("Bitmap name is empty or too long: {MAX_NAME} bytes are allowed")));
        }
        if !(9..=31).contains(&granularity_bits) {
            return Err(Error::Invalid("Granularity must be a power of two between 512 and 2147483648".into()));
        }
        let bytes = (disk_size >> granularity_bits) / 8;
        if bytes > MAX_BITS_BYTES || bytes >> cluster_bits > MAX_TABLE {
            return Err(Error::Invalid("Too much space will be occupied by the bitmap. Use larger granularity".into()));
        }
        Ok(Self {
            name: name.into(),
            granularity_bits,
            auto: true,
            inconsistent: false,
            table: (0, 0),
            cluster_bits,
            disk_size,
            chunks: BTreeMap::new(),
        })
    }

    pub(super) fn info(&self) -> BitmapInfo {
        let flags = [(self.inconsistent, "in-use"), (self.auto, "auto")];
        BitmapInfo {
            name: self.name.clone(),
            granularity: 1 << self.granularity_bits,
            flags: flags.iter().filter(|flag| flag.0).map(|flag| flag.1.to_string()).collect(),
        }
    }

    pub(super) fn records(&self) -> bool {
        self.auto && !self.inconsistent
    }

    /// Bits in one cluster, as a power of two.
    fn chunk_bits(&self) -> u32 {
        self.cluster_bits + 3
    }

    fn chunk_count(&self) -> u64 {
        let bits = (self.disk_size >> self.granularity_bits) + 1;
        let exact = self.disk_size.trailing_zeros() >= self.granularity_bits || self.disk_size == 0;
        (bits - u64::from(exact)).div_ceil(1 << self.chunk_bits())
    }

    /// Sets the bits of a byte range.
    pub(super) fn set(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (mut bit, last) = (offset >> self.granularity_bits, (offset + len - 1) >> self.granularity_bits);
        while bit <= last {
            let chunk = bit >> self.chunk_bits();
            let end = last.min(((chunk + 1) << self.chunk_bits()) - 1);
            let size = 1usize << self.cluster_bits;
            if let Chunk::Bits(bits) = self.chunks.entry(chunk).or_insert_with(|| Chunk::Bits(vec![0; size])) {
                let mask = (1u64 << self.cluster_bits << 3) - 1;
                for index in (bit & mask)..=(end & mask) {
                    bits[(index / 8) as usize] |= 1 << (index % 8);
                }
            }
            bit = end + 1;
        }
    }

    fn is_set(&self, bit: u64) -> bool {
        let mask = (1u64 << self.chunk_bits()) - 1;
        match self.chunks.get(&(bit >> self.chunk_bits())) {
            None => false,
            Some(Chunk::Ones) => true,
            Some(Chunk::Bits(bits)) => bits[((bit & mask) / 8) as usize] >> (bit & 7) & 1 != 0,
        }
    }

    /// Clears every bit.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
    }

    /// The dirty ranges within `[offset, offset + len)`: (offset, length) in bytes.
    pub(super) fn ranges(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let end = offset.saturating_add(len).min(self.disk_size);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut bit = offset >> self.granularity_bits;
        while bit << self.granularity_bits < end {
            let chunk = bit >> self.chunk_bits();
            if !self.chunks.contains_key(&chunk) {
                match self.chunks.range(chunk..).next() {
                    Some((&next, _)) => bit = next << self.chunk_bits(),
                    None => break,
                }
                continue;
            }
            if self.is_set(bit) {
                let from = (bit << self.granularity_bits).max(offset);
                let to = ((bit + 1) << self.granularity_bits).min(end);
                match ranges.last_mut() {
                    Some((start, len)) if *start + *len == from => *len += to - from,
                    _ => ranges.push((from, to - from)),
                }
            }
            bit += 1;
        }
        ranges
    }

    /// Adds another bitmap's bits, whatever its granularity.
    pub(super) fn merge(&mut self, other: &Self) {
        for (offset, len) in other.ranges(0, other.disk_size.min(self.disk_size)) {
            self.set(offset, len);
        }
    }

    /// Follows the disk's size; new bits are clear.
    pub(super) fn resize(&mut self, disk_size: u64) {
        if disk_size < self.disk_size {
            let kept = self.ranges(0, disk_size);
            self.chunks.clear();
            kept.into_iter().for_each(|(offset, len)| self.set(offset, len));
        }
        self.disk_size = disk_size;
    }

    /// The table's length, and the clusters of it that aren't all zeros.
    pub(super) fn stored_chunks(&self) -> (u64, impl Iterator<Item = (u64, &Chunk)>) {
        (self.chunk_count(), self.chunks.iter().map(|(&index, chunk)| (index, chunk)))
    }

    /// Appends the directory entry.
    pub(super) fn push_entry(&self, bytes: &mut Vec<u8>, in_use: bool) {
        let in_use = if in_use || self.inconsistent { IN_USE } else { 0 };
        let auto = if self.auto { AUTO } else { 0 };
        bytes.extend(self.table.0.to_be_bytes());
        bytes.extend(self.table.1.to_be_bytes());
        bytes.extend((in_use | auto).to_be_bytes());
        bytes.push(1);
        bytes.push(self.granularity_bits as u8);
        bytes.extend((self.name.len() as u16).to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
}

/// Reads the directory that the header names, and the bits of every consistent bitmap.
///
/// # Errors
/// A damaged directory or table, errors of the file.
pub(super) fn load(file: &HostFile, header: &RawHeader) -> Result<Vec<Bitmap>> {
    let Some(extension) = header.bitmaps else { return Ok(Vec::new()) };
    let geometry = header.geometry();
    let (offset, len) = (extension.directory_offset, extension.directory_size);
    let within = offset.checked_add(len).is_some_and(|end| end <= geometry.align_up(file.len()));
    if extension.count > MAX_BITMAPS || len > MAX_DIRECTORY || geometry.in_cluster(offset) != 0 || !within {
        return Err(corrupt("bitmaps_ext: invalid bitmap directory"));
    }
    let mut bytes = vec![0; len as usize];
    file.read(&mut bytes, offset)?;
    let mut bitmaps = parse_directory(&bytes, extension.count, &geometry, header.size)?;
    for bitmap in bitmaps.iter_mut().filter(|bitmap| !bitmap.inconsistent) {
        load_bits(file, &geometry, bitmap)?;
    }
    Ok(bitmaps)
}

/// Reads a directory; the bitmaps have no bits yet.
pub(super) fn parse_directory(bytes: &[u8], count: u32, geometry: &Geometry, disk_size: u64) -> Result<Vec<Bitmap>> {
    let mut bitmaps = Vec::new();
    let mut rest = bytes;
    for _ in 0..count {
        if rest.len() < ENTRY_LEN {
            return Err(corrupt("bitmap directory is cut off"));
        }
        let flags = be32(rest, 12);
        let (name_len, extra_len) = (be16(rest, 18) as usize, be32(rest, 20) as usize);
        let name_at = ENTRY_LEN.saturating_add(extra_len);
        let Some(name) = rest.get(name_at..name_at.saturating_add(name_len)) else {
            return Err(corrupt("bitmap directory is cut off"));
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if rest[16] != 1 || flags & !KNOWN_FLAGS != 0 {
            return Err(corrupt(format!("bitmap '{name}' is of an unknown type or has unknown flags")));
        }
        let mut bitmap = Bitmap::new(&name, u32::from(rest[17]), geometry.cluster_bits, disk_size)?;
        bitmap.auto = flags & AUTO != 0;
        bitmap.inconsistent = flags & IN_USE != 0;
        bitmap.table = (be64(rest, 0), be32(rest, 8));
        let table_fits = u64::from(bitmap.table.1) <= MAX_TABLE && geometry.in_cluster(bitmap.table.0) == 0;
        if !table_fits || (!bitmap.inconsistent && u64::from(bitmap.table.1) != bitmap.chunk_count()) {
            return Err(corrupt(format!("bitmap '{name}' has a table of an impossible size or place")));
        }
        bitmaps.push(bitmap);
        rest = rest.get((name_at + name_len).next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(bitmaps)
}

/// The table of a stored bitmap.
pub(super) fn load_table(file: &HostFile, bitmap: &Bitmap) -> Result<Vec<u64>> {
    let len = u64::from(bitmap.table.1) * 8;
    if bitmap.table.0.checked_add(len).is_none_or(|end| end > file.len().next_multiple_of(1 << 21)) {
        return Err(corrupt(format!("bitmap '{}' has its table beyond the end of the file", bitmap.name)));
    }
    let mut bytes = vec![0; len as usize];
    file.read(&mut bytes, bitmap.table.0)?;
    Ok(be64_table(&bytes))
}

fn load_bits(file: &HostFile, geometry: &Geometry, bitmap: &mut Bitmap) -> Result<()> {
    let table = load_table(file, bitmap)?;
    for (index, &entry) in table.iter().enumerate() {
        let host = entry & OFFSET_MASK;
        if geometry.in_cluster(host) != 0 || entry & !(OFFSET_MASK | 1) != 0 {
            return Err(corrupt(format!("bitmap '{}' has a damaged table", bitmap.name)));
        }
        if host != 0 {
            let mut bits = vec![0; geometry.cluster_size() as usize];
            file.read(&mut bits, host)?;
            bitmap.chunks.insert(index as u64, Chunk::Bits(bits));
        } else if entry & 1 != 0 {
            bitmap.chunks.insert(index as u64, Chunk::Ones);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { cluster_bits: 9, extended_l2: false, version: 3, refcount_order: 4, data_file: false };

    #[test]
    fn ranges_are_those_that_were_set() {
        let mut bitmap = Bitmap::new("a", 9, 9, 10 << 20).unwrap();
        bitmap.set(1000, 100);
        bitmap.set(4 << 20, 1 << 20);
        assert_eq!(bitmap.ranges(0, u64::MAX), [(512, 1024), (4 << 20, 1 << 20)]);
        assert_eq!(bitmap.ranges(600, 100), [(600, 100)]);
        bitmap.resize((4 << 20) + 512);
        assert_eq!(bitmap.ranges(0, u64::MAX), [(512, 1024), (4 << 20, 512)]);
    }

    #[test]
    fn a_directory_reads_back() {
        let bitmap = Bitmap { table: (0x1000, 5), auto: false, ..Bitmap::new("noon", 16, 9, 20000 << 16).unwrap() };
        let mut bytes = Vec::new();
        bitmap.push_entry(&mut bytes, false);
        let read = parse_directory(&bytes, 1, &GEOMETRY, 20000 << 16).unwrap();
        assert_eq!((read[0].info(), read[0].table), (bitmap.info(), bitmap.table));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), count in 0u32..4) {
            let _ = parse_directory(&bytes, count, &GEOMETRY, 1 << 30);
        }
    }
}
