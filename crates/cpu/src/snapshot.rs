//! Taking all registers out of a [`Core`] and putting them in; reset; and what the CPU derives from them (mode of
//! execution, masks, attention).

use std::sync::Arc;

use ferro_guest::GuestMemory;

use crate::core::{
    ATTENTION_IDLE, ATTENTION_RESUME, ATTENTION_SHADOW, ATTENTION_STEP, CodeSize, Core, Fault, REGISTERS, bit,
};
use crate::debug::Debugger;
use crate::flags::Lazy;
use crate::paging::FETCHED;
use crate::platform::{SIGNAL_EXIT, SIGNAL_FLUSH, SIGNAL_INIT, SIGNAL_INTERRUPT, SIGNAL_NMI, SIGNAL_SIPI};
use crate::registers::{Activity, CS, ModelRegisters, Registers, SS, TableRegister};
use crate::segment::Segment;
use crate::tlb::Tlb;
use crate::x87::Fpu;
use crate::{CpuConfig, Signals};

/// [`Core::key`]: 16-, 32- and 64-bit code (0, 1, 2).
pub(crate) const KEY_CODE: u32 = 3;
/// SS.B (0, 1) or 64-bit (2).
pub(crate) const KEY_STACK_SHIFT: u32 = 2;
/// CR0.EM.
pub(crate) const KEY_EM: u32 = 1 << 4;
/// CR0.TS.
pub(crate) const KEY_TS: u32 = 1 << 5;
/// CR4.OSFXSR.
pub(crate) const KEY_FXSR: u32 = 1 << 6;
/// CPL is 3.
pub(crate) const KEY_USER: u32 = 1 << 7;

/// Not of [`Core::key`], but of blocks in which each instruction is an operation of its own.
pub(crate) const KEY_SINGLE: u32 = 1 << 8;

/// MXCSR after reset.
pub(crate) const MXCSR_RESET: u32 = 0x1f80;

impl Core {
    pub(crate) fn new(config: CpuConfig, memory: Arc<GuestMemory>, signals: Arc<Signals>) -> Self {
        let mut core = Self {
            regs: [0; REGISTERS],
            rip: 0,
            flags: Lazy::default(),
            rflags: 0,
            rip_mask: 0,
            stack_mask: 0,
            code: CodeSize::Bits16,
            cpl: 0,
            attention: 0,
            signal_mask: 0,
            stamp: 1,
            fetched: [0; FETCHED / 64],
            key: 0,
            instructions: 0,
            memory_generation: memory.generation(),
            code_epoch: memory.ram().code_epoch(),
            ranges: memory.ranges(),
            memory,
            tlb: Tlb::new(),
            segments: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdpte: [0; 4],
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            debug_trap: 0,
            step_suppressed: false,
            msr: ModelRegisters::default(),
            xmm: [0; 16],
            mxcsr: MXCSR_RESET,
            fpu: Fpu::default(),
            fault: Fault { vector: 0, error: None, address: 0 },
            left: 0,
            written: 0,
            activity: Activity::Running,
            nmi_blocked: false,
            signals,
            config,
            debugger: Debugger::default(),
        };
        core.reset();
        core
    }

    /// Power-on.
    pub(crate) fn reset(&mut self) {
        self.msr = ModelRegisters {
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            microcode: 1 << 32,
            ..ModelRegisters::default()
        };
        self.xmm = [0; 16];
        self.mxcsr = MXCSR_RESET;
        self.fpu = Fpu::default();
        self.cr0 = bit::CR0_ET | bit::CR0_CD | bit::CR0_NW;
        self.reset_common();
        if self.config.apic_id != 0 {
            self.set_activity(Activity::WaitForSipi);
        }
    }

    /// INIT: as reset, but caches, MSRs and floating-point registers stay.
    pub(crate) fn init(&mut self) {
        self.cr0 = self.cr0 & (bit::CR0_CD | bit::CR0_NW) | bit::CR0_ET;
        self.msr.efer = 0;
        self.reset_common();
        if self.config.apic_id != 0 {
            self.set_activity(Activity::WaitForSipi);
        }
    }

    fn reset_common(&mut self) {
        self.regs = [0; REGISTERS];
        self.regs[crate::core::RDX] = u64::from(crate::cpuid::SIGNATURE);
        self.rip = 0xfff0;
        self.rflags = 0;
        self.flags = Lazy::from_bits(0);
        self.segments = [Segment::new(0, 0, 0xffff, 0x93); 6];
        self.segments[CS] = Segment::new(0xf000, 0xffff_0000, 0xffff, 0x9b);
        self.ldtr = Segment::new(0, 0, 0xffff, 0x82);
        self.tr = Segment::new(0, 0, 0xffff, 0x8b);
        self.gdtr = TableRegister { base: 0, limit: 0xffff };
        self.idtr = TableRegister { base: 0, limit: 0xffff };
        (self.cr2, self.cr3, self.cr4) = (0, 0, 0);
        self.dr = [0; 4];
        (self.dr6, self.dr7) = (0xffff_0ff0, 0x400);
        self.debug_trap = 0;
        self.attention = 0;
        self.nmi_blocked = false;
        self.cpl = 0;
        self.set_activity(Activity::Running);
        self.flush_translations();
        self.update_mode();
        self.update_breakpoints();
    }

    pub(crate) fn set_activity(&mut self, activity: Activity) {
        self.activity = activity;
        if activity == Activity::Running {
            self.attention &= !ATTENTION_IDLE;
        } else {
            self.attention |= ATTENTION_IDLE;
        }
    }

    /// Whether the CPU is in protected mode (compatibility and long mode included) and not in virtual-8086 mode.
    pub(crate) fn is_protected(&self) -> bool {
        self.cr0 & bit::CR0_PE != 0 && self.rflags & bit::VM == 0
    }

    /// Whether IA-32e mode is active.
    #[inline(always)]
    pub(crate) fn is_long(&self) -> bool {
        self.msr.efer & bit::EFER_LMA != 0
    }

    pub(crate) fn is_v86(&self) -> bool {
        self.rflags & bit::VM != 0
    }

    /// Derives everything that depends on segments, control registers and RFLAGS anew.
    pub(crate) fn update_mode(&mut self) {
        let (cs, ss) = (&self.segments[CS], &self.segments[SS]);
        let (mut stack, mut code) = (u32::from(ss.is_big()), u32::from(cs.is_big()));
        self.rip_mask = 0xffff_ffff;
        self.stack_mask = if stack == 0 { 0xffff } else { 0xffff_ffff };
        self.code = if code == 0 { CodeSize::Bits16 } else { CodeSize::Bits32 };
        if self.is_long() && cs.is_long() {
            (self.rip_mask, self.stack_mask, self.code) = (u64::MAX, u64::MAX, CodeSize::Bits64);
            (stack, code) = (2, 2);
        }
        let set = |on: bool, bit| if on { bit } else { 0 };
        self.key = code
            | stack << KEY_STACK_SHIFT
            | set(self.cr0 & bit::CR0_EM != 0, KEY_EM)
            | set(self.cr0 & bit::CR0_TS != 0, KEY_TS)
            | set(self.cr4 & bit::CR4_OSFXSR != 0, KEY_FXSR)
            | set(self.cpl == 3, KEY_USER);
        self.update_flags();
        self.select_translations();
    }

    /// Derives what depends on IF, TF, RF and NMI blocking.
    pub(crate) fn update_flags(&mut self) {
        self.signal_mask = SIGNAL_INIT | SIGNAL_SIPI | SIGNAL_EXIT | SIGNAL_FLUSH;
        if self.rflags & bit::IF != 0 {
            self.signal_mask |= SIGNAL_INTERRUPT;
        }
        if !self.nmi_blocked {
            self.signal_mask |= SIGNAL_NMI;
        }
        self.attention &= !(ATTENTION_STEP | ATTENTION_RESUME);
        if self.rflags & bit::TF != 0 {
            self.attention |= ATTENTION_STEP;
        }
        if self.rflags & bit::RF != 0 {
            self.attention |= ATTENTION_RESUME;
        }
    }

    /// Sets RFLAGS as a whole, without any check.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        const SYSTEM: u64 = bit::TF
            | bit::IF
            | bit::DF
            | bit::IOPL
            | bit::NT
            | bit::RF
            | bit::VM
            | bit::AC
            | bit::VIF
            | bit::VIP
            | bit::ID;
        self.flags = Lazy::from_bits(value);
        let changed = self.rflags ^ value;
        self.rflags = value & SYSTEM;
        self.update_flags();
        if changed & bit::AC != 0 {
            self.select_translations();
        }
    }

    pub(crate) fn registers(&self) -> Registers {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.regs[..16]);
        Registers {
            gpr,
            rip: self.rip,
            rflags: self.read_rflags(),
            segments: self.segments.map(Segment::to_register),
            ldtr: self.ldtr.to_register(),
            tr: self.tr.to_register(),
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            dr: self.dr,
            dr6: self.dr6,
            dr7: self.dr7,
            msr: self.msr,
            fpu: self.fpu.to_registers(self.mxcsr, &self.xmm),
            activity: self.activity,
            shadow: self.attention & ATTENTION_SHADOW != 0,
            nmi_blocked: self.nmi_blocked,
        }
    }

    pub(crate) fn set_registers(&mut self, registers: &Registers) {
        self.regs[..16].copy_from_slice(&registers.gpr);
        self.rip = registers.rip;
        self.segments = registers.segments.map(|segment| Segment::from_register(&segment));
        self.ldtr = Segment::from_register(&registers.ldtr);
        self.tr = Segment::from_register(&registers.tr);
        (self.gdtr, self.idtr) = (registers.gdtr, registers.idtr);
        self.cr0 = registers.cr0 | bit::CR0_ET;
        (self.cr2, self.cr3, self.cr4) = (registers.cr2, registers.cr3, registers.cr4);
        self.dr = registers.dr;
        (self.dr6, self.dr7) = (registers.dr6, registers.dr7 | 0x400);
        self.msr = registers.msr;
        let paged_long = self.cr0 & bit::CR0_PG != 0 && self.msr.efer & bit::EFER_LME != 0;
        self.msr.efer = self.msr.efer & !bit::EFER_LMA | if paged_long { bit::EFER_LMA } else { 0 };
        self.fpu = Fpu::from_registers(&registers.fpu);
        self.mxcsr = registers.fpu.mxcsr & 0xffff;
        self.xmm = registers.fpu.xmm;
        self.nmi_blocked = registers.nmi_blocked;
        self.attention = if registers.shadow { ATTENTION_SHADOW } else { 0 };
        self.debug_trap = 0;
        self.set_activity(registers.activity);
        self.set_rflags(registers.rflags);
        self.cpl = match (self.cr0 & bit::CR0_PE != 0, self.is_v86()) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => self.segments[SS].dpl(),
        };
        self.flush_translations();
        self.load_pdptes_quietly();
        self.update_mode();
        self.update_breakpoints();
    }
}
