//! Steps of branches, calls and returns in 64-bit code.

use crate::core::{Bus, Core, Flow, Op, RSP};
use crate::fast::operand::Peek;
use crate::fast::{Effect, Fast, by_index};
use crate::int::operand::{Dst, Imm, Mem};
use crate::int::{branch, by_condition};
use crate::memory::is_canonical;
use crate::step::{self, Step, step};

/// `Jcc`, after which the block goes on.
pub(crate) fn jcc(condition: u8) -> Fast {
    let step: Step = by_condition!(condition, CC => |core, bus, op, rest| {
        let taken = core.condition::<CC>();
        step::branch(core, bus, op, rest, op.imm, taken)
    });
    Fast::new(step, Effect::Looks)
}

/// `JMP`.
pub(crate) fn jmp() -> Fast {
    Fast::new(step!(branch::jmp::<true>), Effect::Looks)
}

/// Where a call goes that was relative to the block's start.
struct Relative;

impl Peek<u64> for Relative {
    #[inline(always)]
    fn peek(core: &Core, op: &Op) -> Option<u64> {
        Imm::peek(core, op).map(|to: u64| core.regs[crate::core::BLOCK].wrapping_add(to))
    }
}

fn call_step<S: Peek<u64>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    let pointer = core.regs[RSP].wrapping_sub(8);
    let (Some(at), Some(target)) = (core.find_for_write::<u64>(pointer), S::peek(core, op)) else {
        return step::plain(core, bus, op, rest);
    };
    if !is_canonical(target) {
        return step::plain(core, bus, op, rest);
    }
    let next = core.next_rip(op);
    let watched = core.memory.ram().store_in_page(at, next);
    core.regs[RSP] = pointer;
    core.rip = target;
    if watched {
        core.written = at;
        return report(core, bus, op, rest);
    }
    step::next(core, bus, rest)
}

/// Reports the return address written. Nothing follows in the block, so that it doesn't matter whether it was code.
#[cold]
#[inline(never)]
fn report(core: &mut Core, bus: &mut Bus<'_>, _op: &Op, rest: &[Op]) -> Flow {
    core.memory.ram().note_write(core.written, 8);
    step::next(core, bus, rest)
}

/// `CALL`.
pub(crate) fn call() -> Fast {
    Fast::new(call_step::<Relative>, Effect::Looks)
}

/// `RET`.
pub(crate) fn ret() -> Fast {
    Fast::new(
        |core, bus, op, rest| {
            let pointer = core.regs[RSP];
            match core.load_cached::<u64>(pointer) {
                Some(target) if is_canonical(target) => {
                    core.regs[RSP] = pointer.wrapping_add(8 + op.imm);
                    core.rip = target;
                    step::next(core, bus, rest)
                }
                _ => step::plain(core, bus, op, rest),
            }
        },
        Effect::Looks,
    )
}

fn jump_step<S: Peek<u64>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op, rest: &[Op]) -> Flow {
    match S::peek(core, op) {
        Some(target) if is_canonical(target) => {
            core.rip = target;
            step::next(core, bus, rest)
        }
        _ => step::plain(core, bus, op, rest),
    }
}

/// `JMP` and `CALL` to where a register or memory says.
pub(crate) fn indirect(is_call: bool, memory: bool, index: bool) -> Fast {
    let step: Step = match (is_call, memory) {
        (false, false) => jump_step::<Dst>,
        (false, true) => by_index!(index, A => jump_step::<Mem<A>>),
        (true, false) => call_step::<Dst>,
        (true, true) => by_index!(index, A => call_step::<Mem<A>>),
    };
    Fast::new(step, Effect::Looks)
}
