//! The KVM accelerator: Linux executes the guest's instructions, with its own models of the interrupt controllers and the
//! timer.

mod doorbell;
mod memory;
mod messages;
mod registers;
mod selftest;
mod state;
mod vcpu;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ferro_guest::{GuestMemory, InterruptLine, Range};
use ferro_sys::kick::KickTarget;
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::{Doorbell, Error, Part, StateError, Vcpu, Vm, VmClock};
use doorbell::KvmDoorbell;
use memory::Slots;
use messages::Messages;

pub use selftest::self_test;

/// Where KVM keeps three pages of its own on Intel's CPUs: below the firmware, outside any RAM.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// What a KVM call's failure means here.
fn failed(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Host { operation, source: std::io::Error::from_raw_os_error(error.errno()) }
}

/// How a vCPU's thread is reached.
#[derive(Debug, Default)]
struct Kick {
    wanted: AtomicBool,
    thread: Mutex<Option<KickTarget>>,
}

impl Kick {
    fn kick(&self) {
        self.wanted.store(true, Ordering::Release);
        let thread = *self.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        thread.into_iter().for_each(KickTarget::kick);
    }
}

/// The state of the interrupt controllers and the timer after power-on.
struct PowerOn {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

/// A VM on KVM.
pub struct KvmVm {
    fd: Arc<VmFd>,
    memory: Arc<GuestMemory>,
    slots: Mutex<Slots>,
    messages: Messages,
    clock: Arc<VmClock>,
    cpuid: CpuId,
    /// The model-specific registers that this host's KVM saves.
    msrs: Arc<[u32]>,
    kicks: Vec<Arc<Kick>>,
    power_on: PowerOn,
}

impl KvmVm {
    /// A VM with this memory, for up to `vcpus` vCPUs.
    ///
    /// # Errors
    /// A host without KVM, or one that refuses.
    pub fn new(memory: Arc<GuestMemory>, vcpus: u32, clock: Arc<VmClock>) -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|error| {
            Error::Unavailable(format!(
                "cannot open /dev/kvm: {}; check that virtualization is on in the firmware and that you may use it, \
                 or take --accel soft",
                std::io::Error::from_raw_os_error(error.errno())
            ))
        })?;
        let fd = kvm.create_vm().map_err(failed("create a VM with KVM"))?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(failed("place KVM's identity map"))?;
        fd.set_tss_address(TSS_ADDRESS).map_err(failed("place KVM's task state"))?;
        fd.create_irq_chip().map_err(failed("create KVM's interrupt controllers"))?;
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        fd.create_pit2(config).map_err(failed("create KVM's timer"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("ask KVM for the host's CPUID"))?;
        let msrs = kvm.get_msr_index_list().map_err(failed("ask KVM for its model-specific registers"))?;
        let power_on = PowerOn::read(&fd)?;
        let mut slots = Slots::default();
        slots.replace(&fd, &memory, &memory.ranges())?;
        let fd = Arc::new(fd);
        Ok(Self {
            messages: Messages::new(fd.clone()),
            fd,
            memory,
            slots: Mutex::new(slots),
            clock,
            cpuid,
            msrs: msrs.as_slice().into(),
            kicks: (0..vcpus).map(|_| Arc::default()).collect(),
            power_on,
        })
    }
}

impl PowerOn {
    fn read(fd: &VmFd) -> Result<Self, Error> {
        let chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        let chips = chips.into_iter().map(|chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            fd.get_irqchip(&mut chip).map(|()| chip)
        });
        let chips = chips.collect::<Result<_, _>>().map_err(failed("read KVM's interrupt controllers"))?;
        let pit = fd.get_pit2().map_err(failed("read KVM's timer"))?;
        Ok(Self { chips, pit })
    }
}

struct Line {
    fd: Arc<VmFd>,
    gsi: u32,
}

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        if let Err(error) = self.fd.set_irq_line(self.gsi, high) {
            tracing::warn!("KVM refused interrupt {}: {error}", self.gsi);
        }
    }
}

impl Vm for KvmVm {
    fn accelerator(&self) -> &'static str {
        "kvm"
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn clock(&self) -> &Arc<VmClock> {
        &self.clock
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error> {
        let fd = self.fd.create_vcpu(u64::from(index)).map_err(failed("create a vCPU with KVM"))?;
        let (memory, msrs) = (self.memory.clone(), self.msrs.clone());
        Ok(Box::new(vcpu::KvmVcpu::new(fd, &self.cpuid, index, &self.kicks, memory, msrs)?))
    }

    fn line(&self, gsi: u32) -> Arc<dyn InterruptLine> {
        Arc::new(Line { fd: self.fd.clone(), gsi })
    }

    fn signal_msi(&self, address: u64, data: u32) {
        self.messages.send(address, data);
    }

    fn doorbell(&self) -> Result<Option<Arc<dyn Doorbell>>, Error> {
        Ok(Some(Arc::new(KvmDoorbell::new(self.fd.clone())?)))
    }

    fn arm_dirty_log(&self, offset: usize, len: usize) -> Result<(), Error> {
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.log(&self.fd, &self.memory, offset, len)?;
        self.memory.ram().arm_dirty_log(offset, len);
        Ok(())
    }

    fn disarm_dirty_log(&self, offset: usize, len: usize) -> Result<(), Error> {
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.memory.ram().disarm_dirty_log(offset, len);
        slots.stop_log(&self.fd, &self.memory, offset, len)
    }

    fn take_dirty(&self, offset: usize, len: usize, each: &mut dyn FnMut(usize)) -> Result<(), Error> {
        let slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.collect(&self.fd, &self.memory, offset, len)?;
        drop(slots);
        self.memory.ram().take_dirty(offset, len, each);
        Ok(())
    }

    fn remap(&self, ranges: &[Range]) -> Result<(), Error> {
        self.memory.remap(ranges)?;
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.replace(&self.fd, &self.memory, &self.memory.ranges())
    }

    fn kick(&self, vcpu: u32) {
        self.kicks[vcpu as usize].kick();
    }

    fn reset(&self) {
        let chips = self.power_on.chips.iter().try_for_each(|chip| self.fd.set_irqchip(chip));
        if let Err(error) = chips.and_then(|()| self.fd.set_pit2(&self.power_on.pit)) {
            tracing::error!("KVM refused to reset the interrupt controllers: {error}");
        }
    }

    fn inject_nmi(&self, vcpu: u32) {
        // The vCPU's descriptor is its thread's; an NMI message to its local APIC does the same.
        self.signal_msi(0xfee0_0000 | u64::from(vcpu) << 12, 4 << 8);
    }

    fn cpu_model(&self) -> String {
        state::cpu_model(&self.cpuid)
    }

    fn save_chips(&self) -> Result<Vec<Part>, Error> {
        state::save_chips(&self.fd)
    }

    fn load_chip(&self, part: &Part) -> Result<(), StateError> {
        state::load_chip(&self.fd, part)
    }

    fn speaker(&self) -> Option<f64> {
        let pit = self.fd.get_pit2().ok()?;
        let [_, _, counter] = pit.channels;
        let on = counter.gate != 0 && pit.flags & 1 != 0 && counter.mode == 3 && counter.count != 0;
        on.then(|| 1_193_182.0 / f64::from(counter.count))
    }
}
