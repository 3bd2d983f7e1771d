//! The memory and the state that both sides start from.

/// Size of guest memory.
pub(crate) const MEMORY: usize = 0x10_0000;
/// Where code is.
pub(crate) const CODE: u64 = 0x1_0000;
/// Where data is: read and written by user code.
pub const DATA: u64 = 0x2_0000;
/// Bytes of data. A read-only page and then nothing follow.
pub const DATA_LEN: usize = 0x4000;
/// Base of FS: small offsets are in the data.
pub(crate) const FS_BASE: u64 = DATA + 0x800;
/// Base of GS: negative, so that offsets of the data's own addresses wrap to it.
pub(crate) const GS_BASE: u64 = 0u64.wrapping_sub(0x700);
/// The page tables' root.
pub(crate) const ROOT: u64 = 0x1000;
/// The GDT.
pub(crate) const GDT: u64 = 0x6000;
/// The IDT.
pub(crate) const IDT: u64 = 0x7000;
/// The task state.
pub(crate) const TSS: u64 = 0x8000;
/// Top of the handlers' stack.
pub(crate) const STACK: u64 = 0xa000;
/// The handlers: one HLT every 16 bytes.
pub(crate) const HANDLERS: u64 = 0xb000;

/// What kind of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit.
    Long,
    /// 32-bit in compatibility mode.
    Compatible,
}

/// Registers and memory, before or after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// General registers.
    pub gpr: [u64; 16],
    /// RIP: after a run, what the handler's frame says.
    pub rip: u64,
    /// RFLAGS, likewise.
    pub rflags: u64,
    /// Which handler was entered.
    pub vector: u64,
    /// The error code in its frame.
    pub error: u64,
    /// CR2.
    pub cr2: u64,
    /// XMM registers.
    pub xmm: [u128; 16],
    /// SSE status.
    pub mxcsr: u32,
    /// x87 registers from the top.
    pub st: [u128; 8],
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// One bit per physical register: in use.
    pub ftw: u8,
    /// User data.
    pub data: Vec<u8>,
}

/// Whether a vector's frame has an error code.
pub(crate) fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// Memory with all tables, without code and data.
pub fn memory_image() -> Vec<u8> {
    let mut memory = vec![0; MEMORY];
    for vector in 0..32 {
        memory[(HANDLERS + vector * 16) as usize] = 0xf4;
    }
    let mut put = |at: u64, value: u64| memory[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    put(ROOT, 0x2007);
    put(0x2000, 0x3007);
    put(0x3000, 0x4007);
    for page in 0..0x100_u64 {
        let address = page << 12;
        let flags = match address {
            CODE..0x1_2000 => 5,
            DATA..0x2_4000 => 7,
            0x2_4000 => 5,
            0x2_5000.. => 0,
            _ => 3,
        };
        put(0x4000 + page * 8, if flags == 0 { 0 } else { address | flags | 0x60 });
    }
    // Kernel code, user 32-bit code, user data, user 64-bit code, task state.
    for (index, descriptor) in
        [0, 0x00af_9b00_0000_ffff, 0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff, 0]
            .into_iter()
            .enumerate()
    {
        put(GDT + index as u64 * 8, descriptor);
    }
    put(GDT + 48, 0x0000_8b00_0000_0067 | (TSS & 0xff_ffff) << 16);
    put(TSS + 4, STACK);
    for vector in 0..32 {
        let handler = HANDLERS + vector * 16;
        let dpl = if matches!(vector, 3 | 4) { 3 << 45 } else { 0 };
        put(IDT + vector * 16, (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16) << 48 | dpl);
    }
    memory
}

/// Takes the interrupt frame out of memory: (error, rip, rflags, rsp).
pub(crate) fn frame(memory: impl Fn(u64) -> u64, rsp: u64, vector: u64) -> (u64, u64, u64, u64) {
    let error = if has_error(vector) { memory(rsp) } else { 0 };
    let base = if has_error(vector) { rsp + 8 } else { rsp };
    (error, memory(base), memory(base + 16), memory(base + 24))
}
