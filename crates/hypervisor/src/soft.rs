//! The software accelerator: VMs whose CPUs are [`ferro_cpu::Cpu`]s, with the interrupt controllers and the timer of a PC
//! as our own models. Runs on any host.

mod hub;
mod ioapic;
mod lapic;
mod pic;
mod pit;
mod save;
mod vcpu;

use std::sync::{Arc, Mutex};

use ferro_cpu::{Cpu, CpuConfig};
use ferro_guest::{GuestMemory, InterruptLine, Range};

use crate::{Error, InstructionClock, Part, StateError, Vcpu, Vm, VmClock};
use hub::Hub;

/// Ticks of the time stamp counter per millisecond: one per nanosecond of the VM's clock.
const TSC_KHZ: u32 = 1_000_000;
/// Input clock of the local APICs' timers in hertz.
const APIC_HZ: u32 = 1_000_000_000;

/// A VM on the software CPU.
pub struct SoftVm {
    memory: Arc<GuestMemory>,
    hub: Arc<Hub>,
    vcpus: u32,
    seed: Mutex<u64>,
}

impl SoftVm {
    /// A VM with this memory, for up to `vcpus` vCPUs. `seed` feeds the random numbers that its guest draws.
    ///
    /// # Errors
    /// An instruction clock with more than one vCPU, which couldn't repeat.
    pub fn new(memory: Arc<GuestMemory>, vcpus: u32, clock: Arc<VmClock>, seed: u64) -> Result<Self, Error> {
        if matches!(*clock, VmClock::Instructions(_)) && vcpus != 1 {
            return Err(Error::Unavailable("an instruction clock needs exactly one vCPU".into()));
        }
        let hub = Arc::new(Hub::new(vcpus, clock));
        if let VmClock::Instructions(counter) = &**hub.clock() {
            InstructionClock::follow(counter, hub.signals(0).clone());
        }
        Ok(Self { memory, hub, vcpus, seed: Mutex::new(seed) })
    }
}

struct Line {
    hub: Arc<Hub>,
    gsi: u32,
}

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        self.hub.set_line(self.gsi, high);
    }
}

impl Vm for SoftVm {
    fn accelerator(&self) -> &'static str {
        "soft"
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn clock(&self) -> &Arc<VmClock> {
        self.hub.clock()
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error> {
        let config = CpuConfig { apic_id: index, vcpus: self.vcpus, tsc_khz: TSC_KHZ, apic_hz: APIC_HZ };
        let cpu = Cpu::new(config, self.memory.clone(), self.hub.signals(index).clone());
        let mut seed = self.seed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Ok(Box::new(vcpu::SoftVcpu::new(cpu, self.hub.clone(), index, *seed)))
    }

    fn line(&self, gsi: u32) -> Arc<dyn InterruptLine> {
        Arc::new(Line { hub: self.hub.clone(), gsi })
    }

    fn signal_msi(&self, address: u64, data: u32) {
        self.hub.deliver(ioapic::Message::from_msi(address, data));
    }

    fn remap(&self, ranges: &[Range]) -> Result<(), Error> {
        self.memory.remap(ranges)?;
        for index in 0..self.vcpus {
            self.hub.signals(index).memory_map_changed();
        }
        Ok(())
    }

    fn kick(&self, vcpu: u32) {
        self.hub.kick(vcpu);
    }

    fn reset(&self) {
        self.hub.reset();
    }

    fn inject_nmi(&self, vcpu: u32) {
        self.hub.inject_nmi(vcpu);
    }

    fn cpu_model(&self) -> String {
        "ferro soft x86-64-v2".into()
    }

    fn save_chips(&self) -> Result<Vec<Part>, Error> {
        Ok(self.hub.save())
    }

    fn load_chip(&self, part: &Part) -> Result<(), StateError> {
        self.hub.load(part)
    }

    fn speaker(&self) -> Option<f64> {
        self.hub.speaker()
    }
}
