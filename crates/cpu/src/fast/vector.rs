//! Steps of SSE moves, of arithmetic that the host can do because nothing about it is special, and of comparisons.

use ferro_guest::Word;

use crate::core::{Bus, Core, Flow, Op};
use crate::fast::operand::Sum;
use crate::fast::{Effect, Fast, by_frequent_condition, by_index};
use crate::int::operand::Mem;
use crate::sse::float::{self, Arithmetic, Real, Shape};
use crate::sse::{ALIGNED, From, Vector, XmmSrc, order};
use crate::step::{self, Step};
use crate::tlb::Access;

/// An XMM register or memory operand that may be at hand.
trait Peek: 'static {
    /// All of it.
    fn whole(core: &Core, op: &Op) -> Option<u128>;
    /// Its lowest lane, as bits.
    fn low<R: Real>(core: &Core, op: &Op) -> Option<R>;
}

impl Peek for XmmSrc {
    #[inline(always)]
    fn whole(core: &Core, op: &Op) -> Option<u128> {
        Some(core.xmm[usize::from(op.src) % 16])
    }

    #[inline(always)]
    fn low<R: Real>(core: &Core, op: &Op) -> Option<R> {
        Some(R::real(core.xmm[usize::from(op.src) % 16] as u64))
    }
}

impl<A: Sum> Peek for Mem<A> {
    #[inline(always)]
    fn whole(core: &Core, op: &Op) -> Option<u128> {
        let linear = A::sum(core, op);
        if op.bits & ALIGNED != 0 && !linear.is_multiple_of(16) {
            return None;
        }
        let offset = core.tlb.find(Access::Read, linear, 16)?;
        let ram = core.memory.ram();
        Some(u128::from(ram.load::<u64>(offset + 8)) << 64 | u128::from(ram.load::<u64>(offset)))
    }

    #[inline(always)]
    fn low<R: Real>(core: &Core, op: &Op) -> Option<R> {
        let linear = A::sum(core, op);
        if R::LANES == 4 {
            core.load_cached::<u32>(linear).map(|bits| R::real(u64::from(bits)))
        } else {
            core.load_cached::<u64>(linear).map(R::real)
        }
    }
}

fn move_step<S: Peek>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(value) = S::whole(core, op) else { return step::plain(core, bus, op, rest) };
    core.xmm[usize::from(op.dst) % 16] = value;
    step::next(core, bus, rest)
}

/// Moves of whole registers, and loads of them.
pub(crate) fn load(memory: bool, index: bool) -> Fast {
    if memory {
        return by_index!(index, A => Fast::new(move_step::<Mem<A>>, Effect::Looks));
    }
    Fast::new(move_step::<XmmSrc>, Effect::Passes)
}

fn store_step<A: Sum>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let linear = A::sum(core, op);
    let at = core.tlb.find(Access::Write, linear, 16);
    let (Some(at), true) = (at, op.bits & ALIGNED == 0 || linear.is_multiple_of(16)) else {
        return step::plain(core, bus, op, rest);
    };
    let value = core.xmm[usize::from(op.src) % 16];
    let ram = core.memory.ram();
    let low = ram.store_in_page(at, value as u64);
    let high = ram.store_in_page(at + 8, (value >> 64) as u64);
    step::stored::<u64>(core, bus, op, rest, at, low | high)
}

/// Stores of whole registers.
pub(crate) fn store(index: bool) -> Fast {
    Fast::new(by_index!(index, A => store_step::<A>), Effect::Looks)
}

fn load_low_step<W: Word, A: Sum>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(value) = core.load_cached::<W>(A::sum(core, op)) else { return step::plain(core, bus, op, rest) };
    core.xmm[usize::from(op.dst) % 16] = u128::from(value.widen());
    step::next(core, bus, rest)
}

fn store_low_step<W: Word, A: Sum>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(at) = core.find_for_write::<W>(A::sum(core, op)) else { return step::plain(core, bus, op, rest) };
    let value = W::truncate(core.xmm[usize::from(op.src) % 16] as u64);
    let watched = core.memory.ram().store_in_page(at, value);
    step::stored::<W>(core, bus, op, rest, at, watched)
}

/// Loads and stores of the low 4 or 8 bytes.
pub(crate) fn low(store: bool, size: u8, index: bool) -> Fast {
    let step: Step = by_index!(index, A => match (store, size) {
        (false, 4) => load_low_step::<u32, A>,
        (false, _) => load_low_step::<u64, A>,
        (true, 4) => store_low_step::<u32, A>,
        (true, _) => store_low_step::<u64, A>,
    });
    Fast::new(step, Effect::Looks)
}

fn operation_step<O: Vector, const IMMEDIATE: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let b = if IMMEDIATE { u128::from(op.imm as u8) } else { core.xmm[usize::from(op.src) % 16] };
    let register = &mut core.xmm[usize::from(op.dst) % 16];
    *register = O::apply(*register, b, op.imm as u8);
    step::next(core, bus, rest)
}

/// An operation on XMM registers that can't fail.
pub(crate) fn operation<O: Vector>(from: From) -> Option<Fast> {
    match from {
        From::Register => Some(Fast::new(operation_step::<O, false>, Effect::Passes)),
        From::Immediate => Some(Fast::new(operation_step::<O, true>, Effect::Passes)),
        From::Memory => None,
    }
}

fn scalar_step<O: Arithmetic, R: Real, S: Peek>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let a = R::real(core.xmm[usize::from(op.dst) % 16] as u64);
    let Some(result) = S::low(core, op).and_then(|b| float::direct::<O, R>(core.mxcsr, a, b)) else {
        return step::plain(core, bus, op, rest);
    };
    float::set_low(core, op.dst, result);
    step::next(core, bus, rest)
}

fn packed_step<O: Arithmetic, R: Real, S: Peek>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(b) = S::whole(core, op) else { return step::plain(core, bus, op, rest) };
    let dst = usize::from(op.dst) % 16;
    let (mut a, b) = (R::split(core.xmm[dst]), R::split(b));
    for (a, b) in a.as_mut().iter_mut().zip(b.as_ref()) {
        let Some(result) = float::direct::<O, R>(core.mxcsr, *a, *b) else {
            return step::plain(core, bus, op, rest);
        };
        *a = result;
    }
    core.xmm[dst] = R::join(a);
    step::next(core, bus, rest)
}

fn arithmetic_step<O: Arithmetic, S: Peek>(shape: Shape) -> Step {
    match shape {
        Shape::Ps => packed_step::<O, f32, S>,
        Shape::Pd => packed_step::<O, f64, S>,
        Shape::Ss => scalar_step::<O, f32, S>,
        Shape::Sd => scalar_step::<O, f64, S>,
    }
}

/// Addition, subtraction, multiplication, division, square root.
pub(crate) fn arithmetic<O: Arithmetic>(shape: Shape, memory: bool, index: bool) -> Fast {
    let step = if memory {
        by_index!(index, A => arithmetic_step::<O, Mem<A>>(shape))
    } else {
        arithmetic_step::<O, XmmSrc>(shape)
    };
    Fast::new(step, Effect::Looks)
}

fn compare_step<R: Real, S: Peek>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let a = R::real(core.xmm[usize::from(op.dst) % 16] as u64);
    let Some(flags) = S::low(core, op).and_then(|b| order::direct_order(a, b)) else {
        return step::plain(core, bus, op, rest);
    };
    core.flags = flags;
    step::next(core, bus, rest)
}

fn compare_paired<R: Real, S: Peek, const CC: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let a = R::real(core.xmm[usize::from(op.dst) % 16] as u64);
    let Some(flags) = S::low(core, op).and_then(|b| order::direct_order(a, b)) else {
        return step::plain_pair::<CC>(core, bus, op, rest);
    };
    core.flags = flags;
    let taken = core.condition::<CC>();
    step::branch(core, bus, op, rest, i64::from(op.target) as u64, taken)
}

fn compare_pair<R: Real, S: Peek>(condition: u8) -> Option<Step> {
    by_frequent_condition!(condition, CC => compare_paired::<R, S, CC>)
}

fn comparing<R: Real, S: Peek>() -> Fast {
    Fast { pair: Some(compare_pair::<R, S>), ..Fast::new(compare_step::<R, S>, Effect::Looks) }
}

/// `COMIS`, `UCOMIS`
pub(crate) fn compare(double: bool, memory: bool, index: bool) -> Fast {
    match (double, memory) {
        (false, false) => comparing::<f32, XmmSrc>(),
        (true, false) => comparing::<f64, XmmSrc>(),
        (false, true) => by_index!(index, A => comparing::<f32, Mem<A>>()),
        (true, true) => by_index!(index, A => comparing::<f64, Mem<A>>()),
    }
}
