//! Storage in a file or a block device of the host: what QEMU calls `file` and `host_device`. It knows nothing of what the
//! bytes mean.

mod direct;
mod lock;
mod transfer;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

pub use lock::Sharing;

use crate::storage::{DirectRange, check_range};
use crate::{Error, Extent, ExtentKind, Limits, Result, Storage, WriteFlags, ZeroFlags};

/// Disks are counted in units of this many bytes; a file's last unit may be incomplete and is then read as if padded.
const SECTOR: u64 = 512;

/// How a file is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileOptions {
    /// Writes are wanted.
    pub writable: bool,
    /// An image format lives in the file: it [grows](Storage::grows), and its readers keep writers out.
    pub format: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Every write is on stable media when it returns (`O_DSYNC`).
    pub write_through: bool,
    /// Flushes do nothing: for what is made anew if the host crashes.
    pub no_flush: bool,
    /// Let others write meanwhile (`-U`); for readers only.
    pub force_share: bool,
    /// Take no locks at all.
    pub unlocked: bool,
}

/// A file or block device.
#[derive(Debug)]
pub struct FileStorage {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    options: FileOptions,
    is_device: bool,
    size: AtomicU64,
    direct: Option<direct::Bounce>,
}

impl FileStorage {
    /// Opens an existing file.
    ///
    /// # Errors
    /// What the host says, and [`Error::Locked`].
    pub fn open(path: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        Self::open_with(path.as_ref(), options, OFlags::empty())
    }

    /// Makes a file of `size` bytes, all zero; one that exists loses its contents. A block device keeps its size, which
    /// must suffice.
    ///
    /// # Errors
    /// What the host says, [`Error::Locked`] if someone uses the file, and a device that is too small.
    pub fn create(path: impl AsRef<Path>, size: u64, mut options: FileOptions) -> Result<Self> {
        options.writable = true;
        let file = Self::open_with(path.as_ref(), options, OFlags::CREATE)?;
        if file.is_device {
            if file.size() < size {
                return Err(Error::Invalid(format!(
                    "{}: the device has {} bytes, {size} are needed",
                    file.path.display(),
                    file.size()
                )));
            }
        } else {
            file.truncate(0)?;
            file.truncate(size)?;
        }
        Ok(file)
    }

    fn open_with(path: &Path, options: FileOptions, extra: OFlags) -> Result<Self> {
        let failed = |source: Errno| Error::File {
            path: path.to_path_buf(),
            operation: if extra.contains(OFlags::CREATE) { "create".into() } else { "open".into() },
            source: source.into(),
        };
        let mut flags = OFlags::CLOEXEC | extra;
        flags |= if options.writable { OFlags::RDWR } else { OFlags::RDONLY };
        if options.direct {
            flags |= OFlags::DIRECT;
        }
        if options.write_through {
            flags |= OFlags::DSYNC;
        }
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(failed)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd).map_err(failed)?.st_mode);
        let is_device = match kind {
            rustix::fs::FileType::BlockDevice => true,
            rustix::fs::FileType::RegularFile => false,
            rustix::fs::FileType::Directory => return Err(failed(Errno::ISDIR)),
            _ => return Err(Error::Invalid(format!("{}: neither a file nor a block device", path.display()))),
        };
        if !options.unlocked {
            let sharing = match (options.writable, options.format) {
                (true, _) => Sharing::WRITE,
                (false, true) => Sharing::READ_FORMAT,
                (false, false) => Sharing::READ_RAW,
            };
            let sharing = if options.force_share && !options.writable { sharing.force_share() } else { sharing };
            lock::acquire(fd.as_fd(), path, sharing)?;
        }
        let size = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(failed)?;
        let direct = options.direct.then(direct::Bounce::default);
        let path = path.to_path_buf();
        Ok(Self { fd: Arc::new(fd), path, options, is_device, size: AtomicU64::new(size), direct })
    }

    /// The file's name as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of host space allocated to the file.
    ///
    /// # Errors
    /// What the host says.
    pub fn allocated(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&*self.fd).map_err(|errno| self.error("stat", errno))?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    /// Whether this is a block device rather than a file.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// The open description, for requests issued past this object.
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// A second handle on the description, for what std does on files.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn try_clone_file(&self) -> Result<File> {
        let fd = self.fd.try_clone().map_err(|source| self.io_error("duplicate the descriptor of", source))?;
        Ok(File::from(fd))
    }

    fn truncate(&self, size: u64) -> Result<()> {
        rustix::fs::ftruncate(&*self.fd, size)
            .map_err(|errno| self.error(&format!("set the size to {size}"), errno))?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn error(&self, operation: &str, errno: Errno) -> Error {
        self.io_error(operation, errno.into())
    }

    fn io_error(&self, operation: &str, source: std::io::Error) -> Error {
        Error::File { path: self.path.clone(), operation: operation.into(), source }
    }

    /// The end of what the file holds, which may lie inside the last sector.
    fn end(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Refuses a range that may not be written.
    fn check_write(&self, offset: u64, len: u64) -> Result<()> {
        if !self.options.writable {
            return Err(Error::ReadOnly(self.path.display().to_string()));
        }
        if !self.grows() {
            return check_range(offset, len, self.size());
        }
        // The host counts in signed 64 bits.
        check_range(offset, len, i64::MAX as u64)
    }

    fn wrote_to(&self, end: u64) {
        self.size.fetch_max(end, Ordering::AcqRel);
    }

    /// Tells the host to make a range zeros; false if it can't do so fast.
    fn fast_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<bool> {
        let ways: &[FallocateFlags] = if may_unmap {
            &[
                FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
                FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
            ]
        } else {
            &[FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE)]
        };
        for &way in ways {
            match rustix::fs::fallocate(&*self.fd, way, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV) => {}
                Err(errno) => return Err(self.error(&format!("write zeros at {offset}"), errno)),
            }
        }
        Ok(false)
    }

    fn literal_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        let zeros = ferro_sys::AlignedBuffer::new(len.min(1 << 20) as usize);
        let mut done = 0;
        while done < len {
            let now = (len - done).min(zeros.len() as u64) as usize;
            self.write_at(&zeros[..now], offset + done)?;
            done += now as u64;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn size(&self) -> u64 {
        let end = self.end();
        if self.options.format { end } else { end.next_multiple_of(SECTOR) }
    }

    fn is_read_only(&self) -> bool {
        !self.options.writable
    }

    fn grows(&self) -> bool {
        self.options.format && !self.is_device
    }

    fn limits(&self) -> Limits {
        // Other requests are served too, but take a detour.
        let request_alignment = if self.direct.is_some() { direct::ALIGNMENT as u32 } else { 1 };
        Limits { request_alignment, allocation_unit: 4096, max_transfer: 1 << 30 }
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        check_range(offset, len, self.size())?;
        let done = match &self.direct {
            Some(bounce) if !direct::is_aligned_mut(buffers, offset) => bounce.read(&self.fd, buffers, offset),
            _ => transfer::read(&self.fd, buffers, offset),
        };
        done.map_err(|source| self.io_error(&format!("read {len} bytes at {offset}"), source))
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let len = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() as u64;
        self.check_write(offset, len)?;
        let done = match &self.direct {
            Some(bounce) if !direct::is_aligned(buffers, offset) => bounce.write(&self.fd, buffers, offset, self.end()),
            _ => transfer::write(&self.fd, buffers, offset),
        };
        done.map_err(|source| self.io_error(&format!("write {len} bytes at {offset}"), source))?;
        self.wrote_to(offset + len);
        if flags.fua { self.flush() } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_write(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let end = self.end();
        let inside = len.min(end.saturating_sub(offset));
        if inside > 0 && !self.fast_zeroes(offset, inside, flags.may_unmap)? {
            if flags.no_fallback {
                return Err(Error::Unsupported(format!("{}: no fast way to write zeros", self.path.display())));
            }
            self.literal_zeroes(offset, inside)?;
        }
        if inside < len && !self.is_device {
            if !flags.may_unmap && offset + inside == end {
                self.allocate(offset + inside, len - inside).or_else(|_| self.truncate(offset + len))?;
            } else {
                self.truncate(offset + len)?;
            }
        }
        if flags.fua { self.flush() } else { Ok(()) }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if !self.options.writable {
            return Err(Error::ReadOnly(self.path.display().to_string()));
        }
        check_range(offset, len, self.size())?;
        if len == 0 {
            return Ok(());
        }
        let way = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&*self.fd, way, offset, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV) => Ok(()),
            Err(errno) => Err(self.error(&format!("discard {len} bytes at {offset}"), errno)),
        }
    }

    fn flush(&self) -> Result<()> {
        if !self.options.writable || self.options.no_flush {
            return Ok(());
        }
        rustix::fs::fdatasync(&*self.fd).map_err(|errno| self.error("bring data to stable media", errno))
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size())?;
        let data = |len| Extent { len, kind: ExtentKind::Data, file_offset: Some(offset), depth: 0 };
        let hole =
            |len| Extent { len, kind: ExtentKind::Zero { allocated: false }, file_offset: Some(offset), depth: 0 };
        if self.is_device || len == 0 {
            return Ok(data(len));
        }
        match rustix::fs::seek(&*self.fd, SeekFrom::Data(offset)) {
            Ok(start) if start > offset => Ok(hole(len.min(start - offset))),
            Ok(_) => match rustix::fs::seek(&*self.fd, SeekFrom::Hole(offset)) {
                // A hole at the very end of the file may be the padding of its last sector.
                Ok(end) if end >= self.end() => Ok(data(len)),
                Ok(end) if end > offset => Ok(data(len.min(end - offset))),
                _ => Ok(data(len)),
            },
            Err(Errno::NXIO) => Ok(hole(len)),
            Err(_) => Ok(data(len)),
        }
    }

    fn set_size(&self, size: u64) -> Result<()> {
        if !self.options.writable {
            return Err(Error::ReadOnly(self.path.display().to_string()));
        }
        if self.is_device {
            return if size <= self.size() {
                Ok(())
            } else {
                Err(Error::Unsupported(format!("{}: a block device can't be resized", self.path.display())))
            };
        }
        self.truncate(size)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.check_write(offset, len)?;
        if len == 0 || self.is_device {
            return Ok(());
        }
        match rustix::fs::fallocate(&*self.fd, FallocateFlags::empty(), offset, len) {
            Ok(()) => {
                self.wrote_to(offset + len);
                Ok(())
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                Err(Error::Unsupported(format!("{}: the file system can't reserve space", self.path.display())))
            }
            Err(errno) => Err(self.error(&format!("reserve {len} bytes at {offset}"), errno)),
        }
    }

    fn direct_range(&self, offset: u64, len: u64, write: bool) -> Option<DirectRange> {
        let end = offset.checked_add(len)?;
        // What reaches beyond the end needs padding or growing, and what isn't aligned a detour.
        let plain = end <= self.end() && (!write || self.options.writable);
        let aligned = self.direct.is_none() || (offset | len).is_multiple_of(direct::ALIGNMENT);
        (plain && aligned).then(|| DirectRange { file: Arc::clone(&self.fd), offset, guard: None })
    }
}
