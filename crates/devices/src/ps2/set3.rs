//! Scan code set 3 (IBM PS/2 Hardware Interface Technical Reference, keyboards): one byte a key, and for each key whether it
//! repeats and whether it tells that it goes up, which the host can change.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::Key;
use crate::state;

/// The codes that aren't those of set 2, by the key's name; 0 for none.
const CODES: &[(&str, u8)] = &[
    ("esc", 0x08),
    ("f1", 0x07),
    ("f2", 0x0f),
    ("f3", 0x17),
    ("f4", 0x1f),
    ("f5", 0x27),
    ("f6", 0x2f),
    ("f7", 0x37),
    ("f8", 0x3f),
    ("f9", 0x47),
    ("f10", 0x4f),
    ("f11", 0x56),
    ("f12", 0x5e),
    ("print", 0x57),
    ("scroll_lock", 0x5f),
    ("pause", 0x62),
    ("caps_lock", 0x14),
    ("backslash", 0x5c),
    ("less", 0x13),
    ("ctrl", 0x11),
    ("alt", 0x19),
    ("alt_r", 0x39),
    ("ctrl_r", 0x58),
    ("insert", 0x67),
    ("delete", 0x64),
    ("left", 0x61),
    ("home", 0x6e),
    ("end", 0x65),
    ("up", 0x63),
    ("down", 0x60),
    ("pgup", 0x6f),
    ("pgdn", 0x6d),
    ("right", 0x6a),
    ("num_lock", 0x76),
    ("kp_divide", 0x77),
    ("kp_multiply", 0x7e),
    ("kp_subtract", 0x84),
    ("kp_add", 0x7c),
    ("kp_enter", 0x79),
    ("meta_l", 0x8b),
    ("meta_r", 0x8c),
    ("menu", 0x8d),
    ("muhenkan", 0x85),
    ("henkan", 0x86),
    ("hiragana", 0x87),
    ("yen", 0x5d),
    ("audiomute", 0),
    ("volumedown", 0),
    ("volumeup", 0),
    ("power", 0),
    ("sleep", 0),
    ("wake", 0),
];

/// Keys that tell when they go up, at power-on: shift, ctrl, alt and caps lock at the left, shift at the right.
const MAKE_BREAK: [u8; 5] = [0x11, 0x12, 0x14, 0x19, 0x59];

/// Keys that neither repeat nor tell when they go up, at power-on: those of a row or block of their own, but the cursor keys,
/// delete and the numeric block's plus.
const MAKE: [u8; 42] = [
    0x07, 0x08, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x56, 0x5e, 0x57, 0x5f, 0x62, 0x39, 0x58, 0x67,
    0x6e, 0x65, 0x6f, 0x6d, 0x76, 0x6c, 0x6b, 0x69, 0x77, 0x75, 0x73, 0x72, 0x70, 0x7e, 0x7d, 0x74, 0x7a, 0x71, 0x84,
    0x79, 0x8b, 0x8c, 0x8d,
];

/// Codes are below this.
const END: usize = 0x90;

/// What a key sends beside the code when it goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyType {
    /// The code again and again while it is held.
    repeats: bool,
    /// The code behind 0xF0 when it goes up.
    breaks: bool,
}

/// The types of all keys, by their codes.
#[derive(Debug, Clone)]
pub(super) struct KeyTypes([KeyType; END]);

impl Default for KeyTypes {
    fn default() -> Self {
        Self(std::array::from_fn(|code| {
            let code = code as u8;
            let breaks = MAKE_BREAK.contains(&code);
            KeyType { repeats: !breaks && !MAKE.contains(&code), breaks }
        }))
    }
}

/// The key's code.
pub(super) fn code(key: Key) -> Option<u8> {
    let own = CODES.iter().find(|(name, _)| *name == key.name()).map(|(_, code)| *code);
    own.or_else(|| key.sequence(true).first().copied()).filter(|code| *code != 0)
}

impl KeyTypes {
    /// The type that a command sets: 0xF7 to 0xFA of all keys, 0xFB to 0xFD of one.
    fn of_command(command: u8) -> KeyType {
        match command {
            0xf7 | 0xfb => KeyType { repeats: true, breaks: false },
            0xf8 | 0xfc => KeyType { repeats: false, breaks: true },
            0xf9 | 0xfd => KeyType { repeats: false, breaks: false },
            _ => KeyType { repeats: true, breaks: true },
        }
    }

    /// A command of those from 0xF7 to 0xFA.
    pub(super) fn set_all(&mut self, command: u8) {
        self.0.fill(Self::of_command(command));
    }

    /// A command of those from 0xFB to 0xFD with its parameter; whether there is such a key.
    pub(super) fn set(&mut self, command: u8, code: u8) -> bool {
        let key = self.0.get_mut(usize::from(code)).filter(|_| code != 0);
        key.map(|key| *key = Self::of_command(command)).is_some()
    }

    /// What the keyboard sends when the key goes down or up; `held` says that it is down already.
    pub(super) fn sequence(&self, key: Key, down: bool, held: bool) -> Vec<u8> {
        let Some(code) = code(key) else { return vec![] };
        let KeyType { repeats, breaks } = self.0[usize::from(code)];
        match (down, held) {
            (true, false) => vec![code],
            (true, true) if repeats => vec![code],
            (false, _) if breaks => vec![0xf0, code],
            _ => vec![],
        }
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.bytes(&self.0.map(|key| u8::from(key.repeats) | u8::from(key.breaks) << 1));
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        const TYPES: &str = "the types of the keyboard's keys";
        let mut bits = [0; END];
        state::load_bytes(&mut bits, TYPES, from)?;
        state::check(bits.iter().all(|bits| *bits < 4), TYPES)?;
        self.0 = bits.map(|bits| KeyType { repeats: bits & 1 != 0, breaks: bits & 2 != 0 });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut seen = vec![];
        for key in (0..256).filter_map(Key::from_evdev) {
            let Some(code) = code(key) else { continue };
            assert!(usize::from(code) < END && !seen.contains(&code), "{} has {code:#x}", key.name());
            seen.push(code);
        }
        assert!(seen.len() > 100);
        assert!(CODES.iter().all(|(name, _)| Key::from_name(name).is_some()));
        assert!(MAKE.iter().chain(&MAKE_BREAK).all(|code| seen.contains(code)));
    }

    #[test]
    fn types_decide_what_is_sent() {
        let mut types = KeyTypes::default();
        let [a, shift, f1] = ["a", "shift", "f1"].map(|name| Key::from_name(name).unwrap());
        let all = |types: &KeyTypes, key| {
            [(true, false), (true, true), (false, true)].map(|(down, held)| types.sequence(key, down, held))
        };
        assert_eq!(all(&types, a), [vec![0x1c], vec![0x1c], vec![]]);
        assert_eq!(all(&types, shift), [vec![0x12], vec![], vec![0xf0, 0x12]]);
        assert_eq!(all(&types, f1), [vec![7], vec![], vec![]]);
        assert!(types.set(0xfc, 0x1c) && !types.set(0xfc, 0x90) && !types.set(0xfc, 0));
        assert_eq!(all(&types, a), [vec![0x1c], vec![], vec![0xf0, 0x1c]]);
        types.set_all(0xfa);
        assert_eq!(all(&types, f1), [vec![7], vec![7], vec![0xf0, 7]]);
    }
}
