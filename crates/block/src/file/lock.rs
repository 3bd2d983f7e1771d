//! QEMU's image locks (its block/file-posix.c and docs): byte 100+n is locked by who uses permission n, byte 200+n by who
//! refuses it to others. All are shared locks; a conflict is someone else's lock on the byte of the other hundred. So a
//! qemu and a Ferro that would harm each other's image refuse to start. Not a lock on the image's contents.

use std::os::fd::BorrowedFd;
use std::path::Path;

use ferro_sys::ofd_lock;

use crate::{Error, Result};

/// Where the bytes for permissions used begin.
const USED: u64 = 100;
/// Where the bytes for permissions refused begin.
const REFUSED: u64 = 200;

/// One thing that may be done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    /// Reading, where what is read makes sense.
    ConsistentRead = 0,
    /// Changing what others read.
    Write = 1,
    /// Writing what is there already.
    WriteUnchanged = 2,
    /// Changing the size.
    Resize = 3,
}

impl Permission {
    const ALL: [Self; 4] = [Self::ConsistentRead, Self::Write, Self::WriteUnchanged, Self::Resize];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// QEMU's words for the lock by which this permission is used, and for the one by which it is refused.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ConsistentRead => ("\"consistent read\"", "shared \"consistent read\""),
            Self::Write => ("\"write\"", "shared \"write\""),
            Self::WriteUnchanged => ("\"write unchanged\"", "shared \"write unchanged\""),
            Self::Resize => ("\"resize\"", "shared \"resize\""),
        }
    }
}

/// What one opener does with a file and what it lets others do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    used: u8,
    refused: u8,
}

impl Sharing {
    /// Reads a plain disk: others may do anything.
    pub const READ_RAW: Self = Self { used: Permission::ConsistentRead.bit(), refused: 0 };
    /// Reads an image format: others may read, but not change its metadata underneath.
    pub const READ_FORMAT: Self =
        Self { used: Permission::ConsistentRead.bit(), refused: Permission::Write.bit() | Permission::Resize.bit() };
    /// Writes, alone.
    pub const WRITE: Self = Self {
        used: Permission::ConsistentRead.bit() | Permission::Write.bit() | Permission::Resize.bit(),
        refused: Permission::Write.bit() | Permission::Resize.bit(),
    };

    /// Refuses nothing to others (qemu-img's `-U`), which only a reader may do.
    #[must_use]
    pub const fn force_share(self) -> Self {
        Self { used: self.used, refused: 0 }
    }
}

/// Takes the locks, which last until the description is closed.
///
/// # Errors
/// [`Error::Locked`] if someone else uses what is refused, or refuses what is used; what the host says otherwise. A file
/// system without locks is no error, as in QEMU.
pub(super) fn acquire(fd: BorrowedFd<'_>, path: &Path, sharing: Sharing) -> Result<()> {
    let failed = |source| Error::File { path: path.to_path_buf(), operation: "lock".into(), source };
    for permission in Permission::ALL {
        for (base, bits) in [(USED, sharing.used), (REFUSED, sharing.refused)] {
            if bits & permission.bit() == 0 {
                continue;
            }
            match ofd_lock::try_lock_shared(fd, base + permission as u64, 1) {
                Ok(true) => {}
                Ok(false) => return Err(refusal(path, permission, base == REFUSED)),
                Err(error) if is_unsupported(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
    }
    for permission in Permission::ALL {
        // What is used must not be refused by anyone, and what is refused must not be used.
        for (base, bits) in [(REFUSED, sharing.used), (USED, sharing.refused)] {
            if bits & permission.bit() != 0
                && ofd_lock::is_locked_by_other(fd, base + permission as u64, 1).map_err(failed)?
            {
                release(fd);
                let shared = base == USED;
                return Err(refusal(path, permission, shared));
            }
        }
    }
    Ok(())
}

/// Gives all locks up.
fn release(fd: BorrowedFd<'_>) {
    for base in [USED, REFUSED] {
        // Nothing is lost if this fails: the locks end with the description, which the caller closes.
        let _ = ofd_lock::unlock(fd, base, Permission::ALL.len() as u64);
    }
}

/// `shared` if it is sharing that failed: someone uses what this opener refuses.
fn refusal(path: &Path, permission: Permission, shared: bool) -> Error {
    let names = permission.names();
    Error::Locked { path: path.to_path_buf(), lock: if shared { names.1 } else { names.0 } }
}

fn is_unsupported(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    error
        .raw_os_error()
        .map(Errno::from_raw_os_error)
        .is_some_and(|errno| [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOLCK].contains(&errno))
}
