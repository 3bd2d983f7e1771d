//! The names of keys, as QEMU's `sendkey` and QMP's `QKeyCode` spell them, and their numbers, which are Linux's key codes
//! (`KEY_*` of the kernel's input-event-codes.h).

/// A key by its Linux key code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u16);

/// Name and code; the first name of a code is the one it is printed with.
const NAMES: &[(&str, u16)] = &[
    ("esc", 1),
    ("1", 2),
    ("2", 3),
    ("3", 4),
    ("4", 5),
    ("5", 6),
    ("6", 7),
    ("7", 8),
    ("8", 9),
    ("9", 10),
    ("0", 11),
    ("minus", 12),
    ("equal", 13),
    ("backspace", 14),
    ("tab", 15),
    ("q", 16),
    ("w", 17),
    ("e", 18),
    ("r", 19),
    ("t", 20),
    ("y", 21),
    ("u", 22),
    ("i", 23),
    ("o", 24),
    ("p", 25),
    ("bracket_left", 26),
    ("bracket_right", 27),
    ("ret", 28),
    ("ctrl", 29),
    ("a", 30),
    ("s", 31),
    ("d", 32),
    ("f", 33),
    ("g", 34),
    ("h", 35),
    ("j", 36),
    ("k", 37),
    ("l", 38),
    ("semicolon", 39),
    ("apostrophe", 40),
    ("grave_accent", 41),
    ("shift", 42),
    ("backslash", 43),
    ("z", 44),
    ("x", 45),
    ("c", 46),
    ("v", 47),
    ("b", 48),
    ("n", 49),
    ("m", 50),
    ("comma", 51),
    ("dot", 52),
    ("slash", 53),
    ("shift_r", 54),
    ("kp_multiply", 55),
    ("alt", 56),
    ("spc", 57),
    ("caps_lock", 58),
    ("f1", 59),
    ("f2", 60),
    ("f3", 61),
    ("f4", 62),
    ("f5", 63),
    ("f6", 64),
    ("f7", 65),
    ("f8", 66),
    ("f9", 67),
    ("f10", 68),
    ("num_lock", 69),
    ("scroll_lock", 70),
    ("kp_7", 71),
    ("kp_8", 72),
    ("kp_9", 73),
    ("kp_subtract", 74),
    ("kp_4", 75),
    ("kp_5", 76),
    ("kp_6", 77),
    ("kp_add", 78),
    ("kp_1", 79),
    ("kp_2", 80),
    ("kp_3", 81),
    ("kp_0", 82),
    ("kp_decimal", 83),
    ("less", 86),
    ("f11", 87),
    ("f12", 88),
    ("ro", 89),
    ("henkan", 92),
    ("katakanahiragana", 93),
    ("muhenkan", 94),
    ("kp_comma", 121),
    ("kp_enter", 96),
    ("ctrl_r", 97),
    ("kp_divide", 98),
    ("print", 99),
    ("sysrq", 99),
    ("alt_r", 100),
    ("home", 102),
    ("up", 103),
    ("pgup", 104),
    ("left", 105),
    ("right", 106),
    ("end", 107),
    ("down", 108),
    ("pgdn", 109),
    ("insert", 110),
    ("delete", 111),
    ("kp_equals", 117),
    ("pause", 119),
    ("yen", 124),
    ("meta_l", 125),
    ("meta_r", 126),
    ("menu", 127),
    ("compose", 127),
    ("audiomute", 113),
    ("volumedown", 114),
    ("volumeup", 115),
    ("power", 116),
    ("sleep", 142),
    ("wake", 143),
];

impl Key {
    /// The key with this name; characters that are no names but easy to type (`-`, `.`, `<`) are known too.
    pub fn named(name: &str) -> Option<Self> {
        let name = match name {
            "-" => "minus",
            "=" => "equal",
            "[" => "bracket_left",
            "]" => "bracket_right",
            ";" => "semicolon",
            "'" => "apostrophe",
            "`" => "grave_accent",
            "\\" => "backslash",
            "," => "comma",
            "." => "dot",
            "/" => "slash",
            "*" | "asterisk" => "kp_multiply",
            "<" => "less",
            name => name,
        };
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, code)| Self(*code))
    }

    /// Its name, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(_, code)| *code == self.0).map(|(name, _)| *name)
    }

    /// All names, for completion and for the schema.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_go_both_ways() {
        assert_eq!(Key::named("ctrl"), Some(Key(29)));
        assert_eq!(Key::named("-"), Some(Key(12)));
        assert_eq!(Key::named("sysrq").and_then(Key::name), Some("print"));
        assert_eq!(Key::named("nothing"), None);
        for name in Key::names() {
            assert!(Key::named(name).and_then(Key::name).is_some(), "{name}");
        }
    }
}
