//! Packing and unpacking the three formats.

use crate::soft::{Class, Number, Rounded};
use crate::x87::F80;

/// A binary interchange format, or the extended one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Bits of significand, the hidden one included.
    pub(crate) precision: u32,
    /// Least exponent of a normal number.
    pub(crate) least: i32,
    /// Greatest exponent.
    pub(crate) greatest: i32,
}

/// 32 bits.
pub(crate) const SINGLE: Format = Format { precision: 24, least: -126, greatest: 127 };
/// 64 bits.
pub(crate) const DOUBLE: Format = Format { precision: 53, least: -1022, greatest: 1023 };
/// 80 bits.
pub(crate) const EXTENDED: Format = Format { precision: 64, least: -16382, greatest: 16383 };

impl Format {
    fn fraction_bits(&self) -> u32 {
        self.precision - 1
    }

    fn top_exponent(&self) -> u64 {
        (2 * self.greatest + 1) as u64
    }

    /// Unpacks a single or double.
    pub(crate) fn unpack(&self, bits: u64) -> Number {
        let fraction_bits = self.fraction_bits();
        let fraction = bits & ((1 << fraction_bits) - 1);
        let exponent = bits >> fraction_bits & self.top_exponent();
        let sign = bits >> (fraction_bits + if self.precision == 24 { 8 } else { 11 }) & 1 != 0;
        let aligned = fraction << (63 - fraction_bits);
        if exponent == self.top_exponent() {
            if fraction == 0 {
                return Number::infinity(sign);
            }
            let class = if aligned >> 62 & 1 != 0 { Class::Quiet } else { Class::Signaling };
            return Number { sign, class, exponent: 0, significand: aligned | 1 << 63, denormal: false };
        }
        if exponent == 0 {
            if fraction == 0 {
                return Number::zero(sign);
            }
            let shift = aligned.leading_zeros();
            let number = Number::finite(sign, self.least - shift as i32, aligned << shift);
            return Number { denormal: true, ..number };
        }
        Number::finite(sign, exponent as i32 - self.greatest, aligned | 1 << 63)
    }

    /// Packs a rounded number into a single or double.
    pub(crate) fn pack(&self, number: &Rounded) -> u64 {
        let fraction_bits = self.fraction_bits();
        let sign = u64::from(number.sign) << (fraction_bits + if self.precision == 24 { 8 } else { 11 });
        let fraction = (number.significand << 1) >> (64 - fraction_bits);
        sign | match number.class {
            Class::Zero => 0,
            Class::Infinity => self.top_exponent() << fraction_bits,
            Class::Finite if number.significand >> 63 == 0 => fraction,
            Class::Finite => ((number.exponent + self.greatest) as u64) << fraction_bits | fraction,
            _ => self.top_exponent() << fraction_bits | fraction,
        }
    }
}

impl F80 {
    pub(crate) fn unpack(self) -> Number {
        let sign = self.exponent >> 15 != 0;
        let exponent = self.exponent & 0x7fff;
        let explicit = self.significand >> 63 != 0;
        if exponent == 0x7fff {
            if !explicit {
                return Number { class: Class::Unsupported, ..Number::zero(sign) };
            }
            if self.significand << 1 == 0 {
                return Number::infinity(sign);
            }
            let class = if self.significand >> 62 & 1 != 0 { Class::Quiet } else { Class::Signaling };
            return Number { sign, class, exponent: 0, significand: self.significand, denormal: false };
        }
        if self.significand == 0 && exponent == 0 {
            return Number::zero(sign);
        }
        if exponent == 0 {
            let shift = self.significand.leading_zeros();
            let number = Number::finite(sign, EXTENDED.least - shift as i32, self.significand << shift);
            return Number { denormal: true, ..number };
        }
        if !explicit {
            return Number { class: Class::Unsupported, ..Number::zero(sign) };
        }
        Number::finite(sign, i32::from(exponent) - 16383, self.significand)
    }

    pub(crate) fn pack(number: &Rounded) -> Self {
        let sign = u16::from(number.sign) << 15;
        let (exponent, significand) = match number.class {
            Class::Zero => (0, 0),
            Class::Infinity => (0x7fff, 1 << 63),
            Class::Finite if number.significand >> 63 == 0 => (0, number.significand),
            Class::Finite => ((number.exponent + 16383) as u16, number.significand),
            _ => (0x7fff, number.significand | 1 << 63),
        };
        Self { significand, exponent: sign | exponent }
    }
}
