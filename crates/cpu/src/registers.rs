//! A CPU's registers as a debugger, a boot loader or a saved VM sees them: plain values, nothing derived or cached. How
//! the CPU itself keeps them is in `core`.

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentRegister {
    /// The visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes (granularity already applied).
    pub limit: u32,
    /// Bits 8 to 23 of the descriptor's high half, shifted down by 8: type in bits 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13,
    /// D/B 14, G 15 (as VMX's access rights). Bit 16 set: unusable (null).
    pub attributes: u32,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u64,
    /// Its last valid byte.
    pub limit: u16,
}

/// The x87 unit and the MMX and XMM registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FpuRegisters {
    /// Control word.
    pub fcw: u16,
    /// Status word; TOP is in bits 11 to 13.
    pub fsw: u16,
    /// Full tag word, two bits per physical register.
    pub ftw: u16,
    /// Opcode of the last instruction.
    pub fop: u16,
    /// Address of the last instruction.
    pub fip: u64,
    /// Its code segment.
    pub fcs: u16,
    /// Address of the last memory operand.
    pub fdp: u64,
    /// Its segment.
    pub fds: u16,
    /// ST(0) to ST(7), each 80 bits in the low part.
    pub st: [u128; 8],
    /// SSE control and status.
    pub mxcsr: u32,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
}

/// Model-specific registers that the CPU itself keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelRegisters {
    /// `IA32_EFER`.
    pub efer: u64,
    /// `IA32_STAR`.
    pub star: u64,
    /// `IA32_LSTAR`.
    pub lstar: u64,
    /// `IA32_CSTAR`.
    pub cstar: u64,
    /// `IA32_FMASK`.
    pub fmask: u64,
    /// `IA32_KERNEL_GS_BASE`.
    pub kernel_gs_base: u64,
    /// `IA32_SYSENTER_CS`.
    pub sysenter_cs: u64,
    /// `IA32_SYSENTER_ESP`.
    pub sysenter_esp: u64,
    /// `IA32_SYSENTER_EIP`.
    pub sysenter_eip: u64,
    /// `IA32_TSC_AUX`.
    pub tsc_aux: u64,
    /// What is added to [`crate::Platform::timestamp`].
    pub tsc_offset: u64,
    /// `IA32_TSC_ADJUST`.
    pub tsc_adjust: u64,
    /// `IA32_PAT`.
    pub pat: u64,
    /// `IA32_MISC_ENABLE`.
    pub misc_enable: u64,
    /// `IA32_MTRR_DEF_TYPE`.
    pub mtrr_default: u64,
    /// The eight variable MTRRs: base and mask.
    pub mtrr_variable: [[u64; 2]; 8],
    /// The eleven fixed MTRRs.
    pub mtrr_fixed: [u64; 11],
    /// `IA32_BIOS_SIGN_ID`.
    pub microcode: u64,
}

/// What a CPU does between two calls of `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Executes.
    #[default]
    Running,
    /// Executed HLT.
    Halted,
    /// Waits for a startup message after INIT or reset.
    WaitForSipi,
    /// Triple fault.
    Shutdown,
}

/// Index of ES in [`Registers::segments`].
pub const ES: usize = 0;
/// Index of CS.
pub const CS: usize = 1;
/// Index of SS.
pub const SS: usize = 2;
/// Index of DS.
pub const DS: usize = 3;
/// Index of FS.
pub const FS: usize = 4;
/// Index of GS.
pub const GS: usize = 5;

/// Everything that makes up a CPU's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [SegmentRegister; 6],
    /// Local descriptor table.
    pub ldtr: SegmentRegister,
    /// Task register.
    pub tr: SegmentRegister,
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Model-specific registers.
    pub msr: ModelRegisters,
    /// Floating-point and vector registers.
    pub fpu: FpuRegisters,
    /// What the CPU is doing.
    pub activity: Activity,
    /// Whether the instruction before was STI or a load of SS that holds interrupts off for one more.
    pub shadow: bool,
    /// Whether NMIs are held off until IRET.
    pub nmi_blocked: bool,
}

impl Registers {
    /// The width of the code that the vCPU executes: 16, 32 or 64 bits (Intel SDM volume 3, 5.2.1).
    pub fn code_bits(&self) -> u32 {
        const LONG_MODE_ACTIVE: u64 = 1 << 10;
        const L: u32 = 1 << 13;
        const D: u32 = 1 << 14;
        let attributes = self.segments[CS].attributes;
        if self.msr.efer & LONG_MODE_ACTIVE != 0 && attributes & L != 0 {
            64
        } else if attributes & D != 0 {
            32
        } else {
            16
        }
    }
}
