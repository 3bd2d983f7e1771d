//! A PS/2 keyboard with 102 keys: scan codes of sets 1, 2 and 3, lamps, and its commands (IBM PS/2 Hardware Interface
//! Technical Reference, keyboards). Repeating a key that is held is the business of who presses it, as in QEMU: viewers
//! repeat by their user's habits, so the rate that the host sets is acknowledged and nothing else.

use std::collections::VecDeque;

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::set3::KeyTypes;
use super::{ACKNOWLEDGE, Key, PASSED, RESEND};
use crate::state;

/// Bytes of scan codes that wait at most; keys beyond are lost.
const QUEUE: usize = 32;
/// Answers wait beside them.
const ANSWERS: usize = 16;

/// Commands begin here; a parameter is less.
const FIRST_COMMAND: u8 = 0xed;

/// Scan codes of set 1 for those of set 2, 0 to 0x84, as the controller translates them.
const TO_SET_1: [u8; 0x85] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a,
    0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05,
    0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a,
    0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26,
    0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53,
    0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, 0x80, 0x81, 0x82, 0x41, 0x54,
];

/// Translates a stream of bytes from set 2 to set 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Translation {
    released: bool,
}

impl Translation {
    /// The byte in set 1; `None` for the prefix of a key that goes up.
    pub(crate) fn translate(&mut self, byte: u8) -> Option<u8> {
        if byte == 0xf0 {
            self.released = true;
            return None;
        }
        let up = if std::mem::take(&mut self.released) { 0x80 } else { 0 };
        Some(TO_SET_1.get(usize::from(byte)).map_or(byte, |code| code | up))
    }

    pub(crate) fn save(self, into: &mut StateWriter) {
        into.bool(self.released);
    }

    pub(crate) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.released = from.bool()?;
        Ok(())
    }
}

/// The keyboard.
#[derive(Debug)]
pub(crate) struct Keyboard {
    answers: VecDeque<u8>,
    codes: VecDeque<u8>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    set: u8,
    lamps: u8,
    scanning: bool,
    last: u8,
    /// The types of keys, which set 3 alone obeys.
    types: KeyTypes,
    /// The keys that are down, each by the bit of its number.
    held: u128,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            answers: VecDeque::new(),
            codes: VecDeque::new(),
            command: None,
            set: 2,
            lamps: 0,
            scanning: true,
            last: 0,
            types: KeyTypes::default(),
            held: 0,
        }
    }
}

impl Keyboard {
    /// Scroll lock (bit 0), num lock (1) and caps lock (2).
    pub(crate) fn lamps(&self) -> u8 {
        self.lamps
    }

    /// A key goes down or up; whether there was room for it.
    pub(crate) fn key(&mut self, key: Key, down: bool) -> bool {
        let bit = 1 << key.number();
        let held = self.held & bit != 0;
        self.held = if down { self.held | bit } else { self.held & !bit };
        let bytes: Vec<u8> = match self.set {
            1 => {
                let mut translation = Translation::default();
                key.sequence(down).into_iter().filter_map(|byte| translation.translate(byte)).collect()
            }
            2 => key.sequence(down),
            _ => self.types.sequence(key, down, held),
        };
        let room = self.scanning && self.codes.len() + bytes.len() <= QUEUE;
        if room {
            self.codes.extend(bytes);
        }
        room
    }

    /// The next byte for the controller.
    pub(crate) fn take(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.codes.pop_front())?;
        self.last = byte;
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS {
            self.answers.extend(bytes);
        }
    }

    /// A byte from the controller.
    pub(crate) fn write(&mut self, value: u8) {
        if let Some(command) = self.command.take().filter(|_| value < FIRST_COMMAND) {
            self.parameter(command, value);
            return;
        }
        match value {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = Some(value);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xee => self.answer(&[0xee]),
            0xf2 => self.answer(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf4 => {
                self.codes.clear();
                self.scanning = true;
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf5 | 0xf6 => {
                self.codes.clear();
                self.set = 2;
                self.types = KeyTypes::default();
                self.scanning = value == 0xf6;
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf7..=0xfa => {
                self.codes.clear();
                self.types.set_all(value);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xfe => self.answer(&[self.last]),
            0xff => {
                *self = Self { held: self.held, ..Self::default() };
                self.answer(&[ACKNOWLEDGE, PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        match (command, value) {
            (0xed, _) => self.lamps = value & 7,
            (0xf0, 0) => {
                self.answer(&[ACKNOWLEDGE, self.set]);
                return;
            }
            (0xf0, 1..=3) => {
                self.codes.clear();
                self.set = value;
            }
            (0xfb..=0xfd, _) if self.types.set(command, value) => self.codes.clear(),
            // The rate has seven bits.
            (0xf3, 0..0x80) => {}
            (0xf0 | 0xf3 | 0xfb..=0xfd, _) => {
                // It waits for a better one.
                self.command = Some(command);
                self.answer(&[RESEND]);
                return;
            }
            _ => {}
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    pub(crate) fn save(&self, into: &mut StateWriter) {
        state::save_queue(&self.answers, into);
        state::save_queue(&self.codes, into);
        state::save_option_u8(self.command, into);
        into.u8(self.set);
        into.u8(self.lamps);
        into.bool(self.scanning);
        into.u8(self.last);
        self.types.save(into);
        into.u64(self.held as u64);
        into.u64((self.held >> 64) as u64);
    }

    pub(crate) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.answers = state::load_queue(ANSWERS, "the keyboard's answers", from)?;
        self.codes = state::load_queue(QUEUE, "the keyboard's scan codes", from)?;
        self.command = state::load_option_u8(from)?;
        self.set = from.u8()?;
        state::check((1..=3).contains(&self.set), "the keyboard's scan code set")?;
        self.lamps = from.u8()?;
        state::check(self.lamps < 8, "the keyboard's lamps")?;
        self.scanning = from.bool()?;
        self.last = from.u8()?;
        self.types.load(from)?;
        self.held = u128::from(from.u64()?) | u128::from(from.u64()?) << 64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(keyboard: &mut Keyboard) -> Vec<u8> {
        std::iter::from_fn(|| keyboard.take()).collect()
    }

    #[test]
    fn commands_are_answered() {
        let mut keyboard = Keyboard::default();
        for (bytes, answer) in [
            (&[0xff][..], &[0xfa, 0xaa][..]),
            (&[0xf2], &[0xfa, 0xab, 0x83]),
            (&[0xed, 5], &[0xfa, 0xfa]),
            (&[0xf0, 0], &[0xfa, 0xfa, 2]),
            (&[0xf0, 4, 2], &[0xfa, 0xfe, 0xfa]),
            (&[0xf3, 0x80, 0x20], &[0xfa, 0xfe, 0xfa]),
            (&[0xfb, 0x1c], &[0xfa, 0xfa]),
            (&[0xfd, 0xa0, 0xf7], &[0xfa, 0xfe, 0xfa]),
            (&[0xf8], &[0xfa]),
            (&[0xee], &[0xee]),
            (&[0x12], &[0xfe]),
        ] {
            bytes.iter().for_each(|byte| keyboard.write(*byte));
            assert_eq!(all(&mut keyboard), answer, "{bytes:x?}");
        }
        assert_eq!(keyboard.lamps(), 5);
    }

    #[test]
    fn keys_come_in_the_set_that_was_chosen_and_the_queue_is_bounded() {
        let mut keyboard = Keyboard::default();
        let up = Key::from_name("up").unwrap();
        keyboard.key(up, true);
        keyboard.key(up, false);
        assert_eq!(all(&mut keyboard), [0xe0, 0x75, 0xe0, 0xf0, 0x75]);
        [0xf0, 1].into_iter().for_each(|byte| keyboard.write(byte));
        all(&mut keyboard);
        keyboard.key(up, false);
        assert_eq!(all(&mut keyboard), [0xe0, 0xc8]);
        assert_eq!((0..100).filter(|_| keyboard.key(up, true)).count(), QUEUE / 2);
        [0xf0, 3].into_iter().for_each(|byte| keyboard.write(byte));
        all(&mut keyboard);
        [true, true, false].into_iter().for_each(|down| _ = keyboard.key(up, down));
        assert_eq!(all(&mut keyboard), [0x63, 0x63], "it repeats, and tells no end");
        [0xf0, 0].into_iter().for_each(|byte| keyboard.write(byte));
        assert_eq!(all(&mut keyboard), [0xfa, 0xfa, 3]);
        keyboard.write(0xf5);
        assert!(!keyboard.key(up, true));
    }
}
