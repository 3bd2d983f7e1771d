//! The PIIX4's power management function (8086:7113; Intel 290562, chapter 7): places the ACPI registers among the ports.
//! There is no SMBus and no system management mode behind it.

use ferro_guest::{BusDevice, LoadError, SaveState, StateReader, StateWriter};

use super::{ConfigSpace, FixedWindow, Identity, PciFunction};
use crate::power::PowerManagement;
use crate::state;

const BASE: usize = 0x40;
const ENABLE: usize = 0x80;
const DEVICE_ACTIVITY: usize = 0x58;
const PORTS: u64 = 0x40;
const WINDOW: usize = 6;

/// The function, around the registers.
pub struct PowerFunction {
    config: ConfigSpace,
    registers: PowerManagement,
}

impl PowerFunction {
    /// Registers that the guest places.
    pub fn new(registers: PowerManagement) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7113,
            revision: 3,
            class: 0x06_80_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.set(0x3d, &[1]);
        config.set(BASE, &[1]);
        config.set_writable(BASE, &[0xc0, 0xff]);
        config.set_writable(ENABLE, &[1]);
        // Firmware looks here for whether system management interrupts are set up already, and leaves them alone then.
        config.set(DEVICE_ACTIVITY + 3, &[2]);
        // The SMBus has a place and a switch, which lead nowhere.
        config.set(0x90, &[1]);
        config.set_writable(0x90, &[0xf0, 0xff]);
        config.set_writable(0xd2, &[0x0f]);
        Self { config, registers }
    }

    /// The registers.
    pub fn registers(&mut self) -> &mut PowerManagement {
        &mut self.registers
    }

    /// Places the registers at `port` (a multiple of 64), as firmware would.
    pub fn place(&mut self, port: u16) {
        self.config.set(BASE, &(port | 1).to_le_bytes());
        self.config.set(ENABLE, &[1]);
    }
}

impl PciFunction for PowerFunction {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_bar(&mut self, _bar: usize, offset: u64, size: u8) -> u64 {
        self.registers.read(offset, size)
    }

    fn write_bar(&mut self, _bar: usize, offset: u64, size: u8, value: u64) {
        self.registers.write(offset, size, value);
    }

    fn fixed_windows(&self) -> Vec<FixedWindow> {
        let start = u64::from(u16::from_le_bytes(self.config.get(BASE)) & 0xffc0);
        let enabled = self.config.get::<1>(ENABLE)[0] & 1 != 0 && start != 0;
        if enabled { vec![FixedWindow { start, len: PORTS, io: true, bar: WINDOW }] } else { vec![] }
    }

    fn reset(&mut self) {
        self.config.set(BASE, &[1, 0]);
        self.config.set(ENABLE, &[0]);
        self.registers.reset();
    }
}

impl SaveState for PowerFunction {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.config.save(into);
        state::save_part(&self.registers, into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.config.load(from)?;
        state::load_part(&mut self.registers, from)
    }
}
