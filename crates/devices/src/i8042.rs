//! The keyboard controller (ports 0x60 and 0x64) as far as a machine without keyboard needs it: self-test, the A20 gate,
//! and the command that resets the machine.

use ferro_guest::BusDevice;

/// Resets the machine.
pub trait ResetLine: Send {
    /// The reset line is pulsed.
    fn reset(&self);
}

/// The chip.
pub struct I8042 {
    reset: Box<dyn ResetLine>,
    output: Option<u8>,
    command: u8,
    /// The command byte (register 0).
    mode: u8,
}

impl I8042 {
    /// A controller with nothing plugged in.
    pub fn new(reset: Box<dyn ResetLine>) -> Self {
        Self { reset, output: None, command: 0, mode: 0x30 }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        u64::from(match offset {
            0 => self.output.take().unwrap_or(0),
            _ => 0x1c | u8::from(self.output.is_some()),
        })
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let value = value as u8;
        if offset == 0 {
            match std::mem::take(&mut self.command) {
                0x60 => self.mode = value,
                0xd1 if value & 1 == 0 => self.reset.reset(),
                // Nothing is plugged in that could answer.
                _ => {}
            }
            return;
        }
        match value {
            0x20 => self.output = Some(self.mode),
            0xaa => self.output = Some(0x55),
            // Interface tests: the lines work.
            0xab | 0xa9 => self.output = Some(0),
            0xa7 => self.mode |= 0x20,
            0xa8 => self.mode &= !0x20,
            0xad => self.mode |= 0x10,
            0xae => self.mode &= !0x10,
            0xd0 => self.output = Some(3),
            0x60 | 0xd1..=0xd4 => self.command = value,
            0xf0..=0xff if value & 1 == 0 => self.reset.reset(),
            _ => {}
        }
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
    fn the_reset_command_resets_and_the_self_test_passes() {
        let resets = Arc::new(AtomicU32::new(0));
        let mut chip = I8042::new(Box::new(Count(resets.clone())));
        chip.write(4, 1, 0xaa);
        assert_eq!(chip.read(4, 1) & 1, 1);
        assert_eq!(chip.read(0, 1), 0x55);
        assert_eq!(chip.read(4, 1) & 1, 0);
        chip.write(4, 1, 0xfe);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }
}
