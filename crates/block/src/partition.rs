//! Partition tables: MBR with logical partitions, and GPT (UEFI specification 2.10, chapter 5), read only. Knows nothing of
//! what is in a partition.

use crate::{Result, Storage};

/// Bytes of a sector, in which both tables count.
const SECTOR: u64 = 512;
/// The most entries of a GPT looked at.
const MAX_GPT: u32 = 256;
/// The most logical partitions of an MBR.
const MAX_LOGICAL: usize = 64;

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts: from 1, logical ones from 5.
    pub number: u32,
    /// Where it begins in the disk, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// The disk's partitions; none if it has no table. What reaches beyond the end of the disk is left out.
///
/// # Errors
/// Read errors.
pub fn partitions(disk: &dyn Storage) -> Result<Vec<Partition>> {
    let Some(first) = sector(disk, 0)? else { return Ok(Vec::new()) };
    if first[510..] != [0x55, 0xaa] {
        return Ok(Vec::new());
    }
    let found = if first[446..510].chunks(16).any(|entry| entry[4] == 0xee) { gpt(disk)? } else { mbr(disk, &first)? };
    let fits = |partition: &Partition| {
        partition.len > 0 && partition.start.checked_add(partition.len).is_some_and(|end| end <= disk.size())
    };
    Ok(found.into_iter().filter(fits).collect())
}

fn sector(disk: &dyn Storage, index: u64) -> Result<Option<[u8; 512]>> {
    let Some(offset) = index.checked_mul(SECTOR).filter(|offset| offset.saturating_add(SECTOR) <= disk.size()) else {
        return Ok(None);
    };
    let mut bytes = [0; 512];
    disk.read_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// An entry of an MBR: type, first sector, number of sectors.
fn entry(sector: &[u8], index: usize) -> (u8, u64, u64) {
    let at = 446 + 16 * index;
    (sector[at + 4], u64::from(u32_at(sector, at + 8)), u64::from(u32_at(sector, at + 12)))
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn mbr(disk: &dyn Storage, first: &[u8; 512]) -> Result<Vec<Partition>> {
    let mut found = Vec::new();
    for index in 0..4 {
        let (kind, start, len) = entry(first, index);
        if is_extended(kind) {
            logical(disk, start, &mut found)?;
        } else if kind != 0 {
            found.push(Partition { number: index as u32 + 1, start: start * SECTOR, len: len * SECTOR });
        }
    }
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

/// Follows the chain of tables within an extended partition.
fn logical(disk: &dyn Storage, base: u64, found: &mut Vec<Partition>) -> Result<()> {
    let mut at = base;
    for number in (5..).take(MAX_LOGICAL) {
        let Some(table) = sector(disk, at)?.filter(|table| table[510..] == [0x55, 0xaa]) else { return Ok(()) };
        let (kind, start, len) = entry(&table, 0);
        if kind != 0 {
            found.push(Partition { number, start: (at + start) * SECTOR, len: len * SECTOR });
        }
        let (kind, next, _) = entry(&table, 1);
        if !is_extended(kind) || next == 0 {
            return Ok(());
        }
        at = base + next;
    }
    Ok(())
}

fn gpt(disk: &dyn Storage) -> Result<Vec<Partition>> {
    let last = (disk.size() / SECTOR).saturating_sub(1);
    let mut header = None;
    // The second copy is at the end, for when the first is damaged.
    for place in [1, last] {
        header = sector(disk, place)?.filter(|sector| sector.starts_with(b"EFI PART"));
        if header.is_some() {
            break;
        }
    }
    let Some(header) = header else { return Ok(Vec::new()) };
    let (table, count, size) = (u64_at(&header, 72), u32_at(&header, 80).min(MAX_GPT), u32_at(&header, 84));
    if !(128..=4096).contains(&size) || !size.is_power_of_two() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for index in 0..count {
        let offset = table.checked_mul(SECTOR).and_then(|at| at.checked_add(u64::from(index) * u64::from(size)));
        let Some(offset) = offset.filter(|offset| offset.saturating_add(128) <= disk.size()) else { break };
        let mut entry = [0; 128];
        disk.read_at(&mut entry, offset)?;
        if entry[..16].iter().all(|&byte| byte == 0) {
            continue;
        }
        let (first, last) = (u64_at(&entry, 32), u64_at(&entry, 40));
        let start = first.checked_mul(SECTOR);
        let len = last.checked_sub(first).and_then(|more| more.checked_add(1)?.checked_mul(SECTOR));
        if let (Some(start), Some(len)) = (start, len) {
            found.push(Partition { number: index + 1, start, len });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    fn put(disk: &mut [u8], sector: usize, index: usize, kind: u8, start: u32, len: u32) {
        let at = sector * 512 + 446 + 16 * index;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn primary_and_logical_partitions_are_found() {
        let mut disk = vec![0; 1 << 20];
        put(&mut disk, 0, 0, 0x83, 8, 100);
        put(&mut disk, 0, 1, 0x05, 200, 1000);
        put(&mut disk, 200, 0, 0x83, 8, 50);
        put(&mut disk, 200, 1, 0x05, 100, 50);
        put(&mut disk, 300, 0, 0x83, 8, 20);
        let found = partitions(&MemoryStorage::from_bytes(disk)).expect("read");
        let numbers: Vec<_> = found.iter().map(|found| (found.number, found.start / 512, found.len / 512)).collect();
        assert_eq!(numbers, [(1, 8, 100), (5, 208, 50), (6, 308, 20)]);
    }

    #[test]
    fn a_chain_that_bites_its_tail_ends() {
        let mut disk = vec![0; 1 << 20];
        put(&mut disk, 0, 0, 0x05, 10, 1000);
        put(&mut disk, 10, 0, 0x83, 1, 1);
        put(&mut disk, 10, 1, 0x05, 0, 1);
        assert_eq!(partitions(&MemoryStorage::from_bytes(disk.clone())).expect("read").len(), 1);
        put(&mut disk, 10, 1, 0x05, 20, 1);
        put(&mut disk, 30, 0, 0x83, 1, 1);
        put(&mut disk, 30, 1, 0x05, 20, 1);
        assert!(partitions(&MemoryStorage::from_bytes(disk)).expect("read").len() <= MAX_LOGICAL);
    }

    #[test]
    fn gpt_entries_are_found_and_wild_ones_left_out() {
        let mut disk = vec![0; 1 << 20];
        put(&mut disk, 0, 0, 0xee, 1, u32::MAX);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..512 + 80].copy_from_slice(&2u64.to_le_bytes());
        disk[512 + 80..512 + 84].copy_from_slice(&u32::MAX.to_le_bytes());
        disk[512 + 84..512 + 88].copy_from_slice(&128u32.to_le_bytes());
        for (index, (first, last)) in [(64u64, 127u64), (u64::MAX, 0), (128, 1 << 60)].into_iter().enumerate() {
            let at = 1024 + 128 * index;
            disk[at] = 1;
            disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
        let found = partitions(&MemoryStorage::from_bytes(disk)).expect("read");
        assert_eq!(found, [Partition { number: 1, start: 64 * 512, len: 64 * 512 }]);
    }

    #[test]
    fn no_table_is_no_partition() {
        for size in [0, 100, 512, 4096] {
            assert!(partitions(&MemoryStorage::new(size)).expect("read").is_empty());
        }
    }
}
