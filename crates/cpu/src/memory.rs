//! Accesses to linear addresses: the fast path through the TLB, and the slow one for misses, page crossings, MMIO,
//! alignment checks and watchpoints. Computing linear addresses is in `int::operand`.

use ferro_guest::Word;

use crate::core::{Bus, Core, Flow, Stop, bit, vector};
use crate::flags::Int;
use crate::paging::Place;
use crate::registers::SS;
use crate::tlb::{Access, Set};

/// A place that was read and checked for writing, to be written by the same instruction.
#[derive(Clone, Copy)]
pub(crate) struct Slot(usize);

/// The access has to be done the slow way.
const SLOW: Slot = Slot(usize::MAX);

/// Whether an address is canonical for 48 bits.
#[inline(always)]
pub(crate) fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

impl Core {
    /// Reads a word with the current privilege.
    #[inline(always)]
    pub(crate) fn load<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8) -> Flow<W> {
        match self.tlb.find(Access::Read, linear, W::SIZE as u64) {
            Some(offset) => Ok(self.memory.ram().load(offset)),
            None => self.load_slow(bus, linear, W::SIZE, seg).map(W::truncate),
        }
    }

    /// Writes a word with the current privilege. Must be the last thing that an instruction does: `Err(Stop::Sync)`
    /// means that it is done.
    #[inline(always)]
    pub(crate) fn store<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8, value: W) -> Flow {
        match self.tlb.find(Access::Write, linear, W::SIZE as u64) {
            Some(offset) => self.store_at(offset, value),
            None => self.store_slow(bus, linear, W::SIZE, seg, value.widen()),
        }
    }

    #[inline(always)]
    fn store_at<W: Word>(&mut self, offset: usize, value: W) -> Flow {
        if self.memory.ram().store_over_code(offset, value) { Err(Stop::Sync) } else { Ok(()) }
    }

    /// Reads a word that [`Core::store_slot`] will write: faults as the write would.
    #[inline(always)]
    pub(crate) fn load_for_update<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8) -> Flow<(W, Slot)> {
        match self.tlb.find(Access::Write, linear, W::SIZE as u64) {
            Some(offset) => Ok((self.memory.ram().load(offset), Slot(offset))),
            None => self.load_for_update_slow(bus, linear, W::SIZE, seg).map(|value| (W::truncate(value), SLOW)),
        }
    }

    /// Second half of [`Core::load_for_update`].
    #[inline(always)]
    pub(crate) fn store_slot<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8, slot: Slot, value: W) -> Flow {
        if slot.0 == SLOW.0 {
            self.store_slow(bus, linear, W::SIZE, seg, value.widen())
        } else {
            self.store_at(slot.0, value)
        }
    }

    /// `Err(Stop::Sync)` if code was overwritten since the block began.
    pub(crate) fn synced(&self) -> Flow {
        if self.memory.ram().code_epoch() == self.code_epoch { Ok(()) } else { Err(Stop::Sync) }
    }

    /// Raises the exception of a linear address that isn't canonical, or is misaligned where that is checked.
    fn check_linear(&mut self, linear: u64, size: usize, seg: u8) -> Flow {
        if self.is_long() {
            let last = linear.wrapping_add(size as u64 - 1);
            if !is_canonical(linear) || !is_canonical(last) {
                return self.raise_code(if usize::from(seg) == SS { vector::SS } else { vector::GP }, 0);
            }
        }
        let checked = self.cpl == 3 && self.rflags & bit::AC != 0 && self.cr0 & bit::CR0_AM != 0;
        if checked && !linear.is_multiple_of(alignment(size)) {
            return self.raise_code(vector::AC, 0);
        }
        Ok(())
    }

    /// The next page's address, where an access that begins at `linear` goes on after its page's end.
    fn next_page(&self, linear: u64) -> u64 {
        let next = (linear & !0xfff).wrapping_add(0x1000);
        if self.is_long() { next } else { next & 0xffff_ffff }
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, bus: &mut Bus<'_>, linear: u64, size: usize, seg: u8) -> Flow<u64> {
        self.check_linear(linear, size, seg)?;
        let user = self.cpl == 3;
        let value = self.load_as(bus, linear, size, user)?;
        if self.watches_data() {
            self.check_watchpoints(linear, size as u64, false);
        }
        Ok(value)
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, bus: &mut Bus<'_>, linear: u64, size: usize, seg: u8, value: u64) -> Flow {
        self.check_linear(linear, size, seg)?;
        let user = self.cpl == 3;
        self.store_as(bus, linear, size, user, value)?;
        if self.watches_data() {
            self.check_watchpoints(linear, size as u64, true);
        }
        self.synced()
    }

    #[cold]
    #[inline(never)]
    fn load_for_update_slow(&mut self, bus: &mut Bus<'_>, linear: u64, size: usize, seg: u8) -> Flow<u64> {
        self.check_linear(linear, size, seg)?;
        self.check_writable(linear, size)?;
        self.load_slow(bus, linear, size, seg)
    }

    /// Faults as a write of `size` bytes (up to a page) at `linear` with the current privilege would.
    pub(crate) fn check_writable(&mut self, linear: u64, size: usize) -> Flow {
        let user = self.cpl == 3;
        self.locate(linear, Access::Write, user)?;
        if (linear & 0xfff) as usize + size > 0x1000 {
            let next = self.next_page(linear);
            self.locate(next, Access::Write, user)?;
        }
        Ok(())
    }

    /// As [`Core::check_writable`], with the checks of the address itself.
    pub(crate) fn probe_write(&mut self, linear: u64, size: usize, seg: u8) -> Flow {
        if self.tlb.find(Access::Write, linear, size as u64).is_some() {
            return Ok(());
        }
        self.check_linear(linear, size, seg)?;
        self.check_writable(linear, size)
    }

    /// As [`Core::probe_write`], for reads.
    pub(crate) fn probe_read(&mut self, linear: u64, size: usize, seg: u8) -> Flow {
        if self.tlb.find(Access::Read, linear, size as u64).is_some() {
            return Ok(());
        }
        self.check_linear(linear, size, seg)?;
        let user = self.cpl == 3;
        self.locate(linear, Access::Read, user)?;
        if (linear & 0xfff) as usize + size > 0x1000 {
            let next = self.next_page(linear);
            self.locate(next, Access::Read, user)?;
        }
        Ok(())
    }

    /// Reads `size` bytes with the rights of `user`, past watchpoints and alignment checks.
    pub(crate) fn load_as(&mut self, bus: &mut Bus<'_>, linear: u64, size: usize, user: bool) -> Flow<u64> {
        let first = ((0x1000 - (linear & 0xfff)) as usize).min(size);
        let place = self.locate(linear, Access::Read, user)?;
        if first == size {
            return Ok(self.read_place(bus, place, size));
        }
        let next = self.next_page(linear);
        let second = self.locate(next, Access::Read, user)?;
        let low = self.read_place(bus, place, first);
        Ok(low | self.read_place(bus, second, size - first) << (8 * first))
    }

    /// Writes `size` bytes with the rights of `user`; both pages are checked before the first byte is written.
    pub(crate) fn store_as(&mut self, bus: &mut Bus<'_>, linear: u64, size: usize, user: bool, value: u64) -> Flow {
        let first = ((0x1000 - (linear & 0xfff)) as usize).min(size);
        let place = self.locate(linear, Access::Write, user)?;
        if first == size {
            self.write_place(bus, place, size, value);
            return Ok(());
        }
        let next = self.next_page(linear);
        let second = self.locate(next, Access::Write, user)?;
        self.write_place(bus, place, first, value);
        self.write_place(bus, second, size - first, value >> (8 * first));
        Ok(())
    }

    fn read_place(&mut self, bus: &mut Bus<'_>, place: Place, size: usize) -> u64 {
        match place {
            Place::Ram(offset) | Place::Rom(offset, _) => {
                let ram = self.memory.ram();
                match size {
                    1 => u64::from(ram.load::<u8>(offset)),
                    2 => u64::from(ram.load::<u16>(offset)),
                    4 => u64::from(ram.load::<u32>(offset)),
                    8 => ram.load::<u64>(offset),
                    _ => (0..size).fold(0, |value, at| value | u64::from(ram.load::<u8>(offset + at)) << (8 * at)),
                }
            }
            Place::Bus(address) => {
                self.publish_block();
                let mut value = 0;
                for (at, size) in pieces(size) {
                    value |= (bus.mmio_read(address + at, size) & mask(size)) << (8 * at);
                }
                value
            }
        }
    }

    fn write_place(&mut self, bus: &mut Bus<'_>, place: Place, size: usize, value: u64) {
        match place {
            Place::Ram(offset) => {
                let ram = self.memory.ram();
                match size {
                    1 => ram.store(offset, value as u8),
                    2 => ram.store(offset, value as u16),
                    4 => ram.store(offset, value as u32),
                    8 => ram.store(offset, value),
                    _ => (0..size).for_each(|at| ram.store(offset + at, (value >> (8 * at)) as u8)),
                }
            }
            Place::Rom(_, address) | Place::Bus(address) => {
                self.publish_block();
                for (at, size) in pieces(size) {
                    bus.mmio_write(address + at, size, value >> (8 * at) & mask(size));
                }
                self.refresh_memory_map();
            }
        }
    }

    /// Reads a word of a table that only the CPU itself uses (descriptors, task states): always as supervisor.
    pub(crate) fn load_system<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64) -> Flow<W> {
        let linear = if self.is_long() { linear } else { linear & 0xffff_ffff };
        if (linear & 0xfff) as usize + W::SIZE <= 0x1000
            && let Some(offset) = self.tlb.find_in(Set::Supervisor, Access::Read, linear)
        {
            return Ok(self.memory.ram().load(offset));
        }
        if self.is_long() && !is_canonical(linear) {
            return self.raise_code(vector::GP, 0);
        }
        self.load_as(bus, linear, W::SIZE, false).map(W::truncate)
    }

    /// Writes such a word.
    pub(crate) fn store_system<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64, value: W) -> Flow {
        let linear = if self.is_long() { linear } else { linear & 0xffff_ffff };
        if self.is_long() && !is_canonical(linear) {
            return self.raise_code(vector::GP, 0);
        }
        self.store_as(bus, linear, W::SIZE, false, value.widen())
    }

    /// Reads 16 bytes.
    #[inline(always)]
    pub(crate) fn load_128(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8) -> Flow<u128> {
        match self.tlb.find(Access::Read, linear, 16) {
            Some(offset) => {
                let ram = self.memory.ram();
                let (low, high) = (ram.load::<u64>(offset), ram.load::<u64>(offset + 8));
                Ok(u128::from(high) << 64 | u128::from(low))
            }
            None => self.load_128_slow(bus, linear, seg),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_128_slow(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8) -> Flow<u128> {
        self.probe_read(linear, 16, seg)?;
        let low = self.load_slow(bus, linear, 8, seg)?;
        let high = self.load_slow(bus, self.wrap(linear.wrapping_add(8)), 8, seg)?;
        Ok(u128::from(high) << 64 | u128::from(low))
    }

    /// Writes 16 bytes, all or nothing; otherwise as [`Core::store`].
    #[inline(always)]
    pub(crate) fn store_128(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8, value: u128) -> Flow {
        match self.tlb.find(Access::Write, linear, 16) {
            Some(offset) => {
                let ram = self.memory.ram();
                let low = ram.store_over_code(offset, value as u64);
                let high = ram.store_over_code(offset + 8, (value >> 64) as u64);
                if low | high { Err(Stop::Sync) } else { Ok(()) }
            }
            None => self.store_128_slow(bus, linear, seg, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn store_128_slow(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8, value: u128) -> Flow {
        self.probe_write(linear, 16, seg)?;
        done(self.store_slow(bus, linear, 8, seg, value as u64))?;
        self.store_slow(bus, self.wrap(linear.wrapping_add(8)), 8, seg, (value >> 64) as u64)
    }

    /// A linear address in the current mode: 32 bits but in IA-32e mode.
    #[inline(always)]
    pub(crate) fn wrap(&self, linear: u64) -> u64 {
        if self.is_long() { linear } else { linear & 0xffff_ffff }
    }

    /// An atomic read-modify-write: stores what `new` makes of the value found, which is returned. Whether code was
    /// overwritten is left to [`Core::synced`].
    pub(crate) fn locked<W: Int>(&mut self, bus: &mut Bus<'_>, linear: u64, seg: u8, new: impl Fn(W) -> W) -> Flow<W> {
        let offset = match self.tlb.find(Access::Write, linear, W::SIZE as u64) {
            Some(offset) => offset,
            None => {
                let (value, slot) = self.load_for_update::<W>(bus, linear, seg)?;
                match self.tlb.find(Access::Write, linear, W::SIZE as u64) {
                    Some(offset) => offset,
                    None => {
                        done(self.store_slot(bus, linear, seg, slot, new(value)))?;
                        return Ok(value);
                    }
                }
            }
        };
        let ram = self.memory.ram();
        let mut found: W = ram.load(offset);
        loop {
            match ram.compare_exchange(offset, found, new(found)) {
                Ok(old) => return Ok(old),
                Err(other) => found = other,
            }
        }
    }
}

impl Core {
    /// `CMPXCHG16B`'s exchange; returns what was found. The address is aligned.
    pub(crate) fn exchange_128(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        seg: u8,
        expected: u128,
        new: u128,
    ) -> Flow<u128> {
        if self.tlb.find(Access::Write, linear, 16).is_none() {
            self.probe_write(linear, 16, seg)?;
        }
        let Some(offset) = self.tlb.find(Access::Write, linear, 16) else {
            let found = self.load_128(bus, linear, seg)?;
            done(self.store_128(bus, linear, seg, if found == expected { new } else { found }))?;
            return Ok(found);
        };
        let (Ok(found) | Err(found)) = self.memory.ram().compare_exchange_128(offset, expected, new);
        Ok(found)
    }
}

/// Takes [`Stop::Sync`] for success: for stores that aren't the last thing an instruction does.
#[inline(always)]
pub(crate) fn done(flow: Flow) -> Flow {
    if flow == Err(Stop::Sync) { Ok(()) } else { flow }
}

/// What an operand's address must be a multiple of where alignment is checked (SDM volume 3, table 6-7).
fn alignment(size: usize) -> u64 {
    match size {
        // Far pointers and pseudo-descriptors with 32-bit offsets.
        6 => 4,
        // 80-bit numbers, and far pointers with 64-bit offsets.
        10 => 8,
        // Plain words, and x87 environments: 14 and 94, 28 and 108 bytes.
        _ => 1 << size.trailing_zeros().min(3),
    }
}

fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

/// Splits an access to the bus into naturally sized pieces: offsets and sizes of powers of two.
fn pieces(size: usize) -> impl Iterator<Item = (u64, u8)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = size - at;
        let piece = if rest == 0 { return None } else { 1 << rest.ilog2() };
        let here = at as u64;
        at += piece;
        Some((here, piece as u8))
    })
}
