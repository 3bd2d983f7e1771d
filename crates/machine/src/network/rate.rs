//! How fast a card's packets may go, in each direction: a token bucket whose level may fall below empty by one packet, so that
//! any packet passes some time. Time is an argument of the bucket; nothing here waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::description::Rate;

/// What may pass at once after a pause: as much as the rate gives in this time, in nanoseconds.
const BURST: u64 = 50_000_000;

/// One direction.
#[derive(Debug)]
struct Bucket {
    rate: Option<Rate>,
    /// When all that has passed would have, at the rate; in nanoseconds.
    paid: u64,
}

impl Bucket {
    fn wait(&self, now: u64) -> u64 {
        if self.rate.is_none() { 0 } else { self.paid.saturating_sub(now.saturating_add(BURST)) }
    }

    fn take(&mut self, now: u64, bytes: usize) {
        let Some(Rate(bits)) = self.rate else { return };
        let cost = bytes as u128 * 8_000_000_000 / u128::from(bits.max(1));
        self.paid = self.paid.max(now).saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
    }
}

/// What all cards of a VM have together.
#[derive(Debug)]
pub(crate) struct SharedRate {
    begun: Instant,
    inward: Mutex<Bucket>,
    outward: Mutex<Bucket>,
}

impl SharedRate {
    /// In each direction.
    pub(crate) fn new(rate: Option<Rate>) -> Arc<Self> {
        let bucket = || Mutex::new(Bucket { rate, paid: 0 });
        Arc::new(Self { begun: Instant::now(), inward: bucket(), outward: bucket() })
    }
}

/// Both directions of a card.
#[derive(Debug)]
pub(super) struct Limits {
    shared: Arc<SharedRate>,
    inward: Mutex<Bucket>,
    outward: Mutex<Bucket>,
    held: AtomicBool,
}

fn with<T>(bucket: &Mutex<Bucket>, act: impl FnOnce(&mut Bucket) -> T) -> T {
    act(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Limits {
    /// To the guest and from it, beside what all cards share.
    pub(super) fn new(inward: Option<Rate>, outward: Option<Rate>, shared: &Arc<SharedRate>) -> Self {
        let bucket = |rate| Mutex::new(Bucket { rate, paid: 0 });
        Self { shared: shared.clone(), inward: bucket(inward), outward: bucket(outward), held: AtomicBool::new(false) }
    }

    /// How long the later of a card's own bucket and the shared one lets wait.
    fn wait(&self, own: &Mutex<Bucket>, shared: &Mutex<Bucket>) -> u64 {
        let now = self.now();
        with(own, |bucket| bucket.wait(now)).max(with(shared, |bucket| bucket.wait(now)))
    }

    fn take(&self, own: &Mutex<Bucket>, shared: &Mutex<Bucket>, bytes: usize) {
        let now = self.now();
        with(own, |bucket| bucket.take(now, bytes));
        with(shared, |bucket| bucket.take(now, bytes));
    }

    fn now(&self) -> u64 {
        self.shared.begun.elapsed().as_nanos() as u64
    }

    /// How long until a packet may go to the guest; `None` if it may now.
    pub(super) fn inward_wait(&self) -> Option<Duration> {
        let wait = self.wait(&self.inward, &self.shared.inward);
        (wait > 0).then(|| Duration::from_nanos(wait))
    }

    /// A packet goes to the guest.
    pub(super) fn take_inward(&self, bytes: usize) {
        self.take(&self.inward, &self.shared.inward, bytes);
    }

    /// A packet goes to the network.
    pub(super) fn take_outward(&self, bytes: usize) {
        self.take(&self.outward, &self.shared.outward, bytes);
    }

    /// Whether a packet may go to the network now.
    pub(super) fn may_go_out(&self) -> bool {
        self.wait(&self.outward, &self.shared.outward) == 0
    }

    /// The guest has packets that may not go now; whether that is news.
    pub(super) fn hold(&self) -> bool {
        !self.held.swap(true, Ordering::SeqCst)
    }

    /// How long the packets that are held must wait yet; `None` where none are.
    pub(super) fn held_wait(&self) -> Option<Duration> {
        let held = self.held.load(Ordering::SeqCst);
        held.then(|| Duration::from_nanos(self.wait(&self.outward, &self.shared.outward)))
    }

    /// The packets that are held are tried again.
    pub(super) fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_the_rate_is_kept_and_bursts_are_bounded() {
        let mut bucket = Bucket { rate: Some(Rate(8_000_000)), paid: 0 };
        let (mut now, mut sent) = (1_000_000_000, 0);
        let begun = now;
        while bucket.wait(now) == 0 {
            bucket.take(now, 1500);
            sent += 1500;
        }
        // 50 ms at a megabyte a second, and a packet.
        assert!((50_000..=51_500).contains(&sent), "{sent}");
        while now - begun < 2_000_000_000 {
            now += bucket.wait(now);
            bucket.take(now, 1500);
            sent += 1500;
        }
        assert!((2_000_000..=2_060_000).contains(&sent), "{sent}");
        // A long pause saves no more than the burst.
        now += 3_600_000_000_000;
        sent = 0;
        while bucket.wait(now) == 0 {
            bucket.take(now, 65_535);
            sent += 65_535;
        }
        assert!(sent <= 50_000 + 65_535, "{sent}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut bucket = Bucket { rate: None, paid: 0 };
        bucket.take(5, usize::MAX);
        assert_eq!(bucket.wait(5), 0);
        let mut slow = Bucket { rate: Some(Rate(1)), paid: 0 };
        slow.take(5, usize::MAX);
        assert!(slow.wait(6) > 0);
    }
}
