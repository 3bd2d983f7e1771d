//! What a vCPU's page tables map (Intel SDM volume 3, chapter 4), found by walking them as they lie in memory.

use ferro_console::monitor::MappedPage;
use ferro_guest::GuestMemory;
use ferro_hypervisor::Registers;

/// The registers that say where the tables are and of which kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Control {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl From<&Registers> for Control {
    fn from(registers: &Registers) -> Self {
        let Registers { cr0, cr3, cr4, ref msr, .. } = *registers;
        Self { cr0, cr3, cr4, efer: msr.efer }
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Tables that refer to each other in circles end here.
const MAX_PAGES: usize = 1 << 16;

/// A kind of page tables.
struct Paging {
    /// Bytes of an entry.
    entry: u64,
    /// Bits of the linear address that each level takes, from the top.
    levels: &'static [u32],
    /// Bits of the linear address that the tables don't see.
    offset: u32,
    /// Addresses are sign-extended from 48 bits.
    canonical: bool,
}

fn paging(registers: Control) -> Option<Paging> {
    const PG: u64 = 1 << 31;
    const PAE: u64 = 1 << 5;
    const LONG: u64 = 1 << 10;
    if registers.cr0 & PG == 0 {
        return None;
    }
    Some(if registers.cr4 & PAE == 0 {
        Paging { entry: 4, levels: &[10, 10], offset: 12, canonical: false }
    } else if registers.efer & LONG == 0 {
        Paging { entry: 8, levels: &[2, 9, 9], offset: 12, canonical: false }
    } else {
        Paging { entry: 8, levels: &[9, 9, 9, 9], offset: 12, canonical: true }
    })
}

struct Walk<'a> {
    memory: &'a GuestMemory,
    paging: Paging,
    found: Vec<MappedPage>,
}

/// The mapped stretches in order: pages that follow each other in both address spaces with the same rights are one.
pub(super) fn mapped(memory: &GuestMemory, registers: Control) -> Vec<MappedPage> {
    let Some(paging) = paging(registers) else { return vec![] };
    let mask = if paging.levels.len() == 3 { 0xffff_ffe0 } else { ADDRESS };
    let mut walk = Walk { memory, paging, found: vec![] };
    walk.table(registers.cr3 & mask, 0, 0, USER | WRITABLE);
    walk.found
}

impl Walk<'_> {
    fn table(&mut self, table: u64, level: usize, linear: u64, rights: u64) {
        let Paging { entry: size, levels, offset, canonical } = self.paging;
        let below: u32 = levels[level + 1..].iter().sum::<u32>() + offset;
        for index in 0..1_u64 << levels[level] {
            if self.found.len() >= MAX_PAGES {
                return;
            }
            let at = table + index * size;
            let entry =
                if size == 4 { self.memory.load::<u32>(at).map(u64::from) } else { self.memory.load::<u64>(at) };
            let Some(entry) = entry.filter(|entry| entry & PRESENT != 0) else { continue };
            let mut linear = linear | index << below;
            if canonical && linear & 1 << 47 != 0 {
                linear |= 0xffff << 48;
            }
            // The entries of PAE's uppermost table have no rights of their own.
            let own = if levels.len() == 3 && level == 0 { USER | WRITABLE } else { entry };
            let rights = (rights & own & (USER | WRITABLE)) | ((rights | entry) & NO_EXECUTE);
            if level + 1 == levels.len() || entry & LARGE != 0 && level > 0 {
                self.page(linear, entry & ADDRESS & !((1 << below) - 1), 1 << below, rights);
            } else {
                self.table(entry & ADDRESS, level + 1, linear, rights);
            }
        }
    }

    fn page(&mut self, start: u64, physical: u64, size: u64, rights: u64) {
        let page = MappedPage {
            start,
            physical,
            size,
            user: rights & USER != 0,
            writable: rights & WRITABLE != 0,
            no_execute: rights & NO_EXECUTE != 0,
        };
        let follows = |last: &&mut MappedPage| {
            last.start.wrapping_add(last.size) == page.start
                && last.physical.wrapping_add(last.size) == page.physical
                && (last.user, last.writable, last.no_execute) == (page.user, page.writable, page.no_execute)
        };
        match self.found.last_mut().filter(follows) {
            Some(last) => last.size += page.size,
            None => self.found.push(page),
        }
    }
}

#[cfg(test)]
mod tests {
    use ferro_guest::{Ram, Range, RangeKind};

    use super::*;

    fn memory() -> GuestMemory {
        let range = Range { start: 0, len: 0x1_0000, offset: 0, kind: RangeKind::Ram };
        GuestMemory::new(Ram::new(0x1_0000).unwrap(), &[range]).unwrap()
    }

    #[test]
    fn neighbours_are_one_stretch_and_circles_end() {
        let memory = memory();
        let registers = Control { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 5, efer: 1 << 10 };
        memory.store(0x1ff8, 0x2003_u64).unwrap();
        memory.store(0x2000, 0x3003_u64).unwrap();
        memory.store(0x3000, 0x83_u64).unwrap();
        memory.store(0x3008, 0x20_0083_u64).unwrap();
        memory.store(0x3010, 0x8000_0000_0040_0081_u64).unwrap();
        let found = mapped(&memory, registers);
        let shown: Vec<_> =
            found.iter().map(|page| (page.start, page.physical, page.size, page.writable, page.no_execute)).collect();
        let start = 0xffff_ff80_0000_0000;
        assert_eq!(shown, [(start, 0, 0x40_0000, true, false), (start + 0x40_0000, 0x40_0000, 0x20_0000, false, true)]);

        for index in 0..512 {
            memory.store(0x1000 + 8 * index, 0x1003_u64).unwrap();
        }
        assert!(mapped(&memory, registers).len() <= MAX_PAGES);
        assert_eq!(mapped(&memory, Control::default()), []);
    }
}
