//! The state that instructions work on, in the form that makes them fast, and the few words that every handler uses:
//! [`Flow`], [`Stop`], [`Op`]. Neither blocks of code nor their cache are here: handlers can't reach those.

use std::sync::Arc;

use ferro_guest::{GuestMemory, Range};

use crate::debug::Debugger;
use crate::flags::Lazy;
use crate::paging::FETCHED;
use crate::registers::{Activity, ModelRegisters, TableRegister};
use crate::segment::Segment;
use crate::step::Step;
use crate::tlb::Tlb;
use crate::x87::Fpu;
use crate::{CpuConfig, Platform, Signals};

/// The surroundings as handlers see them.
pub(crate) type Bus<'a> = dyn Platform + 'a;

/// What a handler returns.
pub(crate) type Flow<T = ()> = Result<T, Stop>;

/// Why a block ends in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The instruction raised the exception in [`Core::fault`] and changed nothing that a restart would see.
    Fault,
    /// The instruction is complete, but what follows may have changed: find the next block anew.
    Sync,
    /// The instruction is partly done (a repeated string instruction) and shall be run again after a look at signals.
    Again,
    /// A branch left the block before its end: RIP and the count of instructions are up to date.
    Left,
}

/// A handler: executes one operation.
pub(crate) type Handler = fn(&mut Core, &mut Bus<'_>, &Op) -> Flow;

/// One lowered instruction, or a pair that is executed as one.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    /// Executes it and what follows it in the block.
    pub(crate) step: Step,
    /// Executes it alone (of a pair, its first instruction).
    pub(crate) run: Handler,
    /// Immediate, or whatever the handler wants.
    pub(crate) imm: u64,
    /// Displacement; for RIP-relative operands relative to the block's start.
    pub(crate) disp: u64,
    /// Index of the destination register.
    pub(crate) dst: u8,
    /// Index of the source register.
    pub(crate) src: u8,
    /// Index of the base register ([`ZERO`] if none, [`BLOCK`] if RIP).
    pub(crate) base: u8,
    /// Index of the index register ([`ZERO`] if none).
    pub(crate) index: u8,
    /// Shift of the index register.
    pub(crate) scale: u8,
    /// Segment register of the memory operand.
    pub(crate) seg: u8,
    /// Address size in bytes: 2, 4, 8.
    pub(crate) addr: u8,
    /// Operand size in bytes: 2, 4, 8, where the handler isn't specialised by it.
    pub(crate) size: u8,
    /// Target of the branch in a pair, relative to the block's start.
    pub(crate) target: i32,
    /// Bytes of the instruction.
    pub(crate) len: u8,
    /// Instructions before it in the block.
    pub(crate) number: u8,
    /// Instructions in it: one or two.
    pub(crate) count: u8,
    /// Offset of the next instruction from the block's start.
    pub(crate) end: u16,
    /// Handler-specific bits ([`REP`] and others).
    pub(crate) bits: u8,
}

/// [`Op::bits`]: REP or REPE prefix.
pub(crate) const REP: u8 = 1;
/// [`Op::bits`]: REPNE prefix.
pub(crate) const REPNE: u8 = 2;

/// Indexes of the general registers.
pub(crate) const RAX: usize = 0;
/// RCX.
pub(crate) const RCX: usize = 1;
/// RDX.
pub(crate) const RDX: usize = 2;
/// RBX.
pub(crate) const RBX: usize = 3;
/// RSP.
pub(crate) const RSP: usize = 4;
/// RBP.
pub(crate) const RBP: usize = 5;
/// RSI.
pub(crate) const RSI: usize = 6;
/// RDI.
pub(crate) const RDI: usize = 7;
/// Pseudo-register: RIP at the start of the current block.
pub(crate) const BLOCK: usize = 16;
/// Pseudo-register that is always zero.
pub(crate) const ZERO: usize = 17;
/// How many there are room for: as many as a byte can name, so that no index has to be checked.
pub(crate) const REGISTERS: usize = 256;

/// An exception on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) vector: u8,
    pub(crate) error: Option<u32>,
    /// CR2 for page faults.
    pub(crate) address: u64,
}

/// Width of code and mode of execution, derived from CS, EFER and RFLAGS whenever these change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CodeSize {
    #[default]
    Bits16,
    Bits32,
    Bits64,
}

/// [`Core::attention`]: the instruction before holds interrupts off.
pub(crate) const ATTENTION_SHADOW: u32 = 1;
/// TF is set.
pub(crate) const ATTENTION_STEP: u32 = 1 << 1;
/// A debug trap ([`Core::debug_trap`]) is pending.
pub(crate) const ATTENTION_TRAP: u32 = 1 << 2;
/// Not running.
pub(crate) const ATTENTION_IDLE: u32 = 1 << 3;
/// The debugger or DR7 has execution breakpoints, or single-steps.
pub(crate) const ATTENTION_BREAK: u32 = 1 << 4;
/// The debugger's watchpoint was hit.
pub(crate) const ATTENTION_WATCH: u32 = 1 << 5;

/// The instruction before loaded SS: debug traps are held off, too.
pub(crate) const ATTENTION_SHADOW_SS: u32 = 1 << 6;
/// RF is set.
pub(crate) const ATTENTION_RESUME: u32 = 1 << 7;

/// The CPU but for its code cache.
pub(crate) struct Core {
    pub(crate) regs: [u64; REGISTERS],
    pub(crate) rip: u64,
    pub(crate) flags: Lazy,
    /// RFLAGS without CF, PF, AF, ZF, SF, OF.
    pub(crate) rflags: u64,
    /// ANDed to RIP after it advances.
    pub(crate) rip_mask: u64,
    /// ANDed to RSP for stack accesses.
    pub(crate) stack_mask: u64,
    pub(crate) code: CodeSize,
    pub(crate) cpl: u8,
    /// Requests that end the fast path; see the ATTENTION constants.
    pub(crate) attention: u32,
    /// Which signals matter now.
    pub(crate) signal_mask: u32,
    /// What changes when cached translations or modes of execution do; see `cache`.
    pub(crate) stamp: u32,
    /// Which pages blocks were found in since the stamp changed: a bit per hash of the page's address.
    pub(crate) fetched: [u64; FETCHED / 64],
    /// Bits of the mode that lowered code depends on; see `lower`.
    pub(crate) key: u32,
    pub(crate) instructions: u64,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) memory_generation: u32,
    /// The memory map as of `memory_generation`.
    pub(crate) ranges: Arc<[Range]>,
    pub(crate) code_epoch: u64,
    pub(crate) tlb: Tlb,
    pub(crate) segments: [Segment; 6],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: TableRegister,
    pub(crate) idtr: TableRegister,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    /// PAE's four page-directory pointers.
    pub(crate) pdpte: [u64; 4],
    pub(crate) dr: [u64; 4],
    pub(crate) dr6: u64,
    pub(crate) dr7: u64,
    /// DR6 bits of a debug trap to deliver after this instruction.
    pub(crate) debug_trap: u64,
    /// The instruction delivered an interrupt itself: no single-step trap after it.
    pub(crate) step_suppressed: bool,
    pub(crate) msr: ModelRegisters,
    pub(crate) xmm: [u128; 16],
    pub(crate) mxcsr: u32,
    pub(crate) fpu: Fpu,
    pub(crate) fault: Fault,
    /// Operations left in the block after one that stopped.
    pub(crate) left: usize,
    /// Offset in host memory of a store that has to be reported.
    pub(crate) written: usize,
    pub(crate) activity: Activity,
    pub(crate) nmi_blocked: bool,
    pub(crate) signals: Arc<Signals>,
    pub(crate) config: CpuConfig,
    pub(crate) debugger: Debugger,
}

impl Core {
    /// Raises an exception without error code.
    #[cold]
    pub(crate) fn raise<T>(&mut self, vector: u8) -> Flow<T> {
        self.fault = Fault { vector, error: None, address: 0 };
        Err(Stop::Fault)
    }

    /// Raises an exception with error code.
    #[cold]
    pub(crate) fn raise_code<T>(&mut self, vector: u8, error: u32) -> Flow<T> {
        self.fault = Fault { vector, error: Some(error), address: 0 };
        Err(Stop::Fault)
    }

    /// RIP of the instruction after this one.
    #[inline(always)]
    pub(crate) fn next_rip(&self, op: &Op) -> u64 {
        self.regs[BLOCK].wrapping_add(u64::from(op.end)) & self.rip_mask
    }

    /// RIP of this instruction.
    pub(crate) fn this_rip(&self, op: &Op) -> u64 {
        self.regs[BLOCK].wrapping_add(u64::from(op.end)).wrapping_sub(u64::from(op.len)) & self.rip_mask
    }

    /// Publishes how many instructions were retired before this one, for a clock that counts them.
    pub(crate) fn publish_instructions(&self, op: &Op) {
        self.signals.set_instructions(self.instructions + u64::from(op.number));
    }

    /// As [`Core::publish_instructions`], where the instruction isn't known: those before its block, unless more were
    /// published already.
    pub(crate) fn publish_block(&self) {
        if self.signals.instructions() < self.instructions {
            self.signals.set_instructions(self.instructions);
        }
    }
}

/// Exception vectors.
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const NMI: u8 = 2;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// Bits of CR0, CR4, EFER and RFLAGS.
pub(crate) mod bit {
    pub(crate) const CR0_PE: u64 = 1;
    pub(crate) const CR0_MP: u64 = 1 << 1;
    pub(crate) const CR0_EM: u64 = 1 << 2;
    pub(crate) const CR0_TS: u64 = 1 << 3;
    pub(crate) const CR0_ET: u64 = 1 << 4;
    pub(crate) const CR0_WP: u64 = 1 << 16;
    pub(crate) const CR0_AM: u64 = 1 << 18;
    pub(crate) const CR0_NW: u64 = 1 << 29;
    pub(crate) const CR0_CD: u64 = 1 << 30;
    pub(crate) const CR0_PG: u64 = 1 << 31;
    pub(crate) const CR4_TSD: u64 = 1 << 2;
    pub(crate) const CR4_DE: u64 = 1 << 3;
    pub(crate) const CR4_PSE: u64 = 1 << 4;
    pub(crate) const CR4_PAE: u64 = 1 << 5;
    pub(crate) const CR4_MCE: u64 = 1 << 6;
    pub(crate) const CR4_PGE: u64 = 1 << 7;
    pub(crate) const CR4_PCE: u64 = 1 << 8;
    pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
    pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
    pub(crate) const CR4_SMEP: u64 = 1 << 20;
    pub(crate) const EFER_SCE: u64 = 1;
    pub(crate) const EFER_LME: u64 = 1 << 8;
    pub(crate) const EFER_LMA: u64 = 1 << 10;
    pub(crate) const EFER_NXE: u64 = 1 << 11;
    pub(crate) const CF: u64 = 1;
    pub(crate) const PF: u64 = 1 << 2;
    pub(crate) const AF: u64 = 1 << 4;
    pub(crate) const ZF: u64 = 1 << 6;
    pub(crate) const SF: u64 = 1 << 7;
    pub(crate) const TF: u64 = 1 << 8;
    pub(crate) const IF: u64 = 1 << 9;
    pub(crate) const DF: u64 = 1 << 10;
    pub(crate) const OF: u64 = 1 << 11;
    pub(crate) const IOPL: u64 = 3 << 12;
    pub(crate) const NT: u64 = 1 << 14;
    pub(crate) const RF: u64 = 1 << 16;
    pub(crate) const VM: u64 = 1 << 17;
    pub(crate) const AC: u64 = 1 << 18;
    pub(crate) const VIF: u64 = 1 << 19;
    pub(crate) const VIP: u64 = 1 << 20;
    pub(crate) const ID: u64 = 1 << 21;
    /// The six flags that [`crate::flags::Lazy`] keeps.
    pub(crate) const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}
