//! The detour that a request takes which direct I/O (`O_DIRECT`) doesn't: over an aligned buffer, reading what a write
//! covers in part. Knows descriptors, not images.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use ferro_sys::AlignedBuffer;

use super::transfer;

/// What positions, lengths and addresses are multiples of; a page serves every device there is.
pub(super) const ALIGNMENT: u64 = AlignedBuffer::ALIGNMENT as u64;
/// The longest piece that takes the detour at once.
const PIECE: u64 = 1 << 20;

/// Whether a read can go straight to the host.
pub(super) fn is_aligned_mut(buffers: &[IoSliceMut<'_>], offset: u64) -> bool {
    offset.is_multiple_of(ALIGNMENT)
        && buffers.iter().all(|buffer| (buffer.as_ptr() as u64 | buffer.len() as u64).is_multiple_of(ALIGNMENT))
}

/// Whether a write can go straight to the host.
pub(super) fn is_aligned(buffers: &[IoSlice<'_>], offset: u64) -> bool {
    offset.is_multiple_of(ALIGNMENT)
        && buffers.iter().all(|buffer| (buffer.as_ptr() as u64 | buffer.len() as u64).is_multiple_of(ALIGNMENT))
}

/// The detour. Writes that cover blocks in part go one at a time, as two of them may share a block.
#[derive(Debug, Default)]
pub(super) struct Bounce {
    writes: Mutex<()>,
}

impl Bounce {
    /// Fills `buffers` from `offset` on.
    pub(super) fn read(&self, fd: &OwnedFd, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        let mut piece = Piece::default();
        let end = offset + buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        for buffer in buffers {
            let mut filled = 0;
            while filled < buffer.len() {
                let from = piece.load(fd, at, end)?;
                let now = from.len().min(buffer.len() - filled);
                buffer[filled..filled + now].copy_from_slice(&from[..now]);
                filled += now;
                at += now as u64;
            }
        }
        Ok(())
    }

    /// Writes `buffers` from `offset` on. `end` is where the file ends: rounding a write up to a whole block may lengthen
    /// the file by up to a block, which is cut off again.
    pub(super) fn write(&self, fd: &OwnedFd, buffers: &[IoSlice<'_>], offset: u64, end: u64) -> io::Result<()> {
        let _one_at_a_time = self.writes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut at = offset;
        let total_end = offset + buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        let mut sources = buffers.iter().flat_map(|buffer| buffer.chunks(PIECE as usize));
        let mut source: &[u8] = &[];
        while at < total_end {
            let start = at - at % ALIGNMENT;
            let stop = total_end.min(start + PIECE);
            let mut block = AlignedBuffer::new((stop - start).next_multiple_of(ALIGNMENT) as usize);
            let partial_end = !stop.is_multiple_of(ALIGNMENT);
            if start != at || partial_end {
                transfer::read(fd, &mut [IoSliceMut::new(&mut block)], start)?;
            }
            while at < stop {
                if source.is_empty() {
                    source = sources.next().unwrap_or(&[]);
                    continue;
                }
                let now = source.len().min((stop - at) as usize);
                let to = (at - start) as usize;
                block[to..to + now].copy_from_slice(&source[..now]);
                source = &source[now..];
                at += now as u64;
            }
            transfer::write(fd, &[IoSlice::new(&block)], start)?;
        }
        let wanted = end.max(total_end);
        if total_end.next_multiple_of(ALIGNMENT) > wanted && is_regular(fd) {
            rustix::fs::ftruncate(fd, wanted)?;
        }
        Ok(())
    }
}

fn is_regular(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile)
}

/// A stretch of the file in aligned memory.
#[derive(Default)]
struct Piece {
    buffer: AlignedBuffer,
    start: u64,
}

impl Piece {
    /// The bytes from `at` on that are here after loading what is missing; at least one, `end` being beyond `at`.
    fn load(&mut self, fd: &OwnedFd, at: u64, end: u64) -> io::Result<&[u8]> {
        let here = self.start..self.start + self.buffer.len() as u64;
        if !here.contains(&at) {
            self.start = at - at % ALIGNMENT;
            let len = (end - self.start).min(PIECE).next_multiple_of(ALIGNMENT);
            self.buffer = AlignedBuffer::new(len as usize);
            transfer::read(fd, &mut [IoSliceMut::new(&mut self.buffer)], self.start)?;
        }
        Ok(&self.buffer[(at - self.start) as usize..])
    }
}
