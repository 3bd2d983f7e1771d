//! The client's half of the handshake. Nothing of the transmission phase.

use std::io::{IoSlice, Read};
use std::time::Duration;

use crate::nbd::connect::Address;
use crate::nbd::socket::Socket;
use crate::nbd::wire::{self, ExportInfo, Reader, Violation, info, option, option_reply, transmission};
use crate::{Error, Result};

/// How long a server may take for the handshake.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most replies to one option.
const MAX_REPLIES: usize = 1024;

/// What the server said of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) size: u64,
    pub(super) flags: u16,
    pub(super) structured: bool,
    /// The identifier of `base:allocation`, where the server has it.
    pub(super) context: Option<u32>,
    pub(super) block_size: u32,
    pub(super) preferred: u32,
    pub(super) max_transfer: u32,
}

/// Connects and chooses the export.
pub(super) fn connect(address: &Address) -> Result<(Socket, Greeting)> {
    let socket = address.connect()?;
    let greeting = greet_at(&socket, address)?;
    Ok((socket, greeting))
}

/// Chooses the export over a connection, naming the address in errors.
pub(super) fn greet_at(socket: &Socket, address: &Address) -> Result<Greeting> {
    let named = |error: Error| match error {
        Error::Io { operation, source } => Error::Io { operation: format!("{operation} at {address}"), source },
        Error::Invalid(why) => Error::Invalid(format!("{address}: {why}")),
        other => other,
    };
    greet(socket, &address.export).map_err(named)
}

/// Speaks until the export is chosen.
fn greet(socket: &Socket, export: &str) -> Result<Greeting> {
    socket.set_timeout(Some(TIMEOUT)).map_err(lost)?;
    let mut hello = [0; 18];
    receive(socket, &mut hello)?;
    let mut reader = Reader(&hello);
    let mut parse = || Ok((reader.u64()?, reader.u64()?, reader.u16()?));
    let (magic, style, flags) = parse().map_err(broken)?;
    if magic != wire::MAGIC {
        return Err(broken(Violation("this is no NBD server".into())));
    }
    if style != wire::OPTION_MAGIC || flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(Error::Unsupported("the NBD server speaks only the old style of the protocol".into()));
    }
    let answer = u32::from(flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES));
    send(socket, &answer.to_be_bytes())?;
    let structured = ask(socket, option::STRUCTURED_REPLY, &[], |_, _| Ok(()))?.is_ok();
    let mut context = None;
    if structured {
        let data = wire::encode_contexts(export, &[wire::BASE_ALLOCATION]);
        // A server that knows no contexts may refuse; then everything counts as data.
        let _ = ask(socket, option::SET_META_CONTEXT, &data, |kind, data| {
            let mut reader = Reader(data);
            if kind == option_reply::META_CONTEXT {
                let id = reader.u32()?;
                if reader.0 == wire::BASE_ALLOCATION.as_bytes() {
                    context = Some(id);
                }
            }
            Ok(())
        })?;
    }
    let greeting = go(socket, export, structured, context)?;
    socket.set_timeout(None).map_err(lost)?;
    Ok(greeting)
}

fn go(socket: &Socket, export: &str, structured: bool, context: Option<u32>) -> Result<Greeting> {
    let mut greeting = Greeting {
        size: 0,
        flags: 0,
        structured,
        context,
        block_size: 1,
        preferred: 4096,
        max_transfer: wire::MAX_TRANSFER,
    };
    let mut told = false;
    let outcome = ask(socket, option::GO, &wire::encode_go(export, &[info::BLOCK_SIZE]), |kind, data| {
        if kind == option_reply::INFO {
            match ExportInfo::parse(data)? {
                ExportInfo::Export(size, flags) => {
                    (greeting.size, greeting.flags, told) = (size, flags, true);
                }
                ExportInfo::BlockSize(minimum, preferred, maximum) => {
                    greeting.block_size = minimum;
                    greeting.preferred = preferred.clamp(512, wire::MAX_TRANSFER);
                    greeting.max_transfer = maximum.clamp(minimum, wire::MAX_TRANSFER) / minimum * minimum;
                }
                ExportInfo::Other => {}
            }
        }
        Ok(())
    })?;
    match outcome {
        Ok(()) if told && greeting.size <= i64::MAX as u64 => Ok(greeting),
        Ok(()) => Err(broken(Violation("the server doesn't say how large the export is".into()))),
        Err((option_reply::ERR_UNSUP, _)) => old_way(socket, export, greeting),
        Err((option_reply::ERR_TLS_REQD, _)) => {
            Err(Error::Unsupported("the NBD server wants TLS, which is not supported".into()))
        }
        Err((option_reply::ERR_UNKNOWN, words)) => {
            Err(Error::Invalid(format!("the NBD server has no export '{export}'{words}")))
        }
        Err((number, words)) => Err(Error::Invalid(format!("the NBD server refuses: error {:#x}{words}", number))),
    }
}

/// Chooses the export as servers from before `GO` want it.
fn old_way(socket: &Socket, export: &str, mut greeting: Greeting) -> Result<Greeting> {
    send(socket, &wire::encode_option(option::EXPORT_NAME, export.as_bytes()))?;
    let mut answer = [0; 10];
    receive(socket, &mut answer)?;
    let mut reader = Reader(&answer);
    let mut parse = || Ok((reader.u64()?, reader.u16()?));
    (greeting.size, greeting.flags) = parse().map_err(broken)?;
    if greeting.size > i64::MAX as u64 || greeting.flags & transmission::HAS_FLAGS == 0 {
        return Err(broken(Violation("the server says nonsense of the export".into())));
    }
    Ok(greeting)
}

/// What became of an option: done, or refused with a number and words.
type Outcome = std::result::Result<(), (u32, String)>;

/// Sends an option and takes the replies to it.
fn ask(
    socket: &Socket,
    number: u32,
    data: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> std::result::Result<(), Violation>,
) -> Result<Outcome> {
    send(socket, &wire::encode_option(number, data))?;
    for _ in 0..MAX_REPLIES {
        let mut head = [0; 20];
        receive(socket, &mut head)?;
        let (of, kind, len) = wire::parse_option_reply(&head).map_err(broken)?;
        if of != number {
            return Err(broken(Violation(format!("a reply to option {of}, which was not sent"))));
        }
        let mut data = vec![0; len as usize];
        receive(socket, &mut data)?;
        if kind == option_reply::ACK {
            return Ok(Ok(()));
        }
        if kind & (1 << 31) != 0 {
            let words = String::from_utf8_lossy(&data);
            let words = if words.is_empty() { String::new() } else { format!(": {}", words.escape_debug()) };
            return Ok(Err((kind, words)));
        }
        each(kind, &data).map_err(broken)?;
    }
    Err(broken(Violation("replies without end".into())))
}

fn broken(violation: Violation) -> Error {
    lost(std::io::Error::other(violation))
}

fn lost(source: std::io::Error) -> Error {
    Error::Io { operation: "shake hands with the NBD server".into(), source }
}

fn send(socket: &Socket, bytes: &[u8]) -> Result<()> {
    socket.send(&mut [IoSlice::new(bytes)]).map_err(lost)
}

fn receive(mut socket: &Socket, bytes: &mut [u8]) -> Result<()> {
    socket.read_exact(bytes).map_err(lost)
}
