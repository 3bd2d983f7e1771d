//! Which key a client means: by the X keysym it sends, on a US keyboard, or by the code that the key has on a PC keyboard.
//! Keys, not characters: shift is a key of its own, and the guest's layout decides what comes of both.

use crate::keys::Key;

/// Printable characters by the keys they are on, unshifted and shifted.
const ROWS: &[(u16, &str, &str)] = &[
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (16, "qwertyuiop[]", "QWERTYUIOP{}"),
    (30, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (57, " ", "\u{a0}"),
];

/// Keysyms of X (keysymdef.h) that aren't characters, and the Linux codes of their keys.
const OTHERS: &[(u32, u16)] = &[
    (0xff08, 14),
    (0xff09, 15),
    // Shift and tab.
    (0xfe20, 15),
    (0xff0d, 28),
    (0xff13, 119),
    (0xff6b, 119),
    (0xff14, 70),
    (0xff15, 99),
    (0xff61, 99),
    (0xff1b, 1),
    (0xffff, 111),
    (0xff50, 102),
    (0xff51, 105),
    (0xff52, 103),
    (0xff53, 106),
    (0xff54, 108),
    (0xff55, 104),
    (0xff56, 109),
    (0xff57, 107),
    (0xff63, 110),
    (0xff67, 127),
    (0xff7f, 69),
    (0xff8d, 96),
    (0xff95, 71),
    (0xff96, 75),
    (0xff97, 72),
    (0xff98, 77),
    (0xff99, 80),
    (0xff9a, 73),
    (0xff9b, 81),
    (0xff9c, 79),
    (0xff9d, 76),
    (0xff9e, 82),
    (0xff9f, 83),
    (0xffaa, 55),
    (0xffab, 78),
    (0xffac, 121),
    (0xffad, 74),
    (0xffae, 83),
    (0xffaf, 98),
    (0xffb0, 82),
    (0xffb1, 79),
    (0xffb2, 80),
    (0xffb3, 81),
    (0xffb4, 75),
    (0xffb5, 76),
    (0xffb6, 77),
    (0xffb7, 71),
    (0xffb8, 72),
    (0xffb9, 73),
    (0xffbd, 117),
    (0xffc8, 87),
    (0xffc9, 88),
    (0xffe1, 42),
    (0xffe2, 54),
    (0xffe3, 29),
    (0xffe4, 97),
    (0xffe5, 58),
    (0xffe7, 125),
    (0xffe8, 126),
    (0xffe9, 56),
    (0xffea, 100),
    (0xffeb, 125),
    (0xffec, 126),
    (0xfe03, 100),
    (0xff7e, 100),
];

/// The key for a keysym.
pub(super) fn from_keysym(keysym: u32) -> Option<Key> {
    // F1 to F10 follow each other.
    if let 0xffbe..=0xffc7 = keysym {
        return Some(Key((keysym - 0xffbe) as u16 + 59));
    }
    if let Some((_, code)) = OTHERS.iter().find(|(known, _)| *known == keysym) {
        return Some(Key(*code));
    }
    let character = char::from_u32(keysym).filter(|_| keysym < 0x100)?;
    ROWS.iter().find_map(|(first, plain, shifted)| {
        let place = |row: &str| row.chars().position(|on_key| on_key == character);
        place(plain).or_else(|| place(shifted)).map(|place| Key(first + place as u16))
    })
}

/// Keys whose scan code (set 1) follows a byte 0xe0, by that code, and their Linux codes.
const PREFIXED: &[(u32, u16)] = &[
    (0x1c, 96),
    (0x1d, 97),
    (0x20, 113),
    (0x2e, 114),
    (0x30, 115),
    (0x35, 98),
    (0x37, 99),
    (0x38, 100),
    (0x46, 119),
    (0x47, 102),
    (0x48, 103),
    (0x49, 104),
    (0x4b, 105),
    (0x4d, 106),
    (0x4f, 107),
    (0x50, 108),
    (0x51, 109),
    (0x52, 110),
    (0x53, 111),
    (0x5b, 125),
    (0x5c, 126),
    (0x5d, 127),
    (0x5e, 116),
    (0x5f, 142),
    (0x63, 143),
];

/// The key for a scan code of set 1 as QEMU's extended key event has it: a prefix 0xe0 is the highest bit of the byte.
pub(super) fn from_scan_code(code: u32) -> Option<Key> {
    match code {
        // Linux's codes began as these.
        1..=0x53 | 0x56..=0x58 => Some(Key(code as u16)),
        0x54 => Some(Key(99)),
        0x73 => Some(Key(89)),
        0x70 => Some(Key(93)),
        0x79 => Some(Key(92)),
        0x7b => Some(Key(94)),
        0x7d => Some(Key(124)),
        0x7e => Some(Key(121)),
        0x80..=0xff => PREFIXED.iter().find(|(known, _)| *known == code & 0x7f).map(|(_, linux)| Key(*linux)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(keysym: u32) -> Option<&'static str> {
        from_keysym(keysym).and_then(Key::name)
    }

    #[test]
    fn characters_are_on_the_keys_of_a_us_keyboard() {
        for (character, name) in [
            ('a', "a"),
            ('A', "a"),
            ('!', "1"),
            ('0', "0"),
            ('_', "minus"),
            ('{', "bracket_left"),
            ('"', "apostrophe"),
            ('~', "grave_accent"),
            ('|', "backslash"),
            ('z', "z"),
            ('?', "slash"),
            (' ', "spc"),
        ] {
            assert_eq!(key(u32::from(character)), Some(name), "{character}");
        }
        for printable in 0x20..0x7f {
            assert!(key(printable).is_some(), "{printable:#x}");
        }
    }

    #[test]
    fn other_keys_have_keysyms_of_their_own() {
        for (keysym, name) in
            [(0xff0d, "ret"), (0xff1b, "esc"), (0xffbe, "f1"), (0xffc7, "f10"), (0xffc9, "f12"), (0xffe4, "ctrl_r")]
        {
            assert_eq!(key(keysym), Some(name));
        }
        assert_eq!((key(0xe4), key(0x0100_20ac), key(0)), (None, None, None));
    }

    #[test]
    fn scan_codes_name_keys_whatever_is_printed_on_them() {
        let key = |code| from_scan_code(code).and_then(Key::name);
        assert_eq!((key(1), key(0x1c), key(0x9c)), (Some("esc"), Some("ret"), Some("kp_enter")));
        assert_eq!((key(0xc8), key(0x58), key(0x56)), (Some("up"), Some("f12"), Some("less")));
        assert_eq!((key(0), key(0x55), key(0x1_0000)), (None, None, None));
    }
}
