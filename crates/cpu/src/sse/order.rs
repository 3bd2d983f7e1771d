//! Comparison of single and double precision numbers, and the instructions that pick by it: `MIN`, `MAX`, `CMP`, `COMIS`,
//! `UCOMIS`. Arithmetic is in `float`.

use std::cmp::Ordering;

use crate::core::{Bus, Core, Flow, Handler, Op, bit};
use crate::flags::Lazy;
use crate::int::by_address;
use crate::soft::{Class, status};
use crate::sse::float::{DAZ, Real, Shape, set_low, unpack};
use crate::sse::{Operand, XmmMem, XmmSrc};

/// The flags of a comparison of two numbers of which nothing but their order matters.
#[inline(always)]
pub(crate) fn direct_order<R: Real>(a: R, b: R) -> Option<Lazy> {
    if a.is_denormal() || b.is_denormal() {
        return None;
    }
    let (x, y) = (a.widened(), b.widened());
    let order = x.partial_cmp(&y)?;
    let carries = if order == Ordering::Less { 3 << 62 } else { 0 };
    // A sign of 1 is a positive number of odd parity.
    Some(Lazy { zero: u64::from(order != Ordering::Equal), sign: 1, carries })
}

/// An operation that only compares or picks: the flags it raises come from the operands alone.
pub(crate) trait Choice: 'static {
    fn apply<R: Real>(a: R, b: R, order: Option<Ordering>, imm: u8) -> R;
    /// Whether a quiet NaN is invalid, too.
    fn is_signaling(imm: u8) -> bool;
}

pub(crate) struct Min;
pub(crate) struct Max;
pub(crate) struct Compare;

impl Choice for Min {
    fn apply<R: Real>(a: R, b: R, order: Option<Ordering>, _imm: u8) -> R {
        if order == Some(Ordering::Less) { a } else { b }
    }
    fn is_signaling(_imm: u8) -> bool {
        true
    }
}

impl Choice for Max {
    fn apply<R: Real>(a: R, b: R, order: Option<Ordering>, _imm: u8) -> R {
        if order == Some(Ordering::Greater) { a } else { b }
    }
    fn is_signaling(_imm: u8) -> bool {
        true
    }
}

impl Choice for Compare {
    fn apply<R: Real>(_a: R, _b: R, order: Option<Ordering>, imm: u8) -> R {
        let met = match imm & 3 {
            0 => order == Some(Ordering::Equal),
            1 => order == Some(Ordering::Less),
            2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            _ => order.is_none(),
        };
        if met != (imm & 4 != 0) { R::real(u64::MAX) } else { R::real(0) }
    }
    fn is_signaling(imm: u8) -> bool {
        matches!(imm & 3, 1 | 2)
    }
}

/// Compares two operands and notes what that raises.
fn order<R: Real>(mxcsr: u32, a: R, b: R, signaling: bool, flags: &mut u32) -> Option<Ordering> {
    if !a.is_denormal()
        && !b.is_denormal()
        && let Some(order) = a.widened().partial_cmp(&b.widened())
    {
        return Some(order);
    }
    let (x, y) = (unpack(mxcsr, a), unpack(mxcsr, b));
    let order = x.compare(&y);
    if order.is_none() {
        if signaling || x.class == Class::Signaling || y.class == Class::Signaling {
            *flags |= status::INVALID;
        }
    } else if x.denormal || y.denormal {
        *flags |= status::DENORMAL;
    }
    order
}

/// Denormals count as zeros in what is picked, too, where MXCSR says so.
fn flushed<R: Real>(mxcsr: u32, value: R) -> R {
    if mxcsr & DAZ != 0 && value.is_denormal() {
        let number = unpack(mxcsr, value);
        return R::real(R::FORMAT.pack(&number.into()));
    }
    value
}

fn choose<C: Choice, R: Real>(mxcsr: u32, flags: &mut u32, a: R, b: R, imm: u8) -> R {
    let order = order(mxcsr, a, b, C::is_signaling(imm), flags);
    C::apply(flushed(mxcsr, a), flushed(mxcsr, b), order, imm)
}

fn choose_packed<C: Choice, R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::split(S::get(core, bus, op)?);
    let dst = usize::from(op.dst) % 16;
    let mut a = R::split(core.xmm[dst]);
    let mut flags = 0;
    for (a, b) in a.as_mut().iter_mut().zip(b.as_ref()) {
        *a = choose::<C, R>(core.mxcsr, &mut flags, *a, *b, op.imm as u8);
    }
    core.raise_simd(flags)?;
    core.xmm[dst] = R::join(a);
    Ok(())
}

fn choose_scalar<C: Choice, R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::real(S::get(core, bus, op)? as u64);
    let a = R::real(core.xmm[usize::from(op.dst) % 16] as u64);
    let mut flags = 0;
    let result = choose::<C, R>(core.mxcsr, &mut flags, a, b, op.imm as u8);
    core.raise_simd(flags)?;
    set_low(core, op.dst, result);
    Ok(())
}

/// The handler of `MIN`, `MAX` or `CMP` of any shape.
pub(crate) fn select_choice<C: Choice>(shape: Shape, memory: bool, flat: bool) -> Handler {
    if memory {
        return by_address!(flat, A => match shape {
            Shape::Ps => choose_packed::<C, f32, XmmMem<A>>,
            Shape::Pd => choose_packed::<C, f64, XmmMem<A>>,
            Shape::Ss => choose_scalar::<C, f32, XmmMem<A>>,
            Shape::Sd => choose_scalar::<C, f64, XmmMem<A>>,
        });
    }
    match shape {
        Shape::Ps => choose_packed::<C, f32, XmmSrc>,
        Shape::Pd => choose_packed::<C, f64, XmmSrc>,
        Shape::Ss => choose_scalar::<C, f32, XmmSrc>,
        Shape::Sd => choose_scalar::<C, f64, XmmSrc>,
    }
}

/// `COMIS`, `UCOMIS`
fn compare_flags<R: Real, S: Operand, const SIGNALING: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::real(S::get(core, bus, op)? as u64);
    let a = R::real(core.xmm[usize::from(op.dst) % 16] as u64);
    let mut flags = 0;
    let order = order(core.mxcsr, a, b, SIGNALING, &mut flags);
    core.raise_simd(flags)?;
    core.flags = Lazy::from_bits(order_flags(order));
    Ok(())
}

/// CF, PF and ZF of a comparison.
pub(crate) fn order_flags(order: Option<Ordering>) -> u64 {
    match order {
        None => bit::ZF | bit::PF | bit::CF,
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => bit::CF,
        Some(Ordering::Equal) => bit::ZF,
    }
}

/// The handler of `COMISS`, `COMISD`, `UCOMISS`, `UCOMISD`.
pub(crate) fn select_compare(double: bool, signaling: bool, memory: bool) -> Handler {
    type M = XmmMem<crate::int::operand::Based>;
    match (double, signaling, memory) {
        (false, false, false) => compare_flags::<f32, XmmSrc, false>,
        (false, false, true) => compare_flags::<f32, M, false>,
        (false, true, false) => compare_flags::<f32, XmmSrc, true>,
        (false, true, true) => compare_flags::<f32, M, true>,
        (true, false, false) => compare_flags::<f64, XmmSrc, false>,
        (true, false, true) => compare_flags::<f64, M, false>,
        (true, true, false) => compare_flags::<f64, XmmSrc, true>,
        (true, true, true) => compare_flags::<f64, M, true>,
    }
}
