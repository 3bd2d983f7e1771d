//! Floating-point instructions that combine lanes or alternate operations, dot products, and approximations.

use crate::core::{Bus, Core, Flow, Handler, Op};
use crate::int::operand::Based;
use crate::sse::float::{Add, Mul, Real, Shape, Sub, compute, set_low};
use crate::sse::lanes::Lane;
use crate::sse::{Operand, XmmMem, XmmSrc};

/// `HADD` and `HSUB`
fn pairs<R: Real, S: Operand, const SUB: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::split(S::get(core, bus, op)?);
    let dst = usize::from(op.dst) % 16;
    let a = R::split(core.xmm[dst]);
    let mut result = R::split(0);
    let mut flags = 0;
    let inputs = a.as_ref().chunks_exact(2).chain(b.as_ref().chunks_exact(2));
    for (to, pair) in result.as_mut().iter_mut().zip(inputs) {
        *to = if SUB {
            compute::<Sub, R>(core.mxcsr, &mut flags, pair[0], pair[1])
        } else {
            compute::<Add, R>(core.mxcsr, &mut flags, pair[0], pair[1])
        };
    }
    core.raise_simd(flags)?;
    core.xmm[dst] = R::join(result);
    Ok(())
}

/// `ADDSUB`
fn alternate<R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::split(S::get(core, bus, op)?);
    let dst = usize::from(op.dst) % 16;
    let mut a = R::split(core.xmm[dst]);
    let mut flags = 0;
    for (index, (a, b)) in a.as_mut().iter_mut().zip(b.as_ref()).enumerate() {
        *a = if index % 2 == 0 {
            compute::<Sub, R>(core.mxcsr, &mut flags, *a, *b)
        } else {
            compute::<Add, R>(core.mxcsr, &mut flags, *a, *b)
        };
    }
    core.raise_simd(flags)?;
    core.xmm[dst] = R::join(a);
    Ok(())
}

/// `DPPS`, `DPPD`: each step raises its flags before the next.
fn dot<R: Real, S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = R::split(S::get(core, bus, op)?);
    let dst = usize::from(op.dst) % 16;
    let a = R::split(core.xmm[dst]);
    let zero = R::real(0);
    let mut products = [zero; 4];
    let mut flags = 0;
    for (index, (a, b)) in a.as_ref().iter().zip(b.as_ref()).enumerate() {
        if op.imm >> (4 + index) & 1 != 0 {
            products[index] = compute::<Mul, R>(core.mxcsr, &mut flags, *a, *b);
        }
    }
    core.raise_simd(flags)?;
    // Each lane adds in its own order, which shows in the choice between NaNs.
    let mut distance = 1;
    while distance < R::LANES {
        let mut flags = 0;
        let before = products;
        for (index, sum) in products.iter_mut().enumerate().take(R::LANES) {
            *sum = compute::<Add, R>(core.mxcsr, &mut flags, before[index ^ distance], before[index]);
        }
        core.raise_simd(flags)?;
        distance *= 2;
    }
    let mut result = R::split(0);
    for (index, lane) in result.as_mut().iter_mut().enumerate() {
        *lane = if op.imm >> index & 1 != 0 { products[index] } else { zero };
    }
    core.xmm[dst] = R::join(result);
    Ok(())
}

macro_rules! by_operand {
    ($memory:expr, $f:ident::<$($t:tt),*>) => {
        if $memory { $f::<$($t,)* XmmMem<Based>> } else { $f::<$($t,)* XmmSrc> }
    };
}

/// The handler of `HADD` or `HSUB`.
pub(crate) fn select_pairs(double: bool, sub: bool, memory: bool) -> Handler {
    type M = XmmMem<Based>;
    match (double, sub, memory) {
        (false, false, false) => pairs::<f32, XmmSrc, false>,
        (false, false, true) => pairs::<f32, M, false>,
        (false, true, false) => pairs::<f32, XmmSrc, true>,
        (false, true, true) => pairs::<f32, M, true>,
        (true, false, false) => pairs::<f64, XmmSrc, false>,
        (true, false, true) => pairs::<f64, M, false>,
        (true, true, false) => pairs::<f64, XmmSrc, true>,
        (true, true, true) => pairs::<f64, M, true>,
    }
}

/// The handler of `ADDSUB`.
pub(crate) fn select_alternate(double: bool, memory: bool) -> Handler {
    if double { by_operand!(memory, alternate::<f64>) } else { by_operand!(memory, alternate::<f32>) }
}

/// The handler of `DPPS` or `DPPD`.
pub(crate) fn select_dot(double: bool, memory: bool) -> Handler {
    if double { by_operand!(memory, dot::<f64>) } else { by_operand!(memory, dot::<f32>) }
}

/// Denormals go in and out as zeros, NaNs become quiet, nothing is raised.
fn approximate(value: f32, root: bool) -> f32 {
    let flush = |value: f32| if value.is_denormal() { 0.0_f32.copysign(value) } else { value };
    if value.is_nan() {
        return f32::from_bits(value.to_bits() | 0x40_0000);
    }
    let value = flush(value);
    if root && value < 0.0 {
        return f32::from_bits(0xffc0_0000);
    }
    if root { 1.0_f32.copysign(value) / value.abs().sqrt() } else { flush(1.0 / value) }
}

/// `RCPPS`, `RSQRTPS`: better than the twelve bits that are asked for.
fn approximate_packed<S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = f32::split(S::get(core, bus, op)?);
    core.xmm[usize::from(op.dst) % 16] = f32::join(b.map(|lane| approximate(lane, op.imm != 0)));
    Ok(())
}

fn approximate_scalar<S: Operand>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = f32::from_bits(S::get(core, bus, op)? as u32);
    set_low(core, op.dst, approximate(b, op.imm != 0));
    Ok(())
}

/// The handler of `RCP` (`op.imm` 0) and `RSQRT`.
pub(crate) fn select_approximate(shape: Shape, memory: bool) -> Handler {
    match (shape, memory) {
        (Shape::Ps, false) => approximate_packed::<XmmSrc>,
        (Shape::Ps, true) => approximate_packed::<XmmMem<Based>>,
        (_, false) => approximate_scalar::<XmmSrc>,
        (_, true) => approximate_scalar::<XmmMem<Based>>,
    }
}
