//! Scattered buffers, taken piece by piece as requests are divided into runs. No I/O.

use std::io::{IoSlice, IoSliceMut};

/// Buffers being filled from the front.
pub(super) struct ReadCursor<'a> {
    rest: std::vec::IntoIter<&'a mut [u8]>,
    current: &'a mut [u8],
}

impl<'a> ReadCursor<'a> {
    pub(super) fn new(buffers: &'a mut [IoSliceMut<'_>]) -> Self {
        let slices: Vec<&'a mut [u8]> = buffers.iter_mut().map(|buffer| &mut **buffer).collect();
        Self { rest: slices.into_iter(), current: &mut [] }
    }

    /// The next `len` bytes, or what is left of them.
    pub(super) fn take(&mut self, mut len: u64) -> Vec<&'a mut [u8]> {
        let mut taken = Vec::with_capacity(1);
        while len > 0 {
            if self.current.is_empty() {
                match self.rest.next() {
                    Some(next) => self.current = next,
                    None => break,
                }
                continue;
            }
            let count = (self.current.len() as u64).min(len) as usize;
            let (piece, rest) = std::mem::take(&mut self.current).split_at_mut(count);
            self.current = rest;
            taken.push(piece);
            len -= count as u64;
        }
        taken
    }
}

/// Copies `bytes` into the pieces, as far as both go.
pub(super) fn scatter(mut bytes: &[u8], pieces: &mut [&mut [u8]]) {
    for piece in pieces {
        let count = piece.len().min(bytes.len());
        let (now, rest) = bytes.split_at(count);
        piece[..count].copy_from_slice(now);
        bytes = rest;
    }
}

/// The part `[start, start + len)` of some buffers.
pub(super) fn part<'a>(buffers: &'a [IoSlice<'_>], mut start: u64, mut len: u64) -> Vec<IoSlice<'a>> {
    let mut parts = Vec::with_capacity(buffers.len().min(16) + 2);
    for buffer in buffers {
        if len == 0 {
            break;
        }
        let size = buffer.len() as u64;
        if start >= size {
            start -= size;
            continue;
        }
        let count = (size - start).min(len);
        parts.push(IoSlice::new(&buffer[start as usize..(start + count) as usize]));
        len -= count;
        start = 0;
    }
    parts
}

/// One piece of memory with the contents of all.
pub(super) fn gather(buffers: &[IoSlice<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(total(buffers) as usize);
    for buffer in buffers {
        bytes.extend_from_slice(buffer);
    }
    bytes
}

/// Bytes in all buffers.
pub(super) fn total(buffers: &[IoSlice<'_>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}
