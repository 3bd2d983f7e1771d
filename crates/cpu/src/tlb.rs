//! The translation lookaside buffer: linear pages to offsets in the host memory behind the guest, direct-mapped, apart
//! for reads, writes and fetches and for each privilege. How entries come about is in `paging`.

/// Kinds of access; each has entries of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read = 0,
    Write = 1,
    Fetch = 2,
}

/// Whose rights an access has; [`Set::Checked`] never has entries, so that every access is looked at closely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    Supervisor = 0,
    User = 1,
    Checked = 2,
}

const ENTRIES: usize = 512;
const KINDS: usize = 3;
const SETS: usize = 3;

#[derive(Clone, Copy)]
struct Entry {
    /// Address of the page, or something that isn't one.
    tag: u64,
    /// Added to an address gives its offset in host memory.
    addend: u64,
}

const EMPTY: Entry = Entry { tag: 1, addend: 0 };

/// The entries of one privilege, by kind of access.
struct Table {
    set: Set,
    entries: Box<[[Entry; ENTRIES]; KINDS]>,
    global: [[u64; ENTRIES / 64]; KINDS],
}

impl Table {
    fn new(set: Set) -> Self {
        let entries = vec![[EMPTY; ENTRIES]; KINDS].into_boxed_slice().try_into();
        let Ok(entries) = entries else { unreachable!("the length is KINDS") };
        Self { set, entries, global: [[0; ENTRIES / 64]; KINDS] }
    }
}

/// All entries of one CPU.
pub(crate) struct Tlb {
    /// The first is the one looked at.
    tables: [Table; SETS],
    /// Addresses that entries of big pages may cover.
    big: (u64, u64),
}

#[inline(always)]
fn index(address: u64) -> usize {
    (address >> 12) as usize % ENTRIES
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self { tables: [Set::Supervisor, Set::User, Set::Checked].map(Table::new), big: (u64::MAX, 0) }
    }

    /// Chooses whose entries are looked at.
    pub(crate) fn select(&mut self, set: Set) {
        let at = self.position(set);
        self.tables.swap(0, at);
    }

    fn position(&self, set: Set) -> usize {
        self.tables.iter().position(|table| table.set == set).unwrap_or_default()
    }

    /// Where `size` bytes at `address` are in host memory, if that is known and they don't cross a page.
    #[inline(always)]
    pub(crate) fn find(&self, access: Access, address: u64, size: u64) -> Option<usize> {
        let entry = &self.tables[0].entries[access as usize][index(address)];
        let last_page = address.wrapping_add(size - 1) & !0xfff;
        (entry.tag == last_page).then(|| address.wrapping_add(entry.addend) as usize)
    }

    /// As [`Tlb::find`], with the rights of `set`.
    pub(crate) fn find_in(&self, set: Set, access: Access, address: u64) -> Option<usize> {
        let entry = &self.tables[self.position(set)].entries[access as usize][index(address)];
        (entry.tag == address & !0xfff).then(|| address.wrapping_add(entry.addend) as usize)
    }

    /// Remembers that the page of `address` begins at `offset` of host memory.
    pub(crate) fn insert(&mut self, set: Set, access: Access, address: u64, offset: usize, global: bool) {
        let page = address & !0xfff;
        let at = self.position(set);
        let table = &mut self.tables[at];
        let at = index(address);
        table.entries[access as usize][at] = Entry { tag: page, addend: (offset as u64 & !0xfff).wrapping_sub(page) };
        let (word, bit) = (&mut table.global[access as usize][at / 64], 1 << (at % 64));
        if global {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// Remembers that entries around `address` may come from a big page of `size` bytes.
    pub(crate) fn note_big_page(&mut self, address: u64, size: u64) {
        let start = address & !(size - 1);
        self.big = (self.big.0.min(start), self.big.1.max(start + (size - 1)));
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        for table in self.tables.iter_mut().filter(|table| table.set != Set::Checked) {
            table.entries.fill([EMPTY; ENTRIES]);
            table.global.fill([0; ENTRIES / 64]);
        }
        self.big = (u64::MAX, 0);
    }

    /// Forgets all but global pages.
    pub(crate) fn flush_local(&mut self) {
        for table in self.tables.iter_mut().filter(|table| table.set != Set::Checked) {
            let chunks = table.entries.as_flattened_mut().chunks_exact_mut(64);
            for (chunk, &global) in chunks.zip(table.global.as_flattened()) {
                if global == 0 {
                    chunk.fill(EMPTY);
                } else if global != u64::MAX {
                    let local = chunk.iter_mut().enumerate().filter(|(index, _)| global >> index & 1 == 0);
                    local.for_each(|(_, entry)| *entry = EMPTY);
                }
            }
        }
    }

    /// Forgets one page, or everything if it may be a big one; says whether everything.
    pub(crate) fn invalidate(&mut self, address: u64) -> bool {
        if (self.big.0..=self.big.1).contains(&address) {
            self.flush();
            return true;
        }
        for table in &mut self.tables {
            for entries in table.entries.iter_mut() {
                let entry = &mut entries[index(address)];
                if entry.tag == address & !0xfff {
                    *entry = EMPTY;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_within_their_page_and_right_only() {
        let mut tlb = Tlb::new();
        tlb.insert(Set::Supervisor, Access::Read, 0x7123, 0x3000, false);
        assert_eq!(tlb.find(Access::Read, 0x7ff8, 8), Some(0x3ff8));
        assert_eq!(tlb.find(Access::Read, 0x7ff9, 8), None);
        assert_eq!(tlb.find(Access::Write, 0x7000, 1), None);
        tlb.select(Set::User);
        assert_eq!(tlb.find(Access::Read, 0x7000, 1), None);
        tlb.select(Set::Checked);
        assert_eq!(tlb.find(Access::Read, 0x7000, 1), None);
    }

    #[test]
    fn flushes_spare_global_pages_and_big_pages_go_as_a_whole() {
        let mut tlb = Tlb::new();
        tlb.insert(Set::Supervisor, Access::Read, 0x1000, 0, true);
        tlb.insert(Set::Supervisor, Access::Read, 0x2000, 0, false);
        tlb.flush_local();
        assert!(tlb.find(Access::Read, 0x1000, 1).is_some() && tlb.find(Access::Read, 0x2000, 1).is_none());
        tlb.invalidate(0x1000);
        assert!(tlb.find(Access::Read, 0x1000, 1).is_none());
        tlb.insert(Set::Supervisor, Access::Read, 0x20_3000, 0x3000, false);
        tlb.note_big_page(0x20_3000, 0x20_0000);
        tlb.invalidate(0x3f_f000);
        assert!(tlb.find(Access::Read, 0x20_3000, 1).is_none());
    }
}
