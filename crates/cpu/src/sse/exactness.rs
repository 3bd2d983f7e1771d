//! Whether a result that the host computed in double precision, rounding to nearest, is exact: what decides about MXCSR's
//! precision flag. Single-precision operands come widened, so that their rounded result only has to be compared. Results
//! are normal numbers, operands normal numbers or zero.

/// `a + b == result`, exactly: the rounding error of a sum is itself a number, which Knuth's two-sum finds.
#[inline(always)]
pub(super) fn sum(a: f64, b: f64, result: f64) -> bool {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    sum == result && error == 0.0
}

/// `a - b == result`, exactly.
#[inline(always)]
pub(super) fn difference(a: f64, b: f64, result: f64) -> bool {
    sum(a, -b, result)
}

/// `a * b == result`, exactly: the product of the significands has no more bits than one significand.
#[inline(always)]
pub(super) fn product(a: f64, b: f64, result: f64) -> bool {
    let (x, y) = (significand(a), significand(b));
    // Short operands show at once that the product is.
    if x.trailing_zeros() + y.trailing_zeros() > f64::MANTISSA_DIGITS {
        return a * b == result;
    }
    let product = u128::from(x) * u128::from(y);
    let bits = 128 - product.leading_zeros() - product.trailing_zeros().min(127);
    bits <= f64::MANTISSA_DIGITS && a * b == result
}

/// `a / b == result`, exactly.
#[inline(always)]
pub(super) fn quotient(a: f64, b: f64, result: f64) -> bool {
    product(result, b, a)
}

/// `sqrt(b) == result`, exactly.
#[inline(always)]
pub(super) fn root(_a: f64, b: f64, result: f64) -> bool {
    product(result, result, b)
}

/// The 53 bits of a normal number's significand; zero for zero.
#[inline(always)]
fn significand(value: f64) -> u64 {
    let bits = value.to_bits();
    let hidden = u64::from(bits << 1 != 0) << 52;
    bits & ((1 << 52) - 1) | hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_and_rounded_results_are_told_apart() {
        let third = 1.0 / 3.0;
        assert!(sum(1.5, 2.25, 3.75) && !sum(1.0, 1e-30, 1.0) && !sum(0.1, 0.2, 0.1 + 0.2));
        assert!(difference(3.75, 2.25, 1.5) && !difference(1.0, 1e-30, 1.0));
        assert!(product(1.5, 2.5, 3.75) && !product(third, third, third * third) && product(third, 2.0, third * 2.0));
        assert!(quotient(3.75, 2.5, 1.5) && !quotient(1.0, 3.0, third) && quotient(1.0, 4.0, 0.25));
        assert!(root(0.0, 2.25, 1.5) && !root(0.0, 2.0, 2.0_f64.sqrt()));
    }

    #[test]
    fn single_precision_results_are_compared_after_widening() {
        let (a, b) = (0.1_f32, 0.3_f32);
        let wide = |value: f32| f64::from(value);
        assert!(!product(wide(a), wide(b), wide(a * b)));
        assert!(product(wide(0.5), wide(b), wide(0.5 * b)));
        assert!(!sum(wide(16_777_216.0), wide(1.0), wide(16_777_216.0 + 1.0_f32)));
    }
}
