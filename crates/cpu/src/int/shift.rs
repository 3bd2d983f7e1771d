//! Shifts and rotates.

use crate::core::{Bus, Core, Flow, Handler, Op, RCX};
use crate::flags::Int;
use crate::int::operand::{Dst, Mem, Place};
use crate::int::{by_address, by_wide, by_width};

/// A shift or rotate by a count that isn't zero after masking.
pub(crate) trait Shift: 'static {
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W;
}

pub(crate) struct Rol;
pub(crate) struct Ror;
pub(crate) struct Rcl;
pub(crate) struct Rcr;
pub(crate) struct Shl;
pub(crate) struct Shr;
pub(crate) struct Sar;

fn bit<W: Int>(value: W, index: u32) -> bool {
    value.widen() >> index & 1 != 0
}

impl Shift for Rol {
    #[inline]
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let by = count % W::BITS;
        let wide = value.widen();
        let result = if by == 0 { value } else { W::truncate(wide << by | wide >> (W::BITS - by)) };
        let cf = bit(result, 0);
        core.flags.set_cf_of(cf, cf ^ result.top());
        result
    }
}

impl Shift for Ror {
    #[inline]
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let by = count % W::BITS;
        let wide = value.widen();
        let result = if by == 0 { value } else { W::truncate(wide >> by | wide << (W::BITS - by)) };
        core.flags.set_cf_of(result.top(), result.top() ^ bit(result, W::BITS - 2));
        result
    }
}

impl Shift for Rcl {
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let by = count % (W::BITS + 1);
        let mut cf = core.flags.cf();
        if by == 0 {
            core.flags.set_cf_of(cf, cf ^ value.top());
            return value;
        }
        let whole = u128::from(cf) << W::BITS | u128::from(value.widen());
        let rotated = whole << by | whole >> (W::BITS + 1 - by);
        let result = W::truncate(rotated as u64);
        cf = rotated >> W::BITS & 1 != 0;
        core.flags.set_cf_of(cf, cf ^ result.top());
        result
    }
}

impl Shift for Rcr {
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let by = count % (W::BITS + 1);
        let cf = core.flags.cf();
        let whole = u128::from(cf) << W::BITS | u128::from(value.widen());
        let rotated = if by == 0 { whole } else { whole >> by | whole << (W::BITS + 1 - by) };
        let result = W::truncate(rotated as u64);
        core.flags.set_cf_of(rotated >> W::BITS & 1 != 0, result.top() ^ bit(result, W::BITS - 2));
        result
    }
}

impl Shift for Shl {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let shifted = if W::BITS < 64 { value.widen() << count } else { value.widen() << (count - 1) << 1 };
        let result = W::truncate(shifted);
        let cf = count <= W::BITS && bit(value, (W::BITS - count) % 64);
        core.flags.set_result(result);
        core.flags.set_carries(cf, cf ^ result.top(), false);
        result
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let before = value.widen() >> (count - 1);
        let result = W::truncate(before >> 1);
        core.flags.set_result(result);
        core.flags.set_carries(before & 1 != 0, count == 1 && value.top(), false);
        result
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, value: W, count: u32) -> W {
        let before = value.extend() as i64 >> (count - 1);
        let result = W::truncate((before >> 1) as u64);
        core.flags.set_result(result);
        core.flags.set_carries(before & 1 != 0, false, false);
        result
    }
}

/// Bits of the count that a shift looks at.
fn mask<W: Int>() -> u32 {
    if W::BITS == 64 { 63 } else { 31 }
}

#[inline(always)]
pub(crate) fn shift_imm<O: Shift, W: Int, D: Place<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (value, slot) = D::update(core, bus, op)?;
    let count = op.imm as u32 & mask::<W>();
    let result = if count == 0 { value } else { O::apply(core, value, count) };
    D::set(core, bus, op, slot, result)
}

#[inline(always)]
pub(crate) fn shift_cl<O: Shift, W: Int, D: Place<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (value, slot) = D::update(core, bus, op)?;
    let count = core.regs[RCX] as u32 & mask::<W>();
    let result = if count == 0 { value } else { O::apply(core, value, count) };
    D::set(core, bus, op, slot, result)
}

/// The handler of a shift by an immediate or by CL.
pub(crate) fn select<O: Shift>(memory: bool, by_cl: bool, size: u8, flat: bool) -> Handler {
    by_width!(size, W => match (memory, by_cl) {
        (false, false) => shift_imm::<O, W, Dst>,
        (false, true) => shift_cl::<O, W, Dst>,
        (true, false) => by_address!(flat, A => shift_imm::<O, W, Mem<A>>),
        (true, true) => by_address!(flat, A => shift_cl::<O, W, Mem<A>>),
    })
}

/// `SHLD` (left) and `SHRD`; the count is in `op.imm` or CL.
fn double<W: Int, D: Place<W>, const LEFT: bool, const CL: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (value, slot) = D::update(core, bus, op)?;
    let count = if CL { core.regs[RCX] as u32 } else { op.imm as u32 } & mask::<W>();
    if count == 0 {
        return D::set(core, bus, op, slot, value);
    }
    let other = core.reg::<W>(op.src);
    let (a, b) = (u128::from(value.widen()), u128::from(other.widen()));
    // For counts beyond 16 of 16-bit operands (undefined results), as hardware does: the value comes round again.
    let (result, cf) = if LEFT {
        let wide = if W::BITS == 16 { a << 32 | b << 16 | a } else { a << W::BITS | b };
        let top = if W::BITS == 16 { 32 } else { W::BITS };
        let shifted = wide << count;
        // The last bit out is bit 128 of the shifted value of 64-bit operands.
        let cf = if W::BITS == 64 { a >> (64 - count) & 1 } else { shifted >> (top + W::BITS) & 1 };
        (W::truncate((shifted >> top) as u64), cf != 0)
    } else {
        let wide = if W::BITS == 16 { a << 32 | b << 16 | a } else { b << W::BITS | a };
        (W::truncate((wide >> count) as u64), wide >> (count - 1) & 1 != 0)
    };
    core.flags.set_result(result);
    core.flags.set_carries(cf, result.top() ^ value.top(), false);
    D::set(core, bus, op, slot, result)
}

/// The handler of `SHLD` or `SHRD`.
pub(crate) fn select_double(left: bool, memory: bool, by_cl: bool, size: u8, flat: bool) -> Handler {
    by_wide!(size, W => match (memory, left, by_cl) {
        (false, true, false) => double::<W, Dst, true, false>,
        (false, true, true) => double::<W, Dst, true, true>,
        (false, false, false) => double::<W, Dst, false, false>,
        (false, false, true) => double::<W, Dst, false, true>,
        (true, true, false) => by_address!(flat, A => double::<W, Mem<A>, true, false>),
        (true, true, true) => by_address!(flat, A => double::<W, Mem<A>, true, true>),
        (true, false, false) => by_address!(flat, A => double::<W, Mem<A>, false, false>),
        (true, false, true) => by_address!(flat, A => double::<W, Mem<A>, false, true>),
    })
}
