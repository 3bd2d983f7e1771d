//! The client's messages (RFC 6143, 7.5; rfbproto and QEMU's extensions), read from its bytes. Their meaning is the
//! session's business.

use super::{Ending, Rect};

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    SetPixelFormat([u8; 16]),
    SetEncodings(Vec<i32>),
    Request {
        incremental: bool,
        area: Rect,
    },
    Key {
        down: bool,
        keysym: u32,
    },
    Pointer {
        buttons: u8,
        x: u16,
        y: u16,
    },
    /// So many bytes follow that nobody wants.
    Skip(u64),
    Continuous {
        enable: bool,
        area: Rect,
    },
    Fence {
        flags: u32,
        payload: Vec<u8>,
    },
    SetDesktopSize,
    /// A key with the code that it has on a PC keyboard.
    ExtendedKey {
        down: bool,
        keysym: u32,
        keycode: u32,
    },
}

/// Longest payload of a fence.
const FENCE: usize = 64;

/// Big-endian values at the beginning of bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    fn rect(&mut self) -> Option<Rect> {
        Some(Rect { x: self.u16()?, y: self.u16()?, width: self.u16()?, height: self.u16()? })
    }
    fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first.to_vec())
    }
}

/// The first message in the bytes, and how many it takes; `None` if more has to come, of which a message needs a quarter
/// of a mebibyte at most.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Message, usize)>, Ending> {
    let mut fields = Fields(bytes);
    let Some(number) = fields.u8() else { return Ok(None) };
    let message = match number {
        0 => set_pixel_format(&mut fields),
        2 => set_encodings(&mut fields),
        3 => request(&mut fields),
        4 => key(&mut fields),
        5 => pointer(&mut fields),
        6 => cut_text(&mut fields),
        150 => continuous(&mut fields),
        248 => match fields.0.get(7) {
            Some(len) if usize::from(*len) > FENCE => return Err(Ending::Malformed),
            _ => fence(&mut fields),
        },
        251 => set_desktop_size(&mut fields),
        255 => match fields.u8() {
            None => None,
            Some(0) => extended_key(&mut fields),
            Some(1) => audio(&mut fields),
            Some(_) => return Err(Ending::Message(number)),
        },
        _ => return Err(Ending::Message(number)),
    };
    Ok(message.map(|message| (message, bytes.len() - fields.0.len())))
}

fn set_pixel_format(fields: &mut Fields<'_>) -> Option<Message> {
    fields.array::<3>()?;
    Some(Message::SetPixelFormat(fields.array()?))
}

fn set_encodings(fields: &mut Fields<'_>) -> Option<Message> {
    fields.u8()?;
    let count = usize::from(fields.u16()?);
    let numbers = fields.bytes(count * 4)?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | i32::from(*byte));
    Some(Message::SetEncodings(numbers.chunks_exact(4).map(number).collect()))
}

fn request(fields: &mut Fields<'_>) -> Option<Message> {
    Some(Message::Request { incremental: fields.u8()? != 0, area: fields.rect()? })
}

fn key(fields: &mut Fields<'_>) -> Option<Message> {
    let down = fields.u8()? != 0;
    fields.u16()?;
    Some(Message::Key { down, keysym: fields.u32()? })
}

fn pointer(fields: &mut Fields<'_>) -> Option<Message> {
    Some(Message::Pointer { buttons: fields.u8()?, x: fields.u16()?, y: fields.u16()? })
}

/// What was cut at the client; a negative length is that of the extended clipboard.
fn cut_text(fields: &mut Fields<'_>) -> Option<Message> {
    fields.array::<3>()?;
    let len = i32::from_be_bytes(fields.array()?);
    Some(Message::Skip(u64::from(len.unsigned_abs())))
}

fn continuous(fields: &mut Fields<'_>) -> Option<Message> {
    Some(Message::Continuous { enable: fields.u8()? != 0, area: fields.rect()? })
}

fn fence(fields: &mut Fields<'_>) -> Option<Message> {
    fields.array::<3>()?;
    let flags = fields.u32()?;
    let len = usize::from(fields.u8()?);
    Some(Message::Fence { flags, payload: fields.bytes(len)? })
}

fn set_desktop_size(fields: &mut Fields<'_>) -> Option<Message> {
    fields.array::<5>()?;
    let screens = usize::from(fields.u8()?);
    fields.u8()?;
    fields.bytes(screens * 16)?;
    Some(Message::SetDesktopSize)
}

fn extended_key(fields: &mut Fields<'_>) -> Option<Message> {
    let down = fields.u16()? != 0;
    Some(Message::ExtendedKey { down, keysym: fields.u32()?, keycode: fields.u32()? })
}

/// Sound on, off or its format: there is none, which clients aren't told otherwise.
fn audio(fields: &mut Fields<'_>) -> Option<Message> {
    let operation = fields.u16()?;
    Some(Message::Skip(if operation == 2 { 6 } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_when_they_are_whole() {
        let key = [4, 1, 0, 0, 0, 0, 0xff, 0x0d, 3];
        for len in 0..8 {
            assert_eq!(parse(&key[..len]), Ok(None));
        }
        assert_eq!(parse(&key), Ok(Some((Message::Key { down: true, keysym: 0xff0d }, 8))));
        let encodings = [2, 0, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0x21];
        assert_eq!(parse(&encodings), Ok(Some((Message::SetEncodings(vec![16, -223]), 12))));
        assert_eq!(parse(&[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]), Ok(Some((Message::Skip(2), 8))));
        let fence = [248, 0, 0, 0, 0x80, 0, 0, 1, 2, 7, 8];
        assert_eq!(parse(&fence), Ok(Some((Message::Fence { flags: 0x8000_0001, payload: vec![7, 8] }, 11))));
        assert_eq!(parse(&[255, 1, 0, 2, 3, 2, 0, 0, 0xac, 0x44]), Ok(Some((Message::Skip(6), 4))));
        let resize = [251, 0, 4, 0, 3, 0, 1, 0];
        assert_eq!(parse(&[&resize[..], &[0; 15]].concat()), Ok(None));
        assert_eq!(parse(&[&resize[..], &[0; 16]].concat()), Ok(Some((Message::SetDesktopSize, 24))));
    }

    #[test]
    fn what_isnt_known_ends_the_session() {
        assert_eq!(parse(&[1]), Err(Ending::Message(1)));
        assert_eq!(parse(&[255, 9]), Err(Ending::Message(255)));
        assert_eq!(parse(&[248, 0, 0, 0, 0, 0, 0, 0, 65]), Err(Ending::Malformed));
    }
}
