//! Two ports by which a PC is reset beside the keyboard controller: the PIIX3's reset control register (0xCF9; Intel
//! 290550, section 2.5) and system control port A (0x92), which also holds the A20 gate. The gate is always open here:
//! its bit only reads as it was written.

use ferro_guest::{BusDevice, LoadError, SaveState, StateReader, StateWriter};

use crate::i8042::ResetLine;
use crate::state;

/// The port of [`ResetControl`].
pub const RESET_CONTROL: u16 = 0xcf9;
/// The value of [`ResetControl`] that resets everything.
pub const RESET_VALUE: u8 = 0x0e;
/// The port of [`PortA`].
pub const PORT_A: u16 = 0x92;

const RESET_CPU: u8 = 4;
const A20: u8 = 2;
const FAST_RESET: u8 = 1;

/// The reset control register.
pub struct ResetControl {
    line: Box<dyn ResetLine>,
    value: u8,
}

impl ResetControl {
    /// A register that resets through `line`.
    pub fn new(line: Box<dyn ResetLine>) -> Self {
        Self { line, value: 0 }
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        u64::from(self.value)
    }

    fn write(&mut self, _offset: u64, _size: u8, value: u64) {
        let value = value as u8;
        let rises = value & RESET_CPU != 0 && self.value & RESET_CPU == 0;
        // The bit that resets doesn't stay.
        self.value = value & !RESET_CPU;
        if rises {
            self.line.reset();
        }
    }
}

/// System control port A.
pub struct PortA {
    line: Box<dyn ResetLine>,
    value: u8,
}

impl PortA {
    /// A port that resets through `line`.
    pub fn new(line: Box<dyn ResetLine>) -> Self {
        Self { line, value: A20 }
    }
}

impl BusDevice for PortA {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        u64::from(self.value)
    }

    fn write(&mut self, _offset: u64, _size: u8, value: u64) {
        self.value = value as u8 & !FAST_RESET;
        if value as u8 & FAST_RESET != 0 {
            self.line.reset();
        }
    }
}

impl SaveState for ResetControl {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u8(self.value);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.value = from.u8()?;
        state::check(self.value & RESET_CPU == 0, "the reset control register")
    }
}

impl SaveState for PortA {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u8(self.value);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.value = from.u8()?;
        state::check(self.value & FAST_RESET == 0, "system control port A")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Count(Arc<AtomicU32>);

    impl ResetLine for Count {
        fn reset(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_resets_once_per_write() {
        let resets = Arc::new(AtomicU32::new(0));
        let mut control = ResetControl::new(Box::new(Count(resets.clone())));
        control.write(0, 1, 2);
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        control.write(0, 1, 6);
        control.write(0, 1, 0x0e);
        assert_eq!(resets.load(Ordering::Relaxed), 2);
        let mut port = PortA::new(Box::new(Count(resets.clone())));
        assert_eq!(port.read(0, 1), 2);
        port.write(0, 1, 0);
        assert_eq!(port.read(0, 1), 0);
        port.write(0, 1, 3);
        assert_eq!((port.read(0, 1), resets.load(Ordering::Relaxed)), (2, 3));
    }
}
