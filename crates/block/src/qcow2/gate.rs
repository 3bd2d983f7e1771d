//! Lets requests run side by side, and lets an operation that must have the image for itself wait until none is under
//! way. Holds no data; a request that is inside never waits for another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const EXCLUSIVE: u64 = 1 << 63;

/// The gate itself.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The number of requests inside, and whether somebody wants or has the image for himself.
    state: AtomicU64,
    owner: Mutex<()>,
    changed: (Mutex<()>, Condvar),
}

/// A request's stay inside the gate: as long as it lasts, no host cluster is given to other data.
#[derive(Debug)]
pub struct Ticket(Arc<Gate>);

/// Sole possession.
pub(super) struct Exclusive<'a> {
    gate: &'a Gate,
    _owner: MutexGuard<'a, ()>,
}

impl Gate {
    /// Goes in unless somebody wants the image for himself.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Ticket> {
        if self.state.fetch_add(1, Ordering::AcqRel) & EXCLUSIVE == 0 {
            return Some(Ticket(Arc::clone(self)));
        }
        self.leave();
        None
    }

    /// Goes in, waiting for sole possession to end.
    pub(super) fn enter(self: &Arc<Self>) -> Ticket {
        loop {
            if let Some(ticket) = self.try_enter() {
                return ticket;
            }
            let mut guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
            while self.state.load(Ordering::Acquire) & EXCLUSIVE != 0 {
                guard = self.changed.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Waits until no request is inside and keeps others out. Must not be called from within.
    pub(super) fn exclusive(&self) -> Exclusive<'_> {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.fetch_or(EXCLUSIVE, Ordering::AcqRel);
        let mut guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.state.load(Ordering::Acquire) != EXCLUSIVE {
            guard = self.changed.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        Exclusive { gate: self, _owner: owner }
    }

    /// As [`Gate::exclusive`] if no request is inside now.
    pub(super) fn try_exclusive(&self) -> Option<Exclusive<'_>> {
        let owner = self.owner.try_lock().ok()?;
        let alone = self.state.compare_exchange(0, EXCLUSIVE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        alone.then(|| Exclusive { gate: self, _owner: owner })
    }

    fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) & EXCLUSIVE != 0 {
            self.notify();
        }
    }

    fn notify(&self) {
        drop(self.changed.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.1.notify_all();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.gate.state.fetch_and(!EXCLUSIVE, Ordering::AcqRel);
        self.gate.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possession_is_sole() {
        let gate = Arc::new(Gate::default());
        let ticket = gate.enter();
        assert!(gate.try_exclusive().is_none());
        drop(ticket);
        let alone = gate.try_exclusive().unwrap();
        assert!(gate.try_enter().is_none());
        assert!(gate.try_exclusive().is_none());
        drop(alone);
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn many_threads_come_through() {
        let (gate, count) = (Arc::new(Gate::default()), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (gate, count) = (&gate, &count);
                scope.spawn(move || {
                    for _ in 0..2000 {
                        if thread == 0 {
                            let _alone = gate.exclusive();
                            let before = count.load(Ordering::SeqCst);
                            std::thread::yield_now();
                            assert_eq!(count.load(Ordering::SeqCst), before);
                        } else {
                            let _ticket = gate.enter();
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 6000);
    }
}
