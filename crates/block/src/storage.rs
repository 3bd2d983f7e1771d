//! The [`Storage`] trait: positional, vectored access to a fixed number of bytes, callable from many threads. It doesn't
//! say what is below it: a file, an image format over another storage, a network export, memory in a test.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::{Error, Result};

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFlags {
    /// The data is on stable media when the call returns (force unit access).
    pub fua: bool,
}

/// How zeroes are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroFlags {
    /// The space may be given back to the layer below.
    pub may_unmap: bool,
    /// Fail with [`Error::Unsupported`] rather than write literal zeroes where there is no fast way.
    pub no_fallback: bool,
    /// As in [`WriteFlags::fua`].
    pub fua: bool,
}

/// What is known of a run of bytes without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes in the run; not zero.
    pub len: u64,
    /// What they are.
    pub kind: ExtentKind,
    /// Where the run lies in the file below, if it lies there in one piece, unencoded.
    pub file_offset: Option<u64>,
    /// How many layers down the backing chain the run was found: 0 for this image itself.
    pub depth: u32,
}

/// What a run of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Stored data.
    Data,
    /// Stored data in compressed form.
    Compressed,
    /// Reads as zeros; host space may be allocated for it nevertheless.
    Zero {
        /// Whether host space is allocated.
        allocated: bool,
    },
    /// Not in this image nor in any below it; reads as zeros.
    Unallocated,
}

impl ExtentKind {
    /// Whether the bytes are known to be zeros.
    pub fn reads_as_zero(self) -> bool {
        matches!(self, Self::Zero { .. } | Self::Unallocated)
    }
}

/// The place in a host file where bytes lie as they are.
#[derive(Debug, Clone)]
pub struct DirectRange {
    /// The file.
    pub file: Arc<OwnedFd>,
    /// Where in it the range begins.
    pub offset: u64,
    /// To be held until the request is done: it keeps the place from being given to other data.
    pub guard: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// What a caller should respect to be served well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Offsets and lengths should be multiples of this (a power of two; 1 but for direct I/O and encryption).
    pub request_alignment: u32,
    /// The unit in which space is allocated: a cluster, a block (a power of two).
    pub allocation_unit: u32,
    /// The longest single request in bytes.
    pub max_transfer: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_alignment: 1, allocation_unit: 4096, max_transfer: 32 << 20 }
    }
}

/// A number of bytes that can be read and written at any position, by any thread at any time.
///
/// The size is fixed but for two ways: [`Storage::set_size`], and, on storage that [grows](Storage::grows), a write beyond
/// the end. An image format allocates in the file below it the second way: it writes at the end and is done. Reads never
/// go past the end.
///
/// Two requests in flight at once that overlap may be done in either order. A write is visible to every later read as soon
/// as it returned; it survives a crash once a later [`Storage::flush`] returned.
pub trait Storage: Send + Sync {
    /// Bytes, as the guest or client sees them.
    fn size(&self) -> u64;

    /// Whether writes are refused with [`Error::ReadOnly`].
    fn is_read_only(&self) -> bool;

    /// Whether a write that runs past the end extends the storage, a gap before it reading as zeros, instead of failing
    /// with [`Error::OutOfRange`]. Files opened for an image format to live in grow; disks don't. `write_zeroes` beyond
    /// the end extends in the same way; reads, `discard` and `extent_at` do not.
    fn grows(&self) -> bool {
        false
    }

    /// What callers should respect.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Fills all of `buffers` from `offset` on.
    ///
    /// # Errors
    /// A range past the end, and whatever the layers below say; the buffers' contents are then unspecified.
    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()>;

    /// Writes all of `buffers` from `offset` on.
    ///
    /// # Errors
    /// A range past the end, read-only storage, and whatever the layers below say; any part may have been written.
    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()>;

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// As for a write, and [`Error::Unsupported`] where [`ZeroFlags::no_fallback`] forbids the slow way.
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()>;

    /// Says that a range's contents don't matter any more. It reads as anything afterwards, but never as other data of
    /// this or another image. May do nothing.
    ///
    /// # Errors
    /// As for a write.
    fn discard(&self, offset: u64, len: u64) -> Result<()>;

    /// Returns once everything written before the call is on stable media.
    ///
    /// # Errors
    /// Whatever the layers below say. Data written since the last successful flush may then be lost for good.
    fn flush(&self) -> Result<()>;

    /// What is known of the bytes at `offset`: the longest run of one kind, at most `len` bytes (`len` is not zero).
    ///
    /// # Errors
    /// A range past the end, and damaged metadata.
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent>;

    /// Changes the size; new bytes read as zeros.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the size is given from outside.
    fn set_size(&self, size: u64) -> Result<()> {
        let _ = size;
        Err(Error::Unsupported("this storage cannot be resized".into()))
    }

    /// Where in a host file exactly these bytes lie as they are, so that a queue may read (or, with `write`, overwrite)
    /// them there without asking again. None where they don't, or where this storage has to know of the access; that is
    /// always a right answer. The answer holds for as long as its guard is held.
    fn direct_range(&self, offset: u64, len: u64, write: bool) -> Option<DirectRange> {
        let _ = (offset, len, write);
        None
    }

    /// Reserves host space for a range, so that writing there can't run out of space. What it reads as stays the same.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no such thing.
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(Error::Unsupported("space cannot be reserved on this storage".into()))
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// As for [`Storage::read_vectored_at`].
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_vectored_at(&mut [IoSliceMut::new(buffer)], offset)
    }

    /// Writes `buffer` at `offset`.
    ///
    /// # Errors
    /// As for [`Storage::write_vectored_at`].
    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.write_vectored_at(&[IoSlice::new(buffer)], offset, WriteFlags::default())
    }
}

/// Refuses a range that runs past the end.
///
/// # Errors
/// [`Error::OutOfRange`].
pub fn check_range(offset: u64, len: u64, size: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::OutOfRange { offset, len, size }),
    }
}
