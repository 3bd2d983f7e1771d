//! Processor time: what this process has used against what it may, and its vCPUs held until the difference is paid.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::control::Control;

/// How often it is looked.
const TICK: Duration = Duration::from_millis(5);
/// Time that may be used at once after a pause, as cgroup v2's period has it, of one processor at the cap.
const BURST: Duration = Duration::from_millis(100);

/// The account of one process: a token bucket of processor time.
#[derive(Debug)]
struct Account {
    /// Hundredths of a processor.
    percent: u32,
    /// What may be used; negative is debt, in nanoseconds.
    credit: i128,
    at: Duration,
    used: Duration,
}

impl Account {
    fn new(percent: u32, now: Duration, used: Duration) -> Self {
        Self { percent, credit: 0, at: now, used }
    }

    /// At this time so much was used in all; how long nothing more may be.
    fn settle(&mut self, now: Duration, used: Duration) -> Option<Duration> {
        let nanoseconds = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX / 4);
        let percent = i128::from(self.percent);
        self.credit += nanoseconds(now.saturating_sub(self.at)) * percent / 100;
        self.credit -= nanoseconds(used.saturating_sub(self.used));
        self.credit = self.credit.min(nanoseconds(BURST) * percent / 100);
        (self.at, self.used) = (now, used);
        let wait = -self.credit * 100 / percent;
        (wait > 0).then(|| Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

/// The niceness that has about these shares beside others' 100: each step is a quarter (sched(7)).
pub(super) fn nice(shares: u32) -> i32 {
    let steps = -(f64::from(shares) / 100.0).ln() / 1.25_f64.ln();
    (steps.round() as i32).clamp(-20, 19)
}

fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Keeps the vCPUs to their time until the VM ends.
pub(super) fn watch(percent: u32, control: &Control) {
    let begin = Instant::now();
    let mut account = Account::new(percent, begin.elapsed(), used());
    while !control.is_over() {
        let wait = account.settle(begin.elapsed(), used());
        // Others' threads go on meanwhile, so it is looked again soon.
        control.ration(wait.is_some());
        std::thread::sleep(wait.unwrap_or(TICK).clamp(TICK, BURST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_the_cap_is_kept() {
        for (percent, vcpus) in [(25, 1), (50, 4), (150, 4)] {
            let (mut now, mut used) = (Duration::ZERO, Duration::ZERO);
            let mut account = Account::new(percent, now, used);
            while now < Duration::from_secs(10) {
                let wait = account.settle(now, used);
                let step = wait.unwrap_or(TICK).clamp(TICK, BURST);
                now += step;
                used += if wait.is_some() { Duration::ZERO } else { step * vcpus };
            }
            let got = used.as_secs_f64() / now.as_secs_f64() * 100.0;
            assert!((got - f64::from(percent)).abs() < f64::from(percent) / 20.0, "{percent}: {got}");
        }
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        let mut account = Account::new(50, Duration::ZERO, Duration::ZERO);
        assert_eq!(account.settle(Duration::from_secs(3600), Duration::ZERO), None);
        let used = Duration::from_millis(50);
        assert_eq!(account.settle(Duration::from_secs(3600), used), None);
        assert!(account.settle(Duration::from_secs(3600), used * 2).is_some());
    }

    #[test]
    fn shares_become_niceness() {
        assert_eq!([100, 80, 50, 10, 1, 10_000].map(nice), [0, 1, 3, 10, 19, -20]);
    }
}
