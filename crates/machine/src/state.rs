//! The whole state of a VM as one stream, for snapshots and for sending a VM elsewhere: `format` says what the stream is
//! made of, `writer` and `reader` carry it over any `Write` and `Read`, `memory` turns RAM into records and back, `keeper`
//! takes the state of a stopped VM and puts it into one. Where the stream is kept is not known here.

mod format;
mod keeper;
mod memory;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use keeper::{Keeper, LoadFailure, NamedChip};

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use ferro_guest::LoadError;

/// Why a VM's state can't be saved or taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The bytes are something else.
    #[error("this is no saved VM")]
    Foreign,
    /// It was written by a later Ferro.
    #[error(
        "the VM was saved by Ferro {by} in format {found}, and this Ferro reads up to format {known}: take that one, or a later one"
    )]
    Newer {
        /// The format's version.
        found: u32,
        /// The newest known here.
        known: u32,
        /// Who wrote it.
        by: String,
    },
    /// It isn't what was written.
    #[error("the saved VM is damaged: {0}")]
    Damaged(&'static str),
    /// It is of a VM of another kind.
    #[error("the saved VM is another one: {0}")]
    Different(String),
    /// A chip doesn't take its section.
    #[error("the saved state of {chip} can't be taken over: {source}")]
    Chip {
        /// The section's name.
        chip: String,
        /// Why.
        source: LoadError,
    },
    /// The accelerator refuses.
    #[error(transparent)]
    Accelerator(#[from] ferro_hypervisor::Error),
    /// The stream can't be read or written.
    #[error("the saved VM can't be read or written: {0}")]
    Io(#[from] io::Error),
    /// The VM ended meanwhile.
    #[error("the VM has ended")]
    Ended,
    /// Somebody asked for an end.
    #[error("it was cancelled")]
    Cancelled,
}

/// How far a save or a load is, as others see it: in bytes of memory looked at.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// What is done, of how much (0 before that is known).
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Says it all at once.
    pub(crate) fn set(&self, (done, total): (u64, u64)) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What fuzz targets and the replay of their corpora call: takes any bytes and must return, in bounded time and memory.
#[doc(hidden)]
pub mod fuzzing {
    /// A whole stream, for a VM with a megabyte of memory.
    pub fn machine_state(bytes: &[u8]) {
        super::reader::fuzz(bytes);
    }
}
