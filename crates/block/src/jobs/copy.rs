//! Copies a disk, leaving out what is zero: the work of `convert` and `dd`.

use ferro_sys::AlignedBuffer;

use super::{Watch, chunks, zeros};
use crate::qcow2::Qcow2;
use crate::{Error, ExtentKind, Result, Storage, ZeroFlags};

/// Bytes that one thread copies at a time: enough to be efficient, and little enough to stay in a processor's cache.
const CHUNK: u64 = 1 << 20;
/// What is still read after an error, when reading on is wanted.
const SALVAGE: usize = 512;

/// Where the copy goes.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The disk, at least as large as the source.
    pub storage: &'a dyn Storage,
    /// Its format's side, for compressed clusters.
    pub compress: Option<&'a Qcow2>,
}

/// How to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// Threads at most (1 or more).
    pub threads: usize,
    /// Zeros of this many bytes are left out; 0 writes everything.
    pub sparse: u64,
    /// The target reads as zeros everywhere already.
    pub target_is_zero: bool,
    /// Copy only what the source's top image holds: the target shows the same backing file.
    pub top_only: bool,
    /// Bytes of that backing file, beyond which the target reads as zeros.
    pub backing_size: u64,
    /// Copy zeros where the source can't be read.
    pub salvage: bool,
    /// Let the host copy from file to file, without looking for zeros.
    pub offload: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            threads: 8,
            sparse: 4096,
            target_is_zero: false,
            top_only: false,
            backing_size: 0,
            salvage: false,
            offload: false,
        }
    }
}

/// Copies all of `source`.
///
/// # Errors
/// Errors of either side; the target's contents are then unspecified.
pub fn copy(source: &dyn Storage, target: Target<'_>, options: CopyOptions, watch: &Watch) -> Result<()> {
    let size = source.size();
    if target.storage.size() < size {
        return Err(Error::Invalid(format!(
            "Output file is smaller than input file: {} of {size} bytes",
            target.storage.size()
        )));
    }
    let unit = u64::from(target.storage.limits().allocation_unit);
    let chunk = CHUNK.next_multiple_of(unit);
    let copier = Copier { source, target, options, unit };
    let threads = chunks::threads(options.threads);
    chunks::for_each(size, chunk, threads, watch, AlignedBuffer::default, |buffer, offset, len| {
        copier.chunk(buffer, offset, len)
    })
}

struct Copier<'a> {
    source: &'a dyn Storage,
    target: Target<'a>,
    options: CopyOptions,
    unit: u64,
}

impl Copier<'_> {
    fn chunk(&self, buffer: &mut AlignedBuffer, offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        if self.target.compress.is_some() {
            return self.compressed(buffer, offset, len);
        }
        let mut at = offset;
        while at < end {
            let rest = end - at;
            if self.options.sparse == 0 && !self.options.top_only {
                self.data(buffer, at, rest)?;
                return Ok(());
            }
            let extent = match self.source.extent_at(at, rest) {
                Ok(extent) => extent,
                Err(_) if self.options.salvage => return self.data(buffer, at, rest),
                Err(error) => return Err(error),
            };
            // A run of other layers' data would be found again in the target's backing file.
            let run = extent.len.clamp(1, rest);
            let elsewhere = extent.depth > 0 || extent.kind == ExtentKind::Unallocated;
            if self.options.top_only && elsewhere {
            } else if extent.kind.reads_as_zero() {
                self.zeros(at, run)?;
            } else {
                self.data(buffer, at, run)?;
            }
            at += run;
        }
        Ok(())
    }

    /// Makes a range of the target zeros, if it isn't.
    fn zeros(&self, offset: u64, len: u64) -> Result<()> {
        let beyond = self.options.top_only && offset >= self.options.backing_size;
        if self.options.target_is_zero && (beyond || !self.options.top_only) {
            return Ok(());
        }
        self.target.storage.write_zeroes(offset, len, ZeroFlags { may_unmap: true, ..ZeroFlags::default() })
    }

    /// Copies data, its zeros left out.
    fn data(&self, buffer: &mut AlignedBuffer, offset: u64, len: u64) -> Result<()> {
        if self.options.offload && self.offloaded(offset, len) {
            return Ok(());
        }
        self.read(buffer, offset, len)?;
        if self.options.sparse == 0 {
            return self.target.storage.write_at(buffer, offset);
        }
        // A cluster is written as a whole or not at all; a file's zeros count from the length asked for.
        let unit = if self.unit > 4096 { self.unit } else { 4096 };
        let least = self.options.sparse.max(unit);
        let mut from = 0;
        // The beginning of what is to be written, which a run of zeros that is too short doesn't end.
        let mut pending = 0;
        while from < buffer.len() {
            let position = offset + from as u64;
            let to_boundary = (unit - position % unit).min((buffer.len() - from) as u64) as usize;
            let (run, zero) = if to_boundary < unit as usize {
                (to_boundary, zeros::is_zero(&buffer[from..from + to_boundary]))
            } else {
                zeros::run(&buffer[from..], unit as usize)
            };
            let at_edge = pending == from || from + run == buffer.len();
            if zero && (run as u64 >= least || at_edge) {
                self.write(buffer, offset, pending, from)?;
                self.zeros(position, run as u64)?;
                pending = from + run;
            }
            from += run;
        }
        self.write(buffer, offset, pending, buffer.len())
    }

    fn write(&self, buffer: &[u8], offset: u64, from: usize, to: usize) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.target.storage.write_at(&buffer[from..to], offset + from as u64)
    }

    fn compressed(&self, buffer: &mut AlignedBuffer, offset: u64, len: u64) -> Result<()> {
        let Some(image) = self.target.compress else { return Ok(()) };
        if self.known_zero(offset, len)? && self.options.target_is_zero && !self.options.top_only {
            return Ok(());
        }
        self.read(buffer, offset, len)?;
        let mut at = offset;
        for cluster in buffer.chunks(self.unit as usize) {
            let elsewhere = self.options.top_only && {
                let extent = self.source.extent_at(at, cluster.len() as u64)?;
                extent.len >= cluster.len() as u64 && (extent.depth > 0 || extent.kind == ExtentKind::Unallocated)
            };
            if elsewhere {
            } else if self.options.sparse > 0 && zeros::is_zero(cluster) {
                self.zeros(at, cluster.len() as u64)?;
            } else {
                image.write_compressed(at, cluster)?;
            }
            at += cluster.len() as u64;
        }
        Ok(())
    }

    fn known_zero(&self, offset: u64, len: u64) -> Result<bool> {
        let extent = self.source.extent_at(offset, len)?;
        Ok(extent.len >= len && extent.kind.reads_as_zero() && self.options.sparse > 0)
    }

    fn read(&self, buffer: &mut AlignedBuffer, offset: u64, len: u64) -> Result<()> {
        let len = len as usize;
        if buffer.capacity() < len {
            *buffer = AlignedBuffer::new(len.max(CHUNK as usize));
        }
        buffer.set_len(len);
        let read = self.source.read_at(buffer, offset);
        if read.is_ok() || !self.options.salvage {
            return read;
        }
        let mut at = offset;
        for piece in buffer.chunks_mut(SALVAGE) {
            if let Err(error) = self.source.read_at(piece, at) {
                tracing::warn!("error while reading offset {at}: {error}");
                piece.fill(0);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Lets the host copy; false if it won't.
    fn offloaded(&self, offset: u64, len: u64) -> bool {
        let Some(from) = self.source.direct_range(offset, len, false) else { return false };
        let Some(to) = self.target.storage.direct_range(offset, len, true) else { return false };
        let (mut read_at, mut write_at) = (from.offset, to.offset);
        let mut left = len as usize;
        while left > 0 {
            match rustix::fs::copy_file_range(&*from.file, Some(&mut read_at), &*to.file, Some(&mut write_at), left) {
                Ok(0) | Err(_) => return false,
                Ok(done) => left -= done.min(left),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0u8; 5 << 20];
        for (index, byte) in bytes.iter_mut().enumerate() {
            if (index / 10_000) % 3 == 1 {
                *byte = (index % 251) as u8;
            }
        }
        bytes
    }

    #[test]
    fn the_copy_is_the_same_whatever_the_options() {
        let source = MemoryStorage::from_bytes(sample());
        for threads in [1, 2] {
            for sparse in [0, 4096, 65_536] {
                for target_is_zero in [true, false] {
                    let before = if target_is_zero { 0 } else { 0xee };
                    let target = MemoryStorage::from_bytes(vec![before; 5 << 20]);
                    let options = CopyOptions { threads, sparse, target_is_zero, ..CopyOptions::default() };
                    let watch = Watch::new();
                    copy(&source, Target { storage: &target, compress: None }, options, &watch).expect("copied");
                    assert!(target.to_bytes() == sample(), "{options:?}");
                    assert_eq!(watch.progress(), (5 << 20, 5 << 20));
                }
            }
        }
    }

    #[test]
    fn a_smaller_target_and_a_cancelled_job_are_errors() {
        let source = MemoryStorage::from_bytes(sample());
        let small = MemoryStorage::new(4096);
        let target = Target { storage: &small, compress: None };
        assert!(copy(&source, target, CopyOptions::default(), &Watch::new()).is_err());
        let large = MemoryStorage::new(5 << 20);
        let watch = Watch::new();
        watch.cancel();
        assert!(copy(&source, Target { storage: &large, compress: None }, CopyOptions::default(), &watch).is_err());
    }
}
