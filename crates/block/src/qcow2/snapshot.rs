//! The snapshot table: parsed and written. What snapshots do to clusters is in `snapshot_ops`.

use super::geometry::{Geometry, MAX_L1_ENTRIES, be16, be32, be64, corrupt};
use super::header::RawHeader;
use super::host::HostFile;
use super::report::SnapshotInfo;
use crate::Result;

/// The largest snapshot table that is accepted, in bytes (QEMU's limit).
const MAX_TABLE: u64 = 64 << 20;
/// The largest extra data of one entry, in bytes.
const MAX_EXTRA: usize = 1024;
const ENTRY_LEN: usize = 40;

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) date_sec: u32,
    pub(super) date_nsec: u32,
    pub(super) vm_clock_nsec: u64,
    pub(super) vm_state_size: u64,
    pub(super) disk_size: u64,
    pub(super) icount: Option<u64>,
    /// Extra data beyond those known here, kept.
    extra: Vec<u8>,
}

impl Snapshot {
    /// An entry for a snapshot that is being made.
    pub(super) fn new(id: String, new: &super::NewSnapshot, disk_size: u64, l1: (u64, u32)) -> Self {
        Self {
            l1_offset: l1.0,
            l1_entries: l1.1,
            id,
            name: new.name.clone(),
            date_sec: new.date_sec,
            date_nsec: new.date_nsec,
            vm_clock_nsec: new.vm_clock_nsec,
            vm_state_size: new.vm_state_size,
            disk_size,
            icount: new.icount,
            extra: Vec::new(),
        }
    }

    pub(super) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            vm_state_size: self.vm_state_size,
            date_sec: self.date_sec,
            date_nsec: self.date_nsec,
            vm_clock_sec: self.vm_clock_nsec / 1_000_000_000,
            vm_clock_nsec: (self.vm_clock_nsec % 1_000_000_000) as u32,
            icount: self.icount.filter(|&count| count != u64::MAX),
            disk_size: self.disk_size,
        }
    }

    /// Reads the entry at the beginning of `bytes`, and returns how long it is.
    fn parse(bytes: &[u8], geometry: &Geometry, default_size: u64) -> Result<(Self, usize)> {
        let short = || corrupt("snapshot table entry is cut off");
        if bytes.len() < ENTRY_LEN {
            return Err(short());
        }
        let (id_len, name_len) = (be16(bytes, 12) as usize, be16(bytes, 14) as usize);
        let extra_len = be32(bytes, 36) as usize;
        if extra_len > MAX_EXTRA {
            return Err(corrupt("snapshot table entry has too much extra data"));
        }
        let len = ENTRY_LEN + extra_len + id_len + name_len;
        if bytes.len() < len {
            return Err(short());
        }
        let extra = &bytes[ENTRY_LEN..ENTRY_LEN + extra_len];
        let text = |from: usize, len: usize| String::from_utf8_lossy(&bytes[from..from + len]).into_owned();
        let id_at = ENTRY_LEN + extra_len;
        let snapshot = Self {
            l1_offset: be64(bytes, 0),
            l1_entries: be32(bytes, 8),
            id: text(id_at, id_len),
            name: text(id_at + id_len, name_len),
            date_sec: be32(bytes, 16),
            date_nsec: be32(bytes, 20),
            vm_clock_nsec: be64(bytes, 24),
            vm_state_size: if extra_len >= 8 { be64(extra, 0) } else { u64::from(be32(bytes, 32)) },
            disk_size: if extra_len >= 16 { be64(extra, 8) } else { default_size },
            icount: (extra_len >= 24).then(|| be64(extra, 16)),
            extra: extra.get(24..).unwrap_or_default().to_vec(),
        };
        snapshot.check(geometry)?;
        Ok((snapshot, len.next_multiple_of(8)))
    }

    fn check(&self, geometry: &Geometry) -> Result<()> {
        let end = self.l1_offset.checked_add(u64::from(self.l1_entries) * 8);
        if geometry.in_cluster(self.l1_offset) != 0 || end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(corrupt("Snapshot L1 table offset invalid"));
        }
        let needed = geometry.l1_entries(self.disk_size);
        if u64::from(self.l1_entries) > MAX_L1_ENTRIES || needed > MAX_L1_ENTRIES || self.disk_size > i64::MAX as u64 {
            return Err(corrupt("Snapshot L1 table too large"));
        }
        Ok(())
    }

    fn push_to(&self, bytes: &mut Vec<u8>) {
        let small_size = u32::try_from(self.vm_state_size).unwrap_or(0);
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend((self.id.len() as u16).to_be_bytes());
        bytes.extend((self.name.len() as u16).to_be_bytes());
        bytes.extend(self.date_sec.to_be_bytes());
        bytes.extend(self.date_nsec.to_be_bytes());
        bytes.extend(self.vm_clock_nsec.to_be_bytes());
        bytes.extend(small_size.to_be_bytes());
        bytes.extend((24 + self.extra.len() as u32).to_be_bytes());
        bytes.extend(self.vm_state_size.to_be_bytes());
        bytes.extend(self.disk_size.to_be_bytes());
        bytes.extend(self.icount.unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend(&self.extra);
        bytes.extend(self.id.as_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
}

/// The bytes of a table.
pub(super) fn to_bytes(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for snapshot in snapshots {
        snapshot.push_to(&mut bytes);
    }
    bytes
}

/// Reads `count` entries from bytes.
///
/// # Errors
/// Entries that are cut off or impossible.
pub(super) fn parse(bytes: &[u8], count: u32, geometry: &Geometry, disk_size: u64) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (snapshot, len) = Snapshot::parse(bytes.get(at..).unwrap_or_default(), geometry, disk_size)?;
        snapshots.push(snapshot);
        at += len;
    }
    Ok(snapshots)
}

/// Bytes that a table of `snapshots` takes.
pub(super) fn table_len(snapshots: &[Snapshot]) -> u64 {
    to_bytes(snapshots).len() as u64
}

/// Reads the table that the header names.
///
/// # Errors
/// A damaged table, errors of the file.
pub(super) fn load(file: &HostFile, header: &RawHeader) -> Result<Vec<Snapshot>> {
    if header.snapshot_count == 0 {
        return Ok(Vec::new());
    }
    let most = (u64::from(header.snapshot_count) * (ENTRY_LEN + MAX_EXTRA + 2 * 65536) as u64).min(MAX_TABLE);
    let len = most.min(file.len().saturating_sub(header.snapshots_offset));
    if len < u64::from(header.snapshot_count) * ENTRY_LEN as u64 {
        return Err(corrupt("snapshot table lies beyond the end of the file"));
    }
    let mut bytes = vec![0; len as usize];
    file.read(&mut bytes, header.snapshots_offset)?;
    parse(&bytes, header.snapshot_count, &header.geometry(), header.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { cluster_bits: 16, extended_l2: false, version: 3, refcount_order: 4, data_file: false };

    #[test]
    fn what_is_written_reads_back() {
        let new =
            super::super::NewSnapshot { name: "before upgrade".into(), vm_state_size: 5 << 32, ..Default::default() };
        let snapshots =
            vec![Snapshot::new("1".into(), &new, 1 << 30, (0x50000, 2)), Snapshot::new("12".into(), &new, 7, (0, 1))];
        let bytes = to_bytes(&snapshots);
        let read = parse(&bytes, 2, &GEOMETRY, 0).unwrap();
        assert_eq!(read[0].info(), snapshots[0].info());
        assert_eq!(read[1].l1_entries, 1);
        assert!(parse(&bytes[..bytes.len() - 16], 2, &GEOMETRY, 0).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), count in 0u32..5) {
            let _ = parse(&bytes, count, &GEOMETRY, 1 << 30);
        }
    }
}
