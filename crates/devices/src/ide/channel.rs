//! A channel: two units behind one set of registers, their common interrupt, and the bus master.

use std::sync::Arc;

use ferro_guest::{GuestMemory, InterruptLine, LoadError, StateReader, StateWriter};

use super::bus_master::BusMaster;
use super::unit::Unit;
use crate::state;

const NO_INTERRUPT: u8 = 2;
const SOFT_RESET: u8 = 4;
/// Shows what was written before to registers of 48-bit commands.
const HIGH_ORDER: u8 = 0x80;
const SECOND: u8 = 0x10;

pub(super) struct Channel {
    pub(super) units: [Option<Unit>; 2],
    selected: usize,
    control: u8,
    line: Arc<dyn InterruptLine>,
    pub(super) master: BusMaster,
}

impl Channel {
    pub(super) fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self { units: [None, None], selected: 0, control: 0, line, master: BusMaster::default() }
    }

    pub(super) fn reset(&mut self) {
        (self.selected, self.control, self.master) = (0, 0, BusMaster::default());
        self.units.iter_mut().flatten().for_each(Unit::reset);
        self.update();
    }

    /// Brings interrupt line and bus master in line with the selected unit.
    fn update(&mut self) {
        let high = self.interrupts();
        if high {
            self.master.note_interrupt();
        }
        self.line.set_level(high);
    }

    /// Whether the selected unit's interrupt gets through.
    fn interrupts(&self) -> bool {
        let interrupt = self.units[self.selected].as_ref().is_some_and(|unit| unit.port.interrupt);
        interrupt && self.control & NO_INTERRUPT == 0
    }

    /// A read of a command-block register, 0 to 7.
    pub(super) fn read(&mut self, register: u64, size: u8) -> u64 {
        let Some(unit) = &mut self.units[self.selected] else { return 0 };
        if register == 0 {
            let value = unit.read_data(size.into());
            self.update();
            return value;
        }
        let value = unit.read_register(register, self.control & HIGH_ORDER != 0);
        if register == 7 {
            unit.port.interrupt = false;
            self.update();
        }
        u64::from(value)
    }

    /// A write to a command-block register.
    pub(super) fn write(&mut self, register: u64, size: u8, value: u64, memory: &GuestMemory) {
        self.control &= !HIGH_ORDER;
        match register {
            0 => {
                if let Some(unit) = &mut self.units[self.selected] {
                    unit.write_data(size.into(), value);
                }
            }
            7 => {
                // Both units execute a diagnostic; everything else is for the selected one.
                if let Some(unit) = &mut self.units[self.selected] {
                    unit.command(value as u8);
                }
            }
            _ => {
                if register == 6 {
                    self.selected = usize::from(value as u8 & SECOND != 0);
                }
                self.units.iter_mut().flatten().for_each(|unit| unit.write_register(register, value as u8));
            }
        }
        if self.master.is_started() {
            self.run_dma(memory);
        }
        self.update();
    }

    fn run_dma(&mut self, memory: &GuestMemory) {
        if let Some(unit) = &mut self.units[self.selected] {
            self.master.run(unit, memory);
        }
    }

    /// The status without taking back the interrupt.
    pub(super) fn alternate_status(&self) -> u64 {
        self.units[self.selected].as_ref().map_or(0, |unit| u64::from(unit.read_register(7, false)))
    }

    /// A write to the device control register.
    pub(super) fn write_control(&mut self, value: u8) {
        if value & SOFT_RESET != 0 && self.control & SOFT_RESET == 0 {
            self.units.iter_mut().flatten().for_each(Unit::reset);
            self.selected = 0;
        }
        self.control = value;
        self.update();
    }

    /// A write to a bus-master register.
    pub(super) fn write_master(&mut self, offset: u64, size: u8, value: u64, memory: &GuestMemory) {
        for index in 0..u64::from(size) {
            if self.master.write(offset + index, (value >> (8 * index)) as u8) {
                self.run_dma(memory);
                self.update();
            }
        }
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.bool(self.selected != 0);
        into.u8(self.control);
        self.master.save(into);
        for unit in &self.units {
            into.bool(unit.is_some());
            if let Some(unit) = unit {
                unit.save(into);
            }
        }
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.selected = from.bool()?.into();
        self.control = from.u8()?;
        self.master.load(from)?;
        for unit in &mut self.units {
            state::check(from.bool()? == unit.is_some(), "which IDE units there are: the VM has others")?;
            if let Some(unit) = unit {
                unit.load(from)?;
            }
        }
        // The bus master knows already, or the guest has had it forget.
        self.line.set_level(self.interrupts());
        Ok(())
    }

    /// Something changed in a unit from outside.
    pub(super) fn unit_changed(&mut self) {
        self.update();
    }
}
