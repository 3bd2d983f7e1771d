//! Multiplication and division.

use crate::core::{Bus, Core, Flow, Handler, Op, RAX, RDX, vector};
use crate::flags::Int;
use crate::int::operand::{Dst, Imm, Mem, Source, Src};
use crate::int::{by_address, by_wide, by_width};

/// Splits a double-width product over AX, or DX:AX and wider.
fn set_wide<W: Int>(core: &mut Core, value: u128) {
    if W::BITS == 8 {
        core.set_reg(RAX as u8, value as u16);
    } else {
        core.set_reg(RAX as u8, W::truncate(value as u64));
        core.set_reg(RDX as u8, W::truncate((value >> W::BITS) as u64));
    }
}

#[inline(always)]
fn multiplied<W: Int>(core: &mut Core, low: W, overflow: bool) {
    core.flags.set_result(low);
    core.flags.set_carries(overflow, overflow, false);
}

fn mul<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    let a = core.reg::<W>(RAX as u8);
    let product = u128::from(a.widen()) * u128::from(b.widen());
    set_wide::<W>(core, product);
    multiplied(core, W::truncate(product as u64), product >> W::BITS != 0);
    Ok(())
}

fn imul<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    let a = core.reg::<W>(RAX as u8);
    let product = i128::from(a.extend() as i64) * i128::from(b.extend() as i64);
    set_wide::<W>(core, product as u128);
    let low = W::truncate(product as u64);
    multiplied(core, low, i128::from(low.extend() as i64) != product);
    Ok(())
}

#[inline(always)]
pub(crate) fn signed_product<W: Int>(core: &mut Core, op: &Op, a: W, b: W) {
    let product = i128::from(a.extend() as i64) * i128::from(b.extend() as i64);
    let low = W::truncate(product as u64);
    multiplied(core, low, i128::from(low.extend() as i64) != product);
    core.set_reg(op.dst, low);
}

/// `IMUL r, r/m`
#[inline(always)]
pub(crate) fn imul2<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    let a = core.reg::<W>(op.dst);
    signed_product(core, op, a, b);
    Ok(())
}

/// `IMUL r, r/m, imm`
#[inline(always)]
pub(crate) fn imul3<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let a = S::get(core, bus, op)?;
    let b = Imm::get(core, bus, op)?;
    signed_product(core, op, a, b);
    Ok(())
}

fn dividend<W: Int>(core: &Core) -> u128 {
    if W::BITS == 8 {
        u128::from(core.reg::<u16>(RAX as u8))
    } else {
        u128::from(core.reg::<W>(RDX as u8).widen()) << W::BITS | u128::from(core.reg::<W>(RAX as u8).widen())
    }
}

fn set_quotient<W: Int>(core: &mut Core, quotient: u64, remainder: u64) {
    if W::BITS == 8 {
        core.set_reg(RAX as u8, (remainder as u8 as u16) << 8 | quotient as u8 as u16);
    } else {
        core.set_reg(RAX as u8, W::truncate(quotient));
        core.set_reg(RDX as u8, W::truncate(remainder));
    }
}

fn div<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let divisor: W = S::get(core, bus, op)?;
    let dividend = dividend::<W>(core);
    if divisor.widen() == 0 {
        return core.raise(vector::DE);
    }
    if let Ok(small) = u64::try_from(dividend) {
        let quotient = small / divisor.widen();
        if W::BITS < 64 && quotient >> W::BITS != 0 {
            return core.raise(vector::DE);
        }
        set_quotient::<W>(core, quotient, small % divisor.widen());
        return Ok(());
    }
    let divisor = u128::from(divisor.widen());
    let quotient = dividend / divisor;
    if quotient >> W::BITS != 0 {
        return core.raise(vector::DE);
    }
    set_quotient::<W>(core, quotient as u64, (dividend % divisor) as u64);
    Ok(())
}

fn idiv<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let divisor: W = S::get(core, bus, op)?;
    let shift = 128 - 2 * W::BITS;
    let dividend = ((dividend::<W>(core) << shift) as i128) >> shift;
    let divisor = i128::from(divisor.extend() as i64);
    if divisor == 0 {
        return core.raise(vector::DE);
    }
    let quotient = dividend.wrapping_div(divisor);
    let low = W::truncate(quotient as u64);
    if i128::from(low.extend() as i64) != quotient {
        return core.raise(vector::DE);
    }
    set_quotient::<W>(core, quotient as u64, dividend.wrapping_rem(divisor) as u64);
    Ok(())
}

/// Which of the one-operand instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MulDiv {
    Mul,
    Imul,
    Div,
    Idiv,
}

/// The handler of a one-operand multiplication or division.
pub(crate) fn select(which: MulDiv, memory: bool, size: u8, flat: bool) -> Handler {
    macro_rules! pick {
        ($f:ident) => {
            by_width!(size, W => if memory { by_address!(flat, A => $f::<W, Mem<A>>) } else { $f::<W, Dst> })
        };
    }
    match which {
        MulDiv::Mul => pick!(mul),
        MulDiv::Imul => pick!(imul),
        MulDiv::Div => pick!(div),
        MulDiv::Idiv => pick!(idiv),
    }
}

/// The handler of `IMUL` with two or three operands.
pub(crate) fn select_imul(three: bool, memory: bool, size: u8, flat: bool) -> Handler {
    by_wide!(size, W => match (three, memory) {
        (false, false) => imul2::<W, Src>,
        (false, true) => by_address!(flat, A => imul2::<W, Mem<A>>),
        (true, false) => imul3::<W, Src>,
        (true, true) => by_address!(flat, A => imul3::<W, Mem<A>>),
    })
}
