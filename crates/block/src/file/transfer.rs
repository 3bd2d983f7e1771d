//! Whole vectored reads and writes at a position, over a host that may do less than asked. Knows descriptors, not images.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// The most buffers that the host takes in one call (`IOV_MAX`).
const MAX_BUFFERS: usize = 1024;

/// Fills `buffers` from `offset` on; what lies beyond the end of the file reads as zeros.
pub(super) fn read(fd: &OwnedFd, buffers: &mut [IoSliceMut<'_>], mut offset: u64) -> io::Result<()> {
    let mut rest = buffers;
    let mut any = false;
    IoSliceMut::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let now = rest.len().min(MAX_BUFFERS);
        match rustix::io::preadv(fd, &mut rest[..now], offset) {
            Ok(0) => {
                zero(rest);
                return Ok(());
            }
            // Direct I/O can't even ask at an unaligned end of file, where a short read stopped.
            Err(Errno::INVAL) if any => {
                zero(rest);
                return Ok(());
            }
            Ok(done) => {
                any = true;
                offset += done as u64;
                IoSliceMut::advance_slices(&mut rest, done);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn zero(buffers: &mut [IoSliceMut<'_>]) {
    for buffer in buffers {
        buffer.fill(0);
    }
}

/// Writes `buffers` from `offset` on.
pub(super) fn write(fd: &OwnedFd, buffers: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    let first = loop {
        match rustix::io::pwritev(fd, &buffers[..buffers.len().min(MAX_BUFFERS)], offset) {
            Ok(done) => break done,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if first == total {
        return Ok(());
    }
    let mut copies = buffers.to_vec();
    let mut rest = copies.as_mut_slice();
    let mut done = first;
    loop {
        offset += done as u64;
        IoSlice::advance_slices(&mut rest, done);
        if rest.is_empty() {
            return Ok(());
        }
        let now = rest.len().min(MAX_BUFFERS);
        done = match rustix::io::pwritev(fd, &rest[..now], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => done,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
    }
}
