//! The terminal as a serial console: raw mode while the VM runs, put back whatever happens, and the escape character.

use std::io::stdin;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Puts the terminal back when dropped. Does nothing where standard input is no terminal.
pub struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    /// Every key goes to the guest from now on, ^C too.
    #[must_use]
    pub fn enter() -> Self {
        let Ok(before) = tcgetattr(stdin()) else { return Self { before: None } };
        let mut raw = before.clone();
        raw.make_raw();
        match tcsetattr(stdin(), OptionalActions::Now, &raw) {
            Ok(()) => Self { before: Some(before) },
            Err(_) => Self { before: None },
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nobody left to tell.
            let _ = tcsetattr(stdin(), OptionalActions::Drain, before);
        }
    }
}

/// What typing means after the escape character was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A byte for the guest.
    Byte(u8),
    /// A break condition.
    Break,
    /// Change between the guest and the monitor.
    Switch,
    /// End the VM.
    Quit,
    /// Show what the escape character can do.
    Help,
}

const ESCAPE: u8 = 1;

/// Takes commands after Ctrl-A out of what is typed, as QEMU's multiplexed console has them.
#[derive(Debug, Default)]
pub(crate) struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// What this byte means, if it's complete.
    pub(crate) fn take(&mut self, byte: u8) -> Option<Typed> {
        if !std::mem::take(&mut self.escaped) {
            if byte == ESCAPE {
                self.escaped = true;
                return None;
            }
            return Some(Typed::Byte(byte));
        }
        match byte {
            b'c' => Some(Typed::Switch),
            b'x' => Some(Typed::Quit),
            b'b' => Some(Typed::Break),
            b'h' | b'?' => Some(Typed::Help),
            ESCAPE | b'a' => Some(Typed::Byte(ESCAPE)),
            _ => None,
        }
    }
}

/// What [`Typed::Help`] shows.
pub(crate) const HELP: &str = "\r\nC-a h    print this help\r\nC-a x    end the VM\r\nC-a c    change to the monitor and back\r\nC-a b    send a break\r\nC-a C-a  send C-a\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_character_hides_commands() {
        let mut filter = EscapeFilter::default();
        let typed: Vec<_> = b"a\x01x\x01\x01\x01b\x01qz".iter().filter_map(|&byte| filter.take(byte)).collect();
        let expected = [Typed::Byte(b'a'), Typed::Quit, Typed::Byte(1), Typed::Break, Typed::Byte(b'z')];
        assert_eq!(typed, expected);
    }
}
