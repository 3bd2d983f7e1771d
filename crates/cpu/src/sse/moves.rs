//! Moves between vector registers, memory and general registers, and single lanes.

use crate::core::{Bus, Core, Flow, Op, RDI, vector};
use crate::int::operand::{Address, Based, Flat, size_mask};
use crate::memory::done;
use crate::sse::ALIGNED;
use crate::sse::lanes::Lane;

/// Writes a whole XMM register (`op.src`) to memory.
pub(crate) fn store<A: Address>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = A::linear(core, op, 16, true)?;
    if op.bits & ALIGNED != 0 && !linear.is_multiple_of(16) {
        return core.raise_code(vector::GP, 0);
    }
    let value = core.xmm[usize::from(op.src) % 16];
    core.store_128(bus, linear, op.seg, value)
}

/// Writes `op.size` bytes from bit `op.imm` of a register (`op.src`) to memory.
pub(crate) fn store_lane<const M: bool, A: Address>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M && core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    if M {
        // Even if the store faults.
        core.fpu.top = 0;
    }
    let linear = A::linear(core, op, u64::from(op.size), true)?;
    let value = core.vector::<M>(op.src) >> (op.imm as u32 & 127);
    if M {
        core.probe_write(linear, usize::from(op.size), op.seg)?;
        core.enter_mmx()?;
    }
    match op.size {
        1 => core.store(bus, linear, op.seg, value as u8),
        2 => core.store(bus, linear, op.seg, value as u16),
        4 => core.store(bus, linear, op.seg, value as u32),
        _ => core.store(bus, linear, op.seg, value as u64),
    }
}

/// Puts `op.size` bytes of memory at bit `op.imm` of a register.
pub(crate) fn load_lane<const M: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M && core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let value = core.vector_memory::<Based>(bus, op)?;
    if M {
        core.enter_mmx()?;
    }
    insert::<M>(core, op, value);
    Ok(())
}

#[inline(always)]
fn insert<const M: bool>(core: &mut Core, op: &Op, value: u128) {
    let shift = op.imm as u32 & 127;
    let mask = u128::from(size_mask(op.size)) << shift;
    let old = core.vector::<M>(op.dst);
    core.set_vector::<M>(op.dst, old & !mask | (value << shift) & mask);
}

/// Puts the low `op.size` bytes of a general register at bit `op.imm`.
pub(crate) fn insert_general<const M: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    let value = u128::from(core.regs[usize::from(op.src) % 16]);
    insert::<M>(core, op, value);
    Ok(())
}

/// Moves the low `op.size` bytes of a general register to a vector register, cleared above.
pub(crate) fn from_general<const M: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    let value = core.regs[usize::from(op.src) % 16] & size_mask(op.size);
    core.set_vector::<M>(op.dst, u128::from(value));
    Ok(())
}

/// Moves `op.size` bytes from bit `op.imm` of a vector register to a general register, cleared above.
pub(crate) fn to_general<const M: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    let value = (core.vector::<M>(op.src) >> (op.imm as u32 & 127)) as u64;
    core.regs[usize::from(op.dst) % 16] = value & size_mask(op.size);
    Ok(())
}

/// Loads 16 bytes, aligned or not: specialised, since nothing is as frequent.
pub(crate) fn load(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Flat::linear(core, op, 16, false)?;
    if op.bits & ALIGNED != 0 && !linear.is_multiple_of(16) {
        return core.raise_code(vector::GP, 0);
    }
    core.xmm[usize::from(op.dst) % 16] = core.load_128(bus, linear, op.seg)?;
    Ok(())
}

/// `MOVNTI`
pub(crate) fn movnti(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, u64::from(op.size), true)?;
    let value = core.regs[usize::from(op.src) % 16];
    if op.size == 8 { core.store(bus, linear, op.seg, value) } else { core.store(bus, linear, op.seg, value as u32) }
}

/// `PMOVMSKB`
pub(crate) fn byte_mask<const M: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    let lanes = u8::split(core.vector::<M>(op.src));
    let count = if M { 8 } else { 16 };
    let mask = lanes[..count].iter().enumerate().fold(0, |mask, (index, lane)| mask | u64::from(lane >> 7) << index);
    core.regs[usize::from(op.dst) % 16] = mask;
    Ok(())
}

/// `MOVMSKPS`
pub(crate) fn single_mask(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let lanes = u32::split(core.xmm[usize::from(op.src) % 16]);
    let mask = lanes.iter().enumerate().fold(0, |mask, (index, lane)| mask | u64::from(lane >> 31) << index);
    core.regs[usize::from(op.dst) % 16] = mask;
    Ok(())
}

/// `MOVMSKPD`
pub(crate) fn double_mask(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = core.xmm[usize::from(op.src) % 16];
    core.regs[usize::from(op.dst) % 16] = (value >> 63 & 1 | value >> 126 & 2) as u64;
    Ok(())
}

/// `MASKMOVQ`, `MASKMOVDQU`
pub(crate) fn masked_store<const M: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    let (value, mask) = (u8::split(core.vector::<M>(op.dst)), u8::split(core.vector::<M>(op.src)));
    let count = if M { 8 } else { 16 };
    let seg = op.seg;
    let base = core.regs[RDI] & size_mask(op.addr);
    let start = core.segment_linear(seg, base, count as u64, true)?;
    // As on hardware, all of it must be writable, whatever the mask, and the upper half comes first.
    if !M {
        core.probe_write(core.wrap(start.wrapping_add(8)), 8, seg)?;
    }
    core.probe_write(start, 8, seg)?;
    for at in (0..count).filter(|&at| mask[at] & 0x80 != 0) {
        let linear = core.wrap(start.wrapping_add(at as u64));
        done(core.store(bus, linear, seg, value[at]))?;
    }
    core.synced()
}

/// `MOVQ2DQ`
pub(crate) fn mmx_to_xmm(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.enter_mmx()?;
    let value = core.vector::<true>(op.src);
    core.set_vector::<false>(op.dst, value);
    Ok(())
}

/// `MOVDQ2Q`
pub(crate) fn xmm_to_mmx(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.enter_mmx()?;
    let value = core.vector::<false>(op.src);
    core.set_vector::<true>(op.dst, value & u128::from(u64::MAX));
    Ok(())
}

fn variable_blend(core: &mut Core, op: &Op, b: u128, spread: impl Fn(u128) -> u128) {
    let a = core.xmm[usize::from(op.dst) % 16];
    let mask = spread(core.xmm[0]);
    core.xmm[usize::from(op.dst) % 16] = a & !mask | b & mask;
}

/// `PBLENDVB`, `BLENDVPS`, `BLENDVPD`: lanes of 1, 4 or 8 bytes (`op.imm`) where XMM0's top bits are set.
pub(crate) fn blend_by_xmm0<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = if MEMORY { core.vector_memory::<Based>(bus, op)? } else { core.xmm[usize::from(op.src) % 16] };
    variable_blend(core, op, b, |mask| match op.imm {
        1 => i8::join(i8::split(mask).map(|lane| lane >> 7)),
        4 => i32::join(i32::split(mask).map(|lane| lane >> 31)),
        _ => i64::join(i64::split(mask).map(|lane| lane >> 63)),
    });
    Ok(())
}

/// `PTEST`
pub(crate) fn ptest<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = if MEMORY { core.vector_memory::<Based>(bus, op)? } else { core.xmm[usize::from(op.src) % 16] };
    let a = core.xmm[usize::from(op.dst) % 16];
    let mut flags = 0;
    if a & b == 0 {
        flags |= crate::core::bit::ZF;
    }
    if !a & b == 0 {
        flags |= crate::core::bit::CF;
    }
    core.flags = crate::flags::Lazy::from_bits(flags);
    Ok(())
}
