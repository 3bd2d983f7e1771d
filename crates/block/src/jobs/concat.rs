//! Several disks one after the other as one, for reading.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use crate::storage::check_range;
use crate::{Error, Extent, Limits, Result, Storage, WriteFlags, ZeroFlags};

/// The parts and where each begins.
pub struct Concat {
    parts: Vec<(u64, Arc<dyn Storage>)>,
    size: u64,
}

impl Concat {
    /// These disks in this order.
    pub fn new(disks: Vec<Arc<dyn Storage>>) -> Self {
        let mut size = 0;
        let mut parts = Vec::with_capacity(disks.len());
        for disk in disks {
            let start = size;
            size += disk.size();
            parts.push((start, disk));
        }
        Self { parts, size }
    }

    /// The part that holds `offset`, which is within the disk.
    fn part(&self, offset: u64) -> Option<(u64, &Arc<dyn Storage>)> {
        let index = self.parts.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        self.parts.get(index).map(|(start, disk)| (*start, disk))
    }

    fn read_only() -> Error {
        Error::ReadOnly("a concatenation of disks".into())
    }
}

impl Storage for Concat {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        self.parts.first().map_or_else(Limits::default, |(_, disk)| disk.limits())
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        check_range(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum(), self.size)?;
        let mut at = offset;
        for buffer in buffers {
            let mut rest: &mut [u8] = buffer;
            while !rest.is_empty() {
                let Some((start, disk)) = self.part(at) else { return check_range(at, 1, self.size) };
                let here = (disk.size() - (at - start)).min(rest.len() as u64) as usize;
                let (now, later) = rest.split_at_mut(here);
                disk.read_at(now, at - start)?;
                at += here as u64;
                rest = later;
            }
        }
        Ok(())
    }

    fn write_vectored_at(&self, _: &[IoSlice<'_>], _: u64, _: WriteFlags) -> Result<()> {
        Err(Self::read_only())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Result<()> {
        Err(Self::read_only())
    }

    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Err(Self::read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size)?;
        let Some((start, disk)) = self.part(offset) else {
            return Err(Error::OutOfRange { offset, len, size: self.size });
        };
        disk.extent_at(offset - start, len.min(disk.size() - (offset - start)))
    }
}
