//! Power management registers as ACPI's fixed hardware defines them (ACPI 6.5, section 4.8): PM1 event and control block,
//! the PM timer and the power button. Laid out for one block of 16 ports, as the PIIX4 has them.

use std::sync::Arc;

use ferro_guest::{BusDevice, Clock, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

/// What the guest asks of the machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft-off (S5).
    Off,
}

/// Takes the guest's requests.
pub trait PowerSwitch: Send {
    /// Called in the middle of the instruction that asks.
    fn request(&self, request: PowerRequest);
}

/// Offset of the PM1 event block (status and enable, two bytes each).
pub const PM1_EVENT: u16 = 0;
/// Offset of the PM1 control register.
pub const PM1_CONTROL: u16 = 4;
/// Offset of the PM timer.
pub const PM_TIMER: u16 = 8;
/// The sleep type of S5, as the DSDT's `_S5_` package has to give it.
pub const SLEEP_TYPE_S5: u8 = 5;

const TIMER_FREQUENCY: u64 = 3_579_545;
const POWER_BUTTON: u16 = 1 << 8;
const SCI_ENABLED: u16 = 1;
const SLEEP: u16 = 1 << 13;

/// The registers.
pub struct PowerManagement {
    line: Arc<dyn InterruptLine>,
    clock: Arc<dyn Clock>,
    switch: Box<dyn PowerSwitch>,
    status: u16,
    enable: u16,
    control: u16,
}

impl PowerManagement {
    /// Registers whose system control interrupt drives `line`.
    pub fn new(line: Arc<dyn InterruptLine>, clock: Arc<dyn Clock>, switch: Box<dyn PowerSwitch>) -> Self {
        Self { line, clock, switch, status: 0, enable: 0, control: SCI_ENABLED }
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
        self.update();
    }

    /// The state after power-on.
    pub fn reset(&mut self) {
        (self.status, self.enable, self.control) = (0, 0, SCI_ENABLED);
        self.update();
    }

    fn update(&self) {
        self.line.set_level(self.status & self.enable != 0);
    }

    fn timer(&self) -> u32 {
        (u128::from(self.clock.now()) * u128::from(TIMER_FREQUENCY) / 1_000_000_000) as u32 & 0x00ff_ffff
    }

    fn register(&self, offset: u16) -> u32 {
        match offset {
            PM1_EVENT => u32::from(self.status) | u32::from(self.enable) << 16,
            PM1_CONTROL => u32::from(self.control),
            PM_TIMER => self.timer(),
            _ => 0,
        }
    }
}

impl BusDevice for PowerManagement {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let word = self.register(offset as u16 & !3);
        let value = u64::from(word) >> (8 * (offset & 3));
        value & (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))))
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match offset as u16 {
            0 => {
                self.status &= !(value as u16);
                if size == 4 {
                    self.enable = (value >> 16) as u16;
                }
            }
            1 => self.status &= !((value as u16) << 8),
            2 if size == 1 => self.enable = self.enable & 0xff00 | value as u16 & 0xff,
            2 => self.enable = value as u16,
            3 => self.enable = self.enable & 0xff | (value as u16) << 8,
            PM1_CONTROL => {
                let value = value as u16;
                self.control = value & !SLEEP;
                if size > 1 && value & SLEEP != 0 && value >> 10 & 7 == u16::from(SLEEP_TYPE_S5) {
                    self.switch.request(PowerRequest::Off);
                }
            }
            5 if value & 0x20 != 0 && value >> 2 & 7 == u64::from(SLEEP_TYPE_S5) => {
                self.switch.request(PowerRequest::Off);
            }
            _ => {}
        }
        self.update();
    }
}

/// The PM timer isn't saved: it is the VM's clock, counted otherwise.
impl SaveState for PowerManagement {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        [self.status, self.enable, self.control].into_iter().for_each(|register| into.u16(register));
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        for register in [&mut self.status, &mut self.enable, &mut self.control] {
            *register = from.u16()?;
        }
        self.update();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ferro_guest::NoInterrupt;

    use super::*;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> u64 {
            1_000_000_000
        }
    }

    #[derive(Clone, Default)]
    struct Requests(Arc<Mutex<Vec<PowerRequest>>>);

    impl PowerSwitch for Requests {
        fn request(&self, request: PowerRequest) {
            self.0.lock().unwrap().push(request);
        }
    }

    #[test]
    fn sleeping_in_s5_powers_off() {
        let requests = Requests::default();
        let mut power = PowerManagement::new(Arc::new(NoInterrupt), Arc::new(Still), Box::new(requests.clone()));
        power.write(4, 2, 1 << 13);
        assert!(requests.0.lock().unwrap().is_empty());
        power.write(4, 2, 1 << 13 | 5 << 10);
        assert_eq!(*requests.0.lock().unwrap(), [PowerRequest::Off]);
        assert_eq!(power.read(8, 4), 3_579_545);
    }

    #[test]
    fn the_power_button_shows_until_it_is_cleared() {
        let mut power = PowerManagement::new(Arc::new(NoInterrupt), Arc::new(Still), Box::new(Requests::default()));
        power.press_power_button();
        assert_eq!(power.read(0, 2), 0x100);
        power.write(0, 2, 0x100);
        assert_eq!(power.read(0, 2), 0);
    }
}
