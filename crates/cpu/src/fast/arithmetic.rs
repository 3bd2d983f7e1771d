//! Steps of additions, subtractions, comparisons, logic, shifts and multiplications.

use crate::core::{Bus, Core, Flow, Op};
use crate::fast::operand::{Peek, Sum};
use crate::fast::{Effect, Fast, by_frequent_condition, by_index};
use crate::flags::Int;
use crate::int::alu::{self, Binary, Form, Unary};
use crate::int::muldiv;
use crate::int::operand::{Dst, Imm, Mem, Src};
use crate::int::shift::{self, Shift};
use crate::int::{by_wide, by_width};
use crate::step::{self, Step, quiet, step};

/// Register and anything.
fn binary_step<O: Binary, W: Int, S: Peek<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(b) = S::peek(core, op) else { return step::plain(core, bus, op, rest) };
    let a = core.reg::<W>(op.dst);
    let result = O::apply(core, a, b);
    if O::WRITES {
        core.set_reg(op.dst, result);
    }
    step::next(core, bus, rest)
}

/// As [`binary_step`], nobody looking at the flags; can't be used with memory.
fn binary_quiet<O: Binary, W: Int, S: Peek<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let flags = core.flags;
    if let Some(b) = S::peek(core, op) {
        let a = core.reg::<W>(op.dst);
        let result = O::apply(core, a, b);
        core.flags = flags;
        if O::WRITES {
            core.set_reg(op.dst, result);
        }
    }
    step::next(core, bus, rest)
}

/// Memory, which is written, and register or immediate.
fn update_step<O: Binary, W: Int, A: Sum, S: Peek<W>>(
    core: &mut Core,
    bus: &mut Bus<'_>,
    op: &Op,
    rest: &[Op],
) -> Flow {
    let (Some(at), Some(b)) = (core.find_for_write::<W>(A::sum(core, op)), S::peek(core, op)) else {
        return step::plain(core, bus, op, rest);
    };
    let a = core.memory.ram().load::<W>(at);
    let result = O::apply(core, a, b);
    let watched = core.memory.ram().store_in_page(at, result);
    step::stored::<W>(core, bus, op, rest, at, watched)
}

/// Two values that are compared.
fn compare_step<O: Binary, W: Int, D: Peek<W>, S: Peek<W>>(
    core: &mut Core,
    bus: &mut Bus<'_>,
    op: &Op,
    rest: &[Op],
) -> Flow {
    let (Some(a), Some(b)) = (D::peek(core, op), S::peek(core, op)) else {
        return step::plain(core, bus, op, rest);
    };
    O::apply(core, a, b);
    step::next(core, bus, rest)
}

/// As [`compare_step`], or with the result going to a register, and the branch after it.
fn paired_step<O: Binary, W: Int, D: Peek<W>, S: Peek<W>, const CC: u8>(
    core: &mut Core,
    bus: &mut Bus<'_>,
    op: &Op,
    rest: &[Op],
) -> Flow {
    let (Some(a), Some(b)) = (D::peek(core, op), S::peek(core, op)) else {
        return step::plain_pair::<CC>(core, bus, op, rest);
    };
    let result = O::apply(core, a, b);
    if O::WRITES {
        core.set_reg(op.dst, result);
    }
    let taken = O::met::<W, CC>(core, a, b);
    step::branch(core, bus, op, rest, i64::from(op.target) as u64, taken)
}

fn pair<O: Binary, W: Int, D: Peek<W>, S: Peek<W>>(condition: u8) -> Option<Step> {
    by_frequent_condition!(condition, CC => paired_step::<O, W, D, S, CC>)
}

fn on_registers<O: Binary, W: Int, S: Peek<W>>() -> Fast {
    Fast {
        step: binary_step::<O, W, S>,
        quiet: Some(binary_quiet::<O, W, S>),
        pair: Some(pair::<O, W, Dst, S>),
        effect: Effect::Replaces,
    }
}

fn comparing<O: Binary, W: Int, D: Peek<W>, S: Peek<W>>() -> Fast {
    Fast { pair: Some(pair::<O, W, D, S>), ..Fast::new(compare_step::<O, W, D, S>, Effect::Looks) }
}

/// Handlers that may stop or look at flags have steps that keep them.
fn looking(step: Step) -> Fast {
    Fast::new(step, Effect::Looks)
}

/// A binary operation that isn't locked.
pub(crate) fn binary<O: Binary>(form: Form, size: u8, index: bool) -> Fast {
    by_width!(size, W => match form {
        Form::RegReg => on_registers::<O, W, Src>(),
        Form::RegImm => on_registers::<O, W, Imm>(),
        Form::RegMem => by_index!(index, A => looking(binary_step::<O, W, Mem<A>>)),
        Form::MemReg => by_index!(index, A => looking(update_step::<O, W, A, Src>)),
        Form::MemImm => by_index!(index, A => looking(update_step::<O, W, A, Imm>)),
    })
}

/// `ADC` and `SBB`.
pub(crate) fn carry<O: Binary>(form: Form, size: u8, index: bool) -> Fast {
    by_wide!(size, W => match form {
        Form::RegReg => looking(binary_step::<O, W, Src>),
        Form::RegImm => looking(binary_step::<O, W, Imm>),
        Form::RegMem => by_index!(index, A => looking(binary_step::<O, W, Mem<A>>)),
        Form::MemReg => by_index!(index, A => looking(update_step::<O, W, A, Src>)),
        Form::MemImm => by_index!(index, A => looking(update_step::<O, W, A, Imm>)),
    })
}

/// As [`binary`], for operations that only compare.
pub(crate) fn compare<O: Binary>(form: Form, size: u8, index: bool) -> Fast {
    by_width!(size, W => match form {
        Form::RegReg => on_registers::<O, W, Src>(),
        Form::RegImm => on_registers::<O, W, Imm>(),
        Form::RegMem => by_index!(index, A => comparing::<O, W, Dst, Mem<A>>()),
        Form::MemReg => by_index!(index, A => comparing::<O, W, Mem<A>, Src>()),
        Form::MemImm => by_index!(index, A => comparing::<O, W, Mem<A>, Imm>()),
    })
}

fn unary_paired<O: Unary, W: Int, const CC: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let value = core.reg::<W>(op.dst);
    let result = O::compute(value);
    O::flags(core, value, result);
    core.set_reg(op.dst, result);
    let taken = core.condition::<CC>();
    step::branch(core, bus, op, rest, i64::from(op.target) as u64, taken)
}

fn unary_pair<O: Unary, W: Int>(condition: u8) -> Option<Step> {
    by_frequent_condition!(condition, CC => unary_paired::<O, W, CC>)
}

fn unary_update<O: Unary, W: Int, A: Sum>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(at) = core.find_for_write::<W>(A::sum(core, op)) else { return step::plain(core, bus, op, rest) };
    let value = core.memory.ram().load::<W>(at);
    let result = O::compute(value);
    O::flags(core, value, result);
    let watched = core.memory.ram().store_in_page(at, result);
    step::stored::<W>(core, bus, op, rest, at, watched)
}

/// `INC` and `DEC`.
pub(crate) fn count<O: Unary>(memory: bool, size: u8, index: bool) -> Fast {
    by_width!(size, W => if memory {
        by_index!(index, A => looking(unary_update::<O, W, A>))
    } else {
        Fast { pair: Some(unary_pair::<O, W>), ..unary::<O>(size, Effect::Changes) }
    })
}

/// An operation on one register.
pub(crate) fn unary<O: Unary>(size: u8, effect: Effect) -> Fast {
    by_width!(size, W => Fast {
        step: step!(alu::unary::<O, W, Dst>),
        quiet: Some(quiet!(alu::unary::<O, W, Dst>)),
        pair: None,
        effect,
    })
}

/// A shift or rotate of a register.
pub(crate) fn shift<O: Shift>(by_cl: bool, size: u8, effect: Effect) -> Fast {
    let (step, quiet) = by_width!(size, W => if by_cl {
        (step!(shift::shift_cl::<O, W, Dst>), quiet!(shift::shift_cl::<O, W, Dst>))
    } else {
        (step!(shift::shift_imm::<O, W, Dst>), quiet!(shift::shift_imm::<O, W, Dst>))
    });
    Fast { step, quiet: Some(quiet), pair: None, effect }
}

fn multiply_step<W: Int, S: Peek<W>, const THREE: bool>(
    core: &mut Core,
    bus: &mut Bus<'_>,
    op: &Op,
    rest: &[Op],
) -> Flow {
    let Some(b) = S::peek(core, op) else { return step::plain(core, bus, op, rest) };
    let a = if THREE { W::truncate(op.imm) } else { core.reg::<W>(op.dst) };
    muldiv::signed_product(core, op, a, b);
    step::next(core, bus, rest)
}

/// `IMUL` with two or three operands.
pub(crate) fn multiply(three: bool, memory: bool, size: u8, index: bool) -> Fast {
    by_wide!(size, W => match (three, memory) {
        (false, false) => multiplying(multiply_step::<W, Src, false>, quiet!(muldiv::imul2::<W, Src>)),
        (true, false) => multiplying(multiply_step::<W, Src, true>, quiet!(muldiv::imul3::<W, Src>)),
        (false, true) => by_index!(index, A => looking(multiply_step::<W, Mem<A>, false>)),
        (true, true) => by_index!(index, A => looking(multiply_step::<W, Mem<A>, true>)),
    })
}

fn multiplying(step: Step, quiet: Step) -> Fast {
    Fast { step, quiet: Some(quiet), pair: None, effect: Effect::Replaces }
}
