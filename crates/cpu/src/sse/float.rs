//! Single and double precision arithmetic. Comparisons are in `order`.
//!
//! The host's arithmetic is used where its result is provably that of the guest's and raises no flag that isn't set
//! already: everything masked, rounding to nearest, no flushing, the precision flag set, operands and result normal.
//! Everything else goes through `soft`.

use crate::core::{Bus, Core, Flow, Handler, Op, bit, vector};
use crate::int::by_address;
use crate::soft::{self, Class, Context, DOUBLE, Exact, Format, Number, Rounding, SINGLE, round, status};
use crate::sse::exactness;
use crate::sse::lanes::Lane;
use crate::sse::{Operand, XmmMem, XmmSrc};

pub(super) const DAZ: u32 = 0x40;
const FLUSH: u32 = 0x8000;

/// `f32` or `f64`, as bits and as a host number.
pub(crate) trait Real: Lane + 'static {
    const FORMAT: Format;
    /// Lanes in a register.
    const LANES: usize;
    fn bits(self) -> u64;
    fn real(bits: u64) -> Self;
    /// Finite, normal and not at the edge of underflow.
    fn is_plain(self) -> bool;
    fn is_denormal(self) -> bool;
    fn is_zero(self) -> bool;
    /// Without loss.
    fn widened(self) -> f64;
}

macro_rules! real {
    ($t:ty, $u:ty, $format:ident, $lanes:literal) => {
        impl Real for $t {
            const FORMAT: Format = $format;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn bits(self) -> u64 {
                u64::from(self.to_bits())
            }

            #[inline(always)]
            fn real(bits: u64) -> Self {
                <$t>::from_bits(bits as $u)
            }

            #[inline(always)]
            fn is_plain(self) -> bool {
                const EDGE: $u = <$t>::MIN_POSITIVE.to_bits() + 1;
                let magnitude = self.to_bits() & (<$u>::MAX >> 1);
                magnitude.wrapping_sub(EDGE) < <$t>::INFINITY.to_bits() - EDGE
            }

            #[inline(always)]
            fn is_denormal(self) -> bool {
                let magnitude = self.to_bits() & (<$u>::MAX >> 1);
                magnitude.wrapping_sub(1) < <$t>::MIN_POSITIVE.to_bits() - 1
            }

            #[inline(always)]
            fn is_zero(self) -> bool {
                self == 0.0
            }

            #[inline(always)]
            fn widened(self) -> f64 {
                f64::from(self)
            }
        }
    };
}
real!(f32, u32, SINGLE, 4);
real!(f64, u64, DOUBLE, 2);

/// An arithmetic operation in both precisions.
pub(crate) trait Arithmetic: 'static {
    /// The first operand isn't used.
    const UNARY: bool = false;
    /// Whether a result of zero is always exact: that of others is if one operand is zero.
    const EXACT_ZERO: bool = false;
    fn single(a: f32, b: f32) -> f32;
    fn double(a: f64, b: f64) -> f64;
    /// Whether `result`, a normal number, is the exact result and not a rounded one; operands are normal or zero.
    fn single_is_exact(a: f32, b: f32, result: f32) -> bool;
    fn double_is_exact(a: f64, b: f64, result: f64) -> bool;
    fn exact(a: Number, b: Number, rounding: Rounding, flags: &mut u32) -> Exact;
}

pub(crate) struct Add;
pub(crate) struct Sub;
pub(crate) struct Mul;
pub(crate) struct Div;
pub(crate) struct Sqrt;

macro_rules! arithmetic {
    ($name:ident, $unary:literal, $exact_zero:literal, |$x:ident, $y:ident| $fast:expr, $is_exact:ident, |$a:ident, $b:ident, $rounding:ident, $flags:ident| $exact:expr) => {
        impl Arithmetic for $name {
            const UNARY: bool = $unary;
            const EXACT_ZERO: bool = $exact_zero;
            #[inline(always)]
            fn single($x: f32, $y: f32) -> f32 {
                $fast
            }
            #[inline(always)]
            fn double($x: f64, $y: f64) -> f64 {
                $fast
            }
            #[inline(always)]
            fn single_is_exact(a: f32, b: f32, result: f32) -> bool {
                exactness::$is_exact(f64::from(a), f64::from(b), f64::from(result))
            }
            #[inline(always)]
            fn double_is_exact(a: f64, b: f64, result: f64) -> bool {
                exactness::$is_exact(a, b, result)
            }
            fn exact($a: Number, $b: Number, $rounding: Rounding, $flags: &mut u32) -> Exact {
                $exact
            }
        }
    };
}
arithmetic!(Add, false, true, |x, y| x + y, sum, |a, b, rounding, flags| soft::add(a, b, rounding, flags));
arithmetic!(Sub, false, true, |x, y| x - y, difference, |a, b, rounding, flags| soft::add(
    a,
    b.negated(),
    rounding,
    flags
));
arithmetic!(Mul, false, false, |x, y| x * y, product, |a, b, _rounding, flags| soft::multiply(a, b, flags));
arithmetic!(Div, false, false, |x, y| x / y, quotient, |a, b, _rounding, flags| soft::divide(a, b, flags));
arithmetic!(Sqrt, true, false, |_x, y| y.sqrt(), root, |_a, b, _rounding, flags| soft::square_root(b, flags));

/// Whether MXCSR allows the host's arithmetic: all exceptions masked, round to nearest, denormals as they are.
#[inline(always)]
fn is_fast(mxcsr: u32) -> bool {
    mxcsr & 0xffc0 == 0x1f80
}

/// How MXCSR says to round into a format.
pub(crate) fn context(mxcsr: u32, format: &Format) -> Context {
    Context {
        rounding: Rounding::from_bits(mxcsr >> 13),
        precision: format.precision,
        masked: mxcsr >> 7 & 0x3f,
        flush: mxcsr & FLUSH != 0,
        wrap: 0,
    }
}

/// Unpacks an operand, denormals as zeros where MXCSR says so.
pub(crate) fn unpack<R: Real>(mxcsr: u32, value: R) -> Number {
    let number = R::FORMAT.unpack(value.bits());
    if number.denormal && mxcsr & DAZ != 0 { Number::zero(number.sign) } else { number }
}

/// The NaN that comes of two operands of which one is one; notes whether one was signaling.
pub(crate) fn propagate(a: Number, b: Number, flags: &mut u32) -> Number {
    if a.class == Class::Signaling || b.class == Class::Signaling {
        *flags |= status::INVALID;
    }
    if a.is_nan() { a.quieted() } else { b.quieted() }
}

#[inline(never)]
fn slow<O: Arithmetic, R: Real>(mxcsr: u32, flags: &mut u32, a: R, b: R) -> R {
    let y = unpack(mxcsr, b);
    let x = if O::UNARY { y } else { unpack(mxcsr, a) };
    if x.is_nan() || y.is_nan() {
        let nan = propagate(x, y, flags);
        return R::real(R::FORMAT.pack(&nan.into()));
    }
    let mut raised = 0;
    let rounding = Rounding::from_bits(mxcsr >> 13);
    let exact = O::exact(x, y, rounding, &mut raised);
    if (x.denormal || y.denormal) && raised & (status::INVALID | status::ZERO_DIVIDE) == 0 {
        raised |= status::DENORMAL;
    }
    let rounded = round(exact, &R::FORMAT, &context(mxcsr, &R::FORMAT), &mut raised);
    *flags |= raised;
    R::real(R::FORMAT.pack(&rounded))
}

/// One lane, where the host's result is the guest's and leaves MXCSR as it is.
#[inline(always)]
pub(crate) fn direct<O: Arithmetic, R: Real>(mxcsr: u32, a: R, b: R) -> Option<R> {
    if !is_fast(mxcsr) || !O::UNARY && a.is_denormal() || b.is_denormal() {
        return None;
    }
    let noted = mxcsr & status::PRECISION != 0;
    let (result, exact) = if R::LANES == 4 {
        let (x, y) = (f32::from_bits(a.bits() as u32), f32::from_bits(b.bits() as u32));
        let result = O::single(x, y);
        (R::real(u64::from(result.to_bits())), noted || O::single_is_exact(x, y, result))
    } else {
        let (x, y) = (f64::from_bits(a.bits()), f64::from_bits(b.bits()));
        let result = O::double(x, y);
        (R::real(result.to_bits()), noted || O::double_is_exact(x, y, result))
    };
    if result.is_plain() {
        return exact.then_some(result);
    }
    let exact_zero = result.is_zero() && (O::EXACT_ZERO || b.is_zero() || !O::UNARY && a.is_zero());
    exact_zero.then_some(result)
}

/// One lane.
#[inline(always)]
fn lane<O: Arithmetic, R: Real>(mxcsr: u32, flags: &mut u32, a: R, b: R) -> R {
    match direct::<O, R>(mxcsr | *flags & status::PRECISION, a, b) {
        Some(result) => result,
        None => slow::<O, R>(mxcsr, flags, a, b),
    }
}

impl Core {
    /// Takes over the flags that an instruction raised; #XM if one isn't masked.
    #[inline(always)]
    pub(crate) fn raise_simd(&mut self, flags: u32) -> Flow {
        if flags & !self.mxcsr == 0 && flags & !(self.mxcsr >> 7) == 0 {
            return Ok(());
        }
        self.raise_simd_slow(flags)
    }

    #[cold]
    fn raise_simd_slow(&mut self, flags: u32) -> Flow {
        let unmasked = flags & !(self.mxcsr >> 7);
        if unmasked == 0 {
            self.mxcsr |= flags;
            return Ok(());
        }
        // Exceptions found before computing keep those found after it from being reported.
        self.mxcsr |= if unmasked & 7 != 0 { flags & 7 } else { flags };
        self.raise(if self.cr4 & bit::CR4_OSXMMEXCPT != 0 { vector::XM } else { vector::UD })
    }
}

fn packed<O: Arithmetic, R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::split(S::get(core, bus, op)?);
    let dst = usize::from(op.dst) % 16;
    let mut a = R::split(core.xmm[dst]);
    let mut flags = 0;
    for (a, b) in a.as_mut().iter_mut().zip(b.as_ref()) {
        *a = lane::<O, R>(core.mxcsr, &mut flags, *a, *b);
    }
    core.raise_simd(flags)?;
    core.xmm[dst] = R::join(a);
    Ok(())
}

/// Replaces the lowest lane.
#[inline(always)]
pub(crate) fn set_low<R: Real>(core: &mut Core, index: u8, value: R) {
    let register = &mut core.xmm[usize::from(index) % 16];
    let bits = 128 / R::LANES as u32;
    *register = *register >> bits << bits | u128::from(value.bits());
}

fn scalar<O: Arithmetic, R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::real(S::get(core, bus, op)? as u64);
    let a = R::real(core.xmm[usize::from(op.dst) % 16] as u64);
    let mut flags = 0;
    let result = lane::<O, R>(core.mxcsr, &mut flags, a, b);
    core.raise_simd(flags)?;
    set_low(core, op.dst, result);
    Ok(())
}

/// Which lanes and precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Ps,
    Pd,
    Ss,
    Sd,
}

/// The handler of an arithmetic operation.
pub(crate) fn select<O: Arithmetic>(shape: Shape, memory: bool, flat: bool) -> Handler {
    if memory {
        return by_address!(flat, A => match shape {
            Shape::Ps => packed::<O, f32, XmmMem<A>>,
            Shape::Pd => packed::<O, f64, XmmMem<A>>,
            Shape::Ss => scalar::<O, f32, XmmMem<A>>,
            Shape::Sd => scalar::<O, f64, XmmMem<A>>,
        });
    }
    match shape {
        Shape::Ps => packed::<O, f32, XmmSrc>,
        Shape::Pd => packed::<O, f64, XmmSrc>,
        Shape::Ss => scalar::<O, f32, XmmSrc>,
        Shape::Sd => scalar::<O, f64, XmmSrc>,
    }
}

/// What the horizontal instructions and dot products need: one lane of one operation.
pub(crate) fn compute<O: Arithmetic, R: Real>(mxcsr: u32, flags: &mut u32, a: R, b: R) -> R {
    lane::<O, R>(mxcsr, flags, a, b)
}
