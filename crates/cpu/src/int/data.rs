//! Moves, conversions, conditional moves and sets, and the instructions that only touch flags.

use crate::core::{Bus, Core, Flow, Handler, Op, RAX, RBX, RDX, bit};
use crate::flags::{Int, Lazy};
use crate::int::alu::Form;
use crate::int::operand::{Dst, Imm, Mem, Place, Source, Src, size_mask};
use crate::int::{by_address, by_condition, by_wide, by_width};

fn mov<W: Int, D: Place<W>, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?;
    D::put(core, bus, op, value)
}

/// The handler of `MOV` between general registers, memory and immediates.
pub(crate) fn select_mov(form: Form, size: u8, flat: bool) -> Handler {
    by_width!(size, W => match form {
        Form::RegReg => mov::<W, Dst, Src>,
        Form::RegImm => mov::<W, Dst, Imm>,
        Form::RegMem => by_address!(flat, A => mov::<W, Dst, Mem<A>>),
        Form::MemReg => by_address!(flat, A => mov::<W, Mem<A>, Src>),
        Form::MemImm => by_address!(flat, A => mov::<W, Mem<A>, Imm>),
    })
}

fn extend<W: Int, N: Int, S: Source<N>, const SIGNED: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?;
    core.set_reg(op.dst, W::truncate(if SIGNED { value.extend() } else { value.widen() }));
    Ok(())
}

/// The handler of `MOVZX`, `MOVSX` and `MOVSXD`, from `from` to `size` bytes.
pub(crate) fn select_extend(signed: bool, memory: bool, from: u8, size: u8, flat: bool) -> Handler {
    macro_rules! pick {
        ($n:ty, $signed:literal) => {
            by_wide!(size, W => if memory {
                by_address!(flat, A => extend::<W, $n, Mem<A>, $signed>)
            } else {
                extend::<W, $n, Src, $signed>
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

fn lea<W: Int>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = core.effective(op) & size_mask(op.addr);
    core.set_reg(op.dst, W::truncate(value));
    Ok(())
}

#[inline(always)]
pub(crate) fn lea_flat(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.regs[usize::from(op.dst)] = core.effective(op);
    Ok(())
}

/// `LEA` without an index register.
#[inline(always)]
pub(crate) fn lea_direct(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.regs[usize::from(op.dst)] = core.regs[usize::from(op.base)].wrapping_add(op.disp);
    Ok(())
}

/// `LEA` into 32 bits.
#[inline(always)]
pub(crate) fn lea_half(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.regs[usize::from(op.dst)] = core.effective(op) & 0xffff_ffff;
    Ok(())
}

/// The handler of `LEA`.
pub(crate) fn select_lea(size: u8, addr: u8) -> Handler {
    if size == 8 && addr == 8 { lea_flat } else { by_wide!(size, W => lea::<W>) }
}

fn cmov<const CC: u8, W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let new = S::get(core, bus, op)?;
    let old = core.reg::<W>(op.dst);
    core.set_reg(op.dst, if core.condition::<CC>() { new } else { old });
    Ok(())
}

/// The handler of `CMOVcc`.
pub(crate) fn select_cmov(condition: u8, memory: bool, size: u8, flat: bool) -> Handler {
    by_condition!(condition, CC => by_wide!(size, W => if memory {
        by_address!(flat, A => cmov::<CC, W, Mem<A>>)
    } else {
        cmov::<CC, W, Src>
    }))
}

#[inline(always)]
pub(crate) fn setcc<const CC: u8, D: Place<u8>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = u8::from(core.condition::<CC>());
    D::put(core, bus, op, value)
}

/// The handler of `SETcc`.
pub(crate) fn select_setcc(condition: u8, memory: bool, flat: bool) -> Handler {
    by_condition!(condition, CC => if memory { by_address!(flat, A => setcc::<CC, Mem<A>>) } else { setcc::<CC, Dst> })
}

/// `CBW`, `CWDE`, `CDQE`
pub(crate) fn widen_accumulator(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = core.regs[RAX];
    match op.size {
        2 => core.set_reg(RAX as u8, value as i8 as u16),
        4 => core.set_reg(RAX as u8, value as i16 as u32),
        _ => core.regs[RAX] = value as i32 as u64,
    }
    Ok(())
}

/// `CWD`, `CDQ`, `CQO`
pub(crate) fn spread_sign(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = core.regs[RAX];
    match op.size {
        2 => core.set_reg(RDX as u8, (value as i16 >> 15) as u16),
        4 => core.set_reg(RDX as u8, (value as i32 >> 31) as u32),
        _ => core.regs[RDX] = (value as i64 >> 63) as u64,
    }
    Ok(())
}

/// `BSWAP`; of 16 bits it gives zero, as hardware does.
pub(crate) fn bswap(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    match op.size {
        2 => core.set_reg(op.dst, 0_u16),
        4 => core.set_reg(op.dst, core.reg::<u32>(op.dst).swap_bytes()),
        _ => core.set_reg(op.dst, core.reg::<u64>(op.dst).swap_bytes()),
    }
    Ok(())
}

/// `XLAT`
pub(crate) fn xlat(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let offset = core.regs[RBX].wrapping_add(core.regs[RAX] & 0xff) & size_mask(op.addr);
    let linear = core.segment_linear(op.seg, offset, 1, false)?;
    let value = core.load::<u8>(bus, linear, op.seg)?;
    core.set_reg(RAX as u8, value);
    Ok(())
}

/// `NOP` and its kin.
pub(crate) fn nop(_core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    Ok(())
}

/// `LAHF`
pub(crate) fn lahf(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let flags = core.flags.to_bits() as u8 & 0xd5 | 2;
    core.set_reg(RAX as u8 | 0x80, flags);
    Ok(())
}

/// `SAHF`
pub(crate) fn sahf(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let value = u64::from(core.reg::<u8>(RAX as u8 | 0x80)) & 0xd5;
    core.flags = Lazy::from_bits(value | core.flags.to_bits() & bit::OF);
    Ok(())
}

/// `CLC`
pub(crate) fn clc(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.flags.set_cf(false);
    Ok(())
}

/// `STC`
pub(crate) fn stc(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.flags.set_cf(true);
    Ok(())
}

/// `CMC`
pub(crate) fn cmc(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.flags.set_cf(!core.flags.cf());
    Ok(())
}

/// `CLD`
pub(crate) fn cld(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.rflags &= !bit::DF;
    Ok(())
}

/// `STD`
pub(crate) fn std(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.rflags |= bit::DF;
    Ok(())
}

/// `SALC`
pub(crate) fn salc(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let value = if core.flags.cf() { 0xff_u8 } else { 0 };
    core.set_reg(RAX as u8, value);
    Ok(())
}
