//! x87 handlers: arithmetic, comparisons and the one-operand instructions.
//!
//! `op.dst` and `op.src` are stack indexes, `op.imm` says which operation, `op.bits` how often to pop.

use crate::core::{Bus, Core, Flow, Op, bit, vector};
use crate::int::operand::{Address, Based};
use crate::soft::{Class, EXTENDED, Exact, Number, Rounded, remainder, round_to_integral, status};
use crate::soft::{DOUBLE, SINGLE};
use crate::x87::arithmetic::{Operation, exact_f80};
use crate::x87::{C0, C1, C2, C3, F80};

/// What a memory operand holds.
pub(crate) const SINGLE_REAL: u8 = 0;
pub(crate) const DOUBLE_REAL: u8 = 1;
pub(crate) const INTEGER_16: u8 = 2;
pub(crate) const INTEGER_32: u8 = 3;
pub(crate) const INTEGER_64: u8 = 4;

/// What every waiting instruction does first: reports a pending exception, and notes itself.
pub(crate) fn begin(core: &mut Core, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    core.fpu.ip = core.this_rip(op);
    Ok(())
}

/// Reads a memory operand of one of the kinds above.
pub(crate) fn operand<const KIND: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<Number> {
    let size = match KIND {
        INTEGER_16 => 2,
        DOUBLE_REAL | INTEGER_64 => 8,
        _ => 4,
    };
    let linear = Based::linear(core, op, size, false)?;
    let number = match KIND {
        SINGLE_REAL => SINGLE.unpack(u64::from(core.load::<u32>(bus, linear, op.seg)?)),
        DOUBLE_REAL => DOUBLE.unpack(core.load::<u64>(bus, linear, op.seg)?),
        INTEGER_16 => Number::from_integer(i64::from(core.load::<u16>(bus, linear, op.seg)? as i16)),
        INTEGER_32 => Number::from_integer(i64::from(core.load::<u32>(bus, linear, op.seg)? as i32)),
        _ => Number::from_integer(core.load::<u64>(bus, linear, op.seg)? as i64),
    };
    core.fpu.dp = linear;
    Ok(number)
}

fn pops(core: &mut Core, op: &Op) {
    for _ in 0..op.bits {
        core.fpu.pop();
    }
}

fn store_result(core: &mut Core, op: &Op, result: Option<F80>) {
    if let Some(value) = result {
        core.fpu.set(op.dst, value);
        pops(core, op);
    }
}

fn operation(op: &Op) -> Operation {
    Operation::ALL[op.imm as usize % 6]
}

/// `FADD ST(i), ST(j)` and the like.
pub(crate) fn arithmetic(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let result = match (core.fpu.get(op.dst), core.fpu.get(op.src)) {
        (Some(a), Some(b)) => core.fpu.operate(operation(op), a.unpack(), b.unpack()),
        _ if core.fpu.stack_fault(false) => None,
        _ => Some(F80::INDEFINITE),
    };
    store_result(core, op, result);
    Ok(())
}

/// `FADD m32` and the like.
pub(crate) fn arithmetic_memory<const KIND: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let b = operand::<KIND>(core, bus, op)?;
    begin(core, op)?;
    let result = match core.fpu.get(0) {
        Some(a) => core.fpu.operate(operation(op), a.unpack(), b),
        _ if core.fpu.stack_fault(false) => None,
        _ => Some(F80::INDEFINITE),
    };
    store_result(core, op, result);
    Ok(())
}

/// How a comparison reports: condition codes or RFLAGS, and whether quiet NaNs are invalid.
fn compare(core: &mut Core, op: &Op, a: Option<F80>, b: Option<Number>, signaling: bool, to_flags: bool) {
    if !to_flags {
        core.fpu.set_c1(false);
    }
    let order = match (a, b) {
        (Some(a), Some(b)) => core.fpu.order(a.unpack(), b, signaling),
        _ if core.fpu.stack_fault(false) => Err(()),
        _ => Ok(None),
    };
    let unmasked = order.is_err();
    let order = order.unwrap_or(None);
    if to_flags {
        core.set_order_flags(order);
    } else {
        core.fpu.set_order(order);
    }
    if !unmasked {
        pops(core, op);
    }
}

/// `FCOM`, `FUCOM` and their popping forms.
pub(crate) fn compare_registers<const SIGNALING: bool, const FLAGS: bool>(
    core: &mut Core,
    _bus: &mut Bus<'_>,
    op: &Op,
) -> Flow {
    begin(core, op)?;
    let (a, b) = (core.fpu.get(0), core.fpu.get(op.src));
    compare(core, op, a, b.map(F80::unpack), SIGNALING, FLAGS);
    Ok(())
}

/// `FCOM m32` and the like.
pub(crate) fn compare_memory<const KIND: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let b = operand::<KIND>(core, bus, op)?;
    begin(core, op)?;
    let a = core.fpu.get(0);
    compare(core, op, a, Some(b), true, false);
    Ok(())
}

/// `FTST`
pub(crate) fn ftst(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let a = core.fpu.get(0);
    compare(core, op, a, Some(Number::zero(false)), true, false);
    Ok(())
}

/// `FXAM`
pub(crate) fn fxam(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let value = core.fpu.regs[usize::from(core.fpu.top)];
    let number = value.unpack();
    let class = if core.fpu.get(0).is_none() {
        C3 | C0
    } else {
        match number.class {
            Class::Unsupported => 0,
            Class::Quiet | Class::Signaling => C0,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Finite if number.denormal => C3 | C2,
            Class::Finite => C2,
        }
    };
    let sign = if value.exponent >> 15 != 0 { C1 } else { 0 };
    core.fpu.status = core.fpu.status & !(C0 | C1 | C2 | C3) | class | sign;
    Ok(())
}

/// Which one-operand instruction.
pub(crate) const CHANGE_SIGN: u64 = 0;
pub(crate) const ABSOLUTE: u64 = 1;
pub(crate) const SQUARE_ROOT: u64 = 2;
pub(crate) const ROUND: u64 = 3;

/// `FCHS`, `FABS`, `FSQRT`, `FRNDINT`
pub(crate) fn unary(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let result = match fpu.get(0) {
        None if fpu.stack_fault(false) => None,
        None => Some(F80::INDEFINITE),
        Some(value) => match op.imm {
            CHANGE_SIGN => Some(F80 { exponent: value.exponent ^ 0x8000, ..value }),
            ABSOLUTE => Some(F80 { exponent: value.exponent & 0x7fff, ..value }),
            SQUARE_ROOT => fpu.root(value.unpack()),
            _ => round_register(core, value),
        },
    };
    if let Some(value) = result {
        core.fpu.set(0, value);
    }
    Ok(())
}

fn round_register(core: &mut Core, value: F80) -> Option<F80> {
    let fpu = &mut core.fpu;
    let number = value.unpack();
    if let Some(result) = fpu.special(number, number) {
        return result;
    }
    if number.denormal && fpu.note(status::DENORMAL, 2) {
        return None;
    }
    let (result, inexact, up) = round_to_integral(number, fpu.rounding());
    if inexact {
        fpu.set_c1(up);
        fpu.note(status::PRECISION, 0);
    }
    Some(exact_f80(result))
}

/// `FXCH`
pub(crate) fn fxch(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let (a, b) = (fpu.get(0), fpu.get(op.src));
    if (a.is_none() || b.is_none()) && fpu.stack_fault(false) {
        return Ok(());
    }
    fpu.set(0, b.unwrap_or(F80::INDEFINITE));
    fpu.set(op.src, a.unwrap_or(F80::INDEFINITE));
    Ok(())
}

/// `FCMOVcc`; the condition (B, E, BE, U) is in `op.imm`, bit 2 negates it.
pub(crate) fn fcmov(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let flags = core.flags.to_bits();
    let set = match op.imm & 3 {
        0 => flags & bit::CF != 0,
        1 => flags & bit::ZF != 0,
        2 => flags & (bit::CF | bit::ZF) != 0,
        _ => flags & bit::PF != 0,
    };
    let fpu = &mut core.fpu;
    let (a, b) = (fpu.get(0), fpu.get(op.src));
    match (a, b) {
        (Some(_), Some(b)) => {
            if set != (op.imm & 4 != 0) {
                fpu.set(0, b);
            }
        }
        _ => {
            if !fpu.stack_fault(false) {
                fpu.set(0, F80::INDEFINITE);
            }
        }
    }
    Ok(())
}

/// `FPREM` and `FPREM1` (`op.imm` 1).
pub(crate) fn fprem(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    // A result that comes of an exception is complete, too: programs wait for C2 to be clear.
    fpu.status &= !C2;
    let (Some(a), Some(b)) = (fpu.get(0), fpu.get(1)) else {
        if !fpu.stack_fault(false) {
            fpu.set(0, F80::INDEFINITE);
        }
        return Ok(());
    };
    let (x, y) = (a.unpack(), b.unpack());
    let special =
        fpu.special(x, y).or_else(|| (x.class == Class::Infinity || y.class == Class::Zero).then(|| fpu.invalid()));
    if let Some(result) = special {
        if let Some(value) = result {
            fpu.set(0, value);
        }
        return Ok(());
    }
    if (x.denormal || y.denormal) && fpu.note(status::DENORMAL, 2) {
        return Ok(());
    }
    fpu.status &= !(C0 | C1 | C2 | C3);
    if y.class == Class::Infinity {
        fpu.set(0, exact_f80_denormal(x));
        return Ok(());
    }
    let (rest, quotient, complete) = remainder(x, y, op.imm != 0);
    if complete {
        for (bit, code) in [(0, C1), (1, C3), (2, C0)] {
            if quotient >> bit & 1 != 0 {
                fpu.status |= code;
            }
        }
    } else {
        fpu.status |= C2;
    }
    fpu.set(0, exact_f80_denormal(rest));
    Ok(())
}

/// Packs a number that may be below the least normal one, but needs no rounding.
pub(crate) fn exact_f80_denormal(number: Number) -> F80 {
    if number.class == Class::Finite && number.exponent < EXTENDED.least {
        let shift = (EXTENDED.least - number.exponent) as u32;
        let significand = number.significand.checked_shr(shift).unwrap_or(0);
        return F80 { significand, exponent: u16::from(number.sign) << 15 };
    }
    F80::pack(&Rounded::from(number))
}

/// `FSCALE`
pub(crate) fn fscale(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let (Some(a), Some(b)) = (fpu.get(0), fpu.get(1)) else {
        if !fpu.stack_fault(false) {
            fpu.set(0, F80::INDEFINITE);
        }
        return Ok(());
    };
    let (x, y) = (a.unpack(), b.unpack());
    let result = match fpu.special(x, y) {
        Some(result) => result,
        None if (x.denormal || y.denormal) && fpu.note(status::DENORMAL, 2) => None,
        None => match (x.class, y.class, y.sign) {
            (Class::Zero, Class::Infinity, false) | (Class::Infinity, Class::Infinity, true) => fpu.invalid(),
            (_, Class::Infinity, false) => Some(exact_f80(Number::infinity(x.sign))),
            (_, Class::Infinity, true) => Some(exact_f80(Number::zero(x.sign))),
            (Class::Finite, ..) => {
                let by = match y.class {
                    Class::Finite if y.exponent > 16 => {
                        if y.sign {
                            -0x2_0000
                        } else {
                            0x2_0000
                        }
                    }
                    Class::Finite if y.exponent >= 0 => {
                        let magnitude = (y.significand >> (63 - y.exponent)) as i32;
                        if y.sign { -magnitude } else { magnitude }
                    }
                    _ => 0,
                };
                let mut wide = x.widen();
                wide.exponent += by;
                let control = fpu.control;
                // The precision control doesn't apply.
                fpu.control |= 0x300;
                let result = fpu.finish(Exact::Finite(wide), 0);
                fpu.control = control;
                result
            }
            _ => Some(a),
        },
    };
    if let Some(value) = result {
        fpu.set(0, value);
    }
    Ok(())
}

/// `FXTRACT`
pub(crate) fn fxtract(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let full = fpu.get(7).is_some();
    let Some(a) = fpu.get(0).filter(|_| !full) else {
        let overflow = full && fpu.get(0).is_some();
        if !fpu.stack_fault(overflow) {
            fpu.set(0, F80::INDEFINITE);
            fpu.top = fpu.top.wrapping_sub(1) & 7;
            fpu.set(0, F80::INDEFINITE);
        }
        return Ok(());
    };
    let x = a.unpack();
    let (exponent, significand) = match fpu.special(x, x) {
        Some(None) => return Ok(()),
        Some(Some(nan)) => (nan, nan),
        None => match x.class {
            Class::Zero => {
                if fpu.note(status::ZERO_DIVIDE, 4) {
                    return Ok(());
                }
                (exact_f80(Number::infinity(true)), a)
            }
            Class::Infinity => (exact_f80(Number::infinity(false)), a),
            _ => {
                if x.denormal && fpu.note(status::DENORMAL, 2) {
                    return Ok(());
                }
                let significand = Number::finite(x.sign, 0, x.significand);
                (exact_f80(Number::from_integer(i64::from(x.exponent))), exact_f80(significand))
            }
        },
    };
    fpu.set(0, exponent);
    fpu.push(significand);
    Ok(())
}
