//! Rectangles of the picture as bytes, in the encoding that a client likes best. A client's compressed encodings each
//! have a stream of their own that goes on from rectangle to rectangle, which is why an [`Encoder`] belongs to one client.

mod deflate;
mod hextile;
mod palette;
mod raw;
mod tight;
mod zlib;
mod zrle;

use super::pixel::Converter;
use super::{Picture, Rect};
use deflate::Deflate;

const COPY_RECT: i32 = 1;

/// An encoding of rectangles (RFC 6143, 7.7; Zlib and Tight as in rfbproto).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Raw,
    Hextile,
    Zlib,
    Zrle,
    Tight,
}

impl Encoding {
    /// By its number in messages.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Raw,
            5 => Self::Hextile,
            6 => Self::Zlib,
            7 => Self::Tight,
            16 => Self::Zrle,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            Self::Raw => 0,
            Self::Hextile => 5,
            Self::Zlib => 6,
            Self::Tight => 7,
            Self::Zrle => 16,
        }
    }

    /// The parts in which a rectangle of the picture is sent: Tight has limits to their size.
    pub(super) fn parts(self, picture: Picture<'_>, rect: Rect) -> Vec<Rect> {
        if self == Self::Tight { tight::parts(picture, rect) } else { vec![rect] }
    }
}

/// How hard to work, as clients ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort {
    /// 0 to 9, as of zlib.
    pub(super) compression: u32,
    /// What JPEG may lose, 0 (most) to 9; without it, nothing is lost.
    pub(super) quality: Option<u8>,
}

impl Default for Effort {
    fn default() -> Self {
        Self { compression: 3, quality: None }
    }
}

/// A client's encoder.
#[derive(Default)]
pub(super) struct Encoder {
    zlib: Deflate,
    zrle: Deflate,
    tight: [Deflate; 3],
    pixels: Vec<u32>,
    bytes: Vec<u8>,
}

impl Encoder {
    /// Writes a rectangle that lies inside of the picture, with its header.
    pub(super) fn encode(
        &mut self,
        encoding: Encoding,
        effort: Effort,
        converter: &Converter,
        picture: Picture<'_>,
        rect: Rect,
        out: &mut Vec<u8>,
    ) {
        header(rect, encoding.number(), out);
        match encoding {
            Encoding::Raw => raw::encode(converter, picture, rect, out),
            Encoding::Hextile => hextile::encode(converter, picture, rect, out),
            Encoding::Zlib => self.zlib(effort, converter, picture, rect, out),
            Encoding::Zrle => self.zrle(effort, converter, picture, rect, out),
            Encoding::Tight => self.tight(effort, converter, picture, rect, out),
        }
    }
}

/// Writes a rectangle's header.
pub(super) fn header(rect: Rect, encoding: i32, out: &mut Vec<u8>) {
    for value in [rect.x, rect.y, rect.width, rect.height] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.extend_from_slice(&encoding.to_be_bytes());
}

/// Writes a rectangle that the client is to copy from its own picture (RFC 6143, 7.7.2), straight up or down from row `from`.
pub(super) fn copy_rect(rect: Rect, from: u16, out: &mut Vec<u8>) {
    header(rect, COPY_RECT, out);
    out.extend_from_slice(&rect.x.to_be_bytes());
    out.extend_from_slice(&from.to_be_bytes());
}

/// The tiles of a rectangle, row by row from the top left; those at the right and lower edge may be smaller.
fn tiles(rect: Rect, side: u16) -> impl Iterator<Item = Rect> {
    let step = usize::from(side);
    (0..rect.height).step_by(step).flat_map(move |y| {
        (0..rect.width).step_by(step).map(move |x| Rect {
            x: rect.x + x,
            y: rect.y + y,
            width: side.min(rect.width - x),
            height: side.min(rect.height - y),
        })
    })
}

#[cfg(test)]
pub(super) mod tests;
