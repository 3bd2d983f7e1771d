//! The host memory behind a guest: one anonymous mapping per VM that holds its RAM, ROMs and video memory, addressed by
//! offset, plus one byte of flags per page that says who wants to hear of writes.
//!
//! Several vCPU and I/O threads access it at once, as they do on a real machine; every access goes through single
//! machine instructions on raw addresses and never through a Rust reference to the memory. This is the crate's one
//! module with unsafe code. It doesn't know at which guest address a byte appears: that's [`crate::GuestMemory`].
#![allow(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes in a page of guest memory, the unit of flags, dirty logging and code invalidation.
pub const PAGE_SIZE: usize = 4096;

const FLAG_CODE: u8 = 1;
const FLAG_LOG: u8 = 2;

/// Why host memory for a guest could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size is zero, not a multiple of [`PAGE_SIZE`], or beyond what this host can address.
    #[error("{0} bytes is not a possible amount of guest memory")]
    Size(u64),
    /// The host refused the mapping.
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        source: std::io::Error,
    },
}

/// An integer that guest memory can hold: `u8`, `u16`, `u32` or `u64`, little-endian.
pub trait Word: Copy + sealed::Sealed {
    /// Bytes in this word.
    const SIZE: usize;
    #[doc(hidden)]
    unsafe fn load(address: *const u8) -> Self;
    #[doc(hidden)]
    unsafe fn store(address: *mut u8, value: Self);
    #[doc(hidden)]
    unsafe fn compare_exchange(address: *mut u8, old: Self, new: Self) -> Result<Self, Self>;
    /// The low bytes of a 64-bit value.
    fn truncate(value: u64) -> Self;
    /// This word, zero-extended.
    fn widen(self) -> u64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

/// Serialises the read-modify-writes that no host instruction can do in one go (those that cross a cache line).
static SPLIT_LOCK: Mutex<()> = Mutex::new(());

macro_rules! word {
    ($t:ty, $atomic:ty, $load:literal, $store:literal, $reg:ident) => {
        impl Word for $t {
            const SIZE: usize = size_of::<$t>();

            #[inline(always)]
            unsafe fn load(address: *const u8) -> Self {
                let value: $t;
                // SAFETY: the caller guarantees `SIZE` mapped bytes at `address`. One `mov` of any alignment is an
                // access that other threads may race with; the compiler can't assume anything about its result.
                unsafe {
                    std::arch::asm!($load, out($reg) value, in(reg) address,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }

            #[inline(always)]
            unsafe fn store(address: *mut u8, value: Self) {
                // SAFETY: as for `load`.
                unsafe {
                    std::arch::asm!($store, in($reg) value, in(reg) address, options(nostack, preserves_flags));
                }
            }

            #[inline]
            unsafe fn compare_exchange(address: *mut u8, old: Self, new: Self) -> Result<Self, Self> {
                if address.cast::<$t>().is_aligned() {
                    // SAFETY: mapped by the caller's guarantee, aligned by the test above, never accessed but through
                    // atomics and `mov`s.
                    let atomic = unsafe { <$atomic>::from_ptr(address.cast()) };
                    return atomic.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
                }
                let _guard = SPLIT_LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                // SAFETY: the caller's guarantee covers both accesses.
                unsafe {
                    let found = Self::load(address);
                    if found == old {
                        Self::store(address, new);
                        Ok(found)
                    } else {
                        Err(found)
                    }
                }
            }

            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $t
            }

            #[inline(always)]
            fn widen(self) -> u64 {
                u64::from(self)
            }
        }
    };
}

word!(u8, AtomicU8, "mov {0}, [{1}]", "mov [{1}], {0}", reg_byte);
word!(u16, AtomicU16, "mov {0:x}, [{1}]", "mov [{1}], {0:x}", reg);
word!(u32, AtomicU32, "mov {0:e}, [{1}]", "mov [{1}], {0:e}", reg);
word!(u64, AtomicU64, "mov {0}, [{1}]", "mov [{1}], {0}", reg);

/// All host memory of one VM. Offsets run from 0 to [`Ram::len`]; an access outside panics, so callers translate guest
/// addresses first ([`crate::GuestMemory`]).
pub struct Ram {
    map: memmap2::MmapRaw,
    base: *mut u8,
    len: usize,
    flags: Box<[AtomicU8]>,
    code_generation: Box<[AtomicU32]>,
    dirty: Box<[AtomicU64]>,
    code_epoch: AtomicU64,
}

// SAFETY: `base` points into `map`, which lives as long as the value and is accessed only by machine instructions that
// are allowed to race (see `Word`); everything else in it is atomic.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl std::fmt::Debug for Ram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ram").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Ram {
    /// Maps `size` bytes of zeroed memory, which the host fills in only as the guest touches it.
    ///
    /// # Errors
    /// A size of zero or not in whole pages, and the host's refusal.
    pub fn new(size: u64) -> Result<Self, RamError> {
        let len = usize::try_from(size).map_err(|_| RamError::Size(size))?;
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) || len > isize::MAX as usize {
            return Err(RamError::Size(size));
        }
        let map = memmap2::MmapOptions::new()
            .len(len)
            .no_reserve_swap()
            .map_anon()
            .map_err(|source| RamError::Map { size, source })?;
        let map = memmap2::MmapRaw::from(map);
        let base = map.as_mut_ptr();
        let pages = len / PAGE_SIZE;
        Ok(Self {
            map,
            base,
            len,
            flags: zeroed_atomics(pages),
            code_generation: zeroed_atomics(pages),
            dirty: zeroed_atomics(pages.div_ceil(64)),
            code_epoch: AtomicU64::new(0),
        })
    }

    /// Bytes of memory.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true; here because [`Ram::len`] is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address of offset 0, for handing the memory to KVM. Valid while this value lives.
    pub fn host_address(&self) -> *mut u8 {
        self.base
    }

    /// As [`Ram::check`], for a word: no memory is smaller than one.
    #[inline(always)]
    fn check_word<T: Word>(&self, offset: usize) -> *mut u8 {
        const { assert!(T::SIZE <= PAGE_SIZE) };
        assert!(offset <= self.len.wrapping_sub(T::SIZE), "guest memory offset out of range");
        // SAFETY: within the mapping by the assertion, whose subtraction can't wrap: the length is at least a page.
        unsafe { self.base.add(offset) }
    }

    #[inline(always)]
    fn check(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset <= self.len && size <= self.len - offset, "guest memory offset out of range");
        // SAFETY: within the mapping by the assertion.
        unsafe { self.base.add(offset) }
    }

    /// Reads a word at any alignment. Single instruction: atomic where the hardware makes it so.
    ///
    /// # Panics
    /// Outside the memory.
    #[inline(always)]
    pub fn load<T: Word>(&self, offset: usize) -> T {
        let address = self.check_word::<T>(offset);
        // SAFETY: `check_word` proved `SIZE` mapped bytes.
        unsafe { T::load(address) }
    }

    /// Writes a word at any alignment, and tells whoever watches its page (both pages, if it crosses).
    ///
    /// # Panics
    /// Outside the memory.
    #[inline(always)]
    pub fn store<T: Word>(&self, offset: usize, value: T) {
        let address = self.check_word::<T>(offset);
        // SAFETY: `check_word` proved `SIZE` mapped bytes.
        unsafe { T::store(address, value) };
        if self.watched(offset) || (offset % PAGE_SIZE) + T::SIZE > PAGE_SIZE {
            self.note_write(offset, T::SIZE);
        }
    }

    /// As [`Ram::store`]; says whether it hit code that [`Ram::watch_code`] was called for.
    ///
    /// # Panics
    /// Outside the memory.
    #[inline(always)]
    pub fn store_over_code<T: Word>(&self, offset: usize, value: T) -> bool {
        let address = self.check_word::<T>(offset);
        // SAFETY: `check_word` proved `SIZE` mapped bytes.
        unsafe { T::store(address, value) };
        (self.watched(offset) || (offset % PAGE_SIZE) + T::SIZE > PAGE_SIZE) && self.code_written(offset, T::SIZE)
    }

    /// Writes a word that doesn't cross a page. Says whether somebody watches the page and wants to hear of it by
    /// [`Ram::report_over_code`].
    ///
    /// # Panics
    /// Outside the memory.
    #[inline(always)]
    #[must_use]
    pub fn store_in_page<T: Word>(&self, offset: usize, value: T) -> bool {
        debug_assert!((offset % PAGE_SIZE) + T::SIZE <= PAGE_SIZE);
        let address = self.check_word::<T>(offset);
        // SAFETY: `check_word` proved `SIZE` mapped bytes.
        unsafe { T::store(address, value) };
        // SAFETY: the offset is within the memory, and every page of it has flags.
        let flags = unsafe { self.flags.get_unchecked(offset / PAGE_SIZE) };
        flags.load(Ordering::Relaxed) != 0
    }

    /// As [`Ram::note_write`]; says whether it hit code that [`Ram::watch_code`] was called for.
    pub fn report_over_code(&self, offset: usize, len: usize) -> bool {
        self.code_written(offset, len)
    }

    #[cold]
    fn code_written(&self, offset: usize, len: usize) -> bool {
        let before = self.code_epoch();
        self.note_write(offset, len);
        self.code_epoch() != before
    }

    /// One atomic read-modify-write: stores `new` if `old` is there. `Err` holds what was found. Atomic against other
    /// callers of this function at every alignment, and against plain stores where the word is naturally aligned.
    ///
    /// # Errors
    /// The value found, when it isn't `old`; nothing was written then.
    ///
    /// # Panics
    /// Outside the memory.
    #[inline]
    pub fn compare_exchange<T: Word>(&self, offset: usize, old: T, new: T) -> Result<T, T> {
        let address = self.check_word::<T>(offset);
        // SAFETY: `check_word` proved `SIZE` mapped bytes.
        let result = unsafe { T::compare_exchange(address, old, new) };
        if result.is_ok() {
            self.note_write(offset, T::SIZE);
        }
        result
    }

    /// `CMPXCHG16B`: as [`Ram::compare_exchange`], on 16 bytes at a multiple of 16.
    ///
    /// # Errors
    /// The value found, when it isn't `old`.
    ///
    /// # Panics
    /// Outside the memory, or not aligned.
    pub fn compare_exchange_128(&self, offset: usize, old: u128, new: u128) -> Result<u128, u128> {
        let address = self.check(offset, 16);
        assert!(offset.is_multiple_of(16), "a 16-byte exchange must be aligned");
        let (mut low, mut high) = (old as u64, (old >> 64) as u64);
        let (new_low, new_high) = (new as u64, (new >> 64) as u64);
        let equal: u8;
        // SAFETY: 16 mapped, aligned bytes. Every x86-64-v2 host has the instruction. rbx is LLVM's, so it is swapped
        // in and out around it.
        unsafe {
            std::arch::asm!(
                "xchg rbx, {new_low}",
                "lock cmpxchg16b [{address}]",
                "sete {equal}",
                "mov rbx, {new_low}",
                new_low = inout(reg) new_low => _,
                address = in(reg) address,
                equal = lateout(reg_byte) equal,
                in("rcx") new_high,
                inout("rax") low,
                inout("rdx") high,
                options(nostack),
            );
        }
        let found = u128::from(high) << 64 | u128::from(low);
        if equal != 0 {
            self.note_write(offset, 16);
            Ok(found)
        } else {
            Err(found)
        }
    }

    /// Copies memory out. Not atomic as a whole.
    ///
    /// # Panics
    /// Outside the memory.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let address = self.check(offset, into.len());
        // SAFETY: `check` proved the source; the destination is a Rust slice that can't overlap the mapping. The bytes
        // may change while they are copied; any value is a valid `u8`.
        unsafe { std::ptr::copy_nonoverlapping(address.cast_const(), into.as_mut_ptr(), into.len()) };
    }

    /// Copies `from` into memory and tells whoever watches the pages. Not atomic as a whole.
    ///
    /// # Panics
    /// Outside the memory.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let address = self.check(offset, from.len());
        // SAFETY: as for `read`, in the other direction.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), address, from.len()) };
        self.note_write(offset, from.len());
    }

    /// Copies `len` bytes from one place to another (they may overlap) and tells whoever watches the pages written. Not
    /// atomic as a whole.
    ///
    /// # Panics
    /// Outside the memory.
    pub fn copy(&self, from: usize, to: usize, len: usize) {
        let (source, target) = (self.check(from, len), self.check(to, len));
        // SAFETY: `check` proved both ranges; `copy` allows them to overlap.
        unsafe { std::ptr::copy(source.cast_const(), target, len) };
        self.note_write(to, len);
    }

    /// Fills a range with one byte.
    ///
    /// # Panics
    /// Outside the memory.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        let address = self.check(offset, len);
        // SAFETY: `check` proved the range.
        unsafe { std::ptr::write_bytes(address, byte, len) };
        self.note_write(offset, len);
    }

    /// Gives whole pages back to the host; they read as zeros afterwards. For balloon and free page reporting.
    ///
    /// # Errors
    /// The host's refusal; the contents are then unchanged.
    ///
    /// # Panics
    /// Outside the memory, or not in whole pages.
    pub fn discard(&self, offset: usize, len: usize) -> std::io::Result<()> {
        self.check(offset, len);
        assert!(offset.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE), "only whole pages can be discarded");
        if len == 0 {
            return Ok(());
        }
        // SAFETY: private anonymous pages of our own mapping, which read as zeros afterwards; no Rust reference to
        // them exists.
        unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len)? };
        self.note_write(offset, len);
        Ok(())
    }

    /// Whether a write to this byte's page has to be reported with [`Ram::note_write`]. One relaxed load.
    #[inline(always)]
    pub fn watched(&self, offset: usize) -> bool {
        self.flags[offset / PAGE_SIZE].load(Ordering::Relaxed) != 0
    }

    /// Reports that `len` bytes at `offset` were written. Every writer in this module already does.
    pub fn note_write(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        for page in offset / PAGE_SIZE..=(offset + len - 1) / PAGE_SIZE {
            if self.flags[page].load(Ordering::Relaxed) != 0 {
                self.page_written(page);
            }
        }
    }

    #[cold]
    fn page_written(&self, page: usize) {
        let flags = self.flags[page].swap(0, Ordering::AcqRel);
        if flags & FLAG_CODE != 0 {
            self.code_generation[page].fetch_add(1, Ordering::AcqRel);
            self.code_epoch.fetch_add(1, Ordering::AcqRel);
        }
        if flags & FLAG_LOG != 0 {
            self.dirty[page / 64].fetch_or(1 << (page % 64), Ordering::AcqRel);
        }
    }

    /// Says that code of this page has been decoded and cached; the next write to it changes its generation and the
    /// epoch. Returns the generation that the cached code belongs to: read the code after this call.
    pub fn watch_code(&self, offset: usize) -> u32 {
        let page = offset / PAGE_SIZE;
        self.flags[page].fetch_or(FLAG_CODE, Ordering::AcqRel);
        self.code_generation[page].load(Ordering::Acquire)
    }

    /// The generation of this page's code; cached code of another generation is stale.
    #[inline]
    pub fn code_generation(&self, offset: usize) -> u32 {
        self.code_generation[offset / PAGE_SIZE].load(Ordering::Acquire)
    }

    /// A number that grows whenever watched code was written anywhere in memory.
    #[inline(always)]
    pub fn code_epoch(&self) -> u64 {
        self.code_epoch.load(Ordering::Relaxed)
    }

    /// Starts or goes on logging writes to a range of whole pages: they count as clean from now on.
    pub fn arm_dirty_log(&self, offset: usize, len: usize) {
        for page in pages(offset, len) {
            self.dirty[page / 64].fetch_and(!(1 << (page % 64)), Ordering::AcqRel);
            self.flags[page].fetch_or(FLAG_LOG, Ordering::AcqRel);
        }
    }

    /// Stops logging writes to a range and forgets what was logged.
    pub fn disarm_dirty_log(&self, offset: usize, len: usize) {
        for page in pages(offset, len) {
            self.flags[page].fetch_and(!FLAG_LOG, Ordering::AcqRel);
            self.dirty[page / 64].fetch_and(!(1 << (page % 64)), Ordering::AcqRel);
        }
    }

    /// Calls `each` with the offset of every page of the range written since it was armed, and arms it again.
    pub fn take_dirty(&self, offset: usize, len: usize, mut each: impl FnMut(usize)) {
        for page in pages(offset, len) {
            let bit = 1 << (page % 64);
            if self.dirty[page / 64].load(Ordering::Relaxed) & bit != 0 {
                self.dirty[page / 64].fetch_and(!bit, Ordering::AcqRel);
                self.flags[page].fetch_or(FLAG_LOG, Ordering::AcqRel);
                each(page * PAGE_SIZE);
            }
        }
    }
}

fn pages(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset / PAGE_SIZE..(offset + len).div_ceil(PAGE_SIZE)
}

/// A zeroed slice of atomics that the host fills in only where it is touched.
fn zeroed_atomics<T: Default>(count: usize) -> Box<[T]> {
    // Only atomic integers come here, for which all-zero bytes are the default value.
    let zeroed = Box::<[T]>::new_zeroed_slice(count);
    // SAFETY: private function, called with AtomicU8/U32/U64 only: all-zero bytes are valid values of these.
    unsafe { zeroed.assume_init() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_size_and_alignment_read_back() {
        let ram = Ram::new(8192).unwrap();
        for offset in [0, 1, 7, 4089, 4093, 8184] {
            ram.store(offset, 0x1122_3344_5566_7788_u64);
            assert_eq!(ram.load::<u64>(offset), 0x1122_3344_5566_7788);
            assert_eq!(ram.load::<u32>(offset), 0x5566_7788);
            assert_eq!(ram.load::<u16>(offset + 6), 0x1122);
            assert_eq!(ram.load::<u8>(offset + 7), 0x11);
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn an_access_over_the_end_panics() {
        Ram::new(4096).unwrap().load::<u64>(4089);
    }

    #[test]
    fn exchanges_report_what_they_found() {
        let ram = Ram::new(4096).unwrap();
        for offset in [8, 13, 62] {
            ram.store(offset, 5_u32);
            assert_eq!(ram.compare_exchange(offset, 5_u32, 9), Ok(5));
            assert_eq!(ram.compare_exchange(offset, 5_u32, 1), Err(9));
            assert_eq!(ram.load::<u32>(offset), 9);
        }
        let wide = 0x1111_2222_3333_4444_5555_6666_7777_8888_u128;
        assert_eq!(ram.compare_exchange_128(128, 0, wide), Ok(0));
        assert_eq!(ram.compare_exchange_128(128, 0, 1), Err(wide));
        assert_eq!(ram.load::<u64>(136), (wide >> 64) as u64);
    }

    #[test]
    fn writing_watched_code_changes_its_generation_once() {
        let ram = Ram::new(3 * 4096).unwrap();
        let generation = ram.watch_code(4100);
        let epoch = ram.code_epoch();
        ram.store(4096 - 4, 0_u32);
        assert_eq!((ram.code_generation(4100), ram.code_epoch()), (generation, epoch));
        ram.store(4096 - 2, 0_u32);
        assert_ne!(ram.code_generation(4100), generation, "a write that crosses into the page counts");
        assert_ne!(ram.code_epoch(), epoch);
        let after = ram.code_generation(4100);
        assert!(!ram.store_over_code(4096, 1_u8));
        ram.watch_code(4096);
        assert!(ram.store_over_code(4094, 1_u32));
        ram.watch_code(4096);
        assert!(ram.store_over_code(4096, 1_u64));
        assert_eq!(ram.code_generation(4100), after + 2);
        let after = ram.code_generation(4100);
        ram.write(4096, &[1]);
        assert_eq!(ram.code_generation(4100), after, "nobody watches any more");
    }

    #[test]
    fn the_dirty_log_reports_each_page_once() {
        let ram = Ram::new(4 * 4096).unwrap();
        ram.store(0, 1_u8);
        ram.arm_dirty_log(0, 4 * 4096);
        let dirty = |ram: &Ram| {
            let mut found = vec![];
            ram.take_dirty(0, 4 * 4096, |offset| found.push(offset));
            found
        };
        assert!(dirty(&ram).is_empty());
        ram.store(5000, 1_u8);
        ram.write(8190, &[1, 2, 3]);
        assert_eq!(dirty(&ram), [4096, 8192]);
        assert!(dirty(&ram).is_empty());
        ram.store(5000, 2_u8);
        assert_eq!(dirty(&ram), [4096], "armed again by the last call");
    }

    #[test]
    fn copies_inside_the_memory_may_overlap() {
        let ram = Ram::new(4096).unwrap();
        ram.write(0, b"abcdef");
        ram.copy(0, 2, 6);
        let mut bytes = [0; 8];
        ram.read(0, &mut bytes);
        assert_eq!(&bytes, b"ababcdef");
    }

    #[test]
    fn discarded_pages_read_as_zeros() {
        let ram = Ram::new(2 * 4096).unwrap();
        ram.fill(0, 8192, 7);
        ram.discard(4096, 4096).unwrap();
        assert_eq!((ram.load::<u8>(4095), ram.load::<u8>(4096)), (7, 0));
    }
}
