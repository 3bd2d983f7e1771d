//! One vCPU of the software accelerator: runs the CPU in slices, lets timers fire between them, sleeps while the guest
//! halts, and takes the CPU's calls to the interrupt controllers or the bus.

use std::sync::Arc;

use ferro_cpu::{Cpu, Platform};
use ferro_guest::{Clock, LoadError, SaveState, StateReader, StateSection, StateWriter};

use super::hub::Hub;
use crate::{Bus, Error, Exit, Registers, StateError, Vcpu, VmClock, Watchpoint};

/// Instructions between two looks at the timers: a fraction of a millisecond.
const SLICE: u64 = 50_000;

pub(super) struct SoftVcpu {
    cpu: Cpu,
    hub: Arc<Hub>,
    index: u32,
    random: u64,
}

impl SoftVcpu {
    pub(super) fn new(cpu: Cpu, hub: Arc<Hub>, index: u32, seed: u64) -> Self {
        Self { cpu, hub, index, random: seed }
    }

    fn rest(&self, deadline: Option<u64>) {
        match &**self.hub.clock() {
            VmClock::Instructions(clock) if deadline.is_some() => {
                if !self.hub.take_wake(self.index) {
                    clock.skip_to(deadline.unwrap_or_default());
                }
            }
            clock => self.hub.sleep(self.index, deadline.and_then(|deadline| clock.until(deadline))),
        }
    }
}

/// The CPU's surroundings during one slice.
struct Surroundings<'a> {
    hub: &'a Hub,
    bus: &'a dyn Bus,
    index: u32,
    random: &'a mut u64,
    tsc_offset: u64,
}

impl Platform for Surroundings<'_> {
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        match self.hub.port_read(port) {
            Some(byte) if size == 1 => u32::from(byte),
            Some(low) => u32::from_le_bytes([low, self.hub.port_read(port + 1).unwrap_or(0xff), 0xff, 0xff]),
            None => self.bus.port_read(port, size),
        }
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        if !self.hub.port_write(port, value as u8) {
            self.bus.port_write(port, size, value);
        } else if size > 1 {
            self.hub.port_write(port + 1, (value >> 8) as u8);
        }
    }

    fn mmio_read(&mut self, address: u64, size: u8) -> u64 {
        match self.hub.mmio_read(self.index, address & !3) {
            Some(word) => u64::from(word) >> (8 * (address & 3)),
            None => self.bus.mmio_read(address, size),
        }
    }

    fn mmio_write(&mut self, address: u64, size: u8, value: u64) {
        if !self.hub.mmio_write(self.index, address, value as u32) {
            self.bus.mmio_write(address, size, value);
        }
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.hub.acknowledge(self.index)
    }

    fn read_tpr(&mut self) -> u8 {
        self.hub.read_task_priority(self.index)
    }

    fn write_tpr(&mut self, value: u8) {
        self.hub.write_task_priority(self.index, value);
    }

    fn read_msr(&mut self, index: u32) -> Option<u64> {
        self.hub.read_msr(self.index, index)
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Option<()> {
        self.hub.write_msr(self.index, index, value, self.tsc_offset)
    }

    fn timestamp(&mut self) -> u64 {
        self.hub.clock().now()
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        *self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, bus: &dyn Bus) -> Exit {
        loop {
            let now = self.hub.clock().now();
            let deadline = self.hub.advance(self.index, now);
            let budget = match &**self.hub.clock() {
                // Slices end at the same instructions however often they are interrupted: so runs repeat.
                VmClock::Instructions(_) => {
                    let slice = SLICE - self.cpu.instructions() % SLICE;
                    deadline.map_or(slice, |deadline| slice.min(deadline.saturating_sub(now)).max(1))
                }
                VmClock::Host(_) => SLICE,
            };
            let mut surroundings = Surroundings {
                hub: &self.hub,
                bus,
                index: self.index,
                random: &mut self.random,
                tsc_offset: self.cpu.tsc_offset(),
            };
            match self.cpu.run(&mut surroundings, budget) {
                ferro_cpu::Exit::Budget => {}
                ferro_cpu::Exit::Kicked if self.hub.take_kick(self.index) => return Exit::Kicked,
                ferro_cpu::Exit::Kicked => {}
                ferro_cpu::Exit::Shutdown => return Exit::Shutdown,
                ferro_cpu::Exit::Debug(stop) => return Exit::Debug(stop),
                // The guest may have set a timer during the slice.
                ferro_cpu::Exit::Halted | ferro_cpu::Exit::WaitForSipi => {
                    let deadline = self.hub.advance(self.index, self.hub.clock().now());
                    self.rest(deadline);
                }
            }
        }
    }

    fn registers(&mut self) -> Result<Registers, Error> {
        Ok(self.cpu.registers())
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), Error> {
        self.cpu.set_registers(registers);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.cpu.reset();
        Ok(())
    }

    fn translate(&mut self, address: u64) -> Option<u64> {
        self.cpu.translate(address)
    }

    fn set_debug(&mut self, breakpoints: &[u64], watchpoints: &[Watchpoint], step: bool) -> Result<(), Error> {
        self.cpu.set_breakpoints(breakpoints);
        self.cpu.set_watchpoints(watchpoints);
        self.cpu.set_single_step(step);
        Ok(())
    }

    fn save(&mut self) -> Result<(u32, Vec<u8>), Error> {
        Ok((self.version(), self.save_section()))
    }

    fn load(&mut self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        Ok(self.load_section(version, bytes)?)
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.cpu.instructions())
    }
}

impl SaveState for SoftVcpu {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u64(self.random);
        into.u32(Cpu::VERSION);
        self.cpu.save(into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.random = from.u64()?;
        let version = from.u32()?;
        self.cpu.load(version, from)
    }
}
