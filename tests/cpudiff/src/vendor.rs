//! What the manual leaves open and vendors decide differently. Ferro's CPU does as Intel's; on other silicon a difference
//! that one of these choices explains doesn't count.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use crate::State;
use crate::generate::Sequence;
use crate::machine::CODE;

/// A choice of the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// 90 with F3 and REX.B: PAUSE here, an exchange with R8 there.
    PauseExtended,
    /// Whether a fault in REPE or REPNE CMPS or SCAS takes back the flags of the comparisons before. (Intel's manual,
    /// volume 2, REP: it does.)
    ComparisonFlags,
    /// Upper halves of RCX, RSI and RDI after a repetition with 32-bit addresses of which nothing, or only a fault, came.
    UpperHalves,
    /// Whether a store that an unmasked x87 exception keeps from happening may fault nevertheless.
    MaskedStore,
    /// Whether MOVUPS and the like check alignment to 16 bytes where alignment is checked. Intel's manual leaves it open (volume 2,
    /// table 2-21: the treatment of #AC varies), and Intel's own processors differ.
    WideAlignment,
    /// Which operand of CMPS is read first, if both fault.
    ComparisonOrder,
    /// Which of several NaNs DPPS and DPPD give.
    DotProductNan,
    /// What the condition codes or flags are after an x87 comparison that ends in an unmasked exception.
    UnmaskedComparison,
    /// Whether MOVSXD to 16 bits reads 16 bits or 32.
    NarrowMovsxd,
    /// Which half of a MASKMOVDQU that faults CR2 names.
    MaskedMove,
    /// Bit 17 of MXCSR, reserved here, lets SSE instructions there have misaligned operands.
    MisalignedMode,
    /// Whether an MMX store that faults has already changed the tag word and TOP.
    MmxTags,
}

impl Choice {
    /// Whether Intel's processors differ in it among themselves.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::WideAlignment | Self::UnmaskedComparison | Self::UpperHalves)
    }
}

/// What the software CPU has of something: what the differences found say, or what silicon has if they say nothing.
fn soft(found: &[String], name: &str, native: u64) -> u64 {
    let line = found.iter().find(|line| line.split(':').next() == Some(name));
    let told = line.and_then(|line| line.rsplit("soft 0x").next());
    told.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(native)
}

/// The choice that explains the differences found after a sequence, if one does.
pub fn choice(sequence: &Sequence, native: &State, found: &[String]) -> Option<Choice> {
    let mut decoder = Decoder::with_ip(64, &sequence.code, CODE, DecoderOptions::NONE);
    let mut last = None;
    while decoder.can_decode() {
        let start = decoder.position();
        let instr = decoder.decode();
        let bytes = &sequence.code[start..start + instr.len()];
        let extended = bytes.len() > 2 && bytes[bytes.len() - 2] & 0xf1 == 0x41;
        if instr.mnemonic() == Mnemonic::Pause && extended {
            return Some(Choice::PauseExtended);
        }
        if is_narrow_repetition(&instr) {
            return Some(Choice::UpperHalves);
        }
        let compares = matches!(
            instr.mnemonic(),
            Mnemonic::Fcom
                | Mnemonic::Fcomp
                | Mnemonic::Fcompp
                | Mnemonic::Fucom
                | Mnemonic::Fucomp
                | Mnemonic::Ftst
                | Mnemonic::Fucompp
                | Mnemonic::Ficom
                | Mnemonic::Ficomp
                | Mnemonic::Fcomi
                | Mnemonic::Fcomip
                | Mnemonic::Fucomi
                | Mnemonic::Fucomip
        );
        if compares
            && native.fsw & 0x80 != 0
            && found.iter().all(|line| line.starts_with("fsw") || line.starts_with("rflags"))
        {
            return Some(Choice::UnmaskedComparison);
        }
        let dot = matches!(instr.mnemonic(), Mnemonic::Dpps | Mnemonic::Dppd);
        if dot && found.iter().all(|line| line.starts_with("xmm")) {
            return Some(Choice::DotProductNan);
        }
        let refused = format!("soft {:#x}", instr.ip());
        if instr.mnemonic() == Mnemonic::Ldmxcsr
            && found.iter().any(|line| line.starts_with("rip") && line.ends_with(&refused))
        {
            return Some(Choice::MisalignedMode);
        }
        let wide = matches!(instr.mnemonic(), Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu);
        if wide && soft(found, "vector", native.vector) == 17 && soft(found, "rip", native.rip) == instr.ip() {
            return Some(Choice::WideAlignment);
        }
        if instr.ip() == native.rip {
            last = Some(instr);
        }
    }
    // Where silicon faults for a wrong address, KVM may emulate, and not know the instruction.
    let instr = last.filter(|_| matches!(native.vector, 6 | 12 | 13 | 14 | 17))?;
    let repeated = instr.has_rep_prefix() || instr.has_repne_prefix();
    if repeated && instr.is_string_instruction() && found.iter().all(|line| line.starts_with("rflags")) {
        return Some(Choice::ComparisonFlags);
    }
    use Mnemonic as M;
    if matches!(instr.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq) && instr.is_string_instruction() {
        return Some(Choice::ComparisonOrder);
    }
    if instr.mnemonic() == M::Movsxd && instr.op0_register().is_gpr16() {
        return Some(Choice::NarrowMovsxd);
    }
    if instr.mnemonic() == M::Maskmovdqu && found.iter().all(|line| line.starts_with("cr2")) {
        return Some(Choice::MaskedMove);
    }
    let wide = (0..instr.op_count()).any(|at| instr.op_kind(at) == OpKind::Memory) && instr.memory_size().size() == 16;
    if native.vector == 17 && wide {
        return Some(Choice::WideAlignment);
    }
    if instr.op0_kind() != OpKind::Memory {
        return None;
    }
    if instr.op_count() > 1 && instr.op1_register().is_mm() {
        return Some(Choice::MmxTags);
    }
    matches!(instr.mnemonic(), M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp)
        .then_some(Choice::MaskedStore)
}

fn is_narrow_repetition(instr: &Instruction) -> bool {
    let narrow = (0..instr.op_count()).any(|operand| {
        matches!(instr.op_kind(operand), OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI)
    });
    narrow && instr.is_string_instruction() && (instr.has_rep_prefix() || instr.has_repne_prefix())
}
