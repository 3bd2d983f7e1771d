//! A vCPU's registers between KVM's structures and [`Registers`].

use ferro_cpu::{Activity, CS, DS, ES, FS, FpuRegisters, GS, ModelRegisters, SS};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_debugregs, kvm_dtable, kvm_fpu,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use super::failed;
use crate::{Error, Registers, SegmentRegister, TableRegister};

const UNUSABLE: u32 = 1 << 16;

fn segment(from: &kvm_segment) -> SegmentRegister {
    let attributes = u32::from(from.type_)
        | u32::from(from.s) << 4
        | u32::from(from.dpl) << 5
        | u32::from(from.present) << 7
        | u32::from(from.avl) << 12
        | u32::from(from.l) << 13
        | u32::from(from.db) << 14
        | u32::from(from.g) << 15
        | if from.unusable != 0 { UNUSABLE } else { 0 };
    SegmentRegister { selector: from.selector, base: from.base, limit: from.limit, attributes }
}

fn kvm_segment(from: &SegmentRegister) -> kvm_segment {
    let bit = |at: u32| (from.attributes >> at & 1) as u8;
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: (from.attributes & 15) as u8,
        present: bit(7),
        dpl: (from.attributes >> 5 & 3) as u8,
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: u8::from(from.attributes & UNUSABLE != 0),
        padding: 0,
    }
}

/// The model-specific registers that are kept, with how each is found in [`ModelRegisters`].
type Access = (u32, fn(&mut ModelRegisters) -> &mut u64);

const MODEL_REGISTERS: &[Access] = &[
    (0xc000_0081, |msr| &mut msr.star),
    (0xc000_0082, |msr| &mut msr.lstar),
    (0xc000_0083, |msr| &mut msr.cstar),
    (0xc000_0084, |msr| &mut msr.fmask),
    (0xc000_0102, |msr| &mut msr.kernel_gs_base),
    (0xc000_0103, |msr| &mut msr.tsc_aux),
    (0x174, |msr| &mut msr.sysenter_cs),
    (0x175, |msr| &mut msr.sysenter_esp),
    (0x176, |msr| &mut msr.sysenter_eip),
    (0x277, |msr| &mut msr.pat),
];

/// Reads everything.
pub(super) fn read(fd: &VcpuFd) -> Result<Registers, Error> {
    let regs = fd.get_regs().map_err(failed("read a vCPU's registers"))?;
    let sregs = fd.get_sregs().map_err(failed("read a vCPU's system registers"))?;
    let fpu = fd.get_fpu().map_err(failed("read a vCPU's floating-point registers"))?;
    let debug = fd.get_debug_regs().map_err(failed("read a vCPU's debug registers"))?;
    let state = fd.get_mp_state().map_err(failed("read a vCPU's state"))?;
    let mut msr = ModelRegisters { efer: sregs.efer, ..ModelRegisters::default() };
    let entries: Vec<_> =
        MODEL_REGISTERS.iter().map(|&(index, _)| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect();
    let mut msrs = Msrs::from_entries(&entries).expect("a dozen registers fit KVM's list");
    let count = fd.get_msrs(&mut msrs).map_err(failed("read a vCPU's model-specific registers"))?;
    for ((_, access), entry) in MODEL_REGISTERS.iter().zip(&msrs.as_slice()[..count]) {
        *access(&mut msr) = entry.data;
    }
    let mut segments = [SegmentRegister::default(); 6];
    for (index, from) in
        [(ES, &sregs.es), (CS, &sregs.cs), (SS, &sregs.ss), (DS, &sregs.ds), (FS, &sregs.fs), (GS, &sregs.gs)]
    {
        segments[index] = segment(from);
    }
    Ok(Registers {
        gpr: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
            regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        segments,
        ldtr: segment(&sregs.ldt),
        tr: segment(&sregs.tr),
        gdtr: TableRegister { base: sregs.gdt.base, limit: sregs.gdt.limit },
        idtr: TableRegister { base: sregs.idt.base, limit: sregs.idt.limit },
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        dr: debug.db,
        dr6: debug.dr6,
        dr7: debug.dr7,
        msr,
        fpu: fpu_registers(&fpu),
        activity: match state.mp_state {
            KVM_MP_STATE_RUNNABLE => Activity::Running,
            KVM_MP_STATE_HALTED => Activity::Halted,
            _ => Activity::WaitForSipi,
        },
        shadow: false,
        nmi_blocked: false,
    })
}

/// The tag word that the one-bit-per-register form stands for: KVM gives the form of FXSAVE.
fn fpu_registers(fpu: &kvm_fpu) -> FpuRegisters {
    let tags = (0..8).fold(0, |tags, index| tags | if fpu.ftwx >> index & 1 == 0 { 3 << (2 * index) } else { 0 });
    let wide = |bytes: &[u8; 16]| u128::from_le_bytes(*bytes);
    FpuRegisters {
        fcw: fpu.fcw,
        fsw: fpu.fsw,
        ftw: tags,
        fop: fpu.last_opcode,
        fip: fpu.last_ip,
        fcs: 0,
        fdp: fpu.last_dp,
        fds: 0,
        st: std::array::from_fn(|index| wide(&fpu.fpr[index])),
        mxcsr: fpu.mxcsr,
        xmm: std::array::from_fn(|index| wide(&fpu.xmm[index])),
    }
}

fn kvm_fpu(from: &FpuRegisters) -> kvm_fpu {
    let tags = (0..8).fold(0, |tags, index| tags | u8::from(from.ftw >> (2 * index) & 3 != 3) << index);
    kvm_fpu {
        fpr: from.st.map(u128::to_le_bytes),
        fcw: from.fcw,
        fsw: from.fsw,
        ftwx: tags,
        last_opcode: from.fop,
        last_ip: from.fip,
        last_dp: from.fdp,
        xmm: from.xmm.map(u128::to_le_bytes),
        mxcsr: from.mxcsr,
        ..kvm_fpu::default()
    }
}

/// Replaces everything.
pub(super) fn write(fd: &VcpuFd, registers: &Registers) -> Result<(), Error> {
    let mut sregs = fd.get_sregs().map_err(failed("read a vCPU's system registers"))?;
    fill_system(&mut sregs, registers);
    fd.set_sregs(&sregs).map_err(failed("set a vCPU's system registers"))?;
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers.gpr;
    let (rip, rflags) = (registers.rip, registers.rflags);
    let regs = kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags };
    fd.set_regs(&regs).map_err(failed("set a vCPU's registers"))?;
    fd.set_fpu(&kvm_fpu(&registers.fpu)).map_err(failed("set a vCPU's floating-point registers"))?;
    let debug = kvm_debugregs { db: registers.dr, dr6: registers.dr6, dr7: registers.dr7, ..kvm_debugregs::default() };
    fd.set_debug_regs(&debug).map_err(failed("set a vCPU's debug registers"))?;
    let mut msr = registers.msr;
    let entries: Vec<_> = MODEL_REGISTERS
        .iter()
        .map(|&(index, access)| kvm_msr_entry { index, data: *access(&mut msr), ..kvm_msr_entry::default() })
        .collect();
    let msrs = Msrs::from_entries(&entries).expect("a dozen registers fit KVM's list");
    fd.set_msrs(&msrs).map_err(failed("set a vCPU's model-specific registers"))?;
    let mp_state = match registers.activity {
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_UNINITIALIZED,
        Activity::Running | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
    };
    fd.set_mp_state(kvm_mp_state { mp_state }).map_err(failed("set a vCPU's state"))
}

fn fill_system(sregs: &mut kvm_sregs, registers: &Registers) {
    for (index, into) in [
        (ES, &mut sregs.es),
        (CS, &mut sregs.cs),
        (SS, &mut sregs.ss),
        (DS, &mut sregs.ds),
        (FS, &mut sregs.fs),
        (GS, &mut sregs.gs),
    ] {
        *into = kvm_segment(&registers.segments[index]);
    }
    let table = |from: &TableRegister| kvm_dtable { base: from.base, limit: from.limit, ..kvm_dtable::default() };
    sregs.ldt = kvm_segment(&registers.ldtr);
    sregs.tr = kvm_segment(&registers.tr);
    sregs.gdt = table(&registers.gdtr);
    sregs.idt = table(&registers.idtr);
    sregs.cr0 = registers.cr0;
    sregs.cr2 = registers.cr2;
    sregs.cr3 = registers.cr3;
    sregs.cr4 = registers.cr4;
    sregs.efer = registers.msr.efer;
}
