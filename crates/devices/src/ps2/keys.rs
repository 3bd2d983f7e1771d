//! The keys of a PC's keyboard, in one table: name (as QEMU's `sendkey` has it), Linux's key code, and scan code of set 2.
//! Scan codes of set 1 follow from those of set 2 by the keyboard controller's translation.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(usize);

/// Scan codes of more than one byte begin with this one.
pub(super) const EXTENDED: u8 = 0xe0;

/// Name, Linux's code, scan code of set 2; those of 0xE0xx are extended, those of 0 have sequences of their own.
const KEYS: &[(&str, u16, u16)] = &[
    ("esc", 1, 0x76),
    ("1", 2, 0x16),
    ("2", 3, 0x1e),
    ("3", 4, 0x26),
    ("4", 5, 0x25),
    ("5", 6, 0x2e),
    ("6", 7, 0x36),
    ("7", 8, 0x3d),
    ("8", 9, 0x3e),
    ("9", 10, 0x46),
    ("0", 11, 0x45),
    ("minus", 12, 0x4e),
    ("equal", 13, 0x55),
    ("backspace", 14, 0x66),
    ("tab", 15, 0x0d),
    ("q", 16, 0x15),
    ("w", 17, 0x1d),
    ("e", 18, 0x24),
    ("r", 19, 0x2d),
    ("t", 20, 0x2c),
    ("y", 21, 0x35),
    ("u", 22, 0x3c),
    ("i", 23, 0x43),
    ("o", 24, 0x44),
    ("p", 25, 0x4d),
    ("bracket_left", 26, 0x54),
    ("bracket_right", 27, 0x5b),
    ("ret", 28, 0x5a),
    ("ctrl", 29, 0x14),
    ("a", 30, 0x1c),
    ("s", 31, 0x1b),
    ("d", 32, 0x23),
    ("f", 33, 0x2b),
    ("g", 34, 0x34),
    ("h", 35, 0x33),
    ("j", 36, 0x3b),
    ("k", 37, 0x42),
    ("l", 38, 0x4b),
    ("semicolon", 39, 0x4c),
    ("apostrophe", 40, 0x52),
    ("grave_accent", 41, 0x0e),
    ("shift", 42, 0x12),
    ("backslash", 43, 0x5d),
    ("z", 44, 0x1a),
    ("x", 45, 0x22),
    ("c", 46, 0x21),
    ("v", 47, 0x2a),
    ("b", 48, 0x32),
    ("n", 49, 0x31),
    ("m", 50, 0x3a),
    ("comma", 51, 0x41),
    ("dot", 52, 0x49),
    ("slash", 53, 0x4a),
    ("shift_r", 54, 0x59),
    ("kp_multiply", 55, 0x7c),
    ("alt", 56, 0x11),
    ("spc", 57, 0x29),
    ("caps_lock", 58, 0x58),
    ("f1", 59, 0x05),
    ("f2", 60, 0x06),
    ("f3", 61, 0x04),
    ("f4", 62, 0x0c),
    ("f5", 63, 0x03),
    ("f6", 64, 0x0b),
    ("f7", 65, 0x83),
    ("f8", 66, 0x0a),
    ("f9", 67, 0x01),
    ("f10", 68, 0x09),
    ("num_lock", 69, 0x77),
    ("scroll_lock", 70, 0x7e),
    ("kp_7", 71, 0x6c),
    ("kp_8", 72, 0x75),
    ("kp_9", 73, 0x7d),
    ("kp_subtract", 74, 0x7b),
    ("kp_4", 75, 0x6b),
    ("kp_5", 76, 0x73),
    ("kp_6", 77, 0x74),
    ("kp_add", 78, 0x79),
    ("kp_1", 79, 0x69),
    ("kp_2", 80, 0x72),
    ("kp_3", 81, 0x7a),
    ("kp_0", 82, 0x70),
    ("kp_decimal", 83, 0x71),
    ("less", 86, 0x61),
    ("f11", 87, 0x78),
    ("f12", 88, 0x07),
    ("ro", 89, 0x51),
    ("henkan", 92, 0x64),
    ("hiragana", 93, 0x13),
    ("muhenkan", 94, 0x67),
    ("kp_enter", 96, 0xe05a),
    ("ctrl_r", 97, 0xe014),
    ("kp_divide", 98, 0xe04a),
    ("print", 99, 0),
    ("alt_r", 100, 0xe011),
    ("home", 102, 0xe06c),
    ("up", 103, 0xe075),
    ("pgup", 104, 0xe07d),
    ("left", 105, 0xe06b),
    ("right", 106, 0xe074),
    ("end", 107, 0xe069),
    ("down", 108, 0xe072),
    ("pgdn", 109, 0xe07a),
    ("insert", 110, 0xe070),
    ("delete", 111, 0xe071),
    ("audiomute", 113, 0xe023),
    ("volumedown", 114, 0xe021),
    ("volumeup", 115, 0xe032),
    ("power", 116, 0xe037),
    ("pause", 119, 0),
    ("yen", 124, 0x6a),
    ("meta_l", 125, 0xe01f),
    ("meta_r", 126, 0xe027),
    ("menu", 127, 0xe02f),
    ("sleep", 142, 0xe03f),
    ("wake", 143, 0xe05e),
];

/// Other names for some keys.
const ALIASES: &[(&str, &str)] = &[
    ("enter", "ret"),
    ("space", "spc"),
    ("escape", "esc"),
    ("compose", "menu"),
    ("sysrq", "print"),
    ("asterisk", "kp_multiply"),
];

impl Key {
    /// The key with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
        KEYS.iter().position(|key| key.0 == name).map(Self)
    }

    /// The key with this key code of Linux's (evdev).
    pub fn from_evdev(code: u16) -> Option<Self> {
        KEYS.iter().position(|key| key.1 == code).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KEYS[self.0].0
    }

    /// Its place in the table, less than 128.
    pub(super) fn number(self) -> usize {
        self.0
    }

    /// Linux's key code.
    pub fn evdev(self) -> u16 {
        KEYS[self.0].1
    }

    /// What the keyboard sends in set 2 when the key goes down, or up; an up that has no code sends nothing.
    pub(super) fn sequence(self, down: bool) -> Vec<u8> {
        match (self.name(), down) {
            ("print", true) => vec![0xe0, 0x12, 0xe0, 0x7c],
            ("print", false) => vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12],
            ("pause", true) => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
            ("pause", false) => vec![],
            _ => {
                let [prefix, code] = KEYS[self.0].2.to_be_bytes();
                let prefix = (prefix == EXTENDED).then_some(prefix);
                prefix.into_iter().chain((!down).then_some(0xf0)).chain([code]).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_unique() {
        for (index, (name, evdev, code)) in KEYS.iter().enumerate() {
            assert_eq!(Key::from_name(name), Some(Key(index)));
            assert_eq!(Key::from_evdev(*evdev), Some(Key(index)));
            assert!(*code == 0 || KEYS.iter().filter(|key| key.2 == *code).count() == 1, "{name}");
        }
        assert!(KEYS.len() < 128);
        assert_eq!(Key::from_name("enter").map(Key::name), Some("ret"));
        assert_eq!((Key::from_name("any"), Key::from_evdev(0)), (None, None));
    }

    #[test]
    fn keys_go_down_and_up() {
        let sequence = |name, down| Key::from_name(name).unwrap().sequence(down);
        assert_eq!((sequence("a", true), sequence("a", false)), (vec![0x1c], vec![0xf0, 0x1c]));
        assert_eq!(sequence("up", false), [0xe0, 0xf0, 0x75]);
        assert_eq!(sequence("f7", true), [0x83]);
        assert_eq!(sequence("pause", false), []);
    }
}
