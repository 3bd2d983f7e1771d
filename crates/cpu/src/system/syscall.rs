//! `SYSCALL`, `SYSRET`, `SYSENTER`, `SYSEXIT`, `SWAPGS` and the FS and GS bases.

use crate::core::{Bus, Core, Flow, Op, RCX, RDX, RSP, bit, vector};
use crate::memory::is_canonical;
use crate::registers::{CS, FS, GS, SS};
use crate::segment::Segment;

const R11: usize = 11;
const CODE_64: u32 = 0xa09b;
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
const USER: u32 = 0x60;

impl Core {
    /// Loads flat code and stack segments, as the fast system calls do.
    fn set_flat(&mut self, code: u16, attributes: u32, stack: u16, level: u8) {
        let user = if level == 3 { USER } else { 0 };
        self.segments[CS] = Segment::new(code, 0, u32::MAX, attributes | user);
        self.segments[SS] = Segment::new(stack, 0, u32::MAX, DATA | user);
        self.cpl = level;
        self.update_mode();
    }
}

/// `SYSCALL`
pub(crate) fn syscall(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.msr.efer & bit::EFER_SCE == 0 || !core.is_long() || !core.is_code_64() {
        return core.raise(vector::UD);
    }
    let flags = core.read_rflags() & !bit::RF;
    core.regs[RCX] = core.next_rip(op);
    core.regs[R11] = flags;
    core.rip = core.msr.lstar;
    core.set_rflags(flags & !core.msr.fmask);
    let selector = (core.msr.star >> 32) as u16 & !3;
    core.set_flat(selector, CODE_64, selector.wrapping_add(8), 0);
    Ok(())
}

/// `SYSRET`
pub(crate) fn sysret(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.msr.efer & bit::EFER_SCE == 0 || !core.is_long() || !core.is_code_64() {
        return core.raise(vector::UD);
    }
    core.require_supervisor()?;
    let long = op.size == 8;
    let target = if long { core.regs[RCX] } else { core.regs[RCX] & 0xffff_ffff };
    if !is_canonical(target) {
        return core.raise_code(vector::GP, 0);
    }
    let base = (core.msr.star >> 48) as u16;
    let flags = core.regs[R11] & !(bit::RF | bit::VM);
    core.set_rflags(flags);
    core.rip = target;
    let (code, attributes) = if long { (base.wrapping_add(16), CODE_64) } else { (base, CODE_32) };
    core.set_flat(code | 3, attributes, base.wrapping_add(8) | 3, 3);
    Ok(())
}

/// `SYSENTER`
pub(crate) fn sysenter(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let selector = core.msr.sysenter_cs as u16 & !3;
    if core.cr0 & bit::CR0_PE == 0 || selector == 0 {
        return core.raise_code(vector::GP, 0);
    }
    let long = core.is_long();
    core.set_rflags(core.read_rflags() & !(bit::VM | bit::IF | bit::RF));
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    core.regs[RSP] = core.msr.sysenter_esp & mask;
    core.rip = core.msr.sysenter_eip & mask;
    core.set_flat(selector, if long { CODE_64 } else { CODE_32 }, selector.wrapping_add(8), 0);
    Ok(())
}

/// `SYSEXIT`
pub(crate) fn sysexit(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let selector = core.msr.sysenter_cs as u16 & !3;
    if !core.is_protected() || selector == 0 || core.cpl != 0 {
        return core.raise_code(vector::GP, 0);
    }
    let long = op.size == 8;
    let (target, stack) = (core.regs[RDX], core.regs[RCX]);
    if long && (!is_canonical(target) || !is_canonical(stack)) {
        return core.raise_code(vector::GP, 0);
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    core.regs[RSP] = stack & mask;
    core.rip = target & mask;
    let offset = if long { 32 } else { 16 };
    let code = selector.wrapping_add(offset) | 3;
    core.set_flat(code, if long { CODE_64 } else { CODE_32 }, code.wrapping_add(8), 3);
    Ok(())
}

/// `SWAPGS`
pub(crate) fn swapgs(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    if !core.is_code_64() {
        return core.raise(vector::UD);
    }
    core.require_supervisor()?;
    std::mem::swap(&mut core.segments[GS].base, &mut core.msr.kernel_gs_base);
    Ok(())
}

fn check_base_access(core: &mut Core) -> Flow {
    if core.is_code_64() && core.cr4 & bit::CR4_FSGSBASE != 0 { Ok(()) } else { core.raise(vector::UD) }
}

/// `RDFSBASE`, `RDGSBASE`
pub(crate) fn read_base<const GS_BASE: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    check_base_access(core)?;
    let base = core.segments[if GS_BASE { GS } else { FS }].base;
    core.set_reg_sized(usize::from(op.dst), op.size, base);
    Ok(())
}

/// `WRFSBASE`, `WRGSBASE`
pub(crate) fn write_base<const GS_BASE: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    check_base_access(core)?;
    let value = core.reg_sized(usize::from(op.dst), op.size);
    if !is_canonical(value) {
        return core.raise_code(vector::GP, 0);
    }
    core.segments[if GS_BASE { GS } else { FS }].base = value;
    Ok(())
}
