//! A disk as a file in a directory, by FUSE: a directory with one file for each storage given, whose sizes never change.
//! Loop devices work on them. Doesn't look into the disks.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyWrite, Request, Session, SessionUnmounter, TimeOrNow,
};

use crate::{Error, Result, Storage, ZeroFlags};

/// How long the kernel may remember what it was told: nothing ever changes.
const REMEMBER: Duration = Duration::from_secs(3600);
/// Threads that serve the kernel.
const THREADS: usize = 4;
/// The longest read or write that the kernel sends.
const MAX_TRANSFER: u32 = 1 << 20;

/// A file in the directory.
pub struct MountedFile {
    /// Its name.
    pub name: String,
    /// Its contents.
    pub storage: Arc<dyn Storage>,
}

/// A directory with files in it, until dropped.
pub struct Mount {
    directory: PathBuf,
    unmounter: SessionUnmounter,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Mount {
    /// Mounts `files` on `directory`, for this user alone.
    ///
    /// # Errors
    /// No FUSE here (or no `fusermount3` for users who aren't root), no such directory.
    pub fn new(directory: &Path, files: Vec<MountedFile>) -> Result<Self> {
        let failed =
            |operation: &str, source| Error::File { path: directory.into(), operation: operation.into(), source };
        let read_only = files.iter().all(|file| file.storage.is_read_only());
        let mut options = Config::default();
        options.mount_options = vec![
            MountOption::FSName("ferro".into()),
            MountOption::Subtype("image".into()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            if read_only { MountOption::RO } else { MountOption::RW },
        ];
        options.n_threads = Some(THREADS);
        let mut session =
            Session::new(Directory::new(files), directory, &options).map_err(|source| failed("mount on", source))?;
        let unmounter = session.unmount_callable();
        let thread = std::thread::Builder::new()
            .name("mount".into())
            .spawn(move || session.run())
            .map_err(|source| failed("serve", source))?;
        Ok(Self { directory: directory.into(), unmounter, thread: Some(thread) })
    }

    /// Whether somebody unmounted the directory.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Unmounts, unless the files are in use.
    ///
    /// # Errors
    /// The files are in use (`EBUSY`): nothing has changed then.
    pub fn unmount(&mut self) -> Result<()> {
        use rustix::mount::{UnmountFlags, unmount};
        let failed = |source| Error::File { path: self.directory.clone(), operation: "unmount".into(), source };
        match unmount(&self.directory, UnmountFlags::empty()) {
            Ok(()) => {}
            Err(rustix::io::Errno::PERM) => {
                let status = std::process::Command::new("fusermount3").arg("-u").arg(&self.directory).status();
                if !status.map_err(failed)?.success() {
                    return Err(failed(std::io::ErrorKind::ResourceBusy.into()));
                }
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        self.join();
        Ok(())
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            tracing::warn!("{}: {error}", self.directory.display());
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_finished() {
            self.join();
        } else if self.unmount().is_err() {
            // In use: it goes away when its last user does; until then nobody serves it any more.
            if let Err(error) = self.unmounter.unmount() {
                tracing::warn!("cannot unmount {}: {error}", self.directory.display());
            }
        }
    }
}

/// The file system: a root directory and the files, numbered from 2.
struct Directory {
    files: Vec<MountedFile>,
    made: SystemTime,
    owner: (u32, u32),
}

impl Directory {
    fn new(files: Vec<MountedFile>) -> Self {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self { files, made: SystemTime::now(), owner }
    }

    fn file(&self, number: INodeNo) -> Option<&MountedFile> {
        self.files.get(usize::try_from(u64::from(number).checked_sub(2)?).ok()?)
    }

    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let file = self.file(number);
        if file.is_none() && number != INodeNo::ROOT {
            return None;
        }
        let size = file.map_or(0, |file| file.storage.size());
        let perm = match file {
            None => 0o700,
            Some(file) if file.storage.is_read_only() => 0o400,
            Some(_) => 0o600,
        };
        Some(FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            crtime: self.made,
            kind: if file.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm,
            nlink: if file.is_some() { 1 } else { 2 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn errno(error: &Error) -> Errno {
    tracing::warn!("{error}");
    Errno::from_i32(error.errno())
}

/// `fallocate` modes of the kernel's.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

impl Filesystem for Directory {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Both are wishes; the kernel's own limits serve as well.
        let _ = config.set_max_write(MAX_TRANSFER);
        let _ = config.set_max_readahead(MAX_TRANSFER);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|file| parent == INodeNo::ROOT && name == file.name.as_str());
        match found.and_then(|index| self.attributes(INodeNo(index as u64 + 2))) {
            Some(attributes) => reply.entry(&REMEMBER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&REMEMBER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times and owners are forgotten, another size is refused.
    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(number) {
            Some(attributes) if size.is_none_or(|size| size == attributes.size) => reply.attr(&REMEMBER, &attributes),
            Some(_) => reply.error(Errno::EPERM),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if number != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [(1, FileType::Directory, "."), (1, FileType::Directory, "..")];
        let names = self.files.iter().enumerate();
        let files = names.map(|(index, file)| (index as u64 + 2, FileType::RegularFile, file.name.as_str()));
        for (index, (number, kind, name)) in dots.into_iter().chain(files).enumerate().skip(offset as usize) {
            if reply.add(INodeNo(number), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.file(number) {
            // The lowest two bits say how: 0 is for reading.
            Some(file) if file.storage.is_read_only() && flags.0 & 3 != 0 => reply.error(Errno::EROFS),
            Some(_) => reply.opened(FileHandle(0), fuser::FopenFlags::FOPEN_KEEP_CACHE),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.file(number) else { return reply.error(Errno::ENOENT) };
        let len = file.storage.size().saturating_sub(offset).min(u64::from(size.min(16 << 20)));
        let mut buffer = ferro_sys::AlignedBuffer::new(len as usize);
        match file.storage.read_at(&mut buffer, offset) {
            Ok(()) => reply.data(&buffer),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(file) = self.file(number) else { return reply.error(Errno::ENOENT) };
        let room = file.storage.size().saturating_sub(offset).min(data.len() as u64) as usize;
        if room == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        match file.storage.write_at(&data[..room], offset) {
            Ok(()) => reply.written(room as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, number: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.file(number).map(|file| file.storage.flush()) {
            Some(Ok(())) => reply.ok(),
            Some(Err(error)) => reply.error(errno(&error)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.file(number) else { return reply.error(Errno::ENOENT) };
        let size = file.storage.size();
        let len = length.min(size.saturating_sub(offset));
        let done = if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
            let flags = ZeroFlags { may_unmap: mode & PUNCH_HOLE != 0, ..ZeroFlags::default() };
            file.storage.write_zeroes(offset.min(size), len, flags)
        } else if mode & !KEEP_SIZE == 0 && len == length {
            Ok(())
        } else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        const DATA: i32 = 3;
        const HOLE: i32 = 4;
        let Some(file) = self.file(number) else { return reply.error(Errno::ENOENT) };
        let size = file.storage.size();
        let mut at = offset as u64;
        if offset < 0 || at >= size || !matches!(whence, DATA | HOLE) {
            return reply.error(if matches!(whence, DATA | HOLE) { Errno::ENXIO } else { Errno::EINVAL });
        }
        while at < size {
            match file.storage.extent_at(at, size - at) {
                Ok(extent) if extent.kind.reads_as_zero() == (whence == HOLE) => return reply.offset(at as i64),
                Ok(extent) => at += extent.len.max(1),
                Err(error) => return reply.error(errno(&error)),
            }
        }
        // The end of the file counts as a hole.
        if whence == HOLE { reply.offset(size as i64) } else { reply.error(Errno::ENXIO) }
    }
}
