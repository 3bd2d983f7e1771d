//! Limits on requests and bytes a second: token buckets, and storage that waits for them. The buckets know no clock: time is
//! an argument.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::storage::DirectRange;
use crate::{Extent, Limits, Result, Storage, WriteFlags, ZeroFlags};

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units a second in the long run (1 or more).
    pub per_second: u64,
    /// Units that may go at once after a pause (1 or more).
    pub burst: u64,
}

/// Tokens that come in at a rate and are taken out by what is done. One may take more than there are: the debt delays the
/// next.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    /// Billionths of a token; negative while there is debt.
    tokens: i128,
    /// When `tokens` was right, since the bucket's beginning.
    at: Duration,
}

const BILLION: i128 = 1_000_000_000;

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, tokens: i128::from(rate.burst) * BILLION, at: Duration::ZERO }
    }

    /// Takes `amount` tokens at `now` (since the bucket's beginning; never goes back). The answer is how long to wait
    /// before doing what they are for.
    pub fn take(&mut self, now: Duration, amount: u64) -> Duration {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let earned =
            i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX / 4).saturating_mul(i128::from(self.rate.per_second));
        self.tokens = self.tokens.saturating_add(earned).min(i128::from(self.rate.burst) * BILLION);
        let wait = if self.tokens >= 0 { 0 } else { -self.tokens / i128::from(self.rate.per_second) };
        self.tokens -= i128::from(amount) * BILLION;
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

/// The limits of a storage; `None` limits nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThrottleOptions {
    /// Reads, writes and all else.
    pub requests: Option<Rate>,
    /// Reads.
    pub reads: Option<Rate>,
    /// Writes, zeroes and discards.
    pub writes: Option<Rate>,
    /// Bytes read and written.
    pub bytes: Option<Rate>,
    /// Bytes read.
    pub bytes_read: Option<Rate>,
    /// Bytes written.
    pub bytes_written: Option<Rate>,
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
    Neither,
}

/// The limits, and what is used up of them.
struct Buckets {
    requests: Option<Bucket>,
    /// Reads and writes.
    directed: [Option<Bucket>; 2],
    bytes: Option<Bucket>,
    /// Bytes read and written.
    directed_bytes: [Option<Bucket>; 2],
    start: Instant,
}

impl Buckets {
    fn new(options: &ThrottleOptions) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(Bucket::new);
        Self {
            requests: bucket(options.requests),
            directed: [options.reads, options.writes].map(bucket),
            bytes: bucket(options.bytes),
            directed_bytes: [options.bytes_read, options.bytes_written].map(bucket),
            start: Instant::now(),
        }
    }

    /// How long a request has to wait.
    fn take(&mut self, direction: Direction, bytes: u64) -> Duration {
        let now = self.start.elapsed();
        let mut delay = Duration::ZERO;
        let mut take = |bucket: &mut Option<Bucket>, amount| {
            if let Some(bucket) = bucket {
                delay = delay.max(bucket.take(now, amount));
            }
        };
        take(&mut self.requests, 1);
        take(&mut self.bytes, bytes);
        if direction != Direction::Neither {
            let index = usize::from(direction == Direction::Write);
            take(&mut self.directed[index], 1);
            take(&mut self.directed_bytes[index], bytes);
        }
        delay
    }
}

/// Limits that several storages have together.
pub struct ThrottleGroup(Mutex<Buckets>);

impl ThrottleGroup {
    /// A group nobody has joined yet.
    pub fn new(options: ThrottleOptions) -> Self {
        Self(Mutex::new(Buckets::new(&options)))
    }
}

/// Storage with limits, which may be changed while it is used.
pub struct Throttle {
    below: Arc<dyn Storage>,
    /// Whether there is any limit.
    limited: AtomicBool,
    buckets: Mutex<Buckets>,
    /// Beside its own.
    group: OnceLock<Arc<ThrottleGroup>>,
}

impl Throttle {
    /// Puts limits on `below`.
    pub fn new(below: Arc<dyn Storage>, options: ThrottleOptions) -> Self {
        let limited = AtomicBool::new(options != ThrottleOptions::default());
        Self { below, limited, buckets: Mutex::new(Buckets::new(&options)), group: OnceLock::new() }
    }

    /// Replaces the limits. Requests that wait already go on waiting for as long as they had to.
    pub fn set(&self, options: ThrottleOptions) {
        *self.buckets.lock().unwrap_or_else(PoisonError::into_inner) = Buckets::new(&options);
        self.limited.store(options != ThrottleOptions::default(), Ordering::Release);
    }

    /// Has its requests count among those of a group; once.
    pub fn join(&self, group: Arc<ThrottleGroup>) {
        // It stays in the first.
        let _ = self.group.set(group);
    }

    fn wait(&self, direction: Direction, bytes: u64) {
        let take =
            |buckets: &Mutex<Buckets>| buckets.lock().unwrap_or_else(PoisonError::into_inner).take(direction, bytes);
        let mut delay = self.group.get().map_or(Duration::ZERO, |group| take(&group.0));
        if self.limited.load(Ordering::Acquire) {
            delay = delay.max(take(&self.buckets));
        }
        if delay > Duration::ZERO {
            std::thread::sleep(delay);
        }
    }
}

impl Storage for Throttle {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn is_read_only(&self) -> bool {
        self.below.is_read_only()
    }

    fn grows(&self) -> bool {
        self.below.grows()
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.wait(Direction::Read, buffers.iter().map(|buffer| buffer.len() as u64).sum());
        self.below.read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        self.wait(Direction::Write, buffers.iter().map(|buffer| buffer.len() as u64).sum());
        self.below.write_vectored_at(buffers, offset, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.wait(Direction::Write, 0);
        self.below.write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.wait(Direction::Write, 0);
        self.below.discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.wait(Direction::Neither, 0);
        self.below.flush()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.below.extent_at(offset, len)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.below.set_size(size)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.below.allocate(offset, len)
    }

    /// Never: what goes past this goes past the limits.
    fn direct_range(&self, _offset: u64, _len: u64, _write: bool) -> Option<DirectRange> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_its_rate() {
        let mut bucket = Bucket::new(Rate { per_second: 100, burst: 10 });
        let mut now = Duration::ZERO;
        for _ in 0..11 {
            assert_eq!(bucket.take(now, 1), Duration::ZERO);
        }
        // One token in debt: a hundredth of a second.
        assert_eq!(bucket.take(now, 1), Duration::from_millis(10));
        for _ in 0..100 {
            now += bucket.take(now, 1);
        }
        assert!((Duration::from_millis(900)..Duration::from_millis(1200)).contains(&now), "{now:?}");
    }

    #[test]
    fn a_pause_fills_a_bucket_only_to_its_burst_and_time_never_goes_back() {
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 5 });
        bucket.take(Duration::from_secs(1 << 40), 5);
        assert_eq!(bucket.take(Duration::from_secs(1 << 40), 1), Duration::ZERO);
        assert!(bucket.take(Duration::ZERO, 1) > Duration::ZERO);
        let mut huge = Bucket::new(Rate { per_second: u64::MAX, burst: u64::MAX });
        huge.take(Duration::MAX, u64::MAX);
        huge.take(Duration::MAX, u64::MAX);
    }

    #[test]
    fn storage_is_slowed_down() {
        let options =
            ThrottleOptions { requests: Some(Rate { per_second: 200, burst: 1 }), ..ThrottleOptions::default() };
        let disk = Throttle::new(Arc::new(crate::MemoryStorage::new(4096)), options);
        let start = Instant::now();
        for _ in 0..20 {
            disk.read_at(&mut [0; 512], 0).expect("read");
        }
        assert!(start.elapsed() > Duration::from_millis(60));
    }

    #[test]
    fn a_group_shares_what_it_has() {
        let requests = Some(Rate { per_second: 100, burst: 1 });
        let group = Arc::new(ThrottleGroup::new(ThrottleOptions { requests, ..ThrottleOptions::default() }));
        let disks = [0, 1].map(|_| {
            let disk = Throttle::new(Arc::new(crate::MemoryStorage::new(4096)), ThrottleOptions::default());
            disk.join(group.clone());
            disk
        });
        let start = Instant::now();
        for turn in 0..20 {
            disks[turn % 2].read_at(&mut [0; 512], 0).expect("read");
        }
        assert!(start.elapsed() > Duration::from_millis(120));
    }

    #[test]
    fn limits_can_be_changed_and_hold_for_one_direction() {
        let rate = Some(Rate { per_second: 10, burst: 10 });
        let mut buckets = Buckets::new(&ThrottleOptions { bytes_written: rate, ..ThrottleOptions::default() });
        for _ in 0..3 {
            assert_eq!(buckets.take(Direction::Read, 1000), Duration::ZERO);
        }
        assert_eq!(buckets.take(Direction::Write, 1000), Duration::ZERO, "the first may take more than there is");
        assert!(buckets.take(Direction::Write, 1) > Duration::from_secs(90));
        assert_eq!(buckets.take(Direction::Neither, 0), Duration::ZERO);
        let mut buckets = Buckets::new(&ThrottleOptions { reads: rate, ..ThrottleOptions::default() });
        let waits: Vec<_> = (0..30).map(|_| buckets.take(Direction::Read, 0)).collect();
        assert!(waits[5] == Duration::ZERO && waits[29] > Duration::from_secs(1), "{waits:?}");
        let disk = Throttle::new(Arc::new(crate::MemoryStorage::new(4096)), ThrottleOptions::default());
        disk.set(ThrottleOptions { requests: rate, ..ThrottleOptions::default() });
        assert!(disk.limited.load(Ordering::Relaxed));
        disk.set(ThrottleOptions::default());
        (0..1000).for_each(|_| disk.read_at(&mut [0; 512], 0).expect("read"));
    }
}
