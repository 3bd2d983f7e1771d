//! A vCPU's registers in gdb's order, both ways, and the system registers as text. Nothing here reaches a vCPU.

use ferro_hypervisor::{Registers, SegmentRegister};
use gdbstub_arch::x86::reg::X86_64CoreRegs;

/// gdb numbers RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP; the encoding of instructions has another order.
const GENERAL: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

const TEN_BYTES: usize = 10;
const SEGMENT_NAMES: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// The selectors in the order of [`Registers::segments`].
fn selectors(regs: &X86_64CoreRegs) -> [u32; 6] {
    let segments = &regs.segments;
    [segments.es, segments.cs, segments.ss, segments.ds, segments.fs, segments.gs]
}

/// For the debugger to read.
pub(super) fn fill(regs: &mut X86_64CoreRegs, from: &Registers) {
    regs.regs = GENERAL.map(|index| from.gpr[index]);
    regs.rip = from.rip;
    regs.eflags = from.rflags as u32;
    let [es, cs, ss, ds, fs, gs] = from.segments.map(|segment| u32::from(segment.selector));
    let segments = &mut regs.segments;
    (segments.es, segments.cs, segments.ss, segments.ds, segments.fs, segments.gs) = (es, cs, ss, ds, fs, gs);
    for (into, value) in regs.st.iter_mut().zip(from.fpu.st) {
        into.copy_from_slice(&value.to_le_bytes()[..TEN_BYTES]);
    }
    let (fpu, x87) = (&mut regs.fpu, &from.fpu);
    fpu.fctrl = u32::from(x87.fcw);
    fpu.fstat = u32::from(x87.fsw);
    fpu.ftag = u32::from(x87.ftw);
    (fpu.fiseg, fpu.fioff) = (u32::from(x87.fcs), x87.fip as u32);
    (fpu.foseg, fpu.fooff) = (u32::from(x87.fds), x87.fdp as u32);
    fpu.fop = u32::from(x87.fop);
    regs.xmm = x87.xmm;
    regs.mxcsr = x87.mxcsr;
}

/// What the debugger wrote, into the registers as they are. A changed selector is refused (`false`): its descriptor would
/// have to be loaded, which only the guest can do.
pub(super) fn apply(regs: &X86_64CoreRegs, to: &mut Registers) -> bool {
    if selectors(regs) != to.segments.map(|segment| u32::from(segment.selector)) {
        return false;
    }
    for (value, index) in regs.regs.iter().zip(GENERAL) {
        to.gpr[index] = *value;
    }
    to.rip = regs.rip;
    to.rflags = to.rflags & !u64::from(u32::MAX) | u64::from(regs.eflags);
    for (into, value) in to.fpu.st.iter_mut().zip(&regs.st) {
        let mut bytes = [0; 16];
        bytes[..TEN_BYTES].copy_from_slice(value);
        *into = u128::from_le_bytes(bytes);
    }
    let (fpu, x87) = (&regs.fpu, &mut to.fpu);
    (x87.fcw, x87.fsw, x87.ftw) = (fpu.fctrl as u16, fpu.fstat as u16, fpu.ftag as u16);
    x87.fop = fpu.fop as u16;
    x87.xmm = regs.xmm;
    x87.mxcsr = regs.mxcsr;
    true
}

fn segment(name: &str, from: &SegmentRegister) -> String {
    let SegmentRegister { selector, base, limit, attributes } = from;
    format!("{name:4} {selector:#06x} base {base:#018x} limit {limit:#010x} attributes {attributes:#07x}\n")
}

/// The registers that gdb has no numbers for.
pub(super) fn system(from: &Registers) -> String {
    let mut text = format!(
        "cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}\n",
        from.cr0, from.cr2, from.cr3, from.cr4, from.msr.efer
    );
    for (name, register) in SEGMENT_NAMES.iter().zip(&from.segments) {
        text += &segment(name, register);
    }
    text += &segment("ldtr", &from.ldtr);
    text += &segment("tr", &from.tr);
    text += &format!("gdtr base {:#018x} limit {:#06x}\n", from.gdtr.base, from.gdtr.limit);
    text += &format!("idtr base {:#018x} limit {:#06x}\n", from.idtr.base, from.idtr.limit);
    text += &format!("dr0-3 {:x?} dr6 {:#x} dr7 {:#x}\n", from.dr, from.dr6, from.dr7);
    let msr = &from.msr;
    text += &format!(
        "star {:#x} lstar {:#x} cstar {:#x} fmask {:#x} kernel_gs_base {:#x}\n",
        msr.star, msr.lstar, msr.cstar, msr.fmask, msr.kernel_gs_base
    );
    text + &format!("{:?}\n", from.activity)
}
