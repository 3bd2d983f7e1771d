//! The operations, exact up to a sticky bit. NaNs are the callers' affair: they don't come here.

use crate::soft::round::shift_right_sticky;
use crate::soft::{Class, Exact, Number, Rounding, Wide, status};

fn normalize(sign: bool, exponent: i32, significand: u128) -> Exact {
    let shift = significand.leading_zeros();
    Exact::Finite(Wide { sign, exponent: exponent - shift as i32, significand: significand << shift })
}

fn invalid(flags: &mut u32) -> Exact {
    *flags |= status::INVALID;
    Exact::Special(Number::indefinite())
}

/// `a + b`
pub(crate) fn add(a: Number, b: Number, rounding: Rounding, flags: &mut u32) -> Exact {
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if a.sign != b.sign => return invalid(flags),
        (Class::Infinity, _) => return Exact::Special(a),
        (_, Class::Infinity) => return Exact::Special(b),
        (Class::Zero, Class::Zero) => {
            let sign = if a.sign == b.sign { a.sign } else { rounding == Rounding::Down };
            return Exact::Special(Number::zero(sign));
        }
        (Class::Zero, _) => return Exact::Finite(b.widen()),
        (_, Class::Zero) => return Exact::Finite(a.widen()),
        _ => {}
    }
    let (big, small) = if (a.exponent, a.significand) >= (b.exponent, b.significand) { (a, b) } else { (b, a) };
    let by = (big.exponent - small.exponent) as u32;
    // One bit of room above for the carry.
    let x = u128::from(big.significand) << 63;
    let y = shift_right_sticky(u128::from(small.significand) << 63, by);
    if big.sign == small.sign {
        return normalize(big.sign, big.exponent + 1, x + y);
    }
    let difference = x - y;
    if difference == 0 {
        return Exact::Special(Number::zero(rounding == Rounding::Down));
    }
    normalize(big.sign, big.exponent + 1, difference)
}

/// `a * b`
pub(crate) fn multiply(a: Number, b: Number, flags: &mut u32) -> Exact {
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => return invalid(flags),
        (Class::Infinity, _) | (_, Class::Infinity) => return Exact::Special(Number::infinity(sign)),
        (Class::Zero, _) | (_, Class::Zero) => return Exact::Special(Number::zero(sign)),
        _ => {}
    }
    let product = u128::from(a.significand) * u128::from(b.significand);
    normalize(sign, a.exponent + b.exponent + 1, product)
}

/// `a / b`
pub(crate) fn divide(a: Number, b: Number, flags: &mut u32) -> Exact {
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => return invalid(flags),
        (Class::Infinity, _) => return Exact::Special(Number::infinity(sign)),
        (_, Class::Infinity) | (Class::Zero, _) => return Exact::Special(Number::zero(sign)),
        (_, Class::Zero) => {
            *flags |= status::ZERO_DIVIDE;
            return Exact::Special(Number::infinity(sign));
        }
        _ => {}
    }
    let divisor = u128::from(b.significand);
    let dividend = u128::from(a.significand) << 63;
    let (first, rest) = (dividend / divisor, dividend % divisor);
    let (second, rest) = ((rest << 62) / divisor, (rest << 62) % divisor);
    // The quotient of the significands, times 2^125.
    let quotient = (first << 62) + second;
    normalize(sign, a.exponent - b.exponent + 2, quotient | u128::from(rest != 0))
}

/// The square root.
pub(crate) fn square_root(a: Number, flags: &mut u32) -> Exact {
    match a.class {
        Class::Zero => return Exact::Special(a),
        _ if a.sign => return invalid(flags),
        Class::Infinity => return Exact::Special(a),
        _ => {}
    }
    // The value is radicand / 2^64 * 2^(2 * half); the radicand has up to 66 bits.
    let odd = a.exponent & 1 != 0;
    let radicand = u128::from(a.significand) << (1 + u32::from(odd));
    let half = (a.exponent - i32::from(odd)) / 2;
    let (mut root, mut rest) = (0_u128, 0_u128);
    for step in 0..68_u32 {
        // Two more bits of the radicand (zeros after its end).
        let pair = if step < 33 { radicand >> (64 - 2 * step) & 3 } else { 0 };
        rest = rest << 2 | pair;
        let trial = root << 2 | 1;
        root <<= 1;
        if rest >= trial {
            rest -= trial;
            root |= 1;
        }
    }
    // The root times 2^67 lies in `root`; a sticky bit below.
    let significand = root << 1 | u128::from(rest != 0);
    let shift = significand.leading_zeros();
    let top = 127 - shift as i32;
    Exact::Finite(Wide { sign: false, exponent: half + top - 68, significand: significand << shift })
}

/// One step of `FPREM` (`nearest` false) or `FPREM1`: the partial remainder, the low bits of the quotient, and whether
/// it is complete. Both are finite, `b` isn't zero.
pub(crate) fn remainder(a: Number, b: Number, nearest: bool) -> (Number, u64, bool) {
    if a.class == Class::Zero {
        return (a, 0, true);
    }
    let distance = a.exponent - b.exponent;
    if distance < -1 || distance < 0 && !nearest {
        return (a, 0, true);
    }
    let divisor = u128::from(b.significand);
    let complete = distance < 64;
    // An incomplete step reduces the exponent by a multiple of 32, at most 63.
    let steps = if complete { distance } else { 32 + (distance % 32) };
    let (mut rest, mut quotient) = (u128::from(a.significand), 0_u64);
    if distance < 0 {
        // Only FPREM1: the quotient is zero or one.
        let twice = rest;
        let up = twice > divisor;
        if !up {
            return (a, 0, true);
        }
        // |a| > |b| / 2: the remainder is a - b.
        let difference = (divisor << 1) - rest;
        return (scaled(!a.sign, a.exponent, difference), 1, true);
    }
    for step in 0..=steps {
        quotient <<= 1;
        if rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
        if step < steps {
            rest <<= 1;
        }
    }
    let exponent = a.exponent - steps;
    let mut sign = a.sign;
    if complete && nearest && (rest << 1 > divisor || rest << 1 == divisor && quotient & 1 != 0) {
        rest = divisor - rest;
        sign = !sign;
        quotient = quotient.wrapping_add(1);
    }
    if rest == 0 {
        return (Number::zero(a.sign), quotient, complete);
    }
    (scaled(sign, exponent, rest), quotient, complete)
}

fn scaled(sign: bool, exponent: i32, value: u128) -> Number {
    if value == 0 {
        return Number::zero(sign);
    }
    let shift = value.leading_zeros() as i32 - 64;
    let significand = if shift >= 0 { value << shift } else { value >> -shift };
    Number::finite(sign, exponent - shift, significand as u64)
}
