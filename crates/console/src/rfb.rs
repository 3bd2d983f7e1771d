//! The server's side of the RFB protocol, which VNC viewers speak (RFC 6143, the community's rfbproto document, and the
//! extensions that QEMU documents there): a [`Session`] for each client. Who carries its bytes, draws the picture and
//! presses the keys is not known here.

mod auth;
mod encode;
mod handshake;
mod keysym;
mod messages;
mod pixel;
mod region;
mod scroll;
mod session;
mod shown;

pub use auth::challenge_response;
pub use region::Rect;
pub use session::{Session, Settings, Wants};

use crate::keys::Key;

/// What a session wants of whoever carries its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes for the client.
    Send(Vec<u8>),
    /// The connection is to turn to TLS once all before is sent: [`Session::take_unread`] belongs to it, then
    /// [`Session::encrypted`] goes on.
    Encrypt,
    /// The client has proved itself and is let in; without `shared`, the others are to go.
    Enter {
        /// Others may stay.
        shared: bool,
    },
    /// A key goes down or up.
    Key {
        /// The key.
        key: Key,
        /// It goes down.
        down: bool,
    },
    /// The mouse moves, its wheel turns, or a button changes.
    Pointer {
        /// Pixels to the right.
        dx: i32,
        /// Pixels down.
        dy: i32,
        /// Notches towards the user.
        wheel: i32,
        /// Left, middle and right button, from bit 0 on.
        buttons: u8,
    },
    /// The pointer is at a place, its wheel turns, or a button changes; only after [`Session::pointer_is_absolute`].
    Position {
        /// From 0 at the left edge to 32767 at the right one.
        x: u16,
        /// From 0 at the upper edge to 32767 at the lower one.
        y: u16,
        /// Notches towards the user.
        wheel: i32,
        /// Left, middle and right button, from bit 0 on.
        buttons: u8,
    },
    /// The session is over.
    Close(Ending),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// What came is no RFB.
    #[error("it speaks no RFB")]
    Version,
    /// The client chose a security type that wasn't offered.
    #[error("it wants a security type that isn't offered")]
    Security,
    /// The password is wrong.
    #[error("wrong password")]
    Password,
    /// A message of this number isn't known.
    #[error("it sent an unknown message ({0})")]
    Message(u8),
    /// A message has a value that makes no sense.
    #[error("it sent a message that makes no sense")]
    Malformed,
}

/// The picture to show.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Pixels row by row, each 0x00RRGGBB; `width * height` of them.
    pub pixels: &'a [u32],
}

impl Picture<'_> {
    /// The columns of a rectangle in one of its rows, counted from its top; inside of the picture.
    fn row(&self, rect: Rect, row: usize) -> &[u32] {
        let start = (usize::from(rect.y) + row) * self.width + usize::from(rect.x);
        &self.pixels[start..start + usize::from(rect.width)]
    }

    /// All pixels of a rectangle, row by row.
    fn copy(&self, rect: Rect, into: &mut Vec<u32>) {
        into.clear();
        (0..usize::from(rect.height)).for_each(|row| into.extend_from_slice(self.row(rect, row)));
    }
}
