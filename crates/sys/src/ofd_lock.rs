//! Byte-range locks that belong to an open file description (`F_OFD_SETLK`, fcntl(2)), not to a process: they end when the
//! last copy of the descriptor is closed. Never waits.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn flock(kind: libc::c_int, start: u64, len: u64) -> io::Result<libc::flock> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.try_into().map_err(out_of_range)?,
        l_len: len.try_into().map_err(out_of_range)?,
        l_pid: 0,
    })
}

fn control(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for as long as `fd` is borrowed, and `lock` is a valid, exclusive `struct flock`,
        // which is what the three OFD commands read and write.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn set(fd: BorrowedFd<'_>, kind: libc::c_int, start: u64, len: u64) -> io::Result<bool> {
    match control(fd, libc::F_OFD_SETLK, &mut flock(kind, start, len)?) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a shared (read) lock on `len` bytes from `start`; false if someone else's exclusive lock is in the way.
///
/// # Errors
/// What fcntl(2) says: a file system without locks, a descriptor not open for reading.
pub fn try_lock_shared(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<bool> {
    set(fd, libc::F_RDLCK, start, len)
}

/// Takes an exclusive (write) lock on `len` bytes from `start`; false if anyone else's lock is in the way.
///
/// # Errors
/// What fcntl(2) says: a file system without locks, a descriptor not open for writing.
pub fn try_lock_exclusive(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<bool> {
    set(fd, libc::F_WRLCK, start, len)
}

/// Gives up whatever this description has locked of `len` bytes from `start`.
///
/// # Errors
/// What fcntl(2) says.
pub fn unlock(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<()> {
    set(fd, libc::F_UNLCK, start, len).map(|_| ())
}

/// Whether another description's lock, of either kind, lies within `len` bytes from `start`.
///
/// # Errors
/// What fcntl(2) says: `EINVAL` on a kernel or file system without such locks.
pub fn is_locked_by_other(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, start, len)?;
    control(fd, libc::F_OFD_GETLK, &mut lock)?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptions_exclude_each_other_within_one_process() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let again = file.reopen().expect("a second description");
        assert!(try_lock_shared(file.as_file().as_fd(), 100, 1).expect("lock"));
        assert!(is_locked_by_other(again.as_fd(), 100, 1).expect("test"));
        assert!(!is_locked_by_other(again.as_fd(), 101, 1).expect("test"));
        assert!(!is_locked_by_other(file.as_file().as_fd(), 100, 1).expect("test"));
        assert!(try_lock_shared(again.as_fd(), 100, 1).expect("lock"));
        assert!(!try_lock_exclusive(again.as_fd(), 100, 1).expect("lock"));
        unlock(file.as_file().as_fd(), 100, 1).expect("unlock");
        assert!(try_lock_exclusive(again.as_fd(), 100, 1).expect("lock"));
    }

    #[test]
    fn wild_ranges_are_errors() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(try_lock_shared(file.as_file().as_fd(), u64::MAX, 1).is_err());
    }
}
