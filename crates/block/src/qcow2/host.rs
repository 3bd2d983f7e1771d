//! The file an image lies in, seen from the format: it grows when something is written beyond its end, and what was never
//! written reads as zeros. Knows nothing of what the bytes mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result, Storage, WriteFlags};

/// How far ahead a file is grown, in bytes. It takes no space, but each time stops the requests under way.
const GROWTH: RangeInclusive<u64> = 16 << 20..=256 << 20;
/// How far ahead space is reserved, and how far behind: a longer stretch is a gap that stays empty, in bytes.
const RESERVE: RangeInclusive<u64> = 8 << 20..=64 << 20;

/// A file that grows.
pub(super) struct HostFile {
    storage: Arc<dyn Storage>,
    len: AtomicU64,
    /// The end of what was written or asked for; the file is cut to it when it is closed.
    used: AtomicU64,
    growing: Mutex<()>,
    /// Writes go past the host's cache: without space reserved for them they would allocate it one after another.
    reserves: bool,
}

impl HostFile {
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        let len = storage.size();
        let reserves = storage.grows() && storage.limits().request_alignment > 1;
        Self { storage, len: AtomicU64::new(len), used: AtomicU64::new(len), growing: Mutex::new(()), reserves }
    }

    pub(super) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Bytes in the file now.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_vectored(&mut [IoSliceMut::new(buffer)], offset)
    }

    /// Fills `buffers`; what lies beyond the end reads as zeros.
    pub(super) fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let len = self.len();
        if offset.checked_add(total).is_some_and(|end| end <= len) {
            return self.storage.read_vectored_at(buffers, offset);
        }
        let mut at = offset;
        for buffer in buffers {
            let there = len.saturating_sub(at).min(buffer.len() as u64) as usize;
            let (data, rest) = buffer.split_at_mut(there);
            if !data.is_empty() {
                self.storage.read_at(data, at)?;
            }
            rest.fill(0);
            at = at.saturating_add(buffer.len() as u64);
        }
        Ok(())
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write_vectored(&[IoSlice::new(bytes)], offset)
    }

    /// Writes, growing the file where needed.
    pub(super) fn write_vectored(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        self.ensure(offset + total)?;
        self.storage.write_vectored_at(buffers, offset, WriteFlags::default())
    }

    /// Makes the file at least `end` bytes long.
    pub(super) fn ensure(&self, end: u64) -> Result<()> {
        self.used.fetch_max(end, Ordering::AcqRel);
        if end <= self.len() {
            return Ok(());
        }
        let _guard = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= self.len() {
            return Ok(());
        }
        let len = self.len();
        if self.reserves && end - len <= *RESERVE.start() {
            let wanted = end.saturating_add((end / 8).clamp(*RESERVE.start(), *RESERVE.end())) & !4095;
            if self.storage.allocate(len, wanted - len).is_ok() {
                self.len.store(wanted, Ordering::Release);
                return Ok(());
            }
        }
        let ahead = (end / 2).clamp(*GROWTH.start(), *GROWTH.end());
        let wanted = end.saturating_add(ahead) & !4095;
        let grown = match self.storage.set_size(wanted) {
            Ok(()) => wanted,
            Err(Error::Unsupported(_)) => {
                let full = io::Error::from(io::ErrorKind::StorageFull);
                return Err(Error::Io { operation: "grow the image".into(), source: full });
            }
            Err(_) => {
                self.storage.set_size(end)?;
                end
            }
        };
        self.len.store(grown, Ordering::Release);
        Ok(())
    }

    /// Makes the file exactly `end` bytes long.
    pub(super) fn truncate(&self, end: u64) -> Result<()> {
        let _guard = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        self.storage.set_size(end)?;
        self.len.store(end, Ordering::Release);
        self.used.store(end, Ordering::Release);
        Ok(())
    }

    /// Cuts off what was grown ahead and not used.
    pub(super) fn trim(&self) -> Result<()> {
        let used = self.used.load(Ordering::Acquire);
        if used < self.len() { self.truncate(used) } else { Ok(()) }
    }

    /// Gives a range back to the host if that can be done.
    pub(super) fn discard(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len());
        if offset < end
            && let Err(error) = self.storage.discard(offset, end - offset)
        {
            tracing::debug!(offset, len, %error, "cannot discard");
        }
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.storage.flush()
    }
}
