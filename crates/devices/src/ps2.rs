//! What is plugged into the keyboard controller: a PS/2 keyboard with the keys by name, and a PS/2 mouse.

mod keyboard;
mod keys;
mod mouse;
mod set3;

pub(crate) use keyboard::{Keyboard, Translation};
pub use keys::Key;
pub use mouse::Buttons;
pub(crate) use mouse::Mouse;

/// The answer to what was understood.
const ACKNOWLEDGE: u8 = 0xfa;
/// The answer to what was not.
const RESEND: u8 = 0xfe;
/// Self-test passed.
const PASSED: u8 = 0xaa;
