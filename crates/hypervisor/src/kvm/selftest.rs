//! Whether this host's KVM is good for more than small guests: a guest of a few instructions runs in long mode at ring 0.
//! A KVM without hardware virtualization below it emulates ring 0, slowly and not completely: it fails here.

use std::time::{Duration, Instant};

use ferro_cpu::{Activity, CS};
use ferro_guest::{GuestMemory, Ram, Range, RangeKind};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit};

use super::memory::Slots;
use super::{failed, registers};
use crate::{Error, SegmentRegister, TableRegister};

const MEMORY: u64 = 0x1_0000;
const GDT: u64 = 0x500;
const PAGE_TABLES: u64 = 0x1000;
const IDT: u64 = 0x4000;
const CODE: u64 = 0x5000;
const HANDLER: u64 = CODE + 0x50;
const STACK: u64 = 0x8000;
const PORT: u16 = 0xf4;
/// The loop of 20,000 rounds takes 10 µs on hardware and 10 ms when each instruction is emulated.
const SLOW: Duration = Duration::from_millis(2);

/// CMPXCHG16B, XSAVE, XRSTOR, INT3 with a handler, then a loop between two port writes.
const PROGRAM: &[u8] = &[
    0x31, 0xc0, 0x31, 0xd2, 0x31, 0xdb, 0x31, 0xc9, // xor eax, eax; edx; ebx; ecx
    0xbf, 0x00, 0x70, 0x00, 0x00, // mov edi, 0x7000
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
    0x75, 0x2f, // jnz fail
    0xb8, 0x03, 0x00, 0x00, 0x00, 0x31, 0xd2, // mov eax, 3; xor edx, edx
    0xbf, 0x00, 0x90, 0x00, 0x00, // mov edi, 0x9000
    0x0f, 0xae, 0x27, 0x0f, 0xae, 0x2f, // xsave [rdi]; xrstor [rdi]
    0xcc, // int3
    0x80, 0x3c, 0x25, 0x00, 0x78, 0x00, 0x00, 0x01, // cmp byte [0x7800], 1
    0x75, 0x12, // jne fail
    0xb0, 0x01, 0xe6, 0xf4, // mov al, 1; out 0xf4, al
    0xb9, 0x20, 0x4e, 0x00, 0x00, // mov ecx, 20000
    0xff, 0xc9, 0x75, 0xfc, // dec ecx; jnz
    0xb0, 0x02, 0xe6, 0xf4, 0xf4, // mov al, 2; out 0xf4, al; hlt
    0xb0, 0xff, 0xe6, 0xf4, 0xf4, // fail: mov al, 0xff; out 0xf4, al; hlt
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // padding
    0xfe, 0x04, 0x25, 0x00, 0x78, 0x00, 0x00, // handler: inc byte [0x7800]
    0x48, 0xcf, // iretq
];

fn prepare() -> Result<GuestMemory, Error> {
    let ram = Ram::new(MEMORY).map_err(|error| Error::Unavailable(error.to_string()))?;
    let memory = GuestMemory::new(ram, &[Range { start: 0, len: MEMORY, offset: 0, kind: RangeKind::Ram }])?;
    let words = |at: u64, words: &[u64]| {
        for (index, word) in words.iter().enumerate() {
            let stored = memory.store(at + 8 * index as u64, *word);
            debug_assert!(stored.is_some(), "the self-test's own addresses are in its memory");
        }
    };
    words(GDT, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    words(PAGE_TABLES, &[(PAGE_TABLES + 0x1000) | 3]);
    words(PAGE_TABLES + 0x1000, &[(PAGE_TABLES + 0x2000) | 3]);
    words(PAGE_TABLES + 0x2000, &[0x83]);
    // A 64-bit interrupt gate for vector 3.
    words(IDT + 3 * 16, &[HANDLER & 0xffff | 8 << 16 | 0x8e00 << 32, 0]);
    memory.write(CODE, PROGRAM);
    Ok(memory)
}

/// Runs the guest.
///
/// # Errors
/// The reason for which this KVM is of no use, as a phrase for the user.
pub fn self_test() -> Result<(), Error> {
    let unusable = |why: String| Error::Unavailable(why);
    let kvm = Kvm::new()
        .map_err(|error| unusable(format!("/dev/kvm: {}", std::io::Error::from_raw_os_error(error.errno()))))?;
    let memory = prepare()?;
    let vm = kvm.create_vm().map_err(failed("create a VM with KVM"))?;
    Slots::default().replace(&vm, &memory, &memory.ranges())?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("create a vCPU with KVM"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("ask KVM for the host's CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("set a vCPU's CPUID"))?;
    let mut start = registers::read(&vcpu)?;
    let flat = |selector, attributes| SegmentRegister { selector, base: 0, limit: u32::MAX, attributes };
    start.segments = [flat(16, 0xc093); 6];
    start.segments[CS] = flat(8, 0xa09b);
    start.tr = SegmentRegister { selector: 0, base: 0, limit: 0x67, attributes: 0x8b };
    start.gdtr = TableRegister { base: GDT, limit: 23 };
    start.idtr = TableRegister { base: IDT, limit: 0xfff };
    start.cr3 = PAGE_TABLES;
    // PAE, OSFXSR, OSXSAVE.
    start.cr4 = 1 << 5 | 1 << 9 | 1 << 18;
    start.msr.efer = 1 << 8 | 1 << 10;
    // PE, ET, NE, PG.
    start.cr0 = 1 | 1 << 4 | 1 << 5 | 1 << 31;
    start.gpr[4] = STACK;
    start.rip = CODE;
    start.rflags = 2;
    start.activity = Activity::Running;
    registers::write(&vcpu, &start)?;
    let mut begun = None;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, [1])) => begun = Some(Instant::now()),
            Ok(VcpuExit::IoOut(PORT, [2])) => break,
            Ok(VcpuExit::InternalError) => {
                let at = vcpu.get_regs().map_or(0, |registers| registers.rip.wrapping_sub(CODE));
                return Err(unusable(format!("it can't execute {}", instruction_at(at))));
            }
            Ok(other) => return Err(unusable(format!("its self-test stopped with {other:?}"))),
            Err(error) if error.errno() == 4 => {}
            Err(error) => return Err(failed("run a vCPU with KVM")(error)),
        }
    }
    match begun.map(|begun| begun.elapsed()) {
        Some(taken) if taken <= SLOW => Ok(()),
        _ => Err(unusable("it emulates the kernel's instructions one by one".into())),
    }
}

/// The instruction of [`PROGRAM`] at an offset, for the message.
fn instruction_at(offset: u64) -> &'static str {
    match offset {
        0x0d => "CMPXCHG16B",
        0x20 => "XSAVE",
        0x23 => "XRSTOR",
        0x26 => "INT3",
        _ => "an instruction of its self-test",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_self_test_gives_a_verdict() {
        if Kvm::new().is_err() {
            println!("skipped: there is no usable /dev/kvm");
            return;
        }
        match self_test() {
            Ok(()) => println!("KVM works here"),
            Err(Error::Unavailable(why)) => {
                assert!(!why.contains("self-test stopped"), "{why}");
                println!("KVM is of no use here: {why}");
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_programs_handler_is_where_the_gate_points() {
        assert_eq!(PROGRAM[(HANDLER - CODE) as usize..][..2], [0xfe, 0x04]);
    }
}
