//! Storage in the process's own memory: for tests and small scratch disks. Nothing of it survives the process.

use std::io::{IoSlice, IoSliceMut};
use std::sync::RwLock;

use crate::storage::check_range;
use crate::{Extent, ExtentKind, Result, Storage, WriteFlags, ZeroFlags};

/// The most that growing storage takes, so that a wild offset is an error rather than the end of the process.
const MAX_GROWN: usize = 1 << 30;

/// Bytes in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    bytes: RwLock<Vec<u8>>,
    grows: bool,
}

impl MemoryStorage {
    /// `size` zero bytes.
    pub fn new(size: usize) -> Self {
        Self::from_bytes(vec![0; size])
    }

    /// These bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes), grows: false }
    }

    /// These bytes, and as many more as writes past the end add: what a file is to an image format.
    pub fn growing(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes), grows: true }
    }

    /// Refuses a range to be written that can't be, and makes room for one that can.
    fn make_room(&self, bytes: &mut Vec<u8>, offset: u64, len: u64) -> Result<()> {
        if self.grows {
            let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok()).filter(|&end| end <= MAX_GROWN);
            let Some(end) = end else {
                return Err(crate::Error::OutOfRange { offset, len, size: MAX_GROWN as u64 });
            };
            if end > bytes.len() {
                bytes.resize(end, 0);
            }
            return Ok(());
        }
        check_range(offset, len, bytes.len() as u64)
    }

    /// A copy of the contents.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.locked().clone()
    }

    fn locked(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn locked_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Storage for MemoryStorage {
    fn size(&self) -> u64 {
        self.locked().len() as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn grows(&self) -> bool {
        self.grows
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let bytes = self.locked();
        let len = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        check_range(offset, len, bytes.len() as u64)?;
        let mut at = offset as usize;
        for buffer in buffers {
            let end = at + buffer.len();
            buffer.copy_from_slice(&bytes[at..end]);
            at = end;
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, _flags: WriteFlags) -> Result<()> {
        let mut bytes = self.locked_mut();
        let len = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        self.make_room(&mut bytes, offset, len)?;
        let mut at = offset as usize;
        for buffer in buffers {
            bytes[at..at + buffer.len()].copy_from_slice(buffer);
            at += buffer.len();
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _flags: ZeroFlags) -> Result<()> {
        let mut bytes = self.locked_mut();
        self.make_room(&mut bytes, offset, len)?;
        bytes[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, len, self.size())?;
        self.write_zeroes(offset, len, ZeroFlags::default())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size())?;
        Ok(Extent { len, kind: ExtentKind::Data, file_offset: Some(offset), depth: 0 })
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let size = usize::try_from(size).map_err(|_| crate::Error::Invalid(format!("{size} bytes exceed memory")))?;
        let mut bytes = self.locked_mut();
        let more = size.saturating_sub(bytes.len());
        bytes.try_reserve(more).map_err(|_| crate::Error::Io {
            operation: format!("grow memory to {size} bytes"),
            source: std::io::ErrorKind::StorageFull.into(),
        })?;
        bytes.resize(size, 0);
        Ok(())
    }
}
