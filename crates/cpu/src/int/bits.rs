//! Bit tests, scans and counts, and CRC32.

use crate::core::{Bus, Core, Flow, Handler, Op};
use crate::flags::{Int, Lazy};
use crate::int::operand::{Address, Based, Dst, Imm, Mem, Place, Source, Src};
use crate::int::{by_address, by_wide, by_width};

/// What a bit test does to the bit.
pub(crate) trait Change: 'static {
    const WRITES: bool = true;
    fn apply(word: u64, bit: u64) -> u64;
}

pub(crate) struct Keep;
pub(crate) struct Set;
pub(crate) struct Reset;
pub(crate) struct Complement;

impl Change for Keep {
    const WRITES: bool = false;
    fn apply(word: u64, _bit: u64) -> u64 {
        word
    }
}
impl Change for Set {
    fn apply(word: u64, bit: u64) -> u64 {
        word | bit
    }
}
impl Change for Reset {
    fn apply(word: u64, bit: u64) -> u64 {
        word & !bit
    }
}
impl Change for Complement {
    fn apply(word: u64, bit: u64) -> u64 {
        word ^ bit
    }
}

/// On a register, or on memory with an immediate: the bit's number is taken modulo the width.
fn test<O: Change, W: Int, D: Place<W>, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let index = S::get(core, bus, op)?.widen() % u64::from(W::BITS);
    if O::WRITES {
        let (value, slot) = D::update(core, bus, op)?;
        core.flags.set_cf(value.widen() >> index & 1 != 0);
        D::set(core, bus, op, slot, W::truncate(O::apply(value.widen(), 1 << index)))
    } else {
        let value = D::get(core, bus, op)?;
        core.flags.set_cf(value.widen() >> index & 1 != 0);
        Ok(())
    }
}

/// On memory with the bit's number in a register: it may be anywhere, before or after the operand.
fn test_string<O: Change, W: Int, const LOCK: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let number = core.reg::<W>(op.src).extend() as i64;
    let index = number as u64 % u64::from(W::BITS);
    let words = number >> W::BITS.ilog2();
    let moved = Op { disp: op.disp.wrapping_add((words * W::SIZE as i64) as u64), ..*op };
    at_memory::<O, W, LOCK>(core, bus, &moved, index)
}

fn test_locked<O: Change, W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    at_memory::<O, W, true>(core, bus, op, op.imm % u64::from(W::BITS))
}

fn at_memory<O: Change, W: Int, const LOCK: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, index: u64) -> Flow {
    let linear = Based::linear(core, op, W::SIZE as u64, O::WRITES)?;
    if !O::WRITES {
        let value = core.load::<W>(bus, linear, op.seg)?;
        core.flags.set_cf(value.widen() >> index & 1 != 0);
        return Ok(());
    }
    if LOCK {
        let old = core.locked::<W>(bus, linear, op.seg, |old| W::truncate(O::apply(old.widen(), 1 << index)))?;
        core.flags.set_cf(old.widen() >> index & 1 != 0);
        return core.synced();
    }
    let (value, slot) = core.load_for_update::<W>(bus, linear, op.seg)?;
    core.flags.set_cf(value.widen() >> index & 1 != 0);
    core.store_slot(bus, linear, op.seg, slot, W::truncate(O::apply(value.widen(), 1 << index)))
}

/// The handler of `BT`, `BTS`, `BTR` or `BTC`.
pub(crate) fn select<O: Change>(memory: bool, immediate: bool, size: u8, flat: bool, lock: bool) -> Handler {
    by_wide!(size, W => match (memory, immediate, lock) {
        (false, false, _) => test::<O, W, Dst, Src>,
        (false, true, _) => test::<O, W, Dst, Imm>,
        (true, true, false) => by_address!(flat, A => test::<O, W, Mem<A>, Imm>),
        (true, true, true) => test_locked::<O, W>,
        (true, false, false) => test_string::<O, W, false>,
        (true, false, true) => test_string::<O, W, true>,
    })
}

/// `BSF` and `BSR`: of zero they leave the destination alone. The other flags are as hardware leaves them.
fn scan<W: Int, S: Source<W>, const FORWARD: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?.widen();
    core.flags = Lazy { zero: value, sign: 0, carries: 0 };
    if value != 0 {
        let index = if FORWARD { value.trailing_zeros() } else { value.ilog2() };
        core.set_reg(op.dst, W::truncate(u64::from(index)));
    }
    Ok(())
}

/// The handler of `BSF` or `BSR`.
pub(crate) fn select_scan(forward: bool, memory: bool, size: u8, flat: bool) -> Handler {
    by_wide!(size, W => match (memory, forward) {
        (false, true) => scan::<W, Src, true>,
        (false, false) => scan::<W, Src, false>,
        (true, true) => by_address!(flat, A => scan::<W, Mem<A>, true>),
        (true, false) => by_address!(flat, A => scan::<W, Mem<A>, false>),
    })
}

fn popcnt<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?.widen();
    core.flags = Lazy { zero: value, sign: 1, carries: 0 };
    core.set_reg(op.dst, W::truncate(u64::from(value.count_ones())));
    Ok(())
}

/// The handler of `POPCNT`.
pub(crate) fn select_popcnt(memory: bool, size: u8, flat: bool) -> Handler {
    by_wide!(size, W => if memory { by_address!(flat, A => popcnt::<W, Mem<A>>) } else { popcnt::<W, Src> })
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

fn crc32<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?.widen();
    let mut crc = core.reg::<u32>(op.dst);
    for byte in &value.to_le_bytes()[..W::SIZE] {
        crc = crc >> 8 ^ CRC32C[usize::from(crc as u8 ^ byte)];
    }
    core.set_reg(op.dst, crc);
    Ok(())
}

/// The handler of `CRC32` of `size` bytes.
pub(crate) fn select_crc32(memory: bool, size: u8, flat: bool) -> Handler {
    by_width!(size, W => if memory { by_address!(flat, A => crc32::<W, Mem<A>>) } else { crc32::<W, Src> })
}
