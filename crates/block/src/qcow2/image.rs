//! An open image: the files below it, its one metadata owner, and the [`Storage`] it presents. The work itself is in the
//! sibling modules: reading, writing, zeroing, committing, snapshots, bitmaps.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use super::buffers::{ReadCursor, total};
use super::gate::{Exclusive, Gate, Ticket};
use super::geometry::Geometry;
use super::host::HostFile;
use super::open::Crypt;
use super::options::{Compression, OpenOptions};
use super::read::Source;
use super::state::State;
use crate::storage::{DirectRange, check_range};
use crate::{Error, Extent, Limits, Result, Storage, WriteFlags, ZeroFlags};

/// How much of a disk is zeroed or discarded before metadata may be written back, in L2 tables.
const TABLES_AT_ONCE: u64 = 16;

/// The storages that an image lies on.
#[derive(Clone)]
pub struct Files {
    /// The image file.
    pub file: Arc<dyn Storage>,
    /// The external data file; needed if the header says so.
    pub data_file: Option<Arc<dyn Storage>>,
    /// What shows through where nothing is allocated. `None` shows zeros even if the header names a backing file.
    pub backing: Option<Arc<dyn Storage>>,
}

/// Where allocated data can be read or overwritten directly.
pub struct Direct {
    /// The file it lies in.
    pub file: Arc<dyn Storage>,
    /// Where in this file.
    pub host_offset: u64,
    /// For how many bytes.
    pub len: u64,
    /// To be held until the request is done.
    pub ticket: Ticket,
}

/// An open image. Any number of threads may use it at once.
///
/// Closing writes back what is pending; dropping does the same, but can't say what went wrong.
pub struct Qcow2(pub(super) Arc<Inner>);

/// What an open image consists of.
pub(super) struct Inner {
    pub(super) file: HostFile,
    pub(super) data_file: Option<HostFile>,
    pub(super) data_file_raw: bool,
    pub(super) backing: RwLock<Option<Arc<dyn Storage>>>,
    /// The header names a backing file.
    pub(super) names_backing: AtomicBool,
    /// The fixed part: clusters and tables. (Version and refcount width may change; those are in the state.)
    pub(super) geometry: Geometry,
    pub(super) compression: Compression,
    pub(super) crypt: Option<Arc<Crypt>>,
    pub(super) read_only: bool,
    /// Everything was written back for the last time.
    pub(super) closed: AtomicBool,
    pub(super) lazy_refcounts: bool,
    pub(super) refcount_cache_bytes: usize,
    pub(super) size: AtomicU64,
    pub(super) state: Mutex<State>,
    /// Some guest clusters are not in flight any more.
    pub(super) changed: Condvar,
    pub(super) gate: Arc<Gate>,
    /// Held while metadata is written back. Always taken before the gate.
    pub(super) committing: Mutex<()>,
    /// The compressed cluster that was expanded last.
    pub(super) decompressed: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

/// The image for oneself: no request is under way, and no metadata is being written back.
pub(super) struct Alone<'a> {
    pub(super) committing: MutexGuard<'a, ()>,
    _gate: Exclusive<'a>,
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file in which guest data lie.
    pub(super) fn data(&self) -> &HostFile {
        self.data_file.as_ref().unwrap_or(&self.file)
    }

    pub(super) fn backing(&self) -> Option<Arc<dyn Storage>> {
        self.backing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether unallocated clusters may show something else than zeros, now or when opened with its backing file.
    pub(super) fn shows_below(&self) -> bool {
        self.backing.read().unwrap_or_else(PoisonError::into_inner).is_some()
            || self.names_backing.load(Ordering::Relaxed)
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Waits until the image can be had for oneself.
    pub(super) fn alone(&self) -> Alone<'_> {
        let committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        Alone { committing, _gate: self.gate.exclusive() }
    }

    /// As [`Inner::alone`], for changing the image.
    pub(super) fn alone_to_write(&self) -> Result<Alone<'_>> {
        self.check_writable()?;
        Ok(self.alone())
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly("the image".into()));
        }
        self.state().check_writable()
    }

    pub(super) fn crypt_missing(&self) -> bool {
        self.crypt.as_ref().is_some_and(|crypt| crypt.cipher.is_locked())
    }

    /// Writes metadata back if much of it has changed. To be called from outside the gate.
    pub(super) fn relieve(&self) -> Result<()> {
        if self.state().is_under_pressure() { self.commit() } else { Ok(()) }
    }

    /// Does something for parts of a range, writing metadata back in between where needed.
    fn in_parts(&self, offset: u64, len: u64, act: impl Fn(u64, u64) -> Result<()>) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        let shift = self.geometry.l1_shift();
        while at < end {
            let next = end.min(((at >> shift) + TABLES_AT_ONCE) << shift);
            {
                let _ticket = self.gate.enter();
                act(at, next - at)?;
            }
            self.relieve()?;
            at = next;
        }
        Ok(())
    }

    /// Notes a change for the bitmaps that record, before it is made.
    fn record(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.state();
        if state.bitmaps.iter().any(|bitmap| bitmap.records()) {
            self.mark_bitmaps_in_use(&mut state)?;
            for bitmap in state.bitmaps.iter_mut().filter(|bitmap| bitmap.records()) {
                bitmap.set(offset, len);
            }
        }
        Ok(())
    }
}

impl Qcow2 {
    /// Opens an image.
    ///
    /// # Errors
    /// Damaged or unsupported images, a missing or wrong secret, errors of the files.
    pub fn open(files: Files, options: &OpenOptions) -> Result<Self> {
        super::open::open(files, options)
    }

    /// Writes all that is pending, clears the dirty bit and stores bitmaps. Dropping does the same, ignoring errors.
    ///
    /// # Errors
    /// Errors of the files.
    pub fn close(self) -> Result<()> {
        self.0.finish_writing()
    }

    /// The backing storage in use.
    pub fn backing(&self) -> Option<Arc<dyn Storage>> {
        self.0.backing()
    }

    /// Replaces the backing storage in use. The header stays.
    pub fn replace_backing(&self, backing: Option<Arc<dyn Storage>>) {
        let _alone = self.0.alone();
        *self.0.backing.write().unwrap_or_else(PoisonError::into_inner) = backing;
    }

    /// Where `offset` can be read directly (`write` false) or overwritten in place: `None` where it isn't allocated so, is
    /// compressed or encrypted, or an exclusive operation is waiting. Never waits for requests; may read an L2 table.
    ///
    /// As long as a ticket is held, snapshots, resizing, checking and closing wait. So a thread that holds one must not
    /// begin such an operation.
    ///
    /// # Errors
    /// Damaged metadata, errors of the file.
    pub fn lookup(&self, offset: u64, len: u64, write: bool) -> Result<Option<Direct>> {
        let inner = &self.0;
        check_range(offset, len, inner.size())?;
        if inner.crypt.is_some() || len == 0 || (write && inner.read_only) {
            return Ok(None);
        }
        let Some(ticket) = inner.gate.try_enter() else { return Ok(None) };
        let mut state = inner.state();
        if write && (state.broken.is_some() || state.bitmaps.iter().any(|bitmap| bitmap.records())) {
            return Ok(None);
        }
        let (source, mut run) = inner.map(&mut state, offset, len)?;
        let Source::Data(host_offset) = source else { return Ok(None) };
        let bits = inner.geometry.cluster_bits;
        if write {
            let clusters = offset >> bits..(offset + run).div_ceil(1 << bits);
            if state.is_in_flight(&clusters) {
                return Ok(None);
            }
            // Only as far as every cluster is ours alone.
            let mut at = offset;
            while at < offset + run {
                if !state.cluster(&inner.file, at)?.copied {
                    run = at - offset;
                    break;
                }
                at = (at | (inner.geometry.cluster_size() - 1)) + 1;
            }
            if run == 0 {
                return Ok(None);
            }
            state.check_writable_place(&inner.file, host_offset, run)?;
        }
        if host_offset + run > inner.data().len() {
            return Ok(None);
        }
        let file = Arc::clone(inner.data().storage());
        Ok(Some(Direct { file, host_offset, len: run, ticket }))
    }

    /// Writes whole clusters in compressed form (the last one may be cut by the end of the disk). Several threads may do
    /// this at once, to compress in parallel.
    ///
    /// # Errors
    /// Misaligned ranges, images that can't hold compressed clusters, errors of the file.
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        let inner = &self.0;
        inner.check_writable()?;
        let len = data.len() as u64;
        check_range(offset, len, inner.size())?;
        let at_end = offset + len == inner.size();
        if inner.geometry.in_cluster(offset) != 0 || (inner.geometry.in_cluster(len) != 0 && !at_end) {
            return Err(Error::Invalid("compressed data must be whole clusters".into()));
        }
        if inner.data_file.is_some() {
            return Err(Error::Unsupported("an image with an external data file can't hold compressed data".into()));
        }
        if inner.crypt.is_some() {
            return Err(Error::Unsupported("an encrypted image can't hold compressed data".into()));
        }
        inner.record(offset, len)?;
        {
            let _ticket = inner.gate.enter();
            inner.write_compressed_guest(data, offset)?;
        }
        inner.relieve()
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if let Err(error) = self.0.finish_writing() {
            tracing::error!(%error, "cannot write an image's metadata back");
        }
    }
}

impl Storage for Qcow2 {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    fn limits(&self) -> Limits {
        let request_alignment = if self.0.crypt.is_some() { 512 } else { 1 };
        Limits { request_alignment, allocation_unit: 1 << self.0.geometry.cluster_bits, ..Limits::default() }
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        check_range(offset, len, self.size())?;
        let _ticket = self.0.gate.enter();
        self.0.read_guest(&mut ReadCursor::new(buffers), offset, len)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let len = total(buffers);
        self.0.check_writable()?;
        check_range(offset, len, self.size())?;
        self.0.record(offset, len)?;
        {
            let _ticket = self.0.gate.enter();
            self.0.write_guest(buffers, offset)?;
        }
        if flags.fua { self.flush() } else { self.0.relieve() }
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.0.check_writable()?;
        check_range(offset, len, self.size())?;
        self.0.record(offset, len)?;
        let below = ZeroFlags { fua: false, ..flags };
        self.0.in_parts(offset, len, |at, len| self.0.zero_guest(at, len, below))?;
        if flags.fua { self.flush() } else { Ok(()) }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.0.check_writable()?;
        check_range(offset, len, self.size())?;
        self.0.record(offset, len)?;
        self.0.in_parts(offset, len, |at, len| self.0.discard_guest(at, len))
    }

    fn flush(&self) -> Result<()> {
        if self.0.read_only {
            return Ok(());
        }
        self.0.commit()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size())?;
        self.0.extent(offset, len)
    }

    fn direct_range(&self, offset: u64, len: u64, write: bool) -> Option<DirectRange> {
        // Whatever is wrong is found again, and told, on the way that isn't direct.
        let direct = self.lookup(offset, len, write).ok()??;
        let range = direct.file.direct_range(direct.host_offset, len, write).filter(|_| direct.len >= len)?;
        Some(DirectRange { guard: Some(Arc::new(direct.ticket)), ..range })
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.resize(size, super::Preallocation::Off)
    }
}
