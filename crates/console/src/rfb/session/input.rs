//! Keys and pointer: what a client presses and where it points, as a keyboard and a mouse or a tablet have it.

use super::Session;
use crate::keys::Key;
use crate::rfb::Output;

/// A relative movement of nothing.
const STILL: i32 = 0x7fff;
/// The right and lower edge of a tablet.
const EDGE: u32 = 0x7fff;

impl Session {
    /// Whether the guest's pointer goes where it is pointed at (a tablet), or moves by so much (a mouse). Until this is
    /// said, it is a mouse.
    pub fn pointer_is_absolute(&mut self, absolute: bool) {
        if self.absolute != absolute {
            self.absolute = absolute;
            self.notices.pointer_type |= self.abilities.pointer_type;
            // Where it was is in the other's terms.
            if let Some((x, y, _)) = &mut self.pointer {
                (*x, *y) = (STILL as u16, STILL as u16);
            }
        }
    }

    /// Lets go of the keys and buttons that the client holds: it is gone, or has to go.
    pub fn release(&mut self) {
        for key in std::mem::take(&mut self.pressed) {
            self.output.push_back(Output::Key { key, down: false });
        }
        let Some((x, y, _)) = self.pointer.take().filter(|(_, _, buttons)| buttons & 7 != 0) else { return };
        self.output.push_back(if self.absolute {
            let (x, y) = self.place(x, y);
            Output::Position { x, y, wheel: 0, buttons: 0 }
        } else {
            Output::Pointer { dx: 0, dy: 0, wheel: 0, buttons: 0 }
        });
    }

    /// A pixel's place on a tablet.
    fn place(&self, x: u16, y: u16) -> (u16, u16) {
        let place = |at: u16, len: u16| (u32::from(at.min(len - 1)) * EDGE / u32::from(len - 1).max(1)) as u16;
        (place(x, self.size.0), place(y, self.size.1))
    }

    pub(super) fn key(&mut self, key: Option<Key>, down: bool) {
        let Some(key) = key else { return };
        if down {
            self.pressed.insert(key);
        } else {
            self.pressed.remove(&key);
        }
        self.output.push_back(Output::Key { key, down });
    }

    pub(super) fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        let (old_x, old_y, old) = self.pointer.replace((x, y, buttons)).unwrap_or((x, y, 0));
        // The wheel is two more buttons, pressed once for each notch.
        let pressed = buttons & !old;
        let wheel = i32::from(pressed & 0x10 != 0) - i32::from(pressed & 0x08 != 0);
        let clicked = wheel != 0 || (buttons ^ old) & 7 != 0;
        let buttons = buttons & 7;
        if self.absolute {
            let (x, y) = self.place(x, y);
            return self.output.push_back(Output::Position { x, y, wheel, buttons });
        }
        let moved = |new: u16, old: u16| i32::from(new) - i32::from(old);
        let (dx, dy) = if self.abilities.pointer_type {
            (i32::from(x) - STILL, i32::from(y) - STILL)
        } else {
            (moved(x, old_x), moved(y, old_y))
        };
        if (dx, dy) != (0, 0) || clicked {
            self.output.push_back(Output::Pointer { dx, dy, wheel, buttons });
        }
    }
}
