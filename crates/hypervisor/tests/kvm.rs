//! What only KVM has: its log of the pages that a guest wrote, and the account of what it can't execute. Skipped, saying
//! so, without a usable /dev/kvm.

use std::sync::Arc;

use ferro_guest::{GuestMemory, PAGE_SIZE, Ram, Range, RangeKind};
use ferro_hypervisor::kvm::KvmVm;
use ferro_hypervisor::{Bus, CS, DebugStop, Exit, HostClock, Vcpu, Vm, VmClock};

const CODE: u64 = 0x1000;

struct NoDevices;

impl Bus for NoDevices {
    fn port_read(&self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_write(&self, _: u16, _: u8, _: u32) {}
    fn mmio_read(&self, _: u64, _: u8) -> u64 {
        0
    }
    fn mmio_write(&self, _: u64, _: u8, _: u64) {}
}

/// A VM of 64 KiB with a vCPU in real mode at the start of `code`; `None`, after saying so, without KVM.
fn real_mode(code: &[u8]) -> Option<(KvmVm, Box<dyn Vcpu>)> {
    let range = Range { start: 0, len: 0x1_0000, offset: 0, kind: RangeKind::Ram };
    let memory = Arc::new(GuestMemory::new(Ram::new(0x1_0000).unwrap(), &[range]).unwrap());
    memory.write(CODE, code);
    let vm = match KvmVm::new(memory, 1, Arc::new(VmClock::Host(HostClock::default()))) {
        Ok(vm) => vm,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut registers = vcpu.registers().unwrap();
    registers.segments[CS].selector = 0;
    registers.segments[CS].base = 0;
    registers.rip = CODE;
    // Any exception is a triple fault.
    registers.idtr.limit = 0;
    vcpu.set_registers(&registers).unwrap();
    Some((vm, vcpu))
}

fn dirty(vm: &KvmVm) -> Vec<usize> {
    let mut pages = vec![];
    vm.take_dirty(0, 0x1_0000, &mut |offset| pages.push(offset / PAGE_SIZE)).unwrap();
    pages
}

#[test]
fn writes_of_the_guest_and_of_devices_are_logged_together() {
    // mov byte [0x3004], 1; mov byte [0x5000], 1; nop
    let code = [0xc6, 0x06, 0x04, 0x30, 1, 0xc6, 0x06, 0x00, 0x50, 1, 0x90, 0xc6, 0x06, 0x00, 0x60, 1, 0x90];
    let Some((vm, mut vcpu)) = real_mode(&code) else { return };
    let until = |vcpu: &mut Box<dyn Vcpu>, address| {
        vcpu.set_debug(&[address], &[], false).unwrap();
        assert_eq!(vcpu.run(&NoDevices), Exit::Debug(DebugStop::Breakpoint));
    };
    vm.memory().write(0x2000, &[1]);
    vm.arm_dirty_log(0, 0x1_0000).unwrap();
    until(&mut vcpu, CODE + 10);
    vm.memory().write(0x8000, &[1]);
    let written = dirty(&vm);
    assert_eq!(written, [3, 5, 8], "what was written before doesn't count");
    assert_eq!(dirty(&vm), [0; 0]);
    until(&mut vcpu, CODE + 16);
    assert_eq!(dirty(&vm), [6]);
    vm.disarm_dirty_log(0, 0x1_0000).unwrap();
    vm.memory().write(0x8000, &[1]);
    assert_eq!(dirty(&vm), [0; 0]);
}

#[test]
fn an_instruction_that_kvm_cannot_execute_is_named() {
    // xsave [di]: one that KVM's own emulator doesn't know, which some hosts use for all of ring 0.
    let Some((_vm, mut vcpu)) = real_mode(&[0x0f, 0xae, 0x25, 0xf4]) else { return };
    match vcpu.run(&NoDevices) {
        Exit::Failed(told) => {
            println!("{told}");
            assert!(told.contains("0x1000") && told.contains("xsave (%di) (0f ae 25)"), "{told}");
            assert!(told.contains("--accel soft"), "{told}");
        }
        // Hardware takes it for undefined, as the guest has not switched it on, and there is no handler for that.
        other => assert_eq!(other, Exit::Shutdown),
    }
}
