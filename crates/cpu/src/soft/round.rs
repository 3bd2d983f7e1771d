//! Rounding to a precision and an exponent range, and to integers.

use crate::soft::{Class, Exact, Format, Number, Wide, status};

/// Rounding modes as MXCSR and the control word encode them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    pub(crate) fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// How results are rounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) rounding: Rounding,
    /// Bits of significand of results: that of the format but for x87's precision control.
    pub(crate) precision: u32,
    /// Exceptions that don't trap.
    pub(crate) masked: u32,
    /// Results too small become zero.
    pub(crate) flush: bool,
    /// Unmasked overflow and underflow bring the exponent back into range by this much (x87 registers); 0: they don't.
    pub(crate) wrap: i32,
}

/// A number that fits its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rounded {
    pub(crate) sign: bool,
    pub(crate) class: Class,
    pub(crate) exponent: i32,
    /// Top bit clear: denormal, in terms of the format's least exponent.
    pub(crate) significand: u64,
    /// Rounding increased the magnitude.
    pub(crate) up: bool,
}

impl From<Number> for Rounded {
    fn from(number: Number) -> Self {
        let Number { sign, class, exponent, significand, .. } = number;
        Self { sign, class, exponent, significand, up: false }
    }
}

/// Shifts right; what falls out is kept as a sticky lowest bit.
pub(crate) fn shift_right_sticky(value: u128, by: u32) -> u128 {
    if by == 0 {
        value
    } else if by < 128 {
        value >> by | u128::from(value << (128 - by) != 0)
    } else {
        u128::from(value != 0)
    }
}

/// Keeps the top `precision` bits: (those, left-aligned in 64; a carry out of the top; inexact; went up).
fn cut(significand: u128, precision: u32, rounding: Rounding, sign: bool) -> (u64, bool, bool, bool) {
    let dropped = 128 - precision;
    let rest = significand << precision;
    let kept = significand >> dropped;
    let half = 1 << 127;
    let inexact = rest != 0;
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & 1 != 0,
        Rounding::Down => inexact && sign,
        Rounding::Up => inexact && !sign,
        Rounding::Zero => false,
    };
    let kept = kept + u128::from(up);
    let carry = kept >> precision != 0;
    let kept = if carry { kept >> 1 } else { kept };
    ((kept << (64 - precision)) as u64, carry, inexact, up)
}

/// Rounds an exact result; adds to `flags`.
pub(crate) fn round(exact: Exact, format: &Format, context: &Context, flags: &mut u32) -> Rounded {
    match exact {
        Exact::Special(number) => number.into(),
        Exact::Finite(wide) => round_finite(wide, format, context, flags),
    }
}

fn round_finite(wide: Wide, format: &Format, context: &Context, flags: &mut u32) -> Rounded {
    let Wide { sign, exponent, significand } = wide;
    let (kept, carry, inexact, up) = cut(significand, context.precision, context.rounding, sign);
    let rounded = exponent + i32::from(carry);
    let finite = |exponent, significand, up| Rounded { sign, class: Class::Finite, exponent, significand, up };
    if rounded < format.least {
        let unmasked = context.masked & status::UNDERFLOW == 0;
        if unmasked && context.wrap != 0 && rounded + context.wrap < format.least {
            // Too small even so, which only FSCALE comes to (SDM volume 1, 4.9.1.5).
            *flags |= status::UNDERFLOW | status::PRECISION;
            return Rounded { up: false, ..Number::zero(sign).into() };
        }
        if unmasked {
            // A handler gets the result with an unbounded exponent: so is whether that is exact.
            *flags |= status::UNDERFLOW | if inexact { status::PRECISION } else { 0 };
            return finite(rounded + context.wrap, kept, up);
        }
        if context.flush {
            *flags |= status::UNDERFLOW | status::PRECISION;
            return Rounded { up: false, ..Number::zero(sign).into() };
        }
        let shifted = shift_right_sticky(significand, (format.least - exponent) as u32);
        let (kept, carry, inexact, up) = cut(shifted, context.precision, context.rounding, sign);
        if inexact {
            *flags |= status::PRECISION | status::UNDERFLOW;
        }
        debug_assert!(!carry);
        if kept == 0 {
            return Rounded { up, ..Number::zero(sign).into() };
        }
        return finite(format.least, kept, up);
    }
    if rounded > format.greatest {
        let unmasked = context.masked & status::OVERFLOW == 0;
        if unmasked && context.wrap != 0 && rounded - context.wrap > format.greatest {
            // Too great even so, as above.
            *flags |= status::OVERFLOW | status::PRECISION;
            return Rounded { up: true, ..Number::infinity(sign).into() };
        }
        if unmasked {
            *flags |= status::OVERFLOW | if inexact { status::PRECISION } else { 0 };
            return finite(rounded - context.wrap, kept, up);
        }
        *flags |= status::OVERFLOW | status::PRECISION;
        let to_infinity = match context.rounding {
            Rounding::Nearest => true,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
        if to_infinity {
            return Rounded { up: true, ..Number::infinity(sign).into() };
        }
        return finite(format.greatest, u64::MAX << (64 - context.precision), false);
    }
    if inexact {
        *flags |= status::PRECISION;
    }
    finite(rounded, kept, up)
}

/// Rounds to an integer that is still a floating-point number. `true` besides if that was inexact.
pub(crate) fn round_to_integral(number: Number, rounding: Rounding) -> (Number, bool, bool) {
    if number.class != Class::Finite || number.exponent >= 63 {
        return (number, false, false);
    }
    let wide =
        shift_right_sticky(u128::from(number.significand) << 63, (62 - number.exponent).clamp(0, 127) as u32 + 1);
    // Bits 63 and up of the sum are the integer; at most 64 of them.
    let (integer, rest) = (wide >> 63, wide << 65);
    let half = 1 << 127;
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && integer & 1 != 0,
        Rounding::Down => rest != 0 && number.sign,
        Rounding::Up => rest != 0 && !number.sign,
        Rounding::Zero => false,
    };
    let integer = (integer + u128::from(up)) as u64;
    if integer == 0 {
        return (Number::zero(number.sign), rest != 0, up);
    }
    let shift = integer.leading_zeros();
    let result = Number::finite(number.sign, 63 - shift as i32, integer << shift);
    (result, rest != 0, up)
}

/// Converts to a signed integer of `bits`; `None` if it doesn't fit. Says whether it was inexact, and whether the
/// magnitude grew.
pub(crate) fn to_integer(number: Number, bits: u32, rounding: Rounding) -> Option<(i64, bool, bool)> {
    let (whole, inexact, up) = match number.class {
        Class::Zero => return Some((0, false, false)),
        Class::Finite => round_to_integral(number, rounding),
        _ => return None,
    };
    if whole.class == Class::Zero {
        return Some((0, inexact, up));
    }
    if whole.exponent > 63 {
        return None;
    }
    let magnitude = whole.significand >> (63 - whole.exponent);
    let limit = 1_u64 << (bits - 1);
    if magnitude > limit || magnitude == limit && !whole.sign {
        return None;
    }
    let value = if whole.sign { (magnitude as i64).wrapping_neg() } else { magnitude as i64 };
    Some((value, inexact, up))
}
