//! Model-specific registers: those that the CPU keeps, and the way to the platform for the others.

use crate::core::{Bus, Core, bit};
use crate::memory::is_canonical;
use crate::registers::{FS, GS};

const EFER_KNOWN: u64 = bit::EFER_SCE | bit::EFER_LME | bit::EFER_LMA | bit::EFER_NXE;

/// Index of a fixed MTRR in [`crate::ModelRegisters::mtrr_fixed`].
fn fixed_mtrr(index: u32) -> Option<usize> {
    Some(match index {
        0x250 => 0,
        0x258 => 1,
        0x259 => 2,
        0x268..=0x26f => 3 + (index - 0x268) as usize,
        _ => return None,
    })
}

impl Core {
    pub(crate) fn read_msr(&mut self, bus: &mut Bus<'_>, index: u32) -> Option<u64> {
        if let Some(fixed) = fixed_mtrr(index) {
            return Some(self.msr.mtrr_fixed[fixed]);
        }
        Some(match index {
            0x10 => bus.timestamp().wrapping_add(self.msr.tsc_offset),
            0x17 => 0,
            0x3a => 1,
            0x3b => self.msr.tsc_adjust,
            0x8b => self.msr.microcode,
            0xfe => 0x508,
            0x174 => self.msr.sysenter_cs,
            0x175 => self.msr.sysenter_esp,
            0x176 => self.msr.sysenter_eip,
            0x179 | 0x17a => 0,
            0x1a0 => self.msr.misc_enable,
            0x200..=0x20f => self.msr.mtrr_variable[(index - 0x200) as usize / 2][index as usize & 1],
            0x277 => self.msr.pat,
            0x2ff => self.msr.mtrr_default,
            0xc000_0080 => self.msr.efer,
            0xc000_0081 => self.msr.star,
            0xc000_0082 => self.msr.lstar,
            0xc000_0083 => self.msr.cstar,
            0xc000_0084 => self.msr.fmask,
            0xc000_0100 => self.segments[FS].base,
            0xc000_0101 => self.segments[GS].base,
            0xc000_0102 => self.msr.kernel_gs_base,
            0xc000_0103 => self.msr.tsc_aux,
            _ => return bus.read_msr(index),
        })
    }

    pub(crate) fn write_msr(&mut self, bus: &mut Bus<'_>, index: u32, value: u64) -> Option<()> {
        if let Some(fixed) = fixed_mtrr(index) {
            self.msr.mtrr_fixed[fixed] = value;
            return Some(());
        }
        let canonical = is_canonical(value);
        match index {
            0x10 => {
                let offset = value.wrapping_sub(bus.timestamp());
                let moved = offset.wrapping_sub(self.msr.tsc_offset);
                self.msr.tsc_adjust = self.msr.tsc_adjust.wrapping_add(moved);
                self.msr.tsc_offset = offset;
            }
            0x3b => {
                let moved = value.wrapping_sub(self.msr.tsc_adjust);
                self.msr.tsc_offset = self.msr.tsc_offset.wrapping_add(moved);
                self.msr.tsc_adjust = value;
            }
            // Microcode, thermal and machine-check registers that guests write without need.
            0x17 | 0x79 | 0x8b | 0x179 | 0x17a => {}
            0x174 => self.msr.sysenter_cs = value,
            0x175 if canonical => self.msr.sysenter_esp = value,
            0x176 if canonical => self.msr.sysenter_eip = value,
            0x1a0 => self.msr.misc_enable = value,
            0x200..=0x20f => self.msr.mtrr_variable[(index - 0x200) as usize / 2][index as usize & 1] = value,
            0x277 => {
                let types = value.to_le_bytes();
                if types.iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7)) {
                    return None;
                }
                self.msr.pat = value;
            }
            0x2ff => self.msr.mtrr_default = value,
            0xc000_0080 => return self.write_efer(value),
            0xc000_0081 => self.msr.star = value,
            0xc000_0082 if canonical => self.msr.lstar = value,
            0xc000_0083 if canonical => self.msr.cstar = value,
            0xc000_0084 => self.msr.fmask = value & 0xffff_ffff,
            0xc000_0100 if canonical => self.segments[FS].base = value,
            0xc000_0101 if canonical => self.segments[GS].base = value,
            0xc000_0102 if canonical => self.msr.kernel_gs_base = value,
            0xc000_0103 if value >> 32 == 0 => self.msr.tsc_aux = value,
            0x175 | 0x176 | 0xc000_0082 | 0xc000_0083 | 0xc000_0100..=0xc000_0103 => return None,
            _ => return bus.write_msr(index, value),
        }
        Some(())
    }

    fn write_efer(&mut self, value: u64) -> Option<()> {
        let paging = self.cr0 & bit::CR0_PG != 0;
        if value & !EFER_KNOWN != 0 || paging && (value ^ self.msr.efer) & bit::EFER_LME != 0 {
            return None;
        }
        self.msr.efer = value & !bit::EFER_LMA | self.msr.efer & bit::EFER_LMA;
        self.flush_translations();
        Some(())
    }
}
