//! A part of a storage as storage of its own: a partition, or QEMU's `offset` and `size` of a raw image. Never grows.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use crate::storage::{DirectRange, check_range};
use crate::{Extent, Limits, Result, Storage, WriteFlags, ZeroFlags};

/// Bytes `start..start + len` of a storage.
pub struct Window {
    below: Arc<dyn Storage>,
    start: u64,
    len: u64,
}

impl Window {
    /// These bytes of `below`.
    ///
    /// # Errors
    /// The range isn't within `below`.
    pub fn new(below: Arc<dyn Storage>, start: u64, len: u64) -> Result<Self> {
        check_range(start, len, below.size())?;
        Ok(Self { below, start, len })
    }
}

impl Storage for Window {
    fn size(&self) -> u64 {
        self.len
    }

    fn is_read_only(&self) -> bool {
        self.below.is_read_only()
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        check_range(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum(), self.len)?;
        self.below.read_vectored_at(buffers, self.start + offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        check_range(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum(), self.len)?;
        self.below.write_vectored_at(buffers, self.start + offset, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        check_range(offset, len, self.len)?;
        self.below.write_zeroes(self.start + offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, len, self.len)?;
        self.below.discard(self.start + offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.len)?;
        self.below.extent_at(self.start + offset, len)
    }

    fn direct_range(&self, offset: u64, len: u64, write: bool) -> Option<DirectRange> {
        check_range(offset, len, self.len).ok()?;
        self.below.direct_range(self.start + offset, len, write)
    }
}
