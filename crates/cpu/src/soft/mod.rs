//! IEEE 754 arithmetic on unpacked numbers, with every status flag, rounding mode and precision that SSE and x87 have.
//! Which operation belongs to which instruction, and the fast paths on the host's own floating point, are elsewhere.

mod arithmetic;
mod big;
mod format;
mod round;

pub(crate) use arithmetic::{add, divide, multiply, remainder, square_root};
pub(crate) use big::Big;
pub(crate) use format::{DOUBLE, EXTENDED, Format, SINGLE};
pub(crate) use round::{Context, Rounded, Rounding, round, round_to_integral, to_integer};

/// Status flags, at their places in MXCSR and the x87 status word.
pub(crate) mod status {
    pub(crate) const INVALID: u32 = 1;
    pub(crate) const DENORMAL: u32 = 2;
    pub(crate) const ZERO_DIVIDE: u32 = 4;
    pub(crate) const OVERFLOW: u32 = 8;
    pub(crate) const UNDERFLOW: u32 = 16;
    pub(crate) const PRECISION: u32 = 32;
}

/// What kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Zero,
    Finite,
    Infinity,
    Quiet,
    Signaling,
    /// An 80-bit pattern that no arithmetic accepts.
    Unsupported,
}

/// An unpacked number: for finite ones `significand / 2^63 * 2^exponent`, the significand's top bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) sign: bool,
    pub(crate) class: Class,
    pub(crate) exponent: i32,
    pub(crate) significand: u64,
    /// It was denormal in its format.
    pub(crate) denormal: bool,
}

impl Number {
    pub(crate) fn zero(sign: bool) -> Self {
        Self { sign, class: Class::Zero, exponent: 0, significand: 0, denormal: false }
    }

    pub(crate) fn infinity(sign: bool) -> Self {
        Self { class: Class::Infinity, ..Self::zero(sign) }
    }

    /// The NaN that invalid operations give.
    pub(crate) fn indefinite() -> Self {
        Self { class: Class::Quiet, significand: 3 << 62, ..Self::zero(true) }
    }

    pub(crate) fn finite(sign: bool, exponent: i32, significand: u64) -> Self {
        Self { sign, class: Class::Finite, exponent, significand, denormal: false }
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signaling)
    }

    pub(crate) fn quieted(self) -> Self {
        Self { class: Class::Quiet, significand: self.significand | 1 << 62, ..self }
    }

    pub(crate) fn negated(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    /// Compares magnitudes and signs; `None` for NaNs.
    pub(crate) fn compare(&self, other: &Self) -> Option<std::cmp::Ordering> {
        use std::cmp::Ordering;
        let rank = |number: &Self| match number.class {
            Class::Zero => Some((0, 0, 0)),
            Class::Finite => Some((1, number.exponent, number.significand)),
            Class::Infinity => Some((2, 0, 0)),
            _ => None,
        };
        let (a, b) = (rank(self)?, rank(other)?);
        if a.0 == 0 && b.0 == 0 {
            return Some(Ordering::Equal);
        }
        // A zero's sign doesn't count.
        let negative = |number: &Self| number.sign && number.class != Class::Zero;
        Some(match (negative(self), negative(other)) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => a.cmp(&b),
            (true, true) => b.cmp(&a),
        })
    }

    /// An integer.
    pub(crate) fn from_integer(value: i64) -> Self {
        if value == 0 {
            return Self::zero(false);
        }
        let magnitude = value.unsigned_abs();
        let shift = magnitude.leading_zeros();
        Self::finite(value < 0, 63 - shift as i32, magnitude << shift)
    }
}

/// An exact result, or one with a sticky lowest bit: `significand / 2^127 * 2^exponent`, the top bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wide {
    pub(crate) sign: bool,
    pub(crate) exponent: i32,
    pub(crate) significand: u128,
}

/// What an operation gives before rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exact {
    Finite(Wide),
    /// Needs no rounding.
    Special(Number),
}

impl Number {
    pub(crate) fn widen(self) -> Wide {
        Wide { sign: self.sign, exponent: self.exponent, significand: u128::from(self.significand) << 64 }
    }
}
