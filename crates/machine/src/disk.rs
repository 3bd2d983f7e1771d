//! Storage as the disk of a block device chip. No format is known here.

use std::sync::Arc;

use ferro_block::{Error, Storage, ZeroFlags};
use ferro_devices::virtio::{Disk, DiskError};
use tracing::warn;

/// A disk over an image.
pub(crate) struct StorageDisk {
    name: String,
    storage: Arc<dyn Storage>,
    read_only: bool,
}

impl StorageDisk {
    pub(crate) fn new(name: String, storage: Arc<dyn Storage>, read_only: bool) -> Self {
        Self { name, storage, read_only }
    }

    fn told<T>(&self, what: &str, result: Result<T, Error>) -> Result<T, DiskError> {
        result.map_err(|error| match error {
            Error::Unsupported(_) => DiskError::Unsupported,
            error => {
                warn!("disk {}: the guest's {what} failed: {error}", self.name);
                DiskError::Io
            }
        })
    }
}

impl Disk for StorageDisk {
    fn size(&self) -> u64 {
        self.storage.size()
    }

    fn is_read_only(&self) -> bool {
        self.read_only || self.storage.is_read_only()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.told("read", self.storage.read_at(into, offset))
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.told("write", self.storage.write_at(from, offset))
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.told("flush", self.storage.flush())
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.told("discard", self.storage.discard(offset, len))
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> Result<(), DiskError> {
        let flags = ZeroFlags { may_unmap, ..ZeroFlags::default() };
        self.told("write of zeroes", self.storage.write_zeroes(offset, len, flags))
    }
}
