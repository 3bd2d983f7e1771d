//! Exchanges: `XCHG`, `XADD`, `CMPXCHG` and its double-width forms.

use crate::core::{Bus, Core, Flow, Handler, Op, RAX, RBX, RCX, RDX, vector};
use crate::flags::Int;
use crate::int::alu::{Add, Binary, Cmp};
use crate::int::operand::{Address, Based, Dst, Mem, Place};
use crate::int::{by_address, by_width};

fn xchg_reg<W: Int>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (a, b) = (core.reg::<W>(op.dst), core.reg::<W>(op.src));
    core.set_reg(op.dst, b);
    core.set_reg(op.src, a);
    Ok(())
}

fn xchg_mem<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, W::SIZE as u64, true)?;
    let new = core.reg::<W>(op.src);
    let old = core.locked::<W>(bus, linear, op.seg, |_| new)?;
    core.set_reg(op.src, old);
    core.synced()
}

/// The handler of `XCHG`; with memory always atomic.
pub(crate) fn select_xchg(memory: bool, size: u8) -> Handler {
    by_width!(size, W => if memory { xchg_mem::<W> } else { xchg_reg::<W> })
}

fn xadd<W: Int, D: Place<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (old, slot) = D::update(core, bus, op)?;
    let add = core.reg::<W>(op.src);
    let sum = Add::apply(core, old, add);
    core.set_reg(op.src, old);
    D::set(core, bus, op, slot, sum)
}

fn xadd_locked<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, W::SIZE as u64, true)?;
    let add = core.reg::<W>(op.src);
    let old = core.locked::<W>(bus, linear, op.seg, |old| W::truncate(old.widen().wrapping_add(add.widen())))?;
    Add::apply(core, old, add);
    core.set_reg(op.src, old);
    core.synced()
}

/// The handler of `XADD`.
pub(crate) fn select_xadd(memory: bool, size: u8, flat: bool, lock: bool) -> Handler {
    by_width!(size, W => match (memory, lock) {
        (false, _) => xadd::<W, Dst>,
        (true, false) => by_address!(flat, A => xadd::<W, Mem<A>>),
        (true, true) => xadd_locked::<W>,
    })
}

fn cmpxchg<W: Int, D: Place<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (found, slot) = D::update(core, bus, op)?;
    let expected = core.reg::<W>(RAX as u8);
    Cmp::apply(core, expected, found);
    if expected == found {
        let new = core.reg::<W>(op.src);
        D::set(core, bus, op, slot, new)
    } else {
        core.set_reg(RAX as u8, found);
        D::set(core, bus, op, slot, found)
    }
}

/// With registers: a failed comparison leaves the destination as it is, upper half included.
fn cmpxchg_reg<W: Int>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (found, expected) = (core.reg::<W>(op.dst), core.reg::<W>(RAX as u8));
    Cmp::apply(core, expected, found);
    if expected == found {
        core.set_reg(op.dst, core.reg::<W>(op.src));
    } else {
        core.set_reg(RAX as u8, found);
    }
    Ok(())
}

fn cmpxchg_locked<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, W::SIZE as u64, true)?;
    let (expected, new) = (core.reg::<W>(RAX as u8), core.reg::<W>(op.src));
    let found = core.locked(bus, linear, op.seg, |found| if found == expected { new } else { found })?;
    Cmp::apply(core, expected, found);
    if expected != found {
        core.set_reg(RAX as u8, found);
    }
    core.synced()
}

/// The handler of `CMPXCHG`.
pub(crate) fn select_cmpxchg(memory: bool, size: u8, flat: bool, lock: bool) -> Handler {
    by_width!(size, W => match (memory, lock) {
        (false, _) => cmpxchg_reg::<W>,
        (true, false) => by_address!(flat, A => cmpxchg::<W, Mem<A>>),
        (true, true) => cmpxchg_locked::<W>,
    })
}

/// `CMPXCHG8B`, atomic with or without LOCK.
pub(crate) fn cmpxchg8b(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 8, true)?;
    let pair = |core: &Core, high: usize, low: usize| core.regs[high] << 32 | core.regs[low] & 0xffff_ffff;
    let (expected, new) = (pair(core, RDX, RAX), pair(core, RCX, RBX));
    let found = core.locked::<u64>(bus, linear, op.seg, |found| if found == expected { new } else { found })?;
    core.flags.set_zf_alone(found == expected);
    if found != expected {
        core.set_reg(RAX as u8, found as u32);
        core.set_reg(RDX as u8, (found >> 32) as u32);
    }
    core.synced()
}

/// `CMPXCHG16B`
pub(crate) fn cmpxchg16b(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 16, true)?;
    if !linear.is_multiple_of(16) {
        return core.raise_code(vector::GP, 0);
    }
    let pair = |core: &Core, high: usize, low: usize| u128::from(core.regs[high]) << 64 | u128::from(core.regs[low]);
    let (expected, new) = (pair(core, RDX, RAX), pair(core, RCX, RBX));
    let found = core.exchange_128(bus, linear, op.seg, expected, new)?;
    core.flags.set_zf_alone(found == expected);
    if found != expected {
        core.regs[RAX] = found as u64;
        core.regs[RDX] = (found >> 64) as u64;
    }
    core.synced()
}
