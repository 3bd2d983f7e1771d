//! NBD messages: bytes to types and back, with a bound on everything that a peer can choose. No I/O, no state.

/// `NBDMAGIC`, the first thing a server says.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the second, and the head of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The head of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The head of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The head of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The head of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zeros after an export name.
pub const FLAG_NO_ZEROES: u16 = 2;

/// The most data an option may carry.
pub const MAX_OPTION: u32 = 64 << 10;
/// The longest name of an export or a context (the protocol's own limit).
pub const MAX_NAME: usize = 4096;
/// The most contexts that one option may ask for.
pub const MAX_QUERIES: u32 = 64;
/// The longest data of one read or write (what nearly all clients assume at most).
pub const MAX_TRANSFER: u32 = 32 << 20;
/// The most extents in one block status reply.
pub const MAX_EXTENTS: usize = 4096;

/// Bytes of a request.
pub const REQUEST_LEN: usize = 28;
/// Bytes of a chunk's head.
pub const CHUNK_LEN: usize = 20;
/// Bytes of a simple reply.
pub const SIMPLE_REPLY_LEN: usize = 16;

/// The context that tells data from holes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Extent flag of `base:allocation`: a hole.
pub const STATE_HOLE: u32 = 1;
/// Extent flag of `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 2;

/// What a peer did that the protocol forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol violation: {0}")]
pub struct Violation(pub String);

type Result<T> = std::result::Result<T, Violation>;

fn violation<T>(what: impl Into<String>) -> Result<T> {
    Err(Violation(what.into()))
}

/// Takes big-endian numbers off the front of a message.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `len` bytes.
    ///
    /// # Errors
    /// The message ends before.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.0.split_at_checked(len) else { return violation("a message is too short") };
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// The next 16 bits.
    ///
    /// # Errors
    /// As for [`Reader::bytes`].
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    ///
    /// # Errors
    /// As for [`Reader::bytes`].
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    ///
    /// # Errors
    /// As for [`Reader::bytes`].
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A name with its length before it.
    ///
    /// # Errors
    /// Too long, too short, or not UTF-8.
    pub fn name(&mut self) -> Result<&'a str> {
        let len = self.u32()? as usize;
        if len > MAX_NAME {
            return violation(format!("a name of {len} bytes"));
        }
        std::str::from_utf8(self.bytes(len)?).or_else(|_| violation("a name is not UTF-8"))
    }

    /// Says that this is all.
    ///
    /// # Errors
    /// There is more.
    pub fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { violation("a message is too long") }
    }
}

/// Numbers of options.
pub mod option {
    #![allow(missing_docs)]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies to options.
pub mod option_reply {
    #![allow(missing_docs)]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub const ERR_POLICY: u32 = 1 << 31 | 2;
    pub const ERR_INVALID: u32 = 1 << 31 | 3;
    pub const ERR_TLS_REQD: u32 = 1 << 31 | 5;
    pub const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    pub const ERR_TOO_BIG: u32 = 1 << 31 | 9;
}

/// Kinds of information about an export.
pub mod info {
    #![allow(missing_docs)]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub mod transmission {
    #![allow(missing_docs)]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Numbers of commands.
pub mod command {
    #![allow(missing_docs)]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod command_flag {
    #![allow(missing_docs)]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of chunks.
pub mod chunk {
    #![allow(missing_docs)]
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 1 << 15 | 1;
    pub const ERROR_OFFSET: u16 = 1 << 15 | 2;
}

/// The protocol's error numbers.
pub mod errno {
    #![allow(missing_docs)]
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const ENOMEM: u32 = 12;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
}

/// A request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// [`command_flag`].
    pub flags: u16,
    /// [`command`].
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u32,
}

impl Request {
    /// Reads the bytes.
    ///
    /// # Errors
    /// A wrong magic number.
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let magic = reader.u32()?;
        if magic != REQUEST_MAGIC {
            return violation(format!("a request begins with {magic:#x}"));
        }
        Ok(Self {
            flags: reader.u16()?,
            command: reader.u16()?,
            cookie: reader.u64()?,
            offset: reader.u64()?,
            len: reader.u32()?,
        })
    }

    /// The bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// The bytes of data that follow the head.
    pub fn payload(&self) -> u32 {
        if self.command == command::WRITE { self.len } else { 0 }
    }
}

/// A simple reply.
pub fn simple_reply(error: u32, cookie: u64) -> [u8; SIMPLE_REPLY_LEN] {
    let mut bytes = [0; SIMPLE_REPLY_LEN];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The head of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Whether it is the last of its reply.
    pub done: bool,
    /// [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes that follow.
    pub len: u32,
}

impl Chunk {
    /// The bytes.
    pub fn encode(&self) -> [u8; CHUNK_LEN] {
        let mut bytes = [0; CHUNK_LEN];
        bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&u16::from(self.done).to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// What follows the magic number.
    ///
    /// # Errors
    /// Longer than any answer to what we ask.
    pub fn parse_rest(bytes: &[u8; CHUNK_LEN - 4]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let flags = reader.u16()?;
        let parsed =
            Self { done: flags & chunk::DONE != 0, kind: reader.u16()?, cookie: reader.u64()?, len: reader.u32()? };
        if parsed.len > MAX_TRANSFER + 8 {
            return violation(format!("a chunk of {} bytes", parsed.len));
        }
        Ok(parsed)
    }
}

/// An option's head: its number and the length of its data.
///
/// # Errors
/// A wrong magic number.
pub fn parse_option(bytes: &[u8; 16]) -> Result<(u32, u32)> {
    let mut reader = Reader(bytes);
    if reader.u64()? != OPTION_MAGIC {
        return violation("an option has no magic number");
    }
    Ok((reader.u32()?, reader.u32()?))
}

/// The bytes of an option.
pub fn encode_option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The bytes of a reply to an option.
pub fn encode_option_reply(number: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The head of a reply to an option: the option, the type, the length of the data.
///
/// # Errors
/// A wrong magic number, too much data.
pub fn parse_option_reply(bytes: &[u8; 20]) -> Result<(u32, u32, u32)> {
    let mut reader = Reader(bytes);
    if reader.u64()? != OPTION_REPLY_MAGIC {
        return violation("a reply to an option has no magic number");
    }
    let (number, kind, len) = (reader.u32()?, reader.u32()?, reader.u32()?);
    if len > MAX_OPTION {
        return violation(format!("a reply to an option carries {len} bytes"));
    }
    Ok((number, kind, len))
}

/// The data of `INFO` and `GO`: the export's name and the kinds of information wanted.
///
/// # Errors
/// Malformed data.
pub fn parse_go(data: &[u8]) -> Result<(&str, Vec<u16>)> {
    let mut reader = Reader(data);
    let name = reader.name()?;
    let count = reader.u16()?;
    if reader.0.len() != usize::from(count) * 2 {
        return violation("an option's list has the wrong length");
    }
    let wanted = (0..count).map(|_| reader.u16()).collect::<Result<_>>()?;
    Ok((name, wanted))
}

/// The bytes that [`parse_go`] takes.
pub fn encode_go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// The data of the two context options: the export's name and the queries.
///
/// # Errors
/// Malformed data, too many queries.
pub fn parse_contexts(data: &[u8]) -> Result<(&str, Vec<&str>)> {
    let mut reader = Reader(data);
    let name = reader.name()?;
    let count = reader.u32()?;
    if count > MAX_QUERIES {
        return violation(format!("{count} contexts are asked for"));
    }
    let queries = (0..count).map(|_| reader.name()).collect::<Result<_>>()?;
    reader.end()?;
    Ok((name, queries))
}

/// The bytes that [`parse_contexts`] takes.
pub fn encode_contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

/// One piece of information about an export, as a server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportInfo {
    /// Size in bytes and [`transmission`] flags.
    Export(u64, u16),
    /// Minimal, preferred and maximal length of requests in bytes.
    BlockSize(u32, u32, u32),
    /// Anything else.
    Other,
}

impl ExportInfo {
    /// Reads the bytes.
    ///
    /// # Errors
    /// Malformed data.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut reader = Reader(data);
        match reader.u16()? {
            info::EXPORT => {
                let parsed = Self::Export(reader.u64()?, reader.u16()?);
                reader.end()?;
                Ok(parsed)
            }
            info::BLOCK_SIZE => {
                let (minimum, preferred, maximum) = (reader.u32()?, reader.u32()?, reader.u32()?);
                reader.end()?;
                if !minimum.is_power_of_two() || minimum > 64 << 10 || maximum < minimum {
                    return violation(format!("block sizes {minimum}, {preferred}, {maximum}"));
                }
                Ok(Self::BlockSize(minimum, preferred, maximum))
            }
            _ => Ok(Self::Other),
        }
    }
}

/// The extents of a block status chunk (length and flags each), checked against the length asked for.
///
/// # Errors
/// Malformed data, an empty extent, another context than `context`.
pub fn parse_block_status(data: &[u8], context: u32) -> Result<Vec<(u32, u32)>> {
    let mut reader = Reader(data);
    if reader.u32()? != context {
        return violation("a block status of a context that was not asked for");
    }
    if reader.0.is_empty() || !reader.0.len().is_multiple_of(8) || reader.0.len() / 8 > 1 << 20 {
        return violation("a block status of the wrong length");
    }
    let mut extents = Vec::with_capacity(reader.0.len() / 8);
    while !reader.0.is_empty() {
        let (len, flags) = (reader.u32()?, reader.u32()?);
        if len == 0 {
            return violation("an empty extent");
        }
        extents.push((len, flags));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let request = Request { flags: 1, command: command::WRITE, cookie: 7, offset: 1 << 40, len: 512 };
        assert_eq!(Request::parse(&request.encode()), Ok(request));
        assert_eq!(request.payload(), 512);
        assert_eq!(parse_go(&encode_go("disk", &[info::NAME])), Ok(("disk", vec![info::NAME])));
        let contexts = encode_contexts("", &[BASE_ALLOCATION]);
        assert_eq!(parse_contexts(&contexts), Ok(("", vec![BASE_ALLOCATION])));
        let chunk = Chunk { done: true, kind: chunk::OFFSET_DATA, cookie: 3, len: 4 };
        let bytes = chunk.encode();
        let mut rest = [0; CHUNK_LEN - 4];
        rest.copy_from_slice(&bytes[4..]);
        assert_eq!(Chunk::parse_rest(&rest), Ok(chunk));
    }

    #[test]
    fn hostile_lengths_are_refused() {
        assert!(parse_contexts(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(parse_go(&[0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(parse_block_status(&[0, 0, 0, 1], 1).is_err());
        assert!(parse_block_status(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 1).is_err());
        let chunk = Chunk { done: true, kind: 1, cookie: 0, len: u32::MAX }.encode();
        let mut rest = [0; CHUNK_LEN - 4];
        rest.copy_from_slice(&chunk[4..]);
        assert!(Chunk::parse_rest(&rest).is_err());
        assert!(ExportInfo::parse(&[0, 3, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
