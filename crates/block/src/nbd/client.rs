//! An NBD export as storage. Each request has a connection to itself while it lasts; where the server allows several
//! ("multi-conn"), as many requests are under way at once as there are connections.

mod greet;

use std::io::{IoSlice, IoSliceMut, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::connect::Address;
use super::socket::Socket;
use super::wire::{self, Chunk, Request, Violation, chunk, command, command_flag, transmission};
use crate::storage::check_range;
use crate::{Error, Extent, ExtentKind, Limits, Result, Storage, WriteFlags, ZeroFlags};
use greet::Greeting;

/// Connections at most, where the server allows several.
const CONNECTIONS: usize = 4;

/// An export of some server.
#[derive(Debug)]
pub struct NbdStorage {
    address: Address,
    writable: bool,
    greeting: Greeting,
    pool: Mutex<Pool>,
    returned: Condvar,
    /// Whether a connection broke after writes that no flush has covered since: they may be lost.
    lost_writes: AtomicBool,
    unflushed: AtomicBool,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    next_cookie: u64,
    context: Option<u32>,
}

/// What becomes of a reply's data.
enum Sink<'a, 'b> {
    Nothing,
    Buffers(&'a mut [IoSliceMut<'b>]),
    Extents(&'a mut Vec<(u32, u32)>),
}

/// Why a request failed: the server said so, or there is no talking to it any more.
enum Failure {
    Refused(Error),
    Broken(Error),
}

impl NbdStorage {
    /// Connects to an export.
    ///
    /// # Errors
    /// Nobody there, no such export, an export that is read-only if `writable`, a server that breaks the protocol.
    pub fn open(address: Address, writable: bool) -> Result<Self> {
        let socket = address.connect()?;
        Self::on_socket(socket, address, writable)
    }

    /// Chooses the export over a connection that is there. `address` is where to connect again.
    ///
    /// # Errors
    /// As for [`NbdStorage::open`].
    pub fn on_socket(socket: Socket, address: Address, writable: bool) -> Result<Self> {
        let greeting = greet::greet_at(&socket, &address)?;
        if writable && greeting.flags & transmission::READ_ONLY != 0 {
            return Err(Error::ReadOnly(address.to_string()));
        }
        let first = Connection { socket, next_cookie: 0, context: greeting.context };
        Ok(Self {
            address,
            writable,
            greeting,
            pool: Mutex::new(Pool { idle: vec![first], open: 1 }),
            returned: Condvar::new(),
            lost_writes: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
        })
    }

    /// Where the export is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn can(&self, flag: u16) -> bool {
        self.greeting.flags & flag != 0
    }

    /// A connection for one request: an idle one, a new one, or the next one to become idle.
    fn borrow(&self) -> Result<Connection> {
        let limit = if self.can(transmission::CAN_MULTI_CONN) { CONNECTIONS } else { 1 };
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < limit {
                pool.open += 1;
                drop(pool);
                let opened = self.reopen();
                if opened.is_err() {
                    self.pool.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
                    self.returned.notify_one();
                }
                return opened;
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn reopen(&self) -> Result<Connection> {
        let (socket, greeting) = greet::connect(&self.address)?;
        if greeting.size != self.greeting.size {
            return Err(Error::Invalid(format!(
                "{}: the export had {} bytes and has {} now",
                self.address, self.greeting.size, greeting.size
            )));
        }
        Ok(Connection { socket, next_cookie: 0, context: greeting.context })
    }

    fn give_back(&self, connection: Option<Connection>) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match connection {
            Some(connection) => pool.idle.push(connection),
            None => pool.open -= 1,
        }
        drop(pool);
        self.returned.notify_one();
    }

    /// Sends a request and takes its reply.
    fn call(&self, mut request: Request, data: &[IoSlice<'_>], sink: &mut Sink<'_, '_>) -> Result<()> {
        let writes = !matches!(request.command, command::READ | command::BLOCK_STATUS | command::FLUSH);
        if writes {
            self.unflushed.store(true, Ordering::Release);
        }
        let mut retry = !writes && request.command != command::FLUSH;
        loop {
            let mut connection = self.borrow()?;
            request.cookie = connection.next_cookie;
            connection.next_cookie += 1;
            match connection.exchange(&self.greeting, &request, data, sink) {
                Ok(()) => {
                    self.give_back(Some(connection));
                    return Ok(());
                }
                Err(Failure::Refused(error)) => {
                    self.give_back(Some(connection));
                    return Err(self.named(error));
                }
                Err(Failure::Broken(error)) => {
                    self.give_back(None);
                    if self.unflushed.load(Ordering::Acquire) {
                        self.lost_writes.store(true, Ordering::Release);
                    }
                    // A server that was restarted serves the same bytes; a second failure is for the caller to know.
                    if !retry || matches!(sink, Sink::Extents(extents) if !extents.is_empty()) {
                        return Err(self.named(error));
                    }
                    tracing::warn!("{}: {error}; connecting again", self.address);
                    retry = false;
                }
            }
        }
    }

    fn named(&self, error: Error) -> Error {
        match error {
            Error::Io { operation, source } => {
                Error::Io { operation: format!("{operation} (NBD export {})", self.address), source }
            }
            other => other,
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::ReadOnly(self.address.to_string()));
        }
        check_range(offset, len, self.greeting.size)
    }

    fn fua_flag(&self, fua: bool) -> u16 {
        if fua && self.can(transmission::SEND_FUA) { command_flag::FUA } else { 0 }
    }

    /// Flushes where stable writes were asked for and the server can't do them itself.
    fn settle(&self, fua: bool) -> Result<()> {
        if fua && !self.can(transmission::SEND_FUA) { self.flush() } else { Ok(()) }
    }

    /// Does something with a range in pieces that the server takes.
    fn in_pieces(&self, offset: u64, len: u64, mut each: impl FnMut(u64, u32) -> Result<()>) -> Result<()> {
        let piece = 1u64 << 30;
        let mut done = 0;
        while done < len {
            let now = (len - done).min(piece);
            each(offset + done, now as u32)?;
            done += now;
        }
        Ok(())
    }
}

impl Storage for NbdStorage {
    fn size(&self) -> u64 {
        self.greeting.size
    }

    fn is_read_only(&self) -> bool {
        !self.writable
    }

    fn limits(&self) -> Limits {
        Limits {
            request_alignment: self.greeting.block_size,
            allocation_unit: self.greeting.preferred.next_power_of_two(),
            max_transfer: self.greeting.max_transfer,
        }
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        check_range(offset, len, self.greeting.size)?;
        let mut at = offset;
        for buffer in buffers {
            for piece in buffer.chunks_mut(self.greeting.max_transfer as usize) {
                let request =
                    Request { flags: 0, command: command::READ, cookie: 0, offset: at, len: piece.len() as u32 };
                at += piece.len() as u64;
                self.call(request, &[], &mut Sink::Buffers(&mut [IoSliceMut::new(piece)]))?;
            }
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        self.check_write(offset, len)?;
        let flag = self.fua_flag(flags.fua);
        let mut at = offset;
        if len <= u64::from(self.greeting.max_transfer) {
            let request = Request { flags: flag, command: command::WRITE, cookie: 0, offset, len: len as u32 };
            self.call(request, buffers, &mut Sink::Nothing)?;
            return self.settle(flags.fua);
        }
        for piece in buffers.iter().flat_map(|buffer| buffer.chunks(self.greeting.max_transfer as usize)) {
            let request =
                Request { flags: flag, command: command::WRITE, cookie: 0, offset: at, len: piece.len() as u32 };
            at += piece.len() as u64;
            self.call(request, &[IoSlice::new(piece)], &mut Sink::Nothing)?;
        }
        self.settle(flags.fua)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_write(offset, len)?;
        if !self.can(transmission::SEND_WRITE_ZEROES) {
            if flags.no_fallback {
                return Err(Error::Unsupported(format!("{}: the server has no fast zeros", self.address)));
            }
            let zeros = vec![0; len.min(1 << 20) as usize];
            let mut done = 0;
            while done < len {
                let now = (len - done).min(zeros.len() as u64) as usize;
                self.write_at(&zeros[..now], offset + done)?;
                done += now as u64;
            }
            return if flags.fua { self.flush() } else { Ok(()) };
        }
        let mut flag = self.fua_flag(flags.fua);
        if !flags.may_unmap {
            flag |= command_flag::NO_HOLE;
        }
        if flags.no_fallback && self.can(transmission::SEND_FAST_ZERO) {
            flag |= command_flag::FAST_ZERO;
        }
        self.in_pieces(offset, len, |offset, len| {
            let request = Request { flags: flag, command: command::WRITE_ZEROES, cookie: 0, offset, len };
            self.call(request, &[], &mut Sink::Nothing)
        })?;
        self.settle(flags.fua)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check_write(offset, len)?;
        if !self.can(transmission::SEND_TRIM) {
            return Ok(());
        }
        self.in_pieces(offset, len, |offset, len| {
            let request = Request { flags: 0, command: command::TRIM, cookie: 0, offset, len };
            self.call(request, &[], &mut Sink::Nothing)
        })
    }

    fn flush(&self) -> Result<()> {
        if self.lost_writes.load(Ordering::Acquire) {
            return Err(Error::Io {
                operation: format!("flush: the connection to {} broke, writes before may be lost", self.address),
                source: std::io::ErrorKind::ConnectionReset.into(),
            });
        }
        if !self.writable || !self.can(transmission::SEND_FLUSH) {
            return Ok(());
        }
        self.unflushed.store(false, Ordering::Release);
        let request = Request { flags: 0, command: command::FLUSH, cookie: 0, offset: 0, len: 0 };
        let flushed = self.call(request, &[], &mut Sink::Nothing);
        if flushed.is_err() {
            self.lost_writes.store(true, Ordering::Release);
        }
        flushed
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.greeting.size)?;
        let all_data = Extent { len, kind: ExtentKind::Data, file_offset: Some(offset), depth: 0 };
        if self.greeting.context.is_none() {
            return Ok(all_data);
        }
        // Servers want whole blocks; an answer may be shorter than asked for.
        let align = u64::from(self.greeting.block_size);
        let start = offset - offset % align;
        let asked = (offset + len - start).min(1 << 31).next_multiple_of(align).min(self.greeting.size - start);
        let mut extents = Vec::new();
        let request = Request { flags: 0, command: command::BLOCK_STATUS, cookie: 0, offset: start, len: asked as u32 };
        self.call(request, &[], &mut Sink::Extents(&mut extents))?;
        let Some(&(_, flags)) = extents.first() else { return Ok(all_data) };
        let run: u64 = extents.iter().take_while(|(_, other)| *other == flags).map(|(run, _)| u64::from(*run)).sum();
        let run = run.saturating_sub(offset - start).min(len).max(1);
        let kind = match (flags & wire::STATE_ZERO != 0, flags & wire::STATE_HOLE != 0) {
            (true, hole) => ExtentKind::Zero { allocated: !hole },
            (false, _) => ExtentKind::Data,
        };
        Ok(Extent { len: run, kind, file_offset: Some(offset), depth: 0 })
    }
}

impl Drop for NbdStorage {
    fn drop(&mut self) {
        let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
        for connection in pool.idle.drain(..) {
            let request = Request { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, len: 0 };
            // A server that is gone needn't be told.
            let _ = connection.socket.send(&mut [IoSlice::new(&request.encode())]);
        }
    }
}

impl Connection {
    /// Sends one request and takes all of its reply.
    fn exchange(
        &mut self,
        greeting: &Greeting,
        request: &Request,
        data: &[IoSlice<'_>],
        sink: &mut Sink<'_, '_>,
    ) -> std::result::Result<(), Failure> {
        let broken = |source| Failure::Broken(Error::Io { operation: "talk to the server".into(), source });
        let head = request.encode();
        let mut parts = Vec::with_capacity(data.len() + 1);
        parts.push(IoSlice::new(&head));
        parts.extend_from_slice(data);
        self.socket.send(&mut parts).map_err(broken)?;
        let mut error = None;
        loop {
            let mut magic = [0; 4];
            self.receive(&mut magic).map_err(broken)?;
            let done = match u32::from_be_bytes(magic) {
                wire::SIMPLE_REPLY_MAGIC
                    if !greeting.structured || !matches!(sink, Sink::Buffers(_) | Sink::Extents(_)) =>
                {
                    self.simple(request, sink, &mut error).map_err(broken)?;
                    true
                }
                wire::CHUNK_MAGIC if greeting.structured => {
                    self.chunk(greeting, request, sink, &mut error).map_err(broken)?
                }
                magic => return Err(broken(protocol(format!("a reply begins with {magic:#x}")))),
            };
            if done {
                return error.map_or(Ok(()), |error| Err(Failure::Refused(error)));
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<()> {
        (&self.socket).read_exact(buffer)
    }

    fn simple(&mut self, request: &Request, sink: &mut Sink<'_, '_>, error: &mut Option<Error>) -> std::io::Result<()> {
        let mut rest = [0; wire::SIMPLE_REPLY_LEN - 4];
        self.receive(&mut rest)?;
        let number = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&rest[4..]);
        if u64::from_be_bytes(cookie) != request.cookie {
            return Err(protocol("a reply to something that was not asked"));
        }
        if number != 0 {
            *error = Some(refusal(request, number, ""));
        } else if let Sink::Buffers(buffers) = sink {
            for buffer in buffers.iter_mut() {
                self.receive(buffer)?;
            }
        }
        Ok(())
    }

    /// Takes one chunk; whether it was the last.
    fn chunk(
        &mut self,
        greeting: &Greeting,
        request: &Request,
        sink: &mut Sink<'_, '_>,
        error: &mut Option<Error>,
    ) -> std::io::Result<bool> {
        let mut rest = [0; wire::CHUNK_LEN - 4];
        self.receive(&mut rest)?;
        let head = Chunk::parse_rest(&rest).map_err(std::io::Error::other)?;
        if head.cookie != request.cookie {
            return Err(protocol("a reply to something that was not asked"));
        }
        match (head.kind, sink) {
            (chunk::NONE, _) if head.len == 0 => {}
            (chunk::OFFSET_DATA, Sink::Buffers(buffers)) if head.len > 8 => {
                let mut offset = [0; 8];
                self.receive(&mut offset)?;
                let target = target(request, buffers, u64::from_be_bytes(offset), head.len - 8)?;
                self.receive(target)?;
            }
            (chunk::OFFSET_HOLE, Sink::Buffers(buffers)) if head.len == 12 => {
                let mut hole = [0; 12];
                self.receive(&mut hole)?;
                let mut reader = wire::Reader(&hole);
                let offset = reader.u64().map_err(std::io::Error::other)?;
                let len = reader.u32().map_err(std::io::Error::other)?;
                target(request, buffers, offset, len)?.fill(0);
            }
            (chunk::BLOCK_STATUS, Sink::Extents(extents)) => {
                if head.len as usize > 4 + 8 * (1 << 20) {
                    return Err(protocol("a block status without end"));
                }
                let mut data = vec![0; head.len as usize];
                self.receive(&mut data)?;
                let context = self.context.or(greeting.context).unwrap_or(0);
                **extents = wire::parse_block_status(&data, context).map_err(std::io::Error::other)?;
            }
            (kind, _) if kind & (1 << 15) != 0 => {
                let (number, words) = self.error_chunk(head.len)?;
                error.get_or_insert(refusal(request, number, &words));
            }
            (kind, _) => return Err(protocol(format!("a chunk of type {kind} and {} bytes", head.len))),
        }
        Ok(head.done)
    }

    fn error_chunk(&mut self, len: u32) -> std::io::Result<(u32, String)> {
        if !(6..=wire::MAX_NAME as u32 + 64).contains(&len) {
            return Err(protocol(format!("an error of {len} bytes")));
        }
        let mut data = vec![0; len as usize];
        self.receive(&mut data)?;
        let mut reader = wire::Reader(&data);
        let mut parse = || -> std::result::Result<(u32, String), Violation> {
            let (number, len) = (reader.u32()?, reader.u16()?);
            Ok((number, String::from_utf8_lossy(reader.bytes(usize::from(len))?).into_owned()))
        };
        parse().map_err(std::io::Error::other)
    }
}

/// Where the data of a chunk goes: a part of the (one) buffer.
fn target<'a>(
    request: &Request,
    buffers: &'a mut [IoSliceMut<'_>],
    offset: u64,
    len: u32,
) -> std::io::Result<&'a mut [u8]> {
    let start = offset.checked_sub(request.offset).and_then(|start| usize::try_from(start).ok());
    let range = start.and_then(|start| Some(start..start.checked_add(len as usize)?));
    let buffer = buffers.first_mut();
    let found = buffer.and_then(|buffer| range.and_then(|range| buffer.get_mut(range)));
    found.ok_or_else(|| protocol("data outside of what was asked for"))
}

fn protocol(what: impl Into<String>) -> std::io::Error {
    std::io::Error::other(Violation(what.into()))
}

/// What the server said, as an error of this host.
fn refusal(request: &Request, number: u32, words: &str) -> Error {
    let verb = match request.command {
        command::READ => "read",
        command::WRITE => "write",
        command::FLUSH => "flush",
        command::TRIM => "discard",
        command::WRITE_ZEROES => "write zeros",
        _ => "ask for the block status",
    };
    // The protocol's numbers are Linux's.
    let source = std::io::Error::from_raw_os_error(i32::try_from(number).unwrap_or(5));
    let words = if words.is_empty() { String::new() } else { format!(", the server says '{}'", words.escape_debug()) };
    let operation = format!("{verb} {} bytes at {}{words}", request.len, request.offset);
    if number == wire::errno::ENOTSUP {
        Error::Unsupported(format!("cannot {operation}: {source}"))
    } else {
        Error::Io { operation, source }
    }
}
