//! From linear to physical addresses: page walks in all formats (none, 32-bit, PAE, 4-level), rights, accessed and dirty
//! bits, and filling the TLB. Segmentation is not here, nor are the accesses themselves.

use ferro_guest::{Mapping, RangeKind};

use crate::core::{Core, Fault, Flow, Stop, bit, vector};
use crate::tlb::{Access, Set};

/// Bits of a physical address, as CPUID tells.
pub(crate) const PHYSICAL_BITS: u32 = 40;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const BIG: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const RESERVED: u64 = ADDRESS & !((1 << PHYSICAL_BITS) - 1);

/// Bits of a page fault's error code.
pub(crate) mod error {
    pub(crate) const PROTECTION: u32 = 1;
    pub(crate) const WRITE: u32 = 1 << 1;
    pub(crate) const USER: u32 = 1 << 2;
    pub(crate) const RESERVED: u32 = 1 << 3;
    pub(crate) const FETCH: u32 = 1 << 4;
}

/// Bits in [`Core::fetched`].
pub(crate) const FETCHED: usize = 4096;

fn fetched_bit(address: u64) -> usize {
    (address >> 12 ^ address >> 24) as usize % FETCHED
}

/// Where a linear address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// This offset of host memory.
    Ram(usize),
    /// This offset of host memory for reads, the bus for writes.
    Rom(usize, u64),
    /// The bus.
    Bus(u64),
}

/// A page found by a walk.
#[derive(Clone, Copy)]
struct Page {
    physical: u64,
    /// Size of the page.
    size: u64,
    global: bool,
    dirty: bool,
    user: bool,
    writable: bool,
    executable: bool,
}

/// What a walk does to the tables.
enum Failure {
    /// A page fault with this error code.
    Fault(u32),
    /// Another CPU changed an entry meanwhile: walk again.
    Changed,
}

impl Core {
    /// Looks up a physical address in the memory map.
    #[inline]
    pub(crate) fn find_physical(&self, address: u64) -> Option<Mapping> {
        let index = self.ranges.partition_point(|range| range.start <= address).checked_sub(1)?;
        let range = &self.ranges[index];
        let into = address - range.start;
        (into < range.len).then(|| Mapping {
            offset: (range.offset + into) as usize,
            len: range.len - into,
            kind: range.kind,
        })
    }

    fn place(&self, physical: u64) -> Place {
        match self.find_physical(physical) {
            None => Place::Bus(physical),
            Some(found) if found.kind == RangeKind::Rom => Place::Rom(found.offset, physical),
            Some(found) => Place::Ram(found.offset),
        }
    }

    /// Takes over a changed memory map.
    pub(crate) fn refresh_memory_map(&mut self) {
        let generation = self.memory.generation();
        if generation != self.memory_generation {
            self.memory_generation = generation;
            self.ranges = self.memory.ranges();
            self.flush_translations();
        }
    }

    /// Forgets every cached translation.
    pub(crate) fn flush_translations(&mut self) {
        self.tlb.flush();
        self.forget_blocks();
    }

    /// Makes every block be looked for anew: where its code is may have changed.
    pub(crate) fn forget_blocks(&mut self) {
        self.stamp = self.stamp.wrapping_add(1);
        self.fetched = [0; FETCHED / 64];
    }

    /// Notes that a block was found by the translation of this address.
    pub(crate) fn note_fetched(&mut self, address: u64) {
        let bit = fetched_bit(address);
        self.fetched[bit / 64] |= 1 << (bit % 64);
    }

    /// Forgets translations but those of global pages.
    pub(crate) fn flush_local_translations(&mut self) {
        if self.cr4 & bit::CR4_PGE != 0 {
            self.tlb.flush_local();
        } else {
            self.tlb.flush();
        }
        self.forget_blocks();
    }

    /// Forgets the translation of one page.
    pub(crate) fn invalidate_page(&mut self, address: u64) {
        let bit = fetched_bit(address);
        let everything = self.tlb.invalidate(address);
        if everything || self.fetched[bit / 64] >> (bit % 64) & 1 != 0 {
            self.forget_blocks();
        }
    }

    /// The place of a linear address, with the rights of `user` checked; fills the TLB.
    pub(crate) fn locate(&mut self, linear: u64, access: Access, user: bool) -> Flow<Place> {
        if self.cr0 & bit::CR0_PG == 0 {
            let place = self.place(linear);
            self.remember(linear, access, user, place, true, false);
            return Ok(place);
        }
        let page = loop {
            match self.walk(linear, access, user, true) {
                Ok(page) => break page,
                Err(Failure::Changed) => {}
                Err(Failure::Fault(code)) => return self.page_fault(linear, code),
            }
        };
        if page.size > 0x1000 {
            self.tlb.note_big_page(linear, page.size);
        }
        let place = self.place(page.physical);
        self.remember(linear, access, user, place, page.dirty, page.global);
        Ok(place)
    }

    fn remember(&mut self, linear: u64, access: Access, user: bool, place: Place, dirty: bool, global: bool) {
        let set = if user { Set::User } else { Set::Supervisor };
        match place {
            Place::Ram(offset) => {
                if access == Access::Write {
                    if dirty {
                        self.tlb.insert(set, Access::Write, linear, offset, global);
                    }
                } else {
                    self.tlb.insert(set, access, linear, offset, global);
                }
            }
            Place::Rom(offset, _) if access != Access::Write => self.tlb.insert(set, access, linear, offset, global),
            Place::Rom(..) | Place::Bus(_) => {}
        }
    }

    #[cold]
    fn page_fault<T>(&mut self, linear: u64, code: u32) -> Flow<T> {
        self.fault = Fault { vector: vector::PF, error: Some(code), address: linear };
        Err(Stop::Fault)
    }

    /// The physical address of a linear one, whatever the rights, without a trace.
    pub(crate) fn probe(&self, linear: u64) -> Option<u64> {
        if self.cr0 & bit::CR0_PG == 0 {
            return Some(linear);
        }
        let mut entries = Vec::with_capacity(4);
        self.collect(linear, &mut |entry| entries.push(entry)).map(|page| page.physical).ok()
    }

    fn walk(&mut self, linear: u64, access: Access, user: bool, mark: bool) -> Result<Page, Failure> {
        let mut entries = [None; 4];
        let mut depth = 0;
        let found = self.collect(linear, &mut |entry| {
            entries[depth & 3] = Some(entry);
            depth += 1;
        });
        let code = self.error_code(access, user);
        let mut page = found.map_err(|bits| Failure::Fault(code | bits))?;
        let write = access == Access::Write;
        let allowed = if user { page.user } else { true }
            && (!write || page.writable || !user && self.cr0 & bit::CR0_WP == 0)
            && (access != Access::Fetch || page.executable && (user || !page.user || self.cr4 & bit::CR4_SMEP == 0));
        if !allowed {
            return Err(Failure::Fault(code | error::PROTECTION));
        }
        if mark {
            for (index, entry) in entries.iter().take(depth).enumerate() {
                let Some((address, value, size)) = *entry else { continue };
                let leaf = index + 1 == depth;
                let wanted = ACCESSED | if leaf && write { DIRTY } else { 0 };
                if value & wanted != wanted {
                    self.mark(address, value, value | wanted, size)?;
                }
                if leaf {
                    page.dirty = (value | wanted) & DIRTY != 0;
                }
            }
        }
        Ok(page)
    }

    fn error_code(&self, access: Access, user: bool) -> u32 {
        let nx = self.cr4 & bit::CR4_PAE != 0 && self.msr.efer & bit::EFER_NXE != 0;
        let mut code = if user { error::USER } else { 0 };
        match access {
            Access::Write => code |= error::WRITE,
            Access::Fetch if nx || self.cr4 & bit::CR4_SMEP != 0 => code |= error::FETCH,
            Access::Fetch | Access::Read => {}
        }
        code
    }

    /// Sets accessed and dirty bits, unless the entry changed meanwhile.
    fn mark(&self, address: u64, old: u64, new: u64, size: u64) -> Result<(), Failure> {
        let Some(found) = self.find_physical(address) else { return Ok(()) };
        if found.kind == RangeKind::Rom {
            return Ok(());
        }
        let ram = self.memory.ram();
        let done = if size == 8 {
            ram.compare_exchange(found.offset, old, new).is_ok()
        } else {
            ram.compare_exchange(found.offset, old as u32, new as u32).is_ok()
        };
        if done { Ok(()) } else { Err(Failure::Changed) }
    }

    fn entry(&self, address: u64, size: u64) -> u64 {
        let Some(found) = self.find_physical(address) else { return 0 };
        let ram = self.memory.ram();
        if size == 8 { ram.load::<u64>(found.offset) } else { u64::from(ram.load::<u32>(found.offset)) }
    }

    /// Walks the tables; gives each entry (address, value, size) that carries accessed bits to `each`. Fails with the
    /// error-code bits P and RSVD.
    fn collect(&self, linear: u64, each: &mut impl FnMut((u64, u64, u64))) -> Result<Page, u32> {
        if self.cr4 & bit::CR4_PAE == 0 {
            return self.collect_32(linear, each);
        }
        let nx = self.msr.efer & bit::EFER_NXE != 0;
        let reserved = RESERVED | if nx { 0 } else { NO_EXECUTE };
        let mut rights = USER | WRITABLE;
        let mut no_execute = 0;
        let (mut table, levels) = if self.is_long() {
            (self.cr3 & ADDRESS, 4)
        } else {
            let pdpte = self.pdpte[(linear >> 30 & 3) as usize];
            if pdpte & PRESENT == 0 {
                return Err(0);
            }
            (pdpte & ADDRESS, 2)
        };
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let address = table + (linear >> shift & 0x1ff) * 8;
            let value = self.entry(address, 8);
            if value & PRESENT == 0 {
                return Err(0);
            }
            let leaf = level == 1 || value & BIG != 0 && level <= 3;
            let low = if leaf && level > 1 { (1 << shift) - 0x2000 } else { 0 };
            let long_high = if self.is_long() { 0 } else { 0x7ff0_0000_0000_0000 };
            let big_reserved = if level == 4 { BIG } else { 0 };
            if value & (reserved | low | long_high | big_reserved) != 0 {
                return Err(error::PROTECTION | error::RESERVED);
            }
            rights &= value;
            no_execute |= value & NO_EXECUTE;
            each((address, value, 8));
            if leaf {
                let offset = linear & ((1 << shift) - 1);
                return Ok(Page {
                    physical: (value & ADDRESS & !((1 << shift) - 1)) | offset,
                    size: 1 << shift,
                    global: value & GLOBAL != 0 && self.cr4 & bit::CR4_PGE != 0,
                    dirty: value & DIRTY != 0,
                    user: rights & USER != 0,
                    writable: rights & WRITABLE != 0,
                    executable: no_execute == 0,
                });
            }
            table = value & ADDRESS;
        }
        Err(0)
    }

    /// The two-level format, with 4 MiB pages where CR4.PSE allows (and PSE-36's address bits).
    fn collect_32(&self, linear: u64, each: &mut impl FnMut((u64, u64, u64))) -> Result<Page, u32> {
        let address = (self.cr3 & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4;
        let directory = self.entry(address, 4);
        if directory & PRESENT == 0 {
            return Err(0);
        }
        let big = directory & BIG != 0 && self.cr4 & bit::CR4_PSE != 0;
        if big && directory & (1 << 21) != 0 {
            return Err(error::PROTECTION | error::RESERVED);
        }
        each((address, directory, 4));
        let page = |value: u64, rights: u64, physical: u64, size: u64| Page {
            physical,
            size,
            global: value & GLOBAL != 0 && self.cr4 & bit::CR4_PGE != 0,
            dirty: value & DIRTY != 0,
            user: rights & USER != 0,
            writable: rights & WRITABLE != 0,
            executable: true,
        };
        if big {
            let high = (directory >> 13 & 0xff) << 32;
            let physical = high | (directory & 0xffc0_0000) | (linear & 0x3f_ffff);
            return Ok(page(directory, directory, physical, 0x40_0000));
        }
        let address = (directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
        let value = self.entry(address, 4);
        if value & PRESENT == 0 {
            return Err(0);
        }
        each((address, value, 4));
        Ok(page(value, value & directory, (value & 0xffff_f000) | (linear & 0xfff), 0x1000))
    }

    /// Reads PAE's four pointers, as loading CR3 does. `false`: a reserved bit is set.
    pub(crate) fn load_pdptes(&mut self) -> bool {
        const RESERVED_LOW: u64 = 0x1e6;
        let paged = self.cr0 & bit::CR0_PG != 0 && self.cr4 & bit::CR4_PAE != 0;
        if !paged || self.is_long() {
            return true;
        }
        let base = self.cr3 & 0xffff_ffe0;
        let entries = [0, 1, 2, 3].map(|index| self.entry(base + index * 8, 8));
        let reserved = RESERVED_LOW | !((1 << PHYSICAL_BITS) - 1);
        if entries.iter().any(|entry| entry & PRESENT != 0 && entry & reserved != 0) {
            return false;
        }
        self.pdpte = entries;
        true
    }

    /// As [`Core::load_pdptes`] for state that comes from outside.
    pub(crate) fn load_pdptes_quietly(&mut self) {
        if !self.load_pdptes() {
            self.pdpte = [0; 4];
        }
    }
}
