//! The guest-physical memory map: which part of the VM's host memory appears at which guest address, and whether it may
//! be written there. Everything that isn't in the map is MMIO or nothing: this module doesn't know which.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use crate::{PAGE_SIZE, Ram, Word};

/// What a mapped range is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// Read and written.
    Ram,
    /// Read; writes go to the bus as if nothing were mapped.
    Rom,
}

/// One range of guest-physical addresses backed by host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First guest-physical address; a multiple of the page size.
    pub start: u64,
    /// Bytes; a multiple of the page size, not zero.
    pub len: u64,
    /// Where it begins in [`Ram`]; a multiple of the page size.
    pub offset: u64,
    /// What the guest may do with it.
    pub kind: RangeKind,
}

/// A guest address found in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The offset in [`Ram`] of that address.
    pub offset: usize,
    /// Bytes from there to the end of the range.
    pub len: u64,
    /// What the guest may do with it.
    pub kind: RangeKind,
}

/// Why a memory map was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A start, length or offset isn't in whole pages, or the length is zero.
    #[error("memory range {0:x?} is not in whole pages")]
    Alignment(Range),
    /// It runs past the end of the address space or of the host memory.
    #[error("memory range {0:x?} runs past the end of memory")]
    Bounds(Range),
    /// Two ranges claim one guest address.
    #[error("memory ranges {0:x?} and {1:x?} overlap")]
    Overlap(Range, Range),
}

/// A VM's memory as its devices and CPUs see it. Cheap to share by `Arc`; the map may be replaced while they run (BARs
/// move, shadow RAM is switched).
#[derive(Debug)]
pub struct GuestMemory {
    ram: Ram,
    ranges: RwLock<Arc<[Range]>>,
    generation: AtomicU32,
}

impl GuestMemory {
    /// Memory with the given ranges mapped; their order doesn't matter.
    ///
    /// # Errors
    /// A map that contradicts itself or the memory.
    pub fn new(ram: Ram, ranges: &[Range]) -> Result<Self, MapError> {
        let checked = check(&ram, ranges)?;
        Ok(Self { ram, ranges: RwLock::new(checked), generation: AtomicU32::new(0) })
    }

    /// The host memory behind the map.
    #[inline(always)]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Replaces the whole map at once. CPUs notice by [`GuestMemory::generation`].
    ///
    /// # Errors
    /// As for [`GuestMemory::new`]; the old map then stays.
    pub fn remap(&self, ranges: &[Range]) -> Result<(), MapError> {
        let checked = check(&self.ram, ranges)?;
        let mut current = self.ranges.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *current = checked;
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// A number that changes whenever the map does.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The ranges as they are now, ordered by guest address.
    pub fn ranges(&self) -> Arc<[Range]> {
        self.ranges.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Looks a guest address up; `None` where no memory is mapped.
    pub fn find(&self, address: u64) -> Option<Mapping> {
        find(&self.ranges(), address)
    }

    /// Copies guest memory out. Returns how many bytes could be read before the first that isn't mapped.
    pub fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let ranges = self.ranges();
        let mut done = 0;
        while done < into.len() {
            let Some(found) = address.checked_add(done as u64).and_then(|at| find(&ranges, at)) else { break };
            let part = (into.len() - done).min(usize::try_from(found.len).unwrap_or(usize::MAX));
            self.ram.read(found.offset, &mut into[done..done + part]);
            done += part;
        }
        done
    }

    /// Copies into guest memory, as a device's DMA would. Returns how many bytes could be written before the first that
    /// isn't mapped as RAM.
    pub fn write(&self, address: u64, from: &[u8]) -> usize {
        let ranges = self.ranges();
        let mut done = 0;
        while done < from.len() {
            let Some(found) = address.checked_add(done as u64).and_then(|at| find(&ranges, at)) else { break };
            if found.kind != RangeKind::Ram {
                break;
            }
            let part = (from.len() - done).min(usize::try_from(found.len).unwrap_or(usize::MAX));
            self.ram.write(found.offset, &from[done..done + part]);
            done += part;
        }
        done
    }

    /// Reads one little-endian word; `None` unless all of it is mapped.
    pub fn load<T: Word>(&self, address: u64) -> Option<T> {
        let found = self.find(address)?;
        if found.len >= T::SIZE as u64 {
            return Some(self.ram.load(found.offset));
        }
        let mut bytes = [0; 8];
        (self.read(address, &mut bytes[..T::SIZE]) == T::SIZE).then(|| T::truncate(u64::from_le_bytes(bytes)))
    }

    /// Writes one little-endian word; `None`, and nothing or a part written, unless all of it is RAM.
    pub fn store<T: Word>(&self, address: u64, value: T) -> Option<()> {
        let found = self.find(address)?;
        if found.len >= T::SIZE as u64 {
            return (found.kind == RangeKind::Ram).then(|| self.ram.store(found.offset, value));
        }
        let bytes = value.widen().to_le_bytes();
        (self.write(address, &bytes[..T::SIZE]) == T::SIZE).then_some(())
    }
}

fn find(ranges: &[Range], address: u64) -> Option<Mapping> {
    let index = ranges.partition_point(|range| range.start <= address).checked_sub(1)?;
    let range = ranges[index];
    let into = address - range.start;
    (into < range.len).then(|| Mapping {
        offset: (range.offset + into) as usize,
        len: range.len - into,
        kind: range.kind,
    })
}

fn check(ram: &Ram, ranges: &[Range]) -> Result<Arc<[Range]>, MapError> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    let page = PAGE_SIZE as u64;
    for range in &sorted {
        if [range.start, range.len, range.offset].iter().any(|value| !value.is_multiple_of(page)) || range.len == 0 {
            return Err(MapError::Alignment(*range));
        }
        let in_ram = range.offset.checked_add(range.len).is_some_and(|end| end <= ram.len() as u64);
        if !in_ram || range.start.checked_add(range.len).is_none() {
            return Err(MapError::Bounds(*range));
        }
    }
    for pair in sorted.windows(2) {
        if pair[0].start + pair[0].len > pair[1].start {
            return Err(MapError::Overlap(pair[0], pair[1]));
        }
    }
    Ok(sorted.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let ranges = [
            Range { start: 0x10_0000, len: 0x2000, offset: 0x1000, kind: RangeKind::Ram },
            Range { start: 0, len: 0x1000, offset: 0, kind: RangeKind::Ram },
            Range { start: 0x10_2000, len: 0x1000, offset: 0x3000, kind: RangeKind::Rom },
        ];
        GuestMemory::new(Ram::new(0x4000).unwrap(), &ranges).unwrap()
    }

    #[test]
    fn addresses_find_their_range_or_nothing() {
        let memory = memory();
        assert_eq!(memory.find(0x10_1004), Some(Mapping { offset: 0x2004, len: 0xffc, kind: RangeKind::Ram }));
        assert_eq!(memory.find(0x1000), None);
        assert_eq!(memory.find(0xf_ffff), None);
        assert_eq!(memory.find(0x10_3000), None);
        assert_eq!(memory.find(u64::MAX), None);
    }

    #[test]
    fn copies_stop_at_the_first_hole_and_at_rom() {
        let memory = memory();
        assert_eq!(memory.write(0xffe, &[1; 4]), 2);
        assert_eq!(memory.write(0x10_1ffe, &[2; 4]), 2);
        let mut bytes = [9; 4];
        assert_eq!(memory.read(0x10_1ffe, &mut bytes), 4);
        assert_eq!(bytes, [2, 2, 0, 0]);
        assert_eq!(memory.read(u64::MAX, &mut bytes), 0);
        assert_eq!(memory.load::<u32>(0x10_1ffe), Some(0x0202));
        assert_eq!(memory.store::<u32>(0x10_2000, 1), None);
        assert_eq!(memory.store::<u64>(0xffc, 1), None);
    }

    #[test]
    fn contradictory_maps_are_refused_and_the_old_one_stays() {
        let memory = memory();
        let range = Range { start: 0, len: 0x2000, offset: 0, kind: RangeKind::Ram };
        let generation = memory.generation();
        assert!(matches!(memory.remap(&[range, Range { start: 0x1000, ..range }]), Err(MapError::Overlap(..))));
        assert!(matches!(memory.remap(&[Range { offset: 0x3000, ..range }]), Err(MapError::Bounds(_))));
        assert!(matches!(memory.remap(&[Range { len: 12, ..range }]), Err(MapError::Alignment(_))));
        assert_eq!((memory.generation(), memory.ranges().len()), (generation, 3));
        memory.remap(&[range]).unwrap();
        assert_ne!(memory.generation(), generation);
    }
}
