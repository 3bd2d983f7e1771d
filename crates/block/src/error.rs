//! What can go wrong on storage, told so that a user knows what failed, where, and what to do.

use std::io;
use std::path::PathBuf;

/// The result of an operation on storage.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on storage failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused an operation on a file.
    #[error("{path}: cannot {operation}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb phrase: "open", "read at 0x1000".
        operation: String,
        /// What the host said.
        source: io::Error,
    },
    /// An I/O error on storage whose name isn't known at this level.
    #[error("cannot {operation}: {source}")]
    Io {
        /// What was tried, as a verb phrase.
        operation: String,
        /// What the layer below said.
        source: io::Error,
    },
    /// A read or write runs past the end.
    #[error("{len} bytes at offset {offset} run past the end at {size}")]
    OutOfRange {
        /// Where the access begins.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The size of the storage in bytes.
        size: u64,
    },
    /// A write to something opened for reading.
    #[error("{0} is read-only")]
    ReadOnly(String),
    /// An image breaks the rules of its format.
    #[error("{format} image is damaged: {problem}")]
    Corrupt {
        /// The format: "qcow2", "luks"…
        format: &'static str,
        /// Which rule is broken, with the offset where there is one.
        problem: String,
    },
    /// Something that the format knows and this program doesn't, or that the format can't do.
    #[error("{0}")]
    Unsupported(String),
    /// A parameter can't be used.
    #[error("{0}")]
    Invalid(String),
    /// Another process has the image open in a way that excludes this one.
    #[error("{path}: failed to get {lock} lock: is another process using the image?", path = path.display())]
    Locked {
        /// The image.
        path: PathBuf,
        /// Which lock, in QEMU's words: `"write"`, `shared "write"`, `"consistent read"`…
        lock: &'static str,
    },
    /// A secret is missing or wrong.
    #[error("{0}")]
    Secret(String),
}

impl Error {
    /// Whether this is the host having no space left (`ENOSPC`, `EDQUOT`).
    pub fn is_out_of_space(&self) -> bool {
        let (Self::File { source, .. } | Self::Io { source, .. }) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The nearest host error number, for protocols that carry one (NBD, virtio, block jobs).
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        const EACCES: i32 = 13;
        const EINVAL: i32 = 22;
        const EROFS: i32 = 30;
        const ENOTSUP: i32 = 95;
        match self {
            Self::File { source, .. } | Self::Io { source, .. } => source.raw_os_error().unwrap_or(EIO),
            Self::OutOfRange { .. } | Self::Invalid(_) => EINVAL,
            Self::ReadOnly(_) => EROFS,
            Self::Corrupt { .. } => EIO,
            Self::Unsupported(_) => ENOTSUP,
            Self::Locked { .. } | Self::Secret(_) => EACCES,
        }
    }
}
