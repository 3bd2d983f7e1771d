//! The clock that leases are measured by: it counts while the machine sleeps, and nobody sets it.

use ferro_cluster::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now.
#[must_use]
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Time(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// A number that no earlier start had.
#[must_use]
pub fn unique() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        // Only before the kernel has any randomness at all.
        _ => now().0 ^ u64::from(std::process::id()) << 40,
    }
}
