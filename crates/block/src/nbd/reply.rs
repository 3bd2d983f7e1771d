//! Replies on their way out, from any thread, in either of the protocol's two forms. Small ones are collected until
//! somebody flushes, so that a client with many requests in flight gets many replies at once.

use std::io::{self, IoSlice};
use std::sync::{Mutex, PoisonError};

use super::socket::Socket;
use super::wire::{self, Chunk, chunk};

/// Bytes up to which replies are collected.
const COLLECT: usize = 64 << 10;
/// Data from this length on is sent from where it is.
const LARGE: usize = 16 << 10;

/// The way out of one connection.
pub(super) struct Replies<'a> {
    socket: &'a Socket,
    structured: bool,
    collected: Mutex<Vec<u8>>,
}

impl<'a> Replies<'a> {
    pub(super) fn new(socket: &'a Socket, structured: bool) -> Self {
        Self { socket, structured, collected: Mutex::new(Vec::with_capacity(COLLECT)) }
    }

    pub(super) fn socket(&self) -> &Socket {
        self.socket
    }

    /// Sends what was collected.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        if collected.is_empty() {
            return Ok(());
        }
        let sent = self.socket.send(&mut [IoSlice::new(&collected)]);
        collected.clear();
        sent
    }

    fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        if data.len() < LARGE && collected.len() + head.len() + data.len() <= COLLECT {
            collected.extend_from_slice(head);
            collected.extend_from_slice(data);
            return Ok(());
        }
        let sent = self.socket.send(&mut [IoSlice::new(&collected), IoSlice::new(head), IoSlice::new(data)]);
        collected.clear();
        sent
    }

    fn chunk(&self, kind: u16, cookie: u64, done: bool, head: &[u8], data: &[u8]) -> io::Result<()> {
        let len = (head.len() + data.len()) as u32;
        let start = Chunk { done, kind, cookie, len }.encode();
        self.send(&[&start, head].concat(), data)
    }

    /// Success without data.
    pub(super) fn done(&self, cookie: u64) -> io::Result<()> {
        if self.structured {
            self.send(&Chunk { done: true, kind: chunk::NONE, cookie, len: 0 }.encode(), &[])
        } else {
            self.send(&wire::simple_reply(0, cookie), &[])
        }
    }

    /// Data that was read.
    pub(super) fn data(&self, cookie: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.structured {
            return self.send(&wire::simple_reply(0, cookie), data);
        }
        if data.is_empty() {
            return self.done(cookie);
        }
        let start = Chunk { done: true, kind: chunk::OFFSET_DATA, cookie, len: data.len() as u32 + 8 }.encode();
        let mut head = [0; wire::CHUNK_LEN + 8];
        head[..wire::CHUNK_LEN].copy_from_slice(&start);
        head[wire::CHUNK_LEN..].copy_from_slice(&offset.to_be_bytes());
        self.send(&head, data)
    }

    /// Zeros that needn't be sent; for structured replies only.
    pub(super) fn hole(&self, cookie: u64, offset: u64, len: u32) -> io::Result<()> {
        debug_assert!(self.structured);
        let data = [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
        self.chunk(chunk::OFFSET_HOLE, cookie, true, &data, &[])
    }

    /// Extents of one or more contexts; for structured replies only.
    pub(super) fn block_status(&self, cookie: u64, contexts: &[super::request::ContextExtents]) -> io::Result<()> {
        debug_assert!(self.structured);
        for (index, (id, extents)) in contexts.iter().enumerate() {
            let mut data = Vec::with_capacity(8 * extents.len());
            for (len, flags) in extents {
                data.extend(len.to_be_bytes());
                data.extend(flags.to_be_bytes());
            }
            self.chunk(chunk::BLOCK_STATUS, cookie, index + 1 == contexts.len(), &id.to_be_bytes(), &data)?;
        }
        Ok(())
    }

    /// Failure, with words where the form has room for them.
    pub(super) fn error(&self, cookie: u64, number: u32, why: &str) -> io::Result<()> {
        if !self.structured {
            return self.send(&wire::simple_reply(number, cookie), &[]);
        }
        let mut end = why.len().min(wire::MAX_NAME);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        let head = [&number.to_be_bytes()[..], &(end as u16).to_be_bytes()].concat();
        self.chunk(chunk::ERROR, cookie, true, &head, &why.as_bytes()[..end])
    }
}
