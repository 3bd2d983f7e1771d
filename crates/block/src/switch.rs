//! Storage whose place another may take while it is used: what a drive has that gets an overlay, or loses one. Requests
//! that are under way end where they began; the caller sees to it that there are none where that matters.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, PoisonError, RwLock};

use crate::storage::DirectRange;
use crate::{Extent, Limits, Result, Storage, WriteFlags, ZeroFlags};

/// Storage that hands everything on.
pub struct Switch {
    below: RwLock<Arc<dyn Storage>>,
}

impl Switch {
    /// Hands on to `below`.
    pub fn new(below: Arc<dyn Storage>) -> Self {
        Self { below: RwLock::new(below) }
    }

    /// What it hands on to.
    pub fn current(&self) -> Arc<dyn Storage> {
        self.below.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands on to another from now on; returns the one before.
    pub fn replace(&self, below: Arc<dyn Storage>) -> Arc<dyn Storage> {
        std::mem::replace(&mut *self.below.write().unwrap_or_else(PoisonError::into_inner), below)
    }
}

impl Storage for Switch {
    fn size(&self) -> u64 {
        self.current().size()
    }

    fn is_read_only(&self) -> bool {
        self.current().is_read_only()
    }

    fn grows(&self) -> bool {
        self.current().grows()
    }

    fn limits(&self) -> Limits {
        self.current().limits()
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.current().read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        self.current().write_vectored_at(buffers, offset, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.current().write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.current().discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.current().flush()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.current().extent_at(offset, len)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.current().set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.current().allocate(offset, len)
    }

    fn direct_range(&self, offset: u64, len: u64, write: bool) -> Option<DirectRange> {
        self.current().direct_range(offset, len, write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    #[test]
    fn what_is_written_goes_to_the_one_that_is_there_now() {
        let (old, new) = (Arc::new(MemoryStorage::new(4096)), Arc::new(MemoryStorage::new(8192)));
        let switch = Switch::new(old.clone());
        switch.write_at(b"old", 0).unwrap();
        let before = switch.replace(new.clone());
        assert_eq!((before.size(), switch.size()), (4096, 8192));
        switch.write_at(b"new", 0).unwrap();
        let read = |storage: &dyn Storage| {
            let mut bytes = [0; 3];
            storage.read_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!((read(&*old), read(&*new)), (*b"old", *b"new"));
    }
}
