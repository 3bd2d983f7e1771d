//! Work on whole images: copying, comparing, moving changes between an overlay and its backing file. Nothing here knows how
//! users ask for it or see its progress; each job gets a [`Watch`] to report to.

mod chunks;
mod commit;
mod compare;
mod concat;
mod copy;
mod map;
mod zeros;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use commit::{commit, rebase};
pub use compare::{Comparison, compare};
pub use concat::Concat;
pub use copy::{CopyOptions, Target, copy};
pub use map::{MapEntry, allocated_clusters, map};
pub use zeros::is_zero;

use crate::{Error, Result};

/// What a job has done, seen from outside, and the way to stop it.
#[derive(Debug, Default)]
pub struct Watch {
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Watch {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of work done, and bytes of work in all (0 before the job knows).
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Makes the job end with an error soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Invalid("the job was cancelled".into()));
        }
        Ok(())
    }
}
