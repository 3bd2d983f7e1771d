//! Transcendental instructions: series on 128-bit significands, rounded once to 64 bits. Results are within half a unit
//! in the last place plus about 2^-50 of one; trigonometric arguments are reduced with pi to 66 bits, as hardware does.

use crate::core::{Bus, Core, Flow, Op};
use crate::soft::{Big, Class, Exact, Number, status};
use crate::x87::arithmetic::exact_f80;
use crate::x87::handlers::begin;
use crate::x87::{C2, F80, Fpu};

/// Rounds a series' result; precision control doesn't apply.
fn finish(fpu: &mut Fpu, value: Big, flags: u32) -> Option<F80> {
    let control = fpu.control;
    fpu.control |= 0x300;
    let exact = if value.is_zero() { Exact::Special(Number::zero(value.sign)) } else { Exact::Finite(value.widen()) };
    let result = fpu.finish(exact, flags);
    fpu.control = control;
    result
}

fn denormal(numbers: &[Number]) -> u32 {
    if numbers.iter().any(|number| number.denormal) { status::DENORMAL } else { 0 }
}

/// `F2XM1`
pub(crate) fn f2xm1(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let Some(value) = fpu.get(0) else {
        if !fpu.stack_fault(false) {
            fpu.set(0, F80::INDEFINITE);
        }
        return Ok(());
    };
    let x = value.unpack();
    let result = match fpu.special(x, x) {
        Some(result) => result,
        None => match x.class {
            Class::Infinity if x.sign => Some(exact_f80(Number::finite(true, 0, 1 << 63))),
            Class::Zero | Class::Infinity => Some(value),
            // Out of range the result is undefined: the operand.
            _ if x.exponent > 0 => Some(value),
            _ if x.exponent == 0 && x.significand == 1 << 63 => {
                Some(exact_f80(Number::finite(x.sign, if x.sign { -1 } else { 0 }, 1 << 63)))
            }
            _ => finish(fpu, Big::new(x).exp2_minus_1(), denormal(&[x])),
        },
    };
    if let Some(value) = result {
        fpu.set(0, value);
    }
    Ok(())
}

/// Two operands for a result in ST(1), then a pop.
fn binary(core: &mut Core, op: &Op, compute: fn(&mut Fpu, Number, Number) -> Option<F80>) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let result = match (fpu.get(0), fpu.get(1)) {
        (Some(x), Some(y)) => {
            let (x, y) = (x.unpack(), y.unpack());
            match fpu.special(x, y) {
                Some(result) => result,
                None => compute(fpu, x, y),
            }
        }
        _ if fpu.stack_fault(false) => None,
        _ => Some(F80::INDEFINITE),
    };
    if let Some(value) = result {
        fpu.set(1, value);
        fpu.pop();
    }
    Ok(())
}

fn zero_divide(fpu: &mut Fpu, sign: bool) -> Option<F80> {
    if fpu.note(status::ZERO_DIVIDE, 4) { None } else { Some(exact_f80(Number::infinity(sign))) }
}

fn y_log2_x(fpu: &mut Fpu, x: Number, y: Number) -> Option<F80> {
    let one = x.class == Class::Finite && x.exponent == 0 && x.significand == 1 << 63 && !x.sign;
    match (x.class, y.class) {
        (Class::Zero, Class::Zero) => fpu.invalid(),
        (Class::Zero, Class::Finite) => zero_divide(fpu, !y.sign),
        (Class::Zero, _) => Some(exact_f80(Number::infinity(!y.sign))),
        _ if x.sign => fpu.invalid(),
        (Class::Infinity, Class::Zero) => fpu.invalid(),
        (Class::Infinity, _) => Some(exact_f80(Number::infinity(y.sign))),
        (_, Class::Infinity) if one => fpu.invalid(),
        (_, Class::Infinity) => Some(exact_f80(Number::infinity(y.sign != (x.exponent < 0)))),
        (_, Class::Zero) => Some(exact_f80(Number::zero(y.sign != (x.exponent < 0)))),
        _ if one => Some(exact_f80(Number::zero(y.sign))),
        _ if x.significand == 1 << 63 => {
            // A power of two: the product is rounded, not the logarithm.
            let exact = crate::soft::multiply(y, Number::from_integer(i64::from(x.exponent)), &mut 0);
            fpu.finish(exact, denormal(&[x, y]))
        }
        _ => finish(fpu, Big::new(x).log2().times(Big::new(y)), denormal(&[x, y])),
    }
}

fn y_log2_x_plus_1(fpu: &mut Fpu, x: Number, y: Number) -> Option<F80> {
    match (x.class, y.class) {
        (Class::Zero, Class::Infinity) => fpu.invalid(),
        (Class::Zero, _) | (Class::Finite, Class::Zero) => Some(exact_f80(Number::zero(x.sign != y.sign))),
        (Class::Infinity, Class::Zero) => fpu.invalid(),
        (Class::Infinity, _) if x.sign => fpu.invalid(),
        (_, Class::Infinity) | (Class::Infinity, _) => Some(exact_f80(Number::infinity(x.sign != y.sign))),
        _ if x.sign && x.exponent >= 0 => fpu.invalid(),
        _ => finish(fpu, Big::new(x).log2_of_1_plus().times(Big::new(y)), denormal(&[x, y])),
    }
}

fn arc_tangent(fpu: &mut Fpu, x: Number, y: Number) -> Option<F80> {
    let flags = denormal(&[x, y]);
    let signed = |value: Big| if y.sign { value.negated() } else { value };
    let pi = Big::PI;
    let angle = match (y.class, x.class) {
        (Class::Zero, _) if !x.sign => return Some(exact_f80(Number::zero(y.sign))),
        (Class::Zero, _) => pi,
        (Class::Infinity, Class::Infinity) if x.sign => pi.minus(pi.scaled(-2)),
        (Class::Infinity, Class::Infinity) => pi.scaled(-2),
        (Class::Infinity, _) | (_, Class::Zero) => pi.scaled(-1),
        (_, Class::Infinity) if x.sign => pi,
        (_, Class::Infinity) => return Some(exact_f80(Number::zero(y.sign))),
        _ => {
            let (up, right) = (Big { sign: false, ..Big::new(y) }, Big { sign: false, ..Big::new(x) });
            let ratio = up.divided(right);
            let angle = if ratio.exponent < -70 && !x.sign { ratio } else { ratio.arc_tangent() };
            if x.sign { pi.minus(angle) } else { angle }
        }
    };
    finish(fpu, signed(angle), flags)
}

/// `FYL2X`
pub(crate) fn fyl2x(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    binary(core, op, y_log2_x)
}

/// `FYL2XP1`
pub(crate) fn fyl2xp1(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    binary(core, op, y_log2_x_plus_1)
}

/// `FPATAN`
pub(crate) fn fpatan(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    binary(core, op, arc_tangent)
}

/// Which trigonometric instruction.
pub(crate) const SINE: u64 = 0;
pub(crate) const COSINE: u64 = 1;
pub(crate) const BOTH: u64 = 2;
pub(crate) const TANGENT: u64 = 3;

/// Pi to 66 bits, as hardware has it, times 2^64.
const PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// Reduces a magnitude below 2^63: the rest in -pi/4 to pi/4, and the quadrant.
fn reduce(x: Number) -> (Big, u32) {
    // Everything in units of 2^-65 * 2^k: the rest of the division by pi / 2, bit by bit.
    if x.exponent < -1 {
        return (Big { sign: false, ..Big::new(x) }, 0);
    }
    let half_pi = PI_66; // pi / 2 * 2^65
    let steps = x.exponent + 2;
    let mut rest = u128::from(x.significand); // x * 2^(63 - exponent); scaled to 2^65 below
    let mut quotient = 0_u32;
    // rest is |x| * 2^65 / 2^steps.
    for step in 0..=steps {
        quotient <<= 1;
        if rest >= half_pi {
            rest -= half_pi;
            quotient |= 1;
        }
        if step < steps {
            rest <<= 1;
        }
    }
    let mut sign = false;
    if rest << 1 > half_pi {
        rest = half_pi - rest;
        sign = true;
        quotient = quotient.wrapping_add(1);
    }
    if rest == 0 {
        return (Big::ZERO, quotient & 3);
    }
    let shift = rest.leading_zeros();
    (Big { sign, exponent: 127 - shift as i32 - 65, significand: rest << shift }, quotient & 3)
}

/// Sine or cosine.
fn wave(rest: Big, quadrant: u32, sign: bool, sine: bool) -> Big {
    let odd = (quadrant & 1 == 0) == sine;
    let value = rest.circular(odd);
    let flip = if sine { (quadrant & 2 != 0) != sign } else { matches!(quadrant, 1 | 2) };
    if flip { value.negated() } else { value }
}

/// `FSIN`, `FCOS`, `FSINCOS`, `FPTAN` by `op.imm`.
pub(crate) fn trigonometric(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    fpu.status &= !C2;
    let two = op.imm >= BOTH;
    let full = two && fpu.get(7).is_some();
    let Some(value) = fpu.get(0).filter(|_| !full) else {
        let overflow = full && fpu.get(0).is_some();
        if !fpu.stack_fault(overflow) {
            fpu.set(0, F80::INDEFINITE);
            if two {
                fpu.top = fpu.top.wrapping_sub(1) & 7;
                fpu.set(0, F80::INDEFINITE);
            }
        }
        return Ok(());
    };
    let x = value.unpack();
    let one = exact_f80(Number::finite(false, 0, 1 << 63));
    let results = match (fpu.special(x, x), x.class) {
        (Some(result), _) => result.map(|nan| (nan, nan)),
        (None, Class::Infinity) => fpu.invalid().map(|nan| (nan, nan)),
        (None, Class::Zero) if op.imm == COSINE => Some((one, one)),
        (None, Class::Zero) => Some((value, one)),
        _ if x.exponent >= 63 => {
            fpu.status |= C2;
            return Ok(());
        }
        _ => compute(fpu, x, op.imm, one),
    };
    if let Some((first, second)) = results {
        fpu.set(0, first);
        if two {
            fpu.push(second);
        }
    }
    Ok(())
}

fn compute(fpu: &mut Fpu, x: Number, which: u64, one: F80) -> Option<(F80, F80)> {
    let flags = denormal(&[x]);
    let (rest, quadrant) = reduce(x);
    let sine = wave(rest, quadrant, x.sign, true);
    let cosine = wave(rest, quadrant, x.sign, false);
    match which {
        SINE => finish(fpu, sine, flags).map(|value| (value, one)),
        COSINE => finish(fpu, cosine, flags).map(|value| (value, one)),
        BOTH => {
            let cosine = finish(fpu, cosine, flags)?;
            finish(fpu, sine, flags).map(|sine| (sine, cosine))
        }
        _ => finish(fpu, sine.divided(cosine), flags).map(|value| (value, one)),
    }
}
