//! Numbers of 128 bits of significand for series: truncating arithmetic, no special values but zero. Errors stay around
//! 2^-120 relative, far below the 2^-64 of what results are rounded to.

use crate::soft::{Number, Wide};

/// `significand / 2^127 * 2^exponent`, the top bit set; a zero significand is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Big {
    pub(crate) sign: bool,
    pub(crate) exponent: i32,
    pub(crate) significand: u128,
}

impl Big {
    pub(crate) const ZERO: Self = Self { sign: false, exponent: 0, significand: 0 };
    pub(crate) const ONE: Self = Self { sign: false, exponent: 0, significand: 1 << 127 };
    /// The natural logarithm of 2.
    pub(crate) const LN_2: Self =
        Self { sign: false, exponent: -1, significand: 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af };
    pub(crate) const PI: Self =
        Self { sign: false, exponent: 1, significand: 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1 };

    pub(crate) fn new(number: Number) -> Self {
        let significand = u128::from(number.significand) << 64;
        Self { sign: number.sign, exponent: number.exponent, significand }
    }

    fn normalized(sign: bool, exponent: i32, significand: u128) -> Self {
        if significand == 0 {
            return Self::ZERO;
        }
        let shift = significand.leading_zeros();
        Self { sign, exponent: exponent - shift as i32, significand: significand << shift }
    }

    pub(crate) fn is_zero(self) -> bool {
        self.significand == 0
    }

    pub(crate) fn negated(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    /// Times a power of two.
    pub(crate) fn scaled(self, by: i32) -> Self {
        Self { exponent: self.exponent + by, ..self }
    }

    /// Whether the magnitude is greater than that of `other`.
    pub(crate) fn exceeds(self, other: Self) -> bool {
        !self.is_zero() && (other.is_zero() || (self.exponent, self.significand) > (other.exponent, other.significand))
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (big, small) = if other.exceeds(self) { (other, self) } else { (self, other) };
        let by = (big.exponent - small.exponent) as u32 + 1;
        let x = big.significand >> 1;
        let y = if by < 128 { small.significand >> by } else { 0 };
        let sum = if big.sign == small.sign { x + y } else { x - y };
        Self::normalized(big.sign, big.exponent + 1, sum)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.plus(other.negated())
    }

    pub(crate) fn times(self, other: Self) -> Self {
        let (a, b) = (self.significand, other.significand);
        let (a_high, a_low) = (a >> 64, a & u128::from(u64::MAX));
        let (b_high, b_low) = (b >> 64, b & u128::from(u64::MAX));
        let middle = ((a_high * b_low) >> 64) + ((a_low * b_high) >> 64);
        let product = a_high * b_high + middle;
        Self::normalized(self.sign != other.sign, self.exponent + other.exponent + 1, product)
    }

    /// Divided by a small integer.
    pub(crate) fn over(self, divisor: u64) -> Self {
        let divisor = u128::from(divisor);
        let (whole, rest) = (self.significand / divisor, self.significand % divisor);
        let shift = whole.leading_zeros().min(63);
        let low = (rest << shift) / divisor;
        Self::normalized(self.sign, self.exponent - shift as i32, (whole << shift) | low)
    }

    pub(crate) fn divided(self, other: Self) -> Self {
        if self.is_zero() {
            return Self::ZERO;
        }
        let mut rest = self.significand;
        let mut exponent = self.exponent - other.exponent;
        let mut quotient = 0_u128;
        let mut carry = false;
        for _ in 0..128 {
            quotient <<= 1;
            if carry || rest >= other.significand {
                rest = rest.wrapping_sub(other.significand);
                quotient |= 1;
            }
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        if quotient >> 127 == 0 {
            exponent -= 1;
            quotient = quotient << 1 | u128::from(carry || rest >= other.significand);
        }
        Self { sign: self.sign != other.sign, exponent, significand: quotient }
    }

    /// As an operation's result: never exact.
    pub(crate) fn widen(self) -> Wide {
        Wide { sign: self.sign, exponent: self.exponent, significand: self.significand | 1 }
    }

    /// `2^self - 1`, for magnitudes up to about 1.
    pub(crate) fn exp2_minus_1(self) -> Self {
        let x = self.times(Self::LN_2);
        let (mut sum, mut term) = (x, x);
        for n in 2..60 {
            term = term.times(x).over(n);
            if term.is_zero() || sum.exponent - term.exponent > 126 {
                break;
            }
            sum = sum.plus(term);
        }
        sum
    }

    /// The natural logarithm of `(1 + s) / (1 - s)`.
    fn log_ratio(s: Self) -> Self {
        let square = s.times(s);
        let (mut sum, mut power) = (s, s);
        for n in 1..120 {
            power = power.times(square);
            if power.is_zero() || sum.exponent - power.exponent > 126 {
                break;
            }
            sum = sum.plus(power.over(2 * n + 1));
        }
        sum.scaled(1)
    }

    /// The base-2 logarithm of a positive number.
    pub(crate) fn log2(self) -> Self {
        const ROOT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
        let (exponent, mantissa) = if self.significand > ROOT_2 {
            (self.exponent + 1, Self { exponent: -1, ..self })
        } else {
            (self.exponent, Self { exponent: 0, ..self })
        };
        let s = mantissa.minus(Self::ONE).divided(mantissa.plus(Self::ONE));
        let fraction = if s.is_zero() { s } else { Self::log_ratio(s).divided(Self::LN_2) };
        let whole = Self::new(Number::from_integer(i64::from(exponent)));
        if exponent == 0 { fraction } else { whole.plus(fraction) }
    }

    /// The base-2 logarithm of one plus this, exact for small ones, too.
    pub(crate) fn log2_of_1_plus(self) -> Self {
        let s = self.divided(self.plus(Self::ONE.scaled(1)));
        Self::log_ratio(s).divided(Self::LN_2)
    }

    /// The arc tangent of a non-negative number.
    pub(crate) fn arc_tangent(self) -> Self {
        if self.exceeds(Self::ONE) {
            return Self::PI.scaled(-1).minus(Self::ONE.divided(self).arc_tangent());
        }
        let small = Self { sign: false, exponent: -2, significand: 0xd400 << 112 };
        if self.exceeds(small) {
            let rest = Self::ONE.minus(self).divided(Self::ONE.plus(self));
            return Self::PI.scaled(-2).minus(rest.arc_tangent());
        }
        let square = self.times(self).negated();
        let (mut sum, mut power) = (self, self);
        for n in 1..120 {
            power = power.times(square);
            if power.is_zero() || sum.exponent - power.exponent > 126 {
                break;
            }
            sum = sum.plus(power.over(2 * n + 1));
        }
        sum
    }

    /// The sine (`odd`) or cosine of a magnitude up to pi / 4.
    pub(crate) fn circular(self, odd: bool) -> Self {
        let square = self.times(self).negated();
        let (mut sum, mut n) = if odd { (self, 1) } else { (Self::ONE, 0) };
        let mut term = sum;
        loop {
            term = term.times(square).over((n + 1) * (n + 2));
            n += 2;
            if term.is_zero() || sum.exponent - term.exponent > 126 {
                return sum;
            }
            sum = sum.plus(term);
        }
    }
}
