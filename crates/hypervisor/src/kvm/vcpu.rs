//! One vCPU of KVM: its CPUID, the run loop with its exits, and debugging.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferro_cpu::disassemble;
use ferro_guest::GuestMemory;
use ferro_sys::kick::{self, KickTarget};
use kvm_bindings::{
    CpuId, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::memory::port_access;
use super::{Kick, failed, registers, state};
use crate::{Bus, DebugStop, Error, Exit, Registers, StateError, Vcpu, Watchpoint};

const DR6_STEP: u64 = 1 << 14;

pub(super) struct KvmVcpu {
    fd: VcpuFd,
    memory: Arc<GuestMemory>,
    index: u32,
    kick: Arc<Kick>,
    /// Whether this thread has made itself known as the one to kick.
    known: bool,
    power_on: Registers,
    watched: Vec<(u64, bool)>,
    /// The model-specific registers that are saved.
    msrs: Arc<[u32]>,
    /// KVM is to finish the access that it stopped for last, and then come back.
    finishing: bool,
}

/// Gives each vCPU its own APIC ID and tells how many there are.
fn topology(cpuid: &CpuId, index: u32, vcpus: u32) -> CpuId {
    let mut cpuid = cpuid.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | index << 24 | vcpus.min(255) << 16;
                // A hypervisor is there, and its timer has a deadline mode.
                entry.ecx |= 1 << 31 | 1 << 24;
            }
            0xb | 0x1f => entry.edx = index,
            _ => {}
        }
    }
    cpuid
}

impl KvmVcpu {
    /// The vCPU with this index, out of as many as there are kicks.
    pub(super) fn new(
        fd: VcpuFd,
        cpuid: &CpuId,
        index: u32,
        kicks: &[Arc<Kick>],
        memory: Arc<GuestMemory>,
        msrs: Arc<[u32]>,
    ) -> Result<Self, Error> {
        fd.set_cpuid2(&topology(cpuid, index, kicks.len() as u32)).map_err(failed("set a vCPU's CPUID"))?;
        let power_on = registers::read(&fd)?;
        let kick = kicks[index as usize].clone();
        Ok(Self { fd, memory, index, kick, known: false, power_on, watched: vec![], msrs, finishing: false })
    }

    /// Makes the calling thread the one that is kicked.
    fn make_known(&mut self) -> Result<(), Error> {
        if self.known {
            return Ok(());
        }
        let target = KickTarget::new(&self.fd)
            .map_err(|source| Error::Host { operation: "set a vCPU's signal mask", source })?;
        *self.kick.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(target);
        self.known = true;
        Ok(())
    }

    /// What KVM couldn't execute: where, and the instruction there.
    fn describe(&self, what: &str, memory: &GuestMemory) -> String {
        let Ok(registers) = registers::read(&self.fd) else { return format!("KVM stopped: {what}") };
        let code = &registers.segments[ferro_cpu::CS];
        format!(
            "KVM stopped vCPU {}: {what} at {:#x} (cs {:#x}, cr0 {:#x}){}; take --accel soft for this guest",
            self.index,
            registers.rip,
            code.selector,
            registers.cr0,
            self.instruction(&registers, memory).map_or(String::new(), |text| format!(": {text}")),
        )
    }

    /// The bytes of the instruction that RIP points to, and what they say.
    fn instruction(&self, registers: &Registers, memory: &GuestMemory) -> Option<String> {
        const LONGEST: u64 = 15;
        let code = &registers.segments[ferro_cpu::CS];
        let bits = registers.code_bits();
        let start = if bits == 64 { registers.rip } else { code.base.wrapping_add(registers.rip) };
        let bytes: Vec<u8> = (0..LONGEST)
            .map_while(|at| {
                let found = self.fd.translate_gva(start.wrapping_add(at)).ok().filter(|found| found.valid != 0)?;
                memory.load(found.physical_address)
            })
            .collect();
        let first = disassemble(&bytes, registers.rip, bits).into_iter().next()?;
        let hex: Vec<_> = first.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{} ({})", first.text, hex.join(" ")))
    }

    fn debug_stop(&self, exit: &kvm_debug_exit_arch) -> DebugStop {
        if exit.dr6 & DR6_STEP != 0 {
            return DebugStop::Step;
        }
        let hit = (0..self.watched.len()).find(|&index| exit.dr6 & 1 << index != 0);
        match hit.map(|index| self.watched[index]) {
            Some((address, true)) => DebugStop::Watchpoint { address, write: true },
            _ => DebugStop::Breakpoint,
        }
    }
}

/// Little-endian bytes of an access.
fn value(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn fill(into: &mut [u8], value: u64) {
    let bytes = value.to_le_bytes();
    let len = into.len().min(8);
    into[..len].copy_from_slice(&bytes[..len]);
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, bus: &dyn Bus) -> Exit {
        if let Err(error) = self.make_known() {
            return Exit::Failed(error.to_string());
        }
        loop {
            // An access that KVM stopped for is done only when it is entered again: until then the registers are as
            // before the instruction, which must not be seen, nor executed twice.
            if self.kick.wanted.swap(false, Ordering::AcqRel) {
                self.finishing = true;
                self.fd.set_kvm_immediate_exit(1);
            }
            let failure = match self.fd.run() {
                Ok(VcpuExit::IoIn(port, _)) => {
                    let (size, data) = port_access(&mut self.fd);
                    data.chunks_mut(size.into()).for_each(|part| fill(part, bus.port_read(port, size).into()));
                    continue;
                }
                Ok(VcpuExit::IoOut(port, _)) => {
                    let (size, data) = port_access(&mut self.fd);
                    data.chunks(size.into()).for_each(|part| bus.port_write(port, size, value(part) as u32));
                    continue;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    let size = data.len() as u8;
                    fill(data, bus.mmio_read(address, size));
                    continue;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    bus.mmio_write(address, data.len() as u8, value(data));
                    continue;
                }
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => continue,
                Ok(VcpuExit::Shutdown | VcpuExit::SystemEvent(..)) => return Exit::Shutdown,
                Ok(VcpuExit::Debug(exit)) => return Exit::Debug(self.debug_stop(&exit)),
                Ok(VcpuExit::InternalError) => "it can't emulate the instruction".to_owned(),
                Ok(VcpuExit::FailEntry(reason, _)) => format!("the CPU refused to enter the guest ({reason:#x})"),
                Ok(other) => format!("{other:?}"),
                Err(error) if error.errno() == INTERRUPTED || error.errno() == TRY_AGAIN => {
                    kick::drain();
                    if std::mem::take(&mut self.finishing) {
                        self.fd.set_kvm_immediate_exit(0);
                        return Exit::Kicked;
                    }
                    continue;
                }
                Err(error) => error.to_string(),
            };
            return Exit::Failed(self.describe(&failure, &self.memory));
        }
    }

    fn registers(&mut self) -> Result<Registers, Error> {
        registers::read(&self.fd)
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), Error> {
        registers::write(&self.fd, registers)
    }

    fn reset(&mut self) -> Result<(), Error> {
        registers::write(&self.fd, &self.power_on)
    }

    fn translate(&mut self, address: u64) -> Option<u64> {
        let found = self.fd.translate_gva(address).ok()?;
        (found.valid != 0).then_some(found.physical_address)
    }

    fn set_debug(&mut self, breakpoints: &[u64], watchpoints: &[Watchpoint], step: bool) -> Result<(), Error> {
        if watchpoints.iter().any(|point| !matches!(point.len, 1 | 2 | 4 | 8) || point.address % point.len != 0) {
            return Err(Error::Unavailable("KVM's watchpoints are 1, 2, 4 or 8 aligned bytes".into()));
        }
        let mut debug = kvm_guest_debug::default();
        self.watched.clear();
        let points = breakpoints.iter().map(|&address| (address, 0, 0, false));
        let data = watchpoints.iter().map(|point| {
            let len = match point.len {
                1 => 0,
                2 => 1,
                8 => 2,
                _ => 3,
            };
            (point.address, if point.read { 3 } else { 1 }, len, true)
        });
        for (index, (address, kind, len, watch)) in points.chain(data).enumerate() {
            if index == 4 {
                let reason = "KVM's debug registers hold at most four break- and watchpoints";
                return Err(Error::Unavailable(reason.into()));
            }
            debug.arch.debugreg[index] = address;
            debug.arch.debugreg[7] |= 2 << (2 * index) | (kind | len << 2) << (16 + 4 * index);
            self.watched.push((address, watch));
        }
        if !self.watched.is_empty() {
            debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        }
        if step {
            debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        }
        self.fd.set_guest_debug(&debug).map_err(failed("set a vCPU's debug registers"))
    }

    fn save(&mut self) -> Result<(u32, Vec<u8>), Error> {
        Ok((state::VCPU_VERSION, state::save_vcpu(&self.fd, &self.msrs)?))
    }

    fn load(&mut self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        state::load_vcpu(&self.fd, version, bytes)
    }

    fn instructions(&self) -> Option<u64> {
        None
    }
}

/// `EINTR` and `EAGAIN`.
const INTERRUPTED: i32 = 4;
const TRY_AGAIN: i32 = 11;
