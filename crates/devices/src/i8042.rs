//! The keyboard controller (ports 0x60 and 0x64; IBM PS/2 Hardware Interface Technical Reference): the keyboard and the
//! mouse behind it, translation of scan codes, the machine's reset line. The A20 gate that it holds is always open: its bit
//! only reads as it was written.

use std::sync::Arc;

use ferro_guest::{BusDevice, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

use crate::ps2::{Buttons, Key, Keyboard, Mouse, Translation};
use crate::state;

/// Resets the machine.
pub trait ResetLine: Send {
    /// The reset line is pulsed.
    fn reset(&self);
}

/// Bits of the command byte, which is the first of the controller's own bytes of memory.
mod mode {
    pub(super) const KEYBOARD_INTERRUPT: u8 = 1;
    pub(super) const MOUSE_INTERRUPT: u8 = 2;
    pub(super) const SYSTEM: u8 = 4;
    pub(super) const NO_KEYBOARD: u8 = 0x10;
    pub(super) const NO_MOUSE: u8 = 0x20;
    pub(super) const TRANSLATE: u8 = 0x40;
}

/// Bits of the status register.
mod status {
    pub(super) const OUTPUT_FULL: u8 = 1;
    pub(super) const SYSTEM: u8 = 4;
    pub(super) const COMMAND: u8 = 8;
    pub(super) const UNLOCKED: u8 = 0x10;
    pub(super) const MOUSE_DATA: u8 = 0x20;
}

const OUTPUT_PORT: u8 = 0xcf;
const A20: u8 = 2;
const NOT_RESET: u8 = 1;

/// Who sent the byte in the output buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Keyboard,
    Mouse,
}

/// The chip, with keyboard and mouse.
pub struct I8042 {
    reset: Box<dyn ResetLine>,
    keyboard_line: Arc<dyn InterruptLine>,
    mouse_line: Arc<dyn InterruptLine>,
    keyboard: Keyboard,
    mouse: Mouse,
    translation: Translation,
    output: Option<(u8, Source)>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    /// The last write went to the command port.
    commanded: bool,
    memory: [u8; 32],
    output_port: u8,
}

impl I8042 {
    /// A controller as firmware leaves it, with interrupts for keyboard and mouse.
    pub fn new(
        reset: Box<dyn ResetLine>,
        keyboard_line: Arc<dyn InterruptLine>,
        mouse_line: Arc<dyn InterruptLine>,
    ) -> Self {
        let mut memory = [0; 32];
        memory[0] = mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT | mode::SYSTEM | mode::TRANSLATE;
        Self {
            reset,
            keyboard_line,
            mouse_line,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
            translation: Translation::default(),
            output: None,
            command: None,
            commanded: false,
            memory,
            output_port: OUTPUT_PORT,
        }
    }

    /// The state after power-on.
    pub fn reset(&mut self) {
        self.memory = [0; 32];
        self.memory[0] = mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT | mode::SYSTEM | mode::TRANSLATE;
        (self.keyboard, self.mouse) = (Keyboard::default(), Mouse::default());
        (self.translation, self.output, self.command) = (Translation::default(), None, None);
        self.output_port = OUTPUT_PORT;
        self.update();
    }

    /// A key goes down or up; a key that is held is pressed again and again. Returns whether there was room for it.
    pub fn key(&mut self, key: Key, down: bool) -> bool {
        let room = self.keyboard.key(key, down);
        self.update();
        room
    }

    /// The mouse moves to the right and up by so many counts, its wheel towards its user, with these buttons down.
    pub fn move_mouse(&mut self, dx: i32, dy: i32, wheel: i32, buttons: Buttons) {
        self.mouse.act(dx, dy, wheel, buttons);
        self.update();
    }

    /// The keyboard's lamps: scroll lock (bit 0), num lock (1) and caps lock (2).
    pub fn lamps(&self) -> u8 {
        self.keyboard.lamps()
    }

    fn has(&self, bit: u8) -> bool {
        self.memory[0] & bit != 0
    }

    /// Fills the output buffer if it is empty, and brings the interrupts in line with it.
    fn update(&mut self) {
        while self.output.is_none() {
            let keyboard = if self.has(mode::NO_KEYBOARD) { None } else { self.keyboard.take() };
            let Some(byte) = keyboard else {
                let mouse = if self.has(mode::NO_MOUSE) { None } else { self.mouse.take() };
                self.output = mouse.map(|byte| (byte, Source::Mouse));
                break;
            };
            let byte = if self.has(mode::TRANSLATE) { self.translation.translate(byte) } else { Some(byte) };
            self.output = byte.map(|byte| (byte, Source::Keyboard));
        }
        self.drive();
    }

    fn drive(&self) {
        let source = self.output.map(|(_, source)| source);
        self.keyboard_line.set_level(source == Some(Source::Keyboard) && self.has(mode::KEYBOARD_INTERRUPT));
        self.mouse_line.set_level(source == Some(Source::Mouse) && self.has(mode::MOUSE_INTERRUPT));
    }

    /// The controller's own answer, in place of what is in the buffer.
    fn answer(&mut self, byte: u8, source: Source) {
        self.output = Some((byte, source));
    }

    fn set_output_port(&mut self, value: u8) {
        self.output_port = value;
        if value & NOT_RESET == 0 {
            self.reset.reset();
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.command.take() {
            Some(command @ 0x60..=0x7f) => self.memory[usize::from(command & 31)] = value,
            Some(0xd1) => self.set_output_port(value),
            Some(0xd2) => self.answer(value, Source::Keyboard),
            Some(0xd3) => self.answer(value, Source::Mouse),
            Some(0xd4) => {
                self.memory[0] &= !mode::NO_MOUSE;
                self.mouse.write(value);
            }
            _ => {
                self.memory[0] &= !mode::NO_KEYBOARD;
                self.keyboard.write(value);
            }
        }
    }

    fn write_command(&mut self, value: u8) {
        self.command = None;
        match value {
            0x20..=0x3f => self.answer(self.memory[usize::from(value & 31)], Source::Keyboard),
            0xaa => {
                self.memory[0] |= mode::SYSTEM;
                self.answer(0x55, Source::Keyboard);
            }
            // Interface tests: the lines work.
            0xab | 0xa9 => self.answer(0, Source::Keyboard),
            0xa7 => self.memory[0] |= mode::NO_MOUSE,
            0xa8 => self.memory[0] &= !mode::NO_MOUSE,
            0xad => self.memory[0] |= mode::NO_KEYBOARD,
            0xae => self.memory[0] &= !mode::NO_KEYBOARD,
            0xc0 => self.answer(0x80, Source::Keyboard),
            0xd0 => self.answer(self.output_port, Source::Keyboard),
            0xdd => self.output_port &= !A20,
            0xdf => self.output_port |= A20,
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(value),
            0xf0..=0xff if value & NOT_RESET == 0 => self.reset.reset(),
            _ => {}
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        if offset != 0 {
            let mouse = matches!(self.output, Some((_, Source::Mouse)));
            let bits = [
                (self.output.is_some(), status::OUTPUT_FULL),
                (self.has(mode::SYSTEM), status::SYSTEM),
                (self.commanded, status::COMMAND),
                (mouse, status::MOUSE_DATA),
            ];
            let set = bits.into_iter().filter(|(set, _)| *set);
            return set.fold(u64::from(status::UNLOCKED), |all, (_, bit)| all | u64::from(bit));
        }
        let byte = self.output.take().map_or(0, |(byte, _)| byte);
        // The next byte's interrupt is another edge.
        self.drive();
        self.update();
        u64::from(byte)
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        self.commanded = offset != 0;
        if offset == 0 {
            self.write_data(value as u8);
        } else {
            self.write_command(value as u8);
        }
        self.update();
    }
}

impl SaveState for I8042 {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.keyboard.save(into);
        self.mouse.save(into);
        self.translation.save(into);
        state::save_option_u8(self.output.map(|(byte, _)| byte), into);
        into.bool(self.output.is_some_and(|(_, source)| source == Source::Mouse));
        state::save_option_u8(self.command, into);
        into.bool(self.commanded);
        into.bytes(&self.memory);
        into.u8(self.output_port);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.keyboard.load(from)?;
        self.mouse.load(from)?;
        self.translation.load(from)?;
        let byte = state::load_option_u8(from)?;
        let source = if from.bool()? { Source::Mouse } else { Source::Keyboard };
        self.output = byte.map(|byte| (byte, source));
        self.command = state::load_option_u8(from)?;
        self.commanded = from.bool()?;
        state::load_bytes(&mut self.memory, "the keyboard controller's memory", from)?;
        self.output_port = from.u8()?;
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use ferro_guest::NoInterrupt;

    use super::*;

    #[derive(Clone, Default)]
    struct Count(Arc<AtomicU32>);

    impl ResetLine for Count {
        fn reset(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl InterruptLine for Count {
        fn set_level(&self, high: bool) {
            if high {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn chip() -> I8042 {
        I8042::new(Box::new(Count::default()), Arc::new(NoInterrupt), Arc::new(NoInterrupt))
    }

    fn all(chip: &mut I8042) -> Vec<u8> {
        std::iter::from_fn(|| (chip.read(4, 1) & 1 != 0).then(|| chip.read(0, 1) as u8)).collect()
    }

    #[test]
    fn the_reset_command_resets_and_the_self_test_passes() {
        let resets = Count::default();
        let mut chip = I8042::new(Box::new(resets.clone()), Arc::new(NoInterrupt), Arc::new(NoInterrupt));
        chip.write(4, 1, 0xaa);
        assert_eq!(chip.read(4, 1) & 1, 1);
        assert_eq!(chip.read(0, 1), 0x55);
        assert_eq!(chip.read(4, 1) & 1, 0);
        chip.write(4, 1, 0xfe);
        chip.write(4, 1, 0xd1);
        chip.write(0, 1, 2);
        assert_eq!(resets.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn keys_are_translated_unless_that_is_off() {
        let mut chip = chip();
        let key = Key::from_name("a").unwrap();
        let right = Key::from_name("right").unwrap();
        for (key, down) in [(key, true), (key, false), (right, true), (right, false)] {
            assert!(chip.key(key, down));
        }
        assert_eq!(all(&mut chip), [0x1e, 0x9e, 0xe0, 0x4d, 0xe0, 0xcd]);
        chip.write(4, 1, 0x60);
        chip.write(0, 1, 0x03);
        chip.key(key, false);
        assert_eq!(all(&mut chip), [0xf0, 0x1c]);
        chip.write(4, 1, 0x20);
        assert_eq!(all(&mut chip), [3]);
    }

    #[test]
    fn the_mouse_is_reached_through_the_controller_and_marked() {
        let mut chip = chip();
        for byte in [0xff, 0xf4] {
            chip.write(4, 1, 0xd4);
            chip.write(0, 1, byte);
        }
        assert_eq!(chip.read(4, 1) & 0x21, 0x21);
        assert_eq!(all(&mut chip), [0xfa, 0xaa, 0, 0xfa]);
        chip.move_mouse(1, 2, 0, Buttons::default());
        assert_eq!(all(&mut chip), [8, 1, 2]);
        chip.write(4, 1, 0xa7);
        chip.move_mouse(1, 2, 0, Buttons::default());
        assert_eq!(all(&mut chip), []);
        chip.write(4, 1, 0xa8);
        assert_eq!(all(&mut chip), [8, 1, 2]);
    }

    #[test]
    fn each_byte_is_an_interrupt() {
        let line = Count::default();
        let mut chip = I8042::new(Box::new(Count::default()), Arc::new(line.clone()), Arc::new(NoInterrupt));
        let up = Key::from_name("up").unwrap();
        chip.key(up, true);
        assert_eq!(line.0.load(Ordering::Relaxed), 1);
        chip.read(0, 1);
        assert_eq!(line.0.load(Ordering::Relaxed), 2);
        chip.read(0, 1);
        assert_eq!(line.0.load(Ordering::Relaxed), 2);
    }
}
