//! Random sequences of instructions, random states, and what of the outcome is undefined.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, Mnemonic, NasmFormatter, OpKind, Register, RflagsBits,
};

use crate::machine::{CODE, DATA, DATA_LEN, Mode, State};

/// What can't be compared after a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undefined {
    /// Bits of RFLAGS.
    pub flags: u64,
    /// Bits of the x87 status word.
    pub status: u16,
}

/// Code, and what of its outcome is undefined.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// The bytes, ending with UD2.
    pub code: Vec<u8>,
    /// What it leaves undefined.
    pub undefined: Undefined,
    /// How many instructions.
    pub count: usize,
}

impl Sequence {
    /// The code in words.
    pub fn listing(&self, mode: Mode) -> String {
        let bits = if mode == Mode::Long { 64 } else { 32 };
        let mut decoder = Decoder::with_ip(bits, &self.code, CODE, DecoderOptions::NONE);
        let mut formatter = NasmFormatter::new();
        let mut text = String::new();
        while decoder.can_decode() {
            let instr = decoder.decode();
            let mut line = String::new();
            formatter.format(&instr, &mut line);
            let start = (instr.ip() - CODE) as usize;
            let bytes: String =
                self.code[start..start + instr.len()].iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("  {:#x}: {bytes:<24} {line}\n", instr.ip()));
        }
        text
    }
}

/// A source of sequences and states that repeats from its seed.
pub struct Generator {
    random: u64,
    /// Whether x87 instructions may appear.
    pub x87: bool,
}

const INTERESTING: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

const DOUBLES: [u64; 16] = [
    0,
    0x8000_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0x7ff0_0000_0000_0001,
    0x0010_0000_0000_0000,
    0x000f_ffff_ffff_ffff,
    0x0000_0000_0000_0001,
    0x7fef_ffff_ffff_ffff,
    0x41df_ffff_ffc0_0000,
    0x43e0_0000_0000_0000,
    0x4010_0000_0000_0000,
    0x3fd5_5555_5555_5555,
];

const SINGLES: [u32; 16] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbfc0_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0001,
    0x7f80_0001,
    0x0080_0000,
    0x007f_ffff,
    1,
    0x7f7f_ffff,
    0x4f00_0000,
    0x5f00_0000,
    0x4080_0000,
    0x3eaa_aaab,
];

impl Generator {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: seed.wrapping_mul(2) | 1, x87: false }
    }

    /// The next random number (xorshift64*).
    pub fn number(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.number() >> 16) % limit
    }

    fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => INTERESTING[self.below(14) as usize],
            1 => INTERESTING[self.below(14) as usize].wrapping_add(self.below(5)).wrapping_sub(2),
            2 => self.number() >> self.below(64),
            _ => self.number(),
        }
    }

    fn vector(&mut self) -> u128 {
        match self.below(4) {
            0 => {
                let lanes = [0; 2].map(|_: i32| DOUBLES[self.below(16) as usize]);
                u128::from(lanes[0]) << 64 | u128::from(lanes[1])
            }
            1 => (0..4).fold(0, |value, _| value << 32 | u128::from(SINGLES[self.below(16) as usize])),
            2 => {
                // Numbers of similar size.
                let lane = |generator: &mut Self| 0x3fe0_0000_0000_0000 + (generator.number() >> 10);
                u128::from(lane(self)) << 64 | u128::from(lane(self))
            }
            _ => u128::from(self.number()) << 64 | u128::from(self.number()),
        }
    }

    fn extended(&mut self) -> u128 {
        match self.below(6) {
            0 => 0,
            1 => 0x3fff_8000_0000_0000_0000 + u128::from(self.below(2)),
            2 => 0x7fff_8000_0000_0000_0000 | u128::from(self.below(2)) << 79,
            3 => 0x7fff_c000_0000_0000_0000 | u128::from(self.number() >> 2),
            4 => u128::from(0x3fe0 + self.below(0x40)) << 64 | u128::from(self.number() | 1 << 63),
            _ => u128::from(1 + self.below(0x7ffd)) << 64 | u128::from(self.number() | 1 << 63),
        }
    }

    /// A random state to start from.
    pub fn state(&mut self, mode: Mode) -> State {
        let mut data = vec![0; DATA_LEN];
        for word in data.chunks_exact_mut(8) {
            let value = if self.below(8) == 0 { self.vector() as u64 } else { self.number() };
            word.copy_from_slice(&value.to_le_bytes());
        }
        let mut gpr = [0; 16];
        for (index, register) in gpr.iter_mut().enumerate() {
            *register = match index {
                4 => DATA + 0x2000,
                3 | 5 | 6 | 7 | 12..=14 => {
                    let offset = 0x100 + self.below(DATA_LEN as u64 - 0x400);
                    DATA + if self.below(2) == 0 { offset & !15 } else { offset }
                }
                1 if self.below(2) == 0 => self.below(40),
                _ => self.value(),
            };
            if mode == Mode::Compatible {
                *register = if index < 8 { *register & 0xffff_ffff } else { 0 };
            }
        }
        let alignment = if self.below(8) == 0 { 1 << 18 } else { 0 };
        let flags = self.number() & 0x8d5 | alignment;
        let mxcsr = match self.below(4) {
            0 => 0x1f80 | (self.number() as u32 & 0xe07f),
            1 => self.number() as u32 & 0xffff,
            2 => 0x1fa0,
            _ => 0x1f80,
        };
        let xmm_count = if mode == Mode::Long { 16 } else { 8 };
        let mut xmm = [0; 16];
        xmm[..xmm_count].fill_with(|| self.vector());
        let st = [0; 8].map(|_: u128| self.extended());
        let ftw = if self.x87 { self.number() as u8 | self.number() as u8 } else { 0 };
        let top = self.below(8) as u16;
        State {
            gpr,
            rip: CODE,
            rflags: 0x202 | flags | if self.below(8) == 0 { 0x400 } else { 0 },
            vector: 0,
            error: 0,
            cr2: 0,
            xmm,
            mxcsr,
            st,
            fcw: if self.below(2) == 0 { 0x37f } else { 0x7f | (self.below(16) as u16) << 8 },
            fsw: if self.x87 { top << 11 } else { 0 },
            ftw,
            data,
        }
    }

    /// A random sequence.
    pub fn sequence(&mut self, mode: Mode) -> Sequence {
        let mut code = vec![];
        let wanted = 1 + self.below(8) as usize;
        let mut undefined = Undefined::default();
        let mut count = 0;
        while count < wanted {
            if undefined.flags != 0 {
                // Nothing may use undefined flags.
                code.push(0x3d);
                code.extend((self.number() as u32).to_le_bytes());
                count += 1;
            }
            if self.below(16) == 0 {
                code.extend(self.branch());
                undefined = Undefined::default();
                count += 2;
                continue;
            }
            let (bytes, instr) = self.instruction(mode);
            if self.below(3) == 0 {
                // A branch over it, as often as not right after something that sets flags.
                code.extend([0x70 | self.below(16) as u8, bytes.len() as u8]);
                count += 1;
            }
            code.extend(bytes);
            undefined = undefined_by(&instr);
            count += 1;
        }
        code.extend([0x0f, 0x0b]);
        Sequence { code, undefined, count }
    }

    /// A branch or call over an instruction that shows whether it was taken.
    fn branch(&mut self) -> Vec<u8> {
        let mut code = match self.below(6) {
            0 => vec![0x0f, 0x80 | self.below(16) as u8, 5, 0, 0, 0],
            // LOOPNE, LOOPE, LOOP, JRCXZ, and with ECX.
            1 => vec![0xe0 | self.below(4) as u8, 5],
            2 => vec![0x67, 0xe0 | self.below(4) as u8, 5],
            3 => vec![0xe8, 5, 0, 0, 0],
            4 => vec![if self.below(2) == 0 { 0xeb } else { 0x48 }, 5],
            _ => vec![0x70 | self.below(16) as u8, 5],
        };
        if code[0] == 0x48 {
            code = vec![0x48, 0xe9, 5, 0, 0, 0];
        }
        code.push(0xb8 | self.below(8) as u8 & 3);
        code.extend((self.number() as u32).to_le_bytes());
        code
    }

    fn instruction(&mut self, mode: Mode) -> (Vec<u8>, Instruction) {
        let bits = if mode == Mode::Long { 64 } else { 32 };
        loop {
            let bytes = self.bytes(mode);
            let mut decoder = Decoder::with_ip(bits, &bytes, CODE, DecoderOptions::NONE);
            let instr = decoder.decode();
            if !instr.is_invalid() && self.is_suitable(&instr, mode) {
                return (bytes[..instr.len()].to_vec(), instr);
            }
        }
    }

    fn bytes(&mut self, mode: Mode) -> [u8; 16] {
        let mut bytes = [0; 16];
        for half in bytes.chunks_exact_mut(8) {
            half.copy_from_slice(&self.number().to_le_bytes());
        }
        let mut at = 0;
        let mut put = |byte: u8| {
            bytes[at] = byte;
            at += 1;
        };
        for _ in 0..[0, 0, 0, 0, 1, 1, 1, 2][self.below(8) as usize] {
            put([0x66, 0xf2, 0xf3, 0xf0, 0x66, 0xf0, 0x67, 0x64, 0x65, 0x26, 0x2e][self.below(11) as usize]);
        }
        if mode == Mode::Long && self.below(2) == 0 {
            put(0x40 | self.below(16) as u8);
        }
        match self.below(8) {
            0..=2 => {}
            3..=5 => put(0x0f),
            6 => {
                put(0x0f);
                put(0x38);
            }
            _ => {
                put(0x0f);
                put(0x3a);
            }
        }
        if self.x87 && self.below(2) == 0 {
            let at = usize::from(self.below(8) == 0);
            bytes[0] = [0x66, 0x67, 0x64, 0x48][self.below(4) as usize];
            bytes[at] = 0xd8 | self.below(8) as u8;
            bytes[at + 1] = self.number() as u8;
            return bytes;
        }
        bytes
    }

    /// Whether an instruction can be compared, and mostly whether its memory is there.
    fn is_suitable(&mut self, instr: &Instruction, mode: Mode) -> bool {
        if is_excluded(instr) {
            return false;
        }
        let x87 = (0xd8..=0xdf).contains(&instr.code().op_byte());
        if x87 && !self.x87 {
            return false;
        }
        let has_memory = (0..instr.op_count()).any(|index| instr.op_kind(index) == OpKind::Memory);
        if !has_memory || self.below(16) == 0 {
            return true;
        }
        if matches!(instr.memory_segment(), Register::FS | Register::GS) && instr.memory_base() == Register::None {
            return true;
        }
        let pointers: &[Register] = if mode == Mode::Long {
            use Register as R;
            &[R::RBX, R::RSI, R::RDI, R::RBP, R::RSP, R::R12, R::R13, R::R14]
        } else {
            use Register as R;
            &[R::EBX, R::ESI, R::EDI, R::EBP, R::ESP]
        };
        let small = instr.memory_displacement64().wrapping_add(0x100) < 0x200
            || (instr.memory_displacement64() as u32).wrapping_add(0x100) < 0x200;
        let index = match instr.memory_index() {
            Register::None => true,
            // A small number, half of the time.
            Register::RCX | Register::ECX => true,
            _ => false,
        };
        pointers.contains(&instr.memory_base()) && index && small
    }
}

trait OpByte {
    fn op_byte(self) -> u8;
}

impl OpByte for iced_x86::Code {
    /// 0xd8 for x87 instructions, 0 for others.
    fn op_byte(self) -> u8 {
        let features = self.cpuid_features();
        let x87 = features.iter().any(|feature| {
            use iced_x86::CpuidFeature as F;
            matches!(feature, F::FPU | F::FPU287 | F::FPU387 | F::FPU387SL_ONLY | F::FPU287XL_ONLY)
        });
        if x87 { 0xd8 } else { 0 }
    }
}

fn undefined_by(instr: &Instruction) -> Undefined {
    let bits = instr.rflags_undefined();
    let mut flags = 0;
    for (bit, flag) in [
        (RflagsBits::OF, 1 << 11),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 1 << 2),
    ] {
        if bits & bit != 0 {
            flags |= flag;
        }
    }
    use Mnemonic as M;
    match instr.mnemonic() {
        // What is undefined depends on the count, which is not known here.
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd => flags |= 1 << 4 | 1 << 11,
        M::Rol | M::Ror | M::Rcl | M::Rcr => flags |= 1 << 11,
        _ => {}
    }
    // The carry is defined but for counts beyond the width, which only narrow operands see.
    let size =
        if instr.op0_kind() == OpKind::Memory { instr.memory_size().size() } else { instr.op0_register().size() };
    if matches!(instr.mnemonic(), M::Shl | M::Sal | M::Shr | M::Shld | M::Shrd) {
        flags = if size > 2 { flags & !1 } else { flags | 1 };
    }
    let mut status = 0;
    for (bit, flag) in
        [(RflagsBits::C0, 1 << 8), (RflagsBits::C1, 1 << 9), (RflagsBits::C2, 1 << 10), (RflagsBits::C3, 1 << 14)]
    {
        if bits & bit != 0 {
            status |= flag;
        }
    }
    Undefined { flags, status }
}

fn is_excluded(instr: &Instruction) -> bool {
    use Mnemonic as M;
    use iced_x86::CpuidFeature as F;
    let known = instr.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL8086_ONLY
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::FPU
                | F::FPU287
                | F::FPU387
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::POPCNT
                | F::MULTIBYTENOP
                | F::PAUSE
                | F::PREFETCHW
        )
    });
    let mut segment = false;
    for operand in 0..instr.op_count() {
        if instr.op_kind(operand) == OpKind::Register {
            let register = instr.op_register(operand);
            segment |= register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr();
        }
    }
    let flow = matches!(
        instr.flow_control(),
        FlowControl::Interrupt
            | FlowControl::XbeginXabortXend
            | FlowControl::Exception
            | FlowControl::Return
            | FlowControl::IndirectBranch
            | FlowControl::IndirectCall
    );
    let far =
        (0..instr.op_count()).any(|index| matches!(instr.op_kind(index), OpKind::FarBranch16 | OpKind::FarBranch32));
    let branch = instr.flow_control() != FlowControl::Next;
    let narrow_double =
        matches!(instr.mnemonic(), M::Shld | M::Shrd) && instr.op_count() == 3 && instr.op1_register().is_gpr16();
    !known
        || segment
        || flow
        || far
        || branch
        || narrow_double
        || instr.mnemonic() == M::Bswap && instr.op0_register().is_gpr16()
        || matches!(
            instr.mnemonic(),
            M::Popf
                | M::Popfd
                | M::Popfq
                | M::Les
                | M::Lds
                | M::Lss
                | M::Lfs
                | M::Lgs
                | M::Sgdt
                | M::Sidt
                | M::Sldt
                | M::Str
                | M::Smsw
                | M::Rdtsc
                | M::Rdpmc
                | M::Cpuid
                | M::Rcpps
                | M::Rcpss
                | M::Rsqrtps
                | M::Rsqrtss
                // They store the host's code segment.
                | M::Fnsave
                | M::Fnstenv
                | M::Fstpnce
                | M::Fsin
                | M::Fcos
                | M::Fsincos
                | M::Fptan
                | M::Fpatan
                | M::F2xm1
                | M::Fyl2x
                | M::Fyl2xp1
                | M::Lsl
                | M::Lar
                | M::Verr
                | M::Verw
                | M::Ltr
                | M::Lldt
                | M::Hlt
                | M::Invlpg
                | M::Wbinvd
                | M::Invd
                | M::Swapgs
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::In
                | M::Out
                | M::Salc
                | M::Ud0
                | M::Ud1
                | M::Sysret
                | M::Sysretq
                | M::Sysexit
                | M::Syscall
                | M::Sysenter
                | M::Fstsg
                | M::Fstdw
                | M::Wait
        )
}
