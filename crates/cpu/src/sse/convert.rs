//! Conversions between integers, singles and doubles, and rounding to integers.

use crate::core::{Bus, Core, Flow, Handler, Op, vector};
use crate::int::operand::{Based, Mem, Source, Src};
use crate::soft::{Class, Exact, Number, Rounding, round, round_to_integral, status, to_integer};
use crate::sse::float::{Real, context, propagate, set_low, unpack};
use crate::sse::lanes::Lane;
use crate::sse::{MmxSrc, Operand, XmmMem, XmmSrc};

/// Rounding for a conversion: truncation, or what MXCSR says.
fn rounding(core: &Core, truncate: bool) -> Rounding {
    if truncate { Rounding::Zero } else { Rounding::from_bits(core.mxcsr >> 13) }
}

fn integer<R: Real>(mxcsr: u32, value: R, bits: u32, rounding: Rounding, flags: &mut u32) -> i64 {
    let number = unpack(mxcsr, value);
    match to_integer(number, bits, rounding) {
        Some((value, inexact, _)) => {
            if inexact {
                *flags |= status::PRECISION;
            }
            value
        }
        None => {
            *flags |= status::INVALID;
            if bits == 32 { i64::from(i32::MIN) } else { i64::MIN }
        }
    }
}

/// `CVT(T)SS2SI`, `CVT(T)SD2SI`; the register's size is in `op.imm`.
fn to_general<R: Real, S: Operand, const TRUNCATE: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = R::real(S::get(core, bus, op)? as u64);
    let mut flags = 0;
    let wide = op.imm == 8;
    let mode = rounding(core, TRUNCATE);
    let result = integer(core.mxcsr, value, if wide { 64 } else { 32 }, mode, &mut flags);
    core.raise_simd(flags)?;
    core.regs[usize::from(op.dst) % 16] = if wide { result as u64 } else { u64::from(result as u32) };
    Ok(())
}

/// The handler of a conversion from the lowest lane to a general register.
pub(crate) fn select_to_general(double: bool, truncate: bool, memory: bool) -> Handler {
    type M = XmmMem<Based>;
    match (double, truncate, memory) {
        (false, false, false) => to_general::<f32, XmmSrc, false>,
        (false, false, true) => to_general::<f32, M, false>,
        (false, true, false) => to_general::<f32, XmmSrc, true>,
        (false, true, true) => to_general::<f32, M, true>,
        (true, false, false) => to_general::<f64, XmmSrc, false>,
        (true, false, true) => to_general::<f64, M, false>,
        (true, true, false) => to_general::<f64, XmmSrc, true>,
        (true, true, true) => to_general::<f64, M, true>,
    }
}

fn real<R: Real>(mxcsr: u32, value: i64, flags: &mut u32) -> R {
    let number = Number::from_integer(value);
    let exact = if value == 0 { Exact::Special(number) } else { Exact::Finite(number.widen()) };
    let rounded = round(exact, &R::FORMAT, &context(mxcsr, &R::FORMAT), flags);
    R::real(R::FORMAT.pack(&rounded))
}

fn from_general<R: Real, W: crate::flags::Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?.extend() as i64;
    let mut flags = 0;
    let result = real::<R>(core.mxcsr, value, &mut flags);
    core.raise_simd(flags)?;
    set_low(core, op.dst, result);
    Ok(())
}

/// The handler of `CVTSI2SS` and `CVTSI2SD`.
pub(crate) fn select_from_general(double: bool, wide: bool, memory: bool) -> Handler {
    type M = Mem<Based>;
    match (double, wide, memory) {
        (false, false, false) => from_general::<f32, u32, Src>,
        (false, false, true) => from_general::<f32, u32, M>,
        (false, true, false) => from_general::<f32, u64, Src>,
        (false, true, true) => from_general::<f32, u64, M>,
        (true, false, false) => from_general::<f64, u32, Src>,
        (true, false, true) => from_general::<f64, u32, M>,
        (true, true, false) => from_general::<f64, u64, Src>,
        (true, true, true) => from_general::<f64, u64, M>,
    }
}

/// From one precision to the other.
fn resize<A: Real, B: Real>(mxcsr: u32, value: A, flags: &mut u32) -> B {
    let number = unpack(mxcsr, value);
    if number.is_nan() {
        let nan = propagate(number, number, flags);
        return B::real(B::FORMAT.pack(&nan.into()));
    }
    if number.denormal {
        *flags |= status::DENORMAL;
    }
    let exact = if number.class == Class::Finite { Exact::Finite(number.widen()) } else { Exact::Special(number) };
    let rounded = round(exact, &B::FORMAT, &context(mxcsr, &B::FORMAT), flags);
    B::real(B::FORMAT.pack(&rounded))
}

fn resize_scalar<A: Real, B: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = A::real(S::get(core, bus, op)? as u64);
    let mut flags = 0;
    let result = resize::<A, B>(core.mxcsr, value, &mut flags);
    core.raise_simd(flags)?;
    set_low(core, op.dst, result);
    Ok(())
}

/// A packed conversion between singles, doubles and 32-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packed {
    SingleToDouble,
    DoubleToSingle,
    IntegerToSingle,
    IntegerToDouble,
    SingleToInteger,
    SingleToIntegerTruncated,
    DoubleToInteger,
    DoubleToIntegerTruncated,
}

/// The result of a packed conversion; of two lanes only where `half` says so (MMX).
fn convert(core: &Core, which: Packed, b: u128, half: bool, flags: &mut u32) -> u128 {
    let mxcsr = core.mxcsr;
    let lanes = if half { 2 } else { 4 };
    match which {
        Packed::SingleToDouble => {
            let [low, high, ..] = f32::split(b);
            f64::join([resize(mxcsr, low, flags), resize(mxcsr, high, flags)])
        }
        Packed::DoubleToSingle => {
            let [low, high] = f64::split(b);
            f32::join([resize(mxcsr, low, flags), resize(mxcsr, high, flags), 0.0, 0.0])
        }
        Packed::IntegerToDouble => {
            let [low, high, ..] = i32::split(b);
            f64::join([real(mxcsr, i64::from(low), flags), real(mxcsr, i64::from(high), flags)])
        }
        Packed::IntegerToSingle => {
            let mut result = [0.0; 4];
            for (to, from) in result.iter_mut().zip(i32::split(b)).take(lanes) {
                *to = real(mxcsr, i64::from(from), flags);
            }
            f32::join(result)
        }
        Packed::SingleToInteger | Packed::SingleToIntegerTruncated => {
            let mode = rounding(core, which == Packed::SingleToIntegerTruncated);
            let mut result = [0; 4];
            for (to, from) in result.iter_mut().zip(f32::split(b)).take(lanes) {
                *to = integer(mxcsr, from, 32, mode, flags) as i32;
            }
            i32::join(result)
        }
        Packed::DoubleToInteger | Packed::DoubleToIntegerTruncated => {
            let mode = rounding(core, which == Packed::DoubleToIntegerTruncated);
            let [low, high] = f64::split(b);
            let low = integer(mxcsr, low, 32, mode, flags) as i32;
            i32::join([low, integer(mxcsr, high, 32, mode, flags) as i32, 0, 0])
        }
    }
}

const KINDS: [Packed; 8] = [
    Packed::SingleToDouble,
    Packed::DoubleToSingle,
    Packed::IntegerToSingle,
    Packed::IntegerToDouble,
    Packed::SingleToInteger,
    Packed::SingleToIntegerTruncated,
    Packed::DoubleToInteger,
    Packed::DoubleToIntegerTruncated,
];

/// A packed conversion into an XMM register; which one is in `op.imm`.
fn packed<S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    let mut flags = 0;
    let result = convert(core, KINDS[op.imm as usize % 8], b, false, &mut flags);
    core.raise_simd(flags)?;
    core.xmm[usize::from(op.dst) % 16] = result;
    Ok(())
}

/// From MMX (or 8 bytes of memory) to XMM: singles go to the lower half and leave the upper.
fn from_mmx<S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    let which = KINDS[op.imm as usize % 8];
    let mut flags = 0;
    let mut result = convert(core, which, b, true, &mut flags);
    core.raise_simd(flags)?;
    let register = &mut core.xmm[usize::from(op.dst) % 16];
    if which == Packed::IntegerToSingle {
        result |= *register >> 64 << 64;
    }
    *register = result;
    Ok(())
}

/// From XMM or memory to MMX.
fn to_mmx<S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let b = S::get(core, bus, op)?;
    let mut flags = 0;
    let result = convert(core, KINDS[op.imm as usize % 8], b, true, &mut flags);
    core.enter_mmx()?;
    core.raise_simd(flags)?;
    core.set_vector::<true>(op.dst, result & u128::from(u64::MAX));
    Ok(())
}

/// The handler of a packed conversion.
pub(crate) fn select_packed(memory: bool) -> Handler {
    if memory { packed::<XmmMem<Based>> } else { packed::<XmmSrc> }
}

/// The handler of a conversion from MMX.
pub(crate) fn select_from_mmx(memory: bool) -> Handler {
    if memory { from_mmx::<XmmMem<Based>> } else { from_mmx::<MmxSrc> }
}

/// The handler of a conversion to MMX.
pub(crate) fn select_to_mmx(memory: bool) -> Handler {
    if memory { to_mmx::<XmmMem<Based>> } else { to_mmx::<XmmSrc> }
}

/// The handler of `CVTSS2SD` or `CVTSD2SS`.
pub(crate) fn select_resize(from_double: bool, memory: bool) -> Handler {
    match (from_double, memory) {
        (false, false) => resize_scalar::<f32, f64, XmmSrc>,
        (false, true) => resize_scalar::<f32, f64, XmmMem<Based>>,
        (true, false) => resize_scalar::<f64, f32, XmmSrc>,
        (true, true) => resize_scalar::<f64, f32, XmmMem<Based>>,
    }
}

/// `ROUND`: the immediate's low bits give the mode (bit 2: MXCSR's), bit 3 suppresses the precision flag.
fn integral<R: Real>(mxcsr: u32, value: R, imm: u8, flags: &mut u32) -> R {
    let mut number = R::FORMAT.unpack(value.bits());
    if number.denormal && mxcsr & 0x40 != 0 {
        number = Number::zero(number.sign);
    }
    if number.is_nan() {
        let nan = propagate(number, number, flags);
        return R::real(R::FORMAT.pack(&nan.into()));
    }
    let mode = Rounding::from_bits(if imm & 4 != 0 { mxcsr >> 13 } else { u32::from(imm) });
    let (result, inexact, _) = round_to_integral(number, mode);
    if inexact && imm & 8 == 0 {
        *flags |= status::PRECISION;
    }
    R::real(R::FORMAT.pack(&result.into()))
}

fn round_packed<R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let mut b = R::split(S::get(core, bus, op)?);
    let mut flags = 0;
    for lane in b.as_mut() {
        *lane = integral(core.mxcsr, *lane, op.imm as u8, &mut flags);
    }
    core.raise_simd(flags)?;
    core.xmm[usize::from(op.dst) % 16] = R::join(b);
    Ok(())
}

fn round_scalar<R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::real(S::get(core, bus, op)? as u64);
    let mut flags = 0;
    let result = integral(core.mxcsr, b, op.imm as u8, &mut flags);
    core.raise_simd(flags)?;
    set_low(core, op.dst, result);
    Ok(())
}

/// The handler of `ROUNDPS` and its kin.
pub(crate) fn select_round(shape: crate::sse::float::Shape, memory: bool) -> Handler {
    use crate::sse::float::Shape;
    type M = XmmMem<Based>;
    match (shape, memory) {
        (Shape::Ps, false) => round_packed::<f32, XmmSrc>,
        (Shape::Ps, true) => round_packed::<f32, M>,
        (Shape::Pd, false) => round_packed::<f64, XmmSrc>,
        (Shape::Pd, true) => round_packed::<f64, M>,
        (Shape::Ss, false) => round_scalar::<f32, XmmSrc>,
        (Shape::Ss, true) => round_scalar::<f32, M>,
        (Shape::Sd, false) => round_scalar::<f64, XmmSrc>,
        (Shape::Sd, true) => round_scalar::<f64, M>,
    }
}
