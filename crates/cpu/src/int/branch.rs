//! Near jumps, calls and returns, and loops. Far transfers are in `system::far`.

use crate::core::{Bus, CodeSize, Core, Flow, Handler, Op, RCX, RSP, vector};
use crate::int::operand::{Dst, Mem, Source, size_mask};
use crate::int::{by_address, by_condition, by_wide};
use crate::memory::{done, is_canonical};

/// The target of a relative branch; `op.imm` is relative to the block's start.
#[inline(always)]
fn target<const LONG: bool>(core: &Core, op: &Op) -> u64 {
    let target = core.regs[crate::core::BLOCK].wrapping_add(op.imm);
    if LONG { target } else { target & size_mask(op.size) }
}

/// Goes to the target: outside of 64-bit mode the fault of one beyond the limit is the branch's.
#[inline(always)]
fn go<const LONG: bool>(core: &mut Core, op: &Op) -> Flow {
    let target = target::<LONG>(core, op);
    if !LONG {
        check_target(core, target)?;
    }
    core.rip = target;
    Ok(())
}

fn jcc<const CC: u8, const LONG: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.condition::<CC>() {
        return go::<LONG>(core, op);
    }
    Ok(())
}

/// The handler of `Jcc`.
pub(crate) fn select_jcc(condition: u8, long: bool) -> Handler {
    by_condition!(condition, CC => if long { jcc::<CC, true> } else { jcc::<CC, false> })
}

#[inline(always)]
pub(crate) fn jmp<const LONG: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    go::<LONG>(core, op)
}

/// The handler of `JMP rel`.
pub(crate) fn select_jmp(long: bool) -> Handler {
    if long { jmp::<true> } else { jmp::<false> }
}

fn call<const LONG: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let next = core.next_rip(op);
    if LONG {
        done(core.push_long(bus, next))?;
        core.rip = target::<LONG>(core, op);
    } else {
        let target = target::<LONG>(core, op);
        check_target(core, target)?;
        done(core.push(bus, op.size, next))?;
        core.rip = target;
    }
    Ok(())
}

/// The handler of `CALL rel`.
pub(crate) fn select_call(long: bool) -> Handler {
    if long { call::<true> } else { call::<false> }
}

/// Checks where an indirect branch goes.
#[inline(always)]
fn check_target(core: &mut Core, target: u64) -> Flow {
    let good = if core.code == CodeSize::Bits64 {
        is_canonical(target)
    } else {
        target <= u64::from(core.segments[crate::registers::CS].limit)
    };
    if good { Ok(()) } else { core.raise_code(vector::GP, 0) }
}

fn jmp_indirect<W: crate::flags::Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let target = S::get(core, bus, op)?.widen();
    check_target(core, target)?;
    core.rip = target;
    Ok(())
}

fn call_indirect<W: crate::flags::Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let target = S::get(core, bus, op)?.widen();
    check_target(core, target)?;
    let next = core.next_rip(op);
    done(core.push(bus, op.size, next))?;
    core.rip = target;
    Ok(())
}

/// The handler of `JMP r/m` or `CALL r/m`.
pub(crate) fn select_indirect(is_call: bool, memory: bool, size: u8, flat: bool) -> Handler {
    by_wide!(size, W => match (is_call, memory) {
        (false, false) => jmp_indirect::<W, Dst>,
        (false, true) => by_address!(flat, A => jmp_indirect::<W, Mem<A>>),
        (true, false) => call_indirect::<W, Dst>,
        (true, true) => by_address!(flat, A => call_indirect::<W, Mem<A>>),
    })
}

/// `RET` and `RET imm`
pub(crate) fn ret(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let target = core.peek(bus, op.size, 0)?;
    check_target(core, target)?;
    core.release(u64::from(op.size) + op.imm);
    core.rip = target;
    Ok(())
}

/// `RET` in 64-bit mode.
pub(crate) fn ret_long(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let pointer = core.regs[RSP];
    let target = core.load::<u64>(bus, pointer, crate::registers::SS as u8)?;
    if !is_canonical(target) {
        return core.raise_code(vector::GP, 0);
    }
    core.regs[RSP] = pointer.wrapping_add(8 + op.imm);
    core.rip = target;
    Ok(())
}

/// `JCXZ`, `JECXZ`, `JRCXZ`
pub(crate) fn jcxz(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.reg_sized(RCX, op.addr) == 0 {
        return go::<false>(core, op);
    }
    Ok(())
}

/// Counts down, and goes to the target if `met` and the count isn't zero then.
fn count_down(core: &mut Core, op: &Op, met: bool) -> Flow {
    let count = core.reg_sized(RCX, op.addr).wrapping_sub(1) & size_mask(op.addr);
    if met && count != 0 {
        go::<false>(core, op)?;
    }
    core.set_reg_sized(RCX, op.addr, count);
    Ok(())
}

/// `LOOP`
pub(crate) fn loop_(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    count_down(core, op, true)
}

/// `LOOPE`
pub(crate) fn loope(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    count_down(core, op, core.flags.zf())
}

/// `LOOPNE`
pub(crate) fn loopne(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    count_down(core, op, !core.flags.zf())
}
