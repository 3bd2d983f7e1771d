//! The mirrored device as storage: each call is one or more requests to the engine, and waits for their answers.

use std::io::{IoSlice, IoSliceMut};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ferro_block::{Error, Extent, ExtentKind, Limits, Result, Storage, WriteFlags, ZeroFlags, check_range};
use ferro_mirror::wire::Payload;
use ferro_mirror::{MAX_REQUEST, Request, RequestError};

use super::owner::{Event, Inbox};

/// Requests that the device may have before the engine, below what that takes.
const REQUESTS: usize = 512;
/// Bytes of them.
const BYTES: u64 = 64 << 20;

/// The device that a consumer sees.
pub(crate) struct Device {
    inbox: Inbox,
    size: u64,
    gate: Gate,
}

/// Holds callers back when too much is under way.
#[derive(Default)]
struct Gate {
    used: Mutex<(usize, u64)>,
    free: Condvar,
}

impl Gate {
    fn enter(&self, bytes: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.0 >= REQUESTS || used.1 > 0 && used.1 + bytes > BYTES {
            used = self.free.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used = (used.0 + 1, used.1 + bytes);
    }

    fn leave(&self, bytes: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = (used.0 - 1, used.1 - bytes);
        self.free.notify_all();
    }
}

type Answer = std::result::Result<Arc<[u8]>, RequestError>;

/// A request under way.
struct Ticket<'a> {
    gate: &'a Gate,
    bytes: u64,
    answer: Receiver<Answer>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.bytes);
    }
}

impl Ticket<'_> {
    fn wait(self) -> Result<Arc<[u8]>> {
        let failed = |error: std::io::Error| Error::Io { operation: "use the mirror".into(), source: error };
        match self.answer.recv() {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(failed(std::io::Error::other(error))),
            Err(_) => Err(failed(std::io::Error::other("the mirror has stopped"))),
        }
    }
}

impl Device {
    pub(crate) fn new(inbox: Inbox, size: u64) -> Self {
        Self { inbox, size, gate: Gate::default() }
    }

    fn submit(&self, request: Request) -> Ticket<'_> {
        let bytes = match &request {
            Request::Read { length, .. } => *length,
            Request::Write { payload: Payload::Data(bytes), .. } => bytes.len() as u64,
            _ => 0,
        };
        self.gate.enter(bytes);
        let (reply, answer) = sync_channel(1);
        // If the owner is gone, the reply channel is too, and the wait says so.
        self.inbox.send(Event::Request(request, reply));
        Ticket { gate: &self.gate, bytes, answer }
    }

    /// Ranges of at most a request's length.
    fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        (0..len.div_ceil(MAX_REQUEST)).map(move |n| {
            let at = n * MAX_REQUEST;
            (offset + at, MAX_REQUEST.min(len - at))
        })
    }

    fn zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> Result<()> {
        check_range(offset, len, self.size)?;
        for (offset, length) in Self::pieces(offset, len) {
            self.submit(Request::Write { offset, payload: Payload::Zeroes { length, unmap }, fua }).wait()?;
        }
        Ok(())
    }
}

impl Storage for Device {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn limits(&self) -> Limits {
        Limits { max_transfer: u32::try_from(MAX_REQUEST).unwrap_or(u32::MAX), ..Limits::default() }
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        check_range(offset, len, self.size)?;
        let mut targets = buffers.iter_mut().flat_map(|buffer| buffer.chunks_mut(4096));
        let mut target: &mut [u8] = &mut [];
        for (offset, length) in Self::pieces(offset, len) {
            let bytes = self.submit(Request::Read { offset, length }).wait()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                if target.is_empty() {
                    target = targets.next().unwrap_or_default();
                }
                let n = rest.len().min(target.len());
                let (head, tail) = std::mem::take(&mut target).split_at_mut(n);
                head.copy_from_slice(&rest[..n]);
                (target, rest) = (tail, &rest[n..]);
                if n == 0 {
                    return Err(Error::Invalid("the mirror answered with more than was asked for".into()));
                }
            }
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        check_range(offset, len, self.size)?;
        let single: &[u8] = if let [buffer] = buffers {
            buffer
        } else {
            &buffers.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>()
        };
        for (at, length) in Self::pieces(0, len) {
            // Both fit: the bytes are in memory.
            let part = &single[at as usize..(at + length) as usize];
            let payload = Payload::Data(part.into());
            self.submit(Request::Write { offset: offset + at, payload, fua: flags.fua }).wait()?;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        if flags.no_fallback {
            return Err(Error::Unsupported("a mirror can't tell whether writing zeroes is fast on both disks".into()));
        }
        self.zeroes(offset, len, flags.may_unmap, flags.fua)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.zeroes(offset, len, true, false)
    }

    fn flush(&self) -> Result<()> {
        self.submit(Request::Flush).wait().map(|_| ())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size)?;
        Ok(Extent { len, kind: ExtentKind::Data, file_offset: None, depth: 0 })
    }
}
