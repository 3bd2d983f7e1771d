//! Saving and loading a CPU's state as a section of a saved VM.

use ferro_guest::{LoadError, SaveState, StateReader, StateWriter};

use crate::Cpu;
use crate::core::ATTENTION_SHADOW_SS;
use crate::registers::{Activity, FpuRegisters, ModelRegisters, Registers, SegmentRegister, TableRegister};

fn save_segment(segment: &SegmentRegister, into: &mut StateWriter) {
    into.u16(segment.selector);
    into.u64(segment.base);
    into.u32(segment.limit);
    into.u32(segment.attributes);
}

fn load_segment(from: &mut StateReader<'_>) -> Result<SegmentRegister, LoadError> {
    Ok(SegmentRegister { selector: from.u16()?, base: from.u64()?, limit: from.u32()?, attributes: from.u32()? })
}

fn save_wide(value: u128, into: &mut StateWriter) {
    into.u64(value as u64);
    into.u64((value >> 64) as u64);
}

fn load_wide(from: &mut StateReader<'_>) -> Result<u128, LoadError> {
    let low = from.u64()?;
    Ok(u128::from(from.u64()?) << 64 | u128::from(low))
}

/// The plain 64-bit MSRs, in the order of the format.
fn plain(msr: &mut ModelRegisters) -> [&mut u64; 16] {
    [
        &mut msr.efer,
        &mut msr.star,
        &mut msr.lstar,
        &mut msr.cstar,
        &mut msr.fmask,
        &mut msr.kernel_gs_base,
        &mut msr.sysenter_cs,
        &mut msr.sysenter_esp,
        &mut msr.sysenter_eip,
        &mut msr.tsc_aux,
        &mut msr.tsc_offset,
        &mut msr.tsc_adjust,
        &mut msr.pat,
        &mut msr.misc_enable,
        &mut msr.mtrr_default,
        &mut msr.microcode,
    ]
}

fn save_fpu(fpu: &FpuRegisters, into: &mut StateWriter) {
    into.u16(fpu.fcw);
    into.u16(fpu.fsw);
    into.u16(fpu.ftw);
    into.u16(fpu.fop);
    into.u64(fpu.fip);
    into.u16(fpu.fcs);
    into.u64(fpu.fdp);
    into.u16(fpu.fds);
    into.u32(fpu.mxcsr);
    fpu.st.iter().chain(&fpu.xmm).for_each(|&value| save_wide(value, into));
}

fn load_fpu(from: &mut StateReader<'_>) -> Result<FpuRegisters, LoadError> {
    let mut fpu = FpuRegisters {
        fcw: from.u16()?,
        fsw: from.u16()?,
        ftw: from.u16()?,
        fop: from.u16()?,
        fip: from.u64()?,
        fcs: from.u16()?,
        fdp: from.u64()?,
        fds: from.u16()?,
        mxcsr: from.u32()?,
        st: [0; 8],
        xmm: [0; 16],
    };
    for value in fpu.st.iter_mut().chain(&mut fpu.xmm) {
        *value = load_wide(from)?;
    }
    Ok(fpu)
}

impl SaveState for Cpu {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        let mut registers = self.registers();
        registers.gpr.iter().for_each(|&value| into.u64(value));
        into.u64(registers.rip);
        into.u64(registers.rflags);
        let tables = [registers.ldtr, registers.tr];
        registers.segments.iter().chain(&tables).for_each(|segment| save_segment(segment, into));
        for table in [registers.gdtr, registers.idtr] {
            into.u64(table.base);
            into.u16(table.limit);
        }
        for value in [registers.cr0, registers.cr2, registers.cr3, registers.cr4, registers.dr6, registers.dr7] {
            into.u64(value);
        }
        registers.dr.iter().for_each(|&value| into.u64(value));
        self.core.pdpte.iter().for_each(|&value| into.u64(value));
        plain(&mut registers.msr).into_iter().for_each(|value| into.u64(*value));
        registers.msr.mtrr_variable.iter().flatten().for_each(|&value| into.u64(value));
        registers.msr.mtrr_fixed.iter().for_each(|&value| into.u64(value));
        save_fpu(&registers.fpu, into);
        into.u8(match registers.activity {
            Activity::Running => 0,
            Activity::Halted => 1,
            Activity::WaitForSipi => 2,
            Activity::Shutdown => 3,
        });
        into.bool(registers.shadow);
        into.bool(registers.nmi_blocked);
        into.u8(self.core.cpl);
        into.u64(self.core.debug_trap);
        into.u64(self.core.instructions);
        into.bool(self.core.attention & ATTENTION_SHADOW_SS != 0);
        let (edges, sipi_vector) = self.core.signals.edges();
        into.u8(edges);
        into.u8(sipi_vector);
    }

    fn load(&mut self, version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        if version != Self::VERSION {
            return Err(LoadError::Version { found: version, known: Self::VERSION });
        }
        let mut registers = self.registers();
        for value in &mut registers.gpr {
            *value = from.u64()?;
        }
        registers.rip = from.u64()?;
        registers.rflags = from.u64()?;
        for segment in &mut registers.segments {
            *segment = load_segment(from)?;
        }
        registers.ldtr = load_segment(from)?;
        registers.tr = load_segment(from)?;
        registers.gdtr = TableRegister { base: from.u64()?, limit: from.u16()? };
        registers.idtr = TableRegister { base: from.u64()?, limit: from.u16()? };
        (registers.cr0, registers.cr2, registers.cr3) = (from.u64()?, from.u64()?, from.u64()?);
        (registers.cr4, registers.dr6, registers.dr7) = (from.u64()?, from.u64()?, from.u64()?);
        for value in &mut registers.dr {
            *value = from.u64()?;
        }
        let mut pdpte = [0; 4];
        for value in &mut pdpte {
            *value = from.u64()?;
        }
        for value in plain(&mut registers.msr) {
            *value = from.u64()?;
        }
        let msr = &mut registers.msr;
        for value in msr.mtrr_variable.iter_mut().flatten().chain(&mut msr.mtrr_fixed) {
            *value = from.u64()?;
        }
        registers.fpu = load_fpu(from)?;
        registers.activity = match from.u8()? {
            0 => Activity::Running,
            1 => Activity::Halted,
            2 => Activity::WaitForSipi,
            3 => Activity::Shutdown,
            _ => return Err(LoadError::Value("the CPU's activity")),
        };
        registers.shadow = from.bool()?;
        registers.nmi_blocked = from.bool()?;
        let cpl = from.u8()?;
        if cpl > 3 {
            return Err(LoadError::Value("the privilege level"));
        }
        let (debug_trap, instructions) = (from.u64()?, from.u64()?);
        if instructions >> 62 != 0 {
            return Err(LoadError::Value("the count of instructions"));
        }
        let shadow_ss = from.bool()?;
        let (edges, sipi_vector) = (from.u8()?, from.u8()?);
        self.finish_load(&registers, pdpte, cpl, debug_trap, instructions);
        if shadow_ss {
            self.core.attention |= ATTENTION_SHADOW_SS;
        }
        self.core.signals.set_edges(edges, sipi_vector);
        self.core.signals.set_instructions(instructions);
        Ok(())
    }
}

impl Cpu {
    fn finish_load(&mut self, registers: &Registers, pdpte: [u64; 4], cpl: u8, debug_trap: u64, instructions: u64) {
        self.set_registers(registers);
        self.core.pdpte = pdpte;
        self.core.cpl = cpl;
        self.core.instructions = instructions;
        if debug_trap != 0 {
            self.core.debug_trap = debug_trap;
            self.core.attention |= crate::core::ATTENTION_TRAP;
        }
        self.core.update_mode();
    }
}
