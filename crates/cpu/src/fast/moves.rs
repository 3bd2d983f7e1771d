//! Steps of moves, conversions, address computations, pushes and pops.

use crate::core::{Bus, Core, Flow, Op, RSP};
use crate::fast::operand::{Peek, Sum};
use crate::fast::{Effect, Fast, by_index};
use crate::flags::Int;
use crate::int::alu::Form;
use crate::int::operand::{Dst, Imm, Mem, Src};
use crate::int::{by_condition, by_wide, by_width, data};
use crate::step::{self, step};

fn load<W: Int, S: Peek<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(value) = S::peek(core, op) else { return step::plain(core, bus, op, rest) };
    core.set_reg(op.dst, value);
    step::next(core, bus, rest)
}

fn store<W: Int, A: Sum, S: Peek<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let (Some(at), Some(value)) = (core.find_for_write::<W>(A::sum(core, op)), S::peek(core, op)) else {
        return step::plain(core, bus, op, rest);
    };
    let watched = core.memory.ram().store_in_page(at, value);
    step::stored::<W>(core, bus, op, rest, at, watched)
}

/// `MOV`.
pub(crate) fn mov(form: Form, size: u8, index: bool) -> Fast {
    by_width!(size, W => match form {
        Form::RegReg => Fast::new(load::<W, Src>, Effect::Passes),
        Form::RegImm => Fast::new(load::<W, Imm>, Effect::Passes),
        Form::RegMem => by_index!(index, A => Fast::new(load::<W, Mem<A>>, Effect::Looks)),
        Form::MemReg => by_index!(index, A => Fast::new(store::<W, A, Src>, Effect::Looks)),
        Form::MemImm => by_index!(index, A => Fast::new(store::<W, A, Imm>, Effect::Looks)),
    })
}

fn extend_step<W: Int, N: Int, S: Peek<N>, const SIGNED: bool>(
    core: &mut Core,
    bus: &mut Bus<'_>,
    op: &Op,
    rest: &[Op],
) -> Flow {
    let Some(value) = S::peek(core, op) else { return step::plain(core, bus, op, rest) };
    core.set_reg(op.dst, W::truncate(if SIGNED { value.extend() } else { value.widen() }));
    step::next(core, bus, rest)
}

/// `MOVZX`, `MOVSX` and `MOVSXD`, from `from` to `size` bytes.
pub(crate) fn extend(signed: bool, memory: bool, from: u8, size: u8, index: bool) -> Fast {
    macro_rules! pick {
        ($n:ty, $signed:literal) => {
            by_wide!(size, W => if memory {
                by_index!(index, A => Fast::new(extend_step::<W, $n, Mem<A>, $signed>, Effect::Looks))
            } else {
                Fast::new(extend_step::<W, $n, Src, $signed>, Effect::Passes)
            })
        };
    }
    match (from, signed) {
        (1, false) => pick!(u8, false),
        (1, true) => pick!(u8, true),
        (2, false) => pick!(u16, false),
        (2, true) => pick!(u16, true),
        (_, false) => pick!(u32, false),
        (_, true) => pick!(u32, true),
    }
}

/// `LEA` with a 64-bit address.
pub(crate) fn lea(size: u8, index: bool) -> Option<Fast> {
    let step = match (size, index) {
        (8, true) => step!(data::lea_flat),
        (8, false) => step!(data::lea_direct),
        (4, _) => step!(data::lea_half),
        _ => return None,
    };
    Some(Fast::new(step, Effect::Passes))
}

fn move_if<const CC: u8, W: Int, S: Peek<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let Some(new) = S::peek(core, op) else { return step::plain(core, bus, op, rest) };
    let old = core.reg::<W>(op.dst);
    core.set_reg(op.dst, if core.condition::<CC>() { new } else { old });
    step::next(core, bus, rest)
}

/// `CMOVcc`.
pub(crate) fn cmov(condition: u8, memory: bool, size: u8, index: bool) -> Fast {
    let step = by_condition!(condition, CC => by_wide!(size, W => if memory {
        by_index!(index, A => move_if::<CC, W, Mem<A>>)
    } else {
        move_if::<CC, W, Src>
    }));
    Fast::new(step, Effect::Looks)
}

/// `SETcc` of a register.
pub(crate) fn setcc(condition: u8) -> Fast {
    Fast::new(by_condition!(condition, CC => step!(data::setcc::<CC, Dst>)), Effect::Looks)
}

fn push_step<S: Peek<u64>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let pointer = core.regs[RSP].wrapping_sub(8);
    let (Some(at), Some(value)) = (core.find_for_write::<u64>(pointer), S::peek(core, op)) else {
        return step::plain(core, bus, op, rest);
    };
    let watched = core.memory.ram().store_in_page(at, value);
    core.regs[RSP] = pointer;
    step::stored::<u64>(core, bus, op, rest, at, watched)
}

/// `PUSH` of 64 bits: a register, memory or an immediate.
pub(crate) fn push(form: Form, index: bool) -> Fast {
    let step = match form {
        Form::RegReg => push_step::<Dst>,
        Form::RegMem => by_index!(index, A => push_step::<Mem<A>>),
        _ => push_step::<Imm>,
    };
    Fast::new(step, Effect::Looks)
}

/// `POP` into a 64-bit register.
pub(crate) fn pop() -> Fast {
    Fast::new(
        |core, bus, op, rest| {
            let pointer = core.regs[RSP];
            let Some(value) = core.load_cached::<u64>(pointer) else { return step::plain(core, bus, op, rest) };
            core.regs[RSP] = pointer.wrapping_add(8);
            core.regs[usize::from(op.dst)] = value;
            step::next(core, bus, rest)
        },
        Effect::Looks,
    )
}

/// `NOP` and its kin.
pub(crate) fn nop() -> Fast {
    Fast::new(step!(data::nop), Effect::Passes)
}
