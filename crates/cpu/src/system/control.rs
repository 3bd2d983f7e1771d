//! Control and debug registers, descriptor-table registers, machine control (HLT, INVLPG…), CPUID, time stamps and
//! random numbers.

use crate::core::{Bus, Core, Flow, Handler, Op, RAX, RBX, RCX, RDX, bit, vector};
use crate::int::operand::{Address, Based, size_mask};
use crate::int::{by_wide, data};
use crate::memory::{done, is_canonical};
use crate::paging::PHYSICAL_BITS;
use crate::registers::{Activity, TableRegister};

const CR4_KNOWN: u64 = bit::CR4_TSD
    | bit::CR4_DE
    | bit::CR4_PSE
    | bit::CR4_PAE
    | bit::CR4_MCE
    | bit::CR4_PGE
    | bit::CR4_PCE
    | bit::CR4_OSFXSR
    | bit::CR4_OSXMMEXCPT
    | bit::CR4_FSGSBASE
    | bit::CR4_SMEP;

/// `MOV r, CRn`; the number is in `op.src`.
pub(crate) fn mov_from_cr(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    let value = match op.src {
        0 => core.cr0,
        2 => core.cr2,
        3 => core.cr3,
        4 => core.cr4,
        8 => {
            core.publish_instructions(op);
            u64::from(bus.read_tpr() & 15)
        }
        _ => return core.raise(vector::UD),
    };
    core.set_reg_sized(usize::from(op.dst), op.size, value);
    Ok(())
}

/// `MOV CRn, r`; the number is in `op.dst`.
pub(crate) fn mov_to_cr(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    let value = core.reg_sized(usize::from(op.src), op.size);
    match op.dst {
        0 => core.set_cr0(value),
        2 => {
            core.cr2 = value;
            Ok(())
        }
        3 => core.set_cr3(value),
        4 => core.set_cr4(value),
        8 if value > 15 => core.raise_code(vector::GP, 0),
        8 => {
            core.publish_instructions(op);
            bus.write_tpr(value as u8);
            Ok(())
        }
        _ => core.raise(vector::UD),
    }
}

impl Core {
    pub(crate) fn set_cr0(&mut self, value: u64) -> Flow {
        let paging = value & bit::CR0_PG != 0;
        let bad = value >> 32 != 0
            || paging && value & bit::CR0_PE == 0
            || value & (bit::CR0_NW | bit::CR0_CD) == bit::CR0_NW
            || !paging && self.is_long() && self.is_code_64();
        if bad {
            return self.raise_code(vector::GP, 0);
        }
        let old = self.cr0;
        let known = 0xe005_003f;
        let enters = paging && old & bit::CR0_PG == 0;
        if enters && self.msr.efer & bit::EFER_LME != 0 {
            if self.cr4 & bit::CR4_PAE == 0 || self.segments[crate::registers::CS].is_long() {
                return self.raise_code(vector::GP, 0);
            }
            self.msr.efer |= bit::EFER_LMA;
        } else if !paging {
            self.msr.efer &= !bit::EFER_LMA;
        }
        self.cr0 = value & known | bit::CR0_ET;
        if enters && !self.load_pdptes() {
            self.cr0 = old;
            return self.raise_code(vector::GP, 0);
        }
        if (old ^ value) & (bit::CR0_PG | bit::CR0_WP | bit::CR0_PE) != 0 {
            self.flush_translations();
        }
        if (old ^ value) & bit::CR0_PE != 0 {
            self.cpl = 0;
        }
        self.update_mode();
        Ok(())
    }

    fn set_cr3(&mut self, value: u64) -> Flow {
        if self.is_long() && value >> PHYSICAL_BITS != 0 {
            return self.raise_code(vector::GP, 0);
        }
        let old = std::mem::replace(&mut self.cr3, value);
        if !self.load_pdptes() {
            self.cr3 = old;
            return self.raise_code(vector::GP, 0);
        }
        self.flush_local_translations();
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Flow {
        if value & !CR4_KNOWN != 0 || self.is_long() && value & bit::CR4_PAE == 0 {
            return self.raise_code(vector::GP, 0);
        }
        let old = std::mem::replace(&mut self.cr4, value);
        let changed = old ^ value;
        if changed & (bit::CR4_PAE | bit::CR4_PSE | bit::CR4_PGE | bit::CR4_SMEP) != 0 {
            if !self.load_pdptes() {
                self.cr4 = old;
                return self.raise_code(vector::GP, 0);
            }
            self.flush_translations();
        }
        self.update_mode();
        Ok(())
    }
}

/// `CLTS`
pub(crate) fn clts(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.require_supervisor()?;
    core.cr0 &= !bit::CR0_TS;
    core.update_mode();
    Ok(())
}

/// `SMSW` into a register.
pub(crate) fn smsw_reg(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.set_reg_sized(usize::from(op.dst), op.size, core.cr0);
    Ok(())
}

/// `SMSW` into memory.
pub(crate) fn smsw_mem(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 2, true)?;
    core.store(bus, linear, op.seg, core.cr0 as u16)
}

/// `LMSW`
pub(crate) fn lmsw<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    let value = if MEMORY {
        let linear = Based::linear(core, op, 2, false)?;
        core.load::<u16>(bus, linear, op.seg)?
    } else {
        core.reg(op.src)
    };
    // PE can be set but not cleared this way.
    let value = u64::from(value) & 15 | core.cr0 & bit::CR0_PE;
    core.set_cr0(core.cr0 & !15 | value)
}

/// `MOV r, DRn`
pub(crate) fn mov_from_dr(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.check_debug_access(op.src)?;
    let value = match op.src {
        index @ 0..=3 => core.dr[usize::from(index)],
        4 | 6 => core.dr6,
        _ => core.dr7,
    };
    core.set_reg_sized(usize::from(op.dst), op.size, value);
    Ok(())
}

/// `MOV DRn, r`
pub(crate) fn mov_to_dr(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.check_debug_access(op.dst)?;
    let value = core.reg_sized(usize::from(op.src), op.size);
    if op.dst > 3 && value >> 32 != 0 {
        return core.raise_code(vector::GP, 0);
    }
    match op.dst {
        index @ 0..=3 => core.dr[usize::from(index)] = value,
        4 | 6 => core.dr6 = value & 0xe00f | 0xffff_0ff0,
        _ => core.dr7 = value & 0xffff_2bff | 0x400,
    }
    core.update_breakpoints();
    Ok(())
}

impl Core {
    fn check_debug_access(&mut self, number: u8) -> Flow {
        if number > 7 || matches!(number, 4 | 5) && self.cr4 & bit::CR4_DE != 0 {
            return self.raise(vector::UD);
        }
        self.require_supervisor()?;
        if self.dr7 & (1 << 13) != 0 {
            // General detect.
            self.dr6 |= 1 << 13;
            self.dr7 &= !(1 << 13);
            return self.raise(vector::DB);
        }
        Ok(())
    }
}

/// `LGDT` (`op.imm` 0) and `LIDT`
pub(crate) fn load_table(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    let width = if core.is_code_64() { 8 } else { 4 };
    let linear = Based::linear(core, op, 2 + width, false)?;
    let limit = core.load::<u16>(bus, linear, op.seg)?;
    let at = core.wrap(linear.wrapping_add(2));
    let mut base =
        if width == 8 { core.load::<u64>(bus, at, op.seg)? } else { u64::from(core.load::<u32>(bus, at, op.seg)?) };
    if op.size == 2 {
        base &= 0xff_ffff;
    }
    if !is_canonical(base) {
        return core.raise_code(vector::GP, 0);
    }
    let table = TableRegister { base, limit };
    if op.imm == 0 {
        core.gdtr = table;
    } else {
        core.idtr = table;
    }
    Ok(())
}

/// `SGDT` (`op.imm` 0) and `SIDT`
pub(crate) fn store_table(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let table = if op.imm == 0 { core.gdtr } else { core.idtr };
    let width = if core.is_code_64() { 8 } else { 4 };
    let linear = Based::linear(core, op, 2 + width, true)?;
    core.probe_write(linear, 2 + width as usize, op.seg)?;
    done(core.store(bus, linear, op.seg, table.limit))?;
    let at = core.wrap(linear.wrapping_add(2));
    if width == 8 {
        done(core.store(bus, at, op.seg, table.base))?;
    } else {
        done(core.store(bus, at, op.seg, table.base as u32))?;
    }
    core.synced()
}

/// `INVLPG`
pub(crate) fn invlpg(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    let offset = core.effective(op) & size_mask(op.addr);
    let base = core.segments[usize::from(op.seg) % 6].base;
    let linear = if core.is_code_64() && op.seg < 4 { offset } else { core.wrap(base.wrapping_add(offset)) };
    core.invalidate_page(linear);
    Ok(())
}

/// `HLT`
pub(crate) fn hlt(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.require_supervisor()?;
    core.set_activity(Activity::Halted);
    Ok(())
}

/// `INVD`, `WBINVD`: there is no cache to see.
pub(crate) fn invalidate_caches(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.require_supervisor()
}

/// `CLFLUSH`: faults as a load would.
pub(crate) fn clflush(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 1, false)?;
    core.probe_read(linear, 1, op.seg)
}

/// `CPUID`
pub(crate) fn cpuid(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let [eax, ebx, ecx, edx] = core.cpuid_leaf(core.regs[RAX] as u32, core.regs[RCX] as u32);
    core.regs[RAX] = u64::from(eax);
    core.regs[RBX] = u64::from(ebx);
    core.regs[RCX] = u64::from(ecx);
    core.regs[RDX] = u64::from(edx);
    Ok(())
}

/// `RDTSC`, and `RDTSCP` if `op.imm` is 1.
pub(crate) fn rdtsc(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.cr4 & bit::CR4_TSD != 0 && core.cpl != 0 {
        return core.raise_code(vector::GP, 0);
    }
    core.publish_instructions(op);
    let time = bus.timestamp().wrapping_add(core.msr.tsc_offset);
    core.regs[RAX] = time & 0xffff_ffff;
    core.regs[RDX] = time >> 32;
    if op.imm == 1 {
        core.regs[RCX] = core.msr.tsc_aux & 0xffff_ffff;
    }
    Ok(())
}

/// `RDPMC`: there are no counters.
pub(crate) fn rdpmc(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.raise_code(vector::GP, 0)
}

fn random<W: crate::flags::Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.set_reg(op.dst, W::truncate(bus.random()));
    core.flags = crate::flags::Lazy::from_bits(bit::CF);
    Ok(())
}

/// The handler of `RDRAND` and `RDSEED`.
pub(crate) fn select_random(size: u8) -> Handler {
    by_wide!(size, W => random::<W>)
}

/// `RDMSR`
pub(crate) fn rdmsr(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    core.publish_instructions(op);
    let Some(value) = core.read_msr(bus, core.regs[RCX] as u32) else {
        return core.raise_code(vector::GP, 0);
    };
    core.regs[RAX] = value & 0xffff_ffff;
    core.regs[RDX] = value >> 32;
    Ok(())
}

/// `WRMSR`
pub(crate) fn wrmsr(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_supervisor()?;
    core.publish_instructions(op);
    let value = core.regs[RDX] << 32 | core.regs[RAX] & 0xffff_ffff;
    match core.write_msr(bus, core.regs[RCX] as u32, value) {
        Some(()) => Ok(()),
        None => core.raise_code(vector::GP, 0),
    }
}

/// `UD2` and everything that isn't an instruction of this CPU.
pub(crate) fn undefined(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.raise(vector::UD)
}

/// An instruction longer than 15 bytes.
pub(crate) fn too_long(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.raise_code(vector::GP, 0)
}

/// `BOUND`
pub(crate) fn bound(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let size = u64::from(op.size);
    let linear = Based::linear(core, op, 2 * size, false)?;
    let at = core.wrap(linear.wrapping_add(size));
    let (low, high, index) = if op.size == 2 {
        let low = core.load::<u16>(bus, linear, op.seg)? as i16;
        let high = core.load::<u16>(bus, at, op.seg)? as i16;
        (i32::from(low), i32::from(high), i32::from(core.reg::<u16>(op.dst) as i16))
    } else {
        let low = core.load::<u32>(bus, linear, op.seg)? as i32;
        let high = core.load::<u32>(bus, at, op.seg)? as i32;
        (low, high, core.reg::<u32>(op.dst) as i32)
    };
    if index < low || index > high { core.raise(vector::BR) } else { data::nop(core, bus, op) }
}
