//! A range of bytes given out in chunks to several threads. The first error ends the work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Watch;
use crate::Result;

/// Threads that pay on this machine, at most `wanted`.
pub(super) fn threads(wanted: usize) -> usize {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.clamp(1, there)
}

/// Calls `each(state, offset, len)` for chunks of `chunk` bytes of `0..total`, in ascending order of their beginnings, on
/// up to `threads` threads with a state each.
pub(super) fn for_each<S>(
    total: u64,
    chunk: u64,
    threads: usize,
    watch: &Watch,
    state: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, u64, u64) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let error = Mutex::new(None);
    watch.begin(total);
    let work = || {
        let mut state = state();
        while !failed.load(Ordering::Relaxed) {
            let offset = next.fetch_add(chunk, Ordering::Relaxed);
            if offset >= total {
                return;
            }
            let len = chunk.min(total - offset);
            if let Err(problem) = each(&mut state, offset, len).and_then(|()| watch.advance(len)) {
                failed.store(true, Ordering::Relaxed);
                error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(problem);
            }
        }
    };
    if threads <= 1 || total <= chunk {
        work();
    } else {
        std::thread::scope(|scope| {
            for index in 1..threads {
                // With fewer threads it takes longer, nothing else.
                let _ = std::thread::Builder::new().name(format!("job-{index}")).spawn_scoped(scope, work);
            }
            work();
        });
    }
    error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
