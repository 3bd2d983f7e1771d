//! What two engines say to each other, and its binary form: a length of four bytes, a kind, and fields in little-endian
//! order. Decoding checks every bound and never panics. Encryption and sockets are outside.

use std::sync::Arc;

use crate::generation::{Generations, Replica};

/// The oldest and the newest version of this protocol that the engine speaks.
pub const VERSIONS: (u16, u16) = (1, 1);
/// Longest message in bytes, without its length field.
pub const MAX_MESSAGE: usize = 8 << 20;

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Writes these bytes.
    Data(Arc<[u8]>),
    /// Makes `length` bytes read as zeroes. A trim is this with `unmap`: both replicas have to read the same.
    Zeroes {
        /// In bytes.
        length: u64,
        /// The space may be given back.
        unmap: bool,
    },
}

impl Payload {
    /// Bytes of the device it covers.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Payload::Data(bytes) => bytes.len() as u64,
            Payload::Zeroes { length, .. } => *length,
        }
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest version it speaks.
    pub versions: (u16, u16),
    /// Size of the device in bytes.
    pub size: u64,
    /// The highest epoch it has seen.
    pub epoch: u64,
    /// 0 for A, 1 for B, 2 for C.
    pub protocol: u8,
    /// Its disk works.
    pub attached: bool,
    /// State of its data.
    pub replica: Replica,
}

/// How a block stands at the source of a resync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// As at the target.
    Equal,
    /// All zeroes.
    Zero,
    /// These bytes.
    Data(Arc<[u8]>),
}

/// A message between two engines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Message {
    /// First in both directions.
    Hello(Hello),
    /// Part of the bitmap, from `first` block on (a multiple of 8).
    Bitmap { first: u64, bits: Vec<u8> },
    /// The bitmap is complete.
    BitmapEnd,
    /// A write of the primary of `epoch`.
    Write { seq: u64, epoch: u64, offset: u64, payload: Payload },
    /// The peer has the write in memory (protocol B).
    Received { seq: u64 },
    /// The peer's disk has done the write.
    Written { seq: u64 },
    /// What was written before has to be durable before what follows is written.
    Barrier { number: u64 },
    /// It is durable.
    BarrierDone { number: u64 },
    /// A read that the sender can't serve itself.
    Read { seq: u64, offset: u64, length: u64 },
    /// Its answer; `None` if the disk failed.
    ReadReply { seq: u64, data: Option<Arc<[u8]>> },
    /// The target asks for a block that has `digest` at its side.
    SyncRequest { block: u64, digest: [u8; 32] },
    /// The source's answer.
    SyncReply { block: u64, state: BlockState },
    /// The target has the block durably.
    Synced { block: u64 },
    /// The target has everything and took the source's generations, durably.
    SyncFinished,
    /// Asks whether a block is equal (online verify).
    VerifyRequest { block: u64, digest: [u8; 32] },
    /// The answer.
    VerifyReply { block: u64, equal: bool },
    /// The sender's disk failed; it goes on through the receiver.
    Detached,
    /// The sender became primary in this epoch.
    Promoted { epoch: u64 },
    /// The sender is no longer primary.
    Demoted,
    /// A write or promotion came from an epoch older than this.
    Refused { epoch: u64 },
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The length is above [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// The content doesn't fit its kind.
    #[error("a message of kind {0} is malformed")]
    Malformed(u8),
}

struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.0.extend_from_slice(v);
        self
    }
}

impl Message {
    /// Appends the message's binary form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(vec![0; 4]);
        self.body(&mut w);
        let length = u32::try_from(w.0.len() - 4).unwrap_or(u32::MAX);
        w.0[..4].copy_from_slice(&length.to_le_bytes());
        out.append(&mut w.0);
    }

    fn body(&self, w: &mut Writer) {
        match self {
            Message::Hello(h) => hello(h, w.bytes(&[1])),
            Message::Bitmap { first, bits } => _ = w.bytes(&[2]).u64(*first).bytes(bits),
            Message::BitmapEnd => _ = w.bytes(&[3]),
            Message::Write { seq, epoch, offset, payload } => {
                w.bytes(&[4]).u64(*seq).u64(*epoch).u64(*offset);
                match payload {
                    Payload::Data(bytes) => w.bytes(&[0]).bytes(bytes),
                    Payload::Zeroes { length, unmap } => w.bytes(&[1 + u8::from(*unmap)]).u64(*length),
                };
            }
            Message::Received { seq } => _ = w.bytes(&[5]).u64(*seq),
            Message::Written { seq } => _ = w.bytes(&[6]).u64(*seq),
            Message::Barrier { number } => _ = w.bytes(&[7]).u64(*number),
            Message::BarrierDone { number } => _ = w.bytes(&[8]).u64(*number),
            Message::Read { seq, offset, length } => _ = w.bytes(&[9]).u64(*seq).u64(*offset).u64(*length),
            Message::ReadReply { seq, data } => match data {
                Some(data) => _ = w.bytes(&[10]).u64(*seq).bytes(&[1]).bytes(data),
                None => _ = w.bytes(&[10]).u64(*seq).bytes(&[0]),
            },
            Message::SyncRequest { block, digest } => _ = w.bytes(&[11]).u64(*block).bytes(digest),
            Message::SyncReply { block, state } => match state {
                BlockState::Equal => _ = w.bytes(&[12]).u64(*block).bytes(&[0]),
                BlockState::Zero => _ = w.bytes(&[12]).u64(*block).bytes(&[1]),
                BlockState::Data(data) => _ = w.bytes(&[12]).u64(*block).bytes(&[2]).bytes(data),
            },
            Message::Synced { block } => _ = w.bytes(&[13]).u64(*block),
            Message::SyncFinished => _ = w.bytes(&[14]),
            Message::VerifyRequest { block, digest } => _ = w.bytes(&[15]).u64(*block).bytes(digest),
            Message::VerifyReply { block, equal } => _ = w.bytes(&[16]).u64(*block).bytes(&[u8::from(*equal)]),
            Message::Detached => _ = w.bytes(&[17]),
            Message::Promoted { epoch } => _ = w.bytes(&[18]).u64(*epoch),
            Message::Demoted => _ = w.bytes(&[19]),
            Message::Refused { epoch } => _ = w.bytes(&[20]).u64(*epoch),
        }
    }

    /// Takes one message from the front of `input`: the message and how many bytes it took, or `None` if more bytes
    /// are needed.
    ///
    /// # Errors
    ///
    /// If the bytes can't be a message; the connection is then of no more use.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(DecodeError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let kind = body.first().copied().unwrap_or(0);
        let message = parse(body).ok_or(DecodeError::Malformed(kind))?;
        Ok(Some((message, 4 + length)))
    }
}

fn hello(h: &Hello, w: &mut Writer) {
    let (r, g) = (&h.replica, &h.replica.generations);
    w.bytes(&h.versions.0.to_le_bytes()).bytes(&h.versions.1.to_le_bytes()).u64(h.size).u64(h.epoch);
    w.u64(g.current).u64(g.bitmap);
    for old in g.history {
        w.u64(old);
    }
    let flags = [h.attached, r.marked, r.consistent, r.crashed, r.primary, r.discard];
    let flags = flags.iter().enumerate().fold(0, |sum, (n, f)| sum | u8::from(*f) << n);
    w.bytes(&[h.protocol, r.node, flags]);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|a| a[0])
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

fn parse(body: &[u8]) -> Option<Message> {
    let mut r = Reader(body);
    let message = match r.u8()? {
        1 => Message::Hello(parse_hello(&mut r)?),
        2 => Message::Bitmap { first: r.u64()?, bits: r.rest().to_vec() },
        3 => Message::BitmapEnd,
        4 => Message::Write {
            seq: r.u64()?,
            epoch: r.u64()?,
            offset: r.u64()?,
            payload: match r.u8()? {
                0 => Payload::Data(r.rest().into()),
                n @ (1 | 2) => Payload::Zeroes { length: r.u64()?, unmap: n == 2 },
                _ => return None,
            },
        },
        5 => Message::Received { seq: r.u64()? },
        6 => Message::Written { seq: r.u64()? },
        7 => Message::Barrier { number: r.u64()? },
        8 => Message::BarrierDone { number: r.u64()? },
        9 => Message::Read { seq: r.u64()?, offset: r.u64()?, length: r.u64()? },
        10 => Message::ReadReply {
            seq: r.u64()?,
            data: match r.u8()? {
                0 => None,
                1 => Some(r.rest().into()),
                _ => return None,
            },
        },
        11 => Message::SyncRequest { block: r.u64()?, digest: r.array()? },
        12 => Message::SyncReply {
            block: r.u64()?,
            state: match r.u8()? {
                0 => BlockState::Equal,
                1 => BlockState::Zero,
                2 => BlockState::Data(r.rest().into()),
                _ => return None,
            },
        },
        13 => Message::Synced { block: r.u64()? },
        14 => Message::SyncFinished,
        15 => Message::VerifyRequest { block: r.u64()?, digest: r.array()? },
        16 => Message::VerifyReply { block: r.u64()?, equal: r.u8().filter(|b| *b < 2)? == 1 },
        17 => Message::Detached,
        18 => Message::Promoted { epoch: r.u64()? },
        19 => Message::Demoted,
        20 => Message::Refused { epoch: r.u64()? },
        _ => return None,
    };
    r.0.is_empty().then_some(message)
}

fn parse_hello(r: &mut Reader<'_>) -> Option<Hello> {
    let versions = (r.u16()?, r.u16()?);
    let (size, epoch) = (r.u64()?, r.u64()?);
    let mut generations = Generations { current: r.u64()?, bitmap: r.u64()?, ..Generations::default() };
    for old in &mut generations.history {
        *old = r.u64()?;
    }
    let [protocol, node, flags] = r.array()?;
    let flag = |n: u8| flags >> n & 1 == 1;
    let replica = Replica {
        node,
        generations,
        marked: flag(1),
        consistent: flag(2),
        crashed: flag(3),
        primary: flag(4),
        discard: flag(5),
    };
    (flags < 64 && protocol < 3).then_some(Hello { versions, size, epoch, protocol, attached: flag(0), replica })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_overlong_or_unknown_message_is_an_error() {
        assert_eq!(Message::decode(&[255; 8]), Err(DecodeError::TooLong(0xffff_ffff)));
        assert_eq!(Message::decode(&[1, 0, 0, 0, 99]), Err(DecodeError::Malformed(99)));
        assert_eq!(Message::decode(&[0, 0, 0, 0]), Err(DecodeError::Malformed(0)));
        assert_eq!(Message::decode(&[9, 0, 0]), Ok(None));
    }

    proptest! {
        /// Whatever decodes encodes to the same bytes, and nothing panics; kinds are made likely.
        #[test]
        fn decoding_is_the_inverse_of_encoding(kind in 0u8..22, body in prop::collection::vec(0u8..3, 0..140)) {
            let mut bytes = u32::try_from(body.len() + 1).unwrap().to_le_bytes().to_vec();
            bytes.push(kind);
            bytes.extend(&body);
            if let Ok(Some((message, used))) = Message::decode(&bytes) {
                prop_assert_eq!(used, bytes.len());
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn a_write_survives_the_wire_in_pieces(seq: u64, offset: u64, data: Vec<u8>, cut in 0usize..40) {
            let message = Message::Write { seq, epoch: 3, offset, payload: Payload::Data(data.into()) };
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            prop_assert_eq!(Message::decode(&bytes[..bytes.len() - 1 - cut.min(bytes.len() - 1)]), Ok(None));
            let used = bytes.len();
            prop_assert_eq!(Message::decode(&bytes), Ok(Some((message, used))));
        }
    }
}
