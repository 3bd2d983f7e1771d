//! The VM's clock: nanoseconds since its start that stand still while it is stopped. Either the host's monotonic clock
//! or the count of instructions executed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ferro_cpu::Signals;
use ferro_guest::{Clock, LoadError, StateReader, StateWriter};

const RUNNING: u64 = u64::MAX;

/// Real time, less the time spent stopped.
#[derive(Debug)]
pub struct HostClock {
    origin: Instant,
    /// What is taken off the time since `origin`; wraps for a clock that was set ahead.
    offset: AtomicU64,
    /// The time at which it stands, or [`RUNNING`].
    stopped: AtomicU64,
}

impl Default for HostClock {
    fn default() -> Self {
        Self { origin: Instant::now(), offset: AtomicU64::new(0), stopped: AtomicU64::new(RUNNING) }
    }
}

impl HostClock {
    fn elapsed(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Makes it stand still.
    pub fn stop(&self) {
        let now = self.now();
        self.stopped.store(now, Ordering::Release);
    }

    /// Lets it go on from `now`, where it stood or where a saved VM's clock stood.
    pub fn start_at(&self, now: u64) {
        self.offset.store(self.elapsed().wrapping_sub(now), Ordering::Release);
        self.stopped.store(RUNNING, Ordering::Release);
    }
}

impl Clock for HostClock {
    #[inline]
    fn now(&self) -> u64 {
        match self.stopped.load(Ordering::Acquire) {
            RUNNING => self.elapsed().wrapping_sub(self.offset.load(Ordering::Acquire)),
            stopped => stopped,
        }
    }
}

/// One nanosecond per instruction of the VM's only vCPU, and a leap over every sleep.
#[derive(Debug, Default)]
pub struct InstructionClock {
    counter: OnceLock<Arc<Signals>>,
    skipped: AtomicU64,
}

impl InstructionClock {
    /// Counts the instructions of the CPU that has these signals.
    pub(crate) fn follow(&self, signals: Arc<Signals>) {
        let _ = self.counter.set(signals);
    }

    /// Leaps to `time`, because the CPU sleeps until then.
    pub(crate) fn skip_to(&self, time: u64) {
        let now = self.now();
        self.skipped.fetch_add(time.saturating_sub(now), Ordering::AcqRel);
    }
}

impl Clock for InstructionClock {
    fn now(&self) -> u64 {
        let instructions = self.counter.get().map_or(0, |signals| signals.instructions());
        instructions + self.skipped.load(Ordering::Acquire)
    }
}

/// Either kind of clock.
#[derive(Debug)]
pub enum VmClock {
    /// Real time.
    Host(HostClock),
    /// Instructions; a run repeats exactly.
    Instructions(InstructionClock),
}

impl VmClock {
    /// How long the host has to wait until this clock shows `time`; `None` if it doesn't go by real time.
    pub fn until(&self, time: u64) -> Option<Duration> {
        matches!(self, Self::Host(_)).then(|| Duration::from_nanos(time.saturating_sub(self.now())))
    }

    /// Makes it stand still, if it isn't standing between instructions anyway.
    pub fn stop(&self) {
        if let Self::Host(clock) = self {
            clock.stop();
        }
    }

    /// Lets it go on from where it stands.
    pub fn start(&self) {
        if let Self::Host(clock) = self {
            clock.start_at(clock.now());
        }
    }
}

/// Times beyond this (146 years) are taken for damage: sums with them could leave 64 bits.
const LAST: u64 = 1 << 62;

/// How the kinds of clock are told apart in saved state.
const HOST: u8 = 0;
const INSTRUCTIONS: u8 = 1;

impl VmClock {
    /// The version of [`VmClock::save`]'s format.
    pub const VERSION: u32 = 1;

    /// Writes where it stands. The VM is stopped.
    pub fn save(&self, into: &mut StateWriter) {
        match self {
            Self::Host(clock) => {
                into.u8(HOST);
                into.u64(clock.now());
            }
            Self::Instructions(clock) => {
                into.u8(INSTRUCTIONS);
                // The instructions themselves are the CPU's.
                into.u64(clock.skipped.load(Ordering::Acquire));
            }
        }
    }

    /// Makes it stand where a saved one stood. The VM is stopped.
    ///
    /// # Errors
    /// State of the other kind of clock, or a time that can't be; it is unchanged then.
    pub fn load(&self, version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        if version != Self::VERSION {
            return Err(LoadError::Version { found: version, known: Self::VERSION });
        }
        let (kind, time) = (from.u8()?, from.u64()?);
        if time > LAST {
            return Err(LoadError::Value("the clock"));
        }
        match (self, kind) {
            (Self::Host(clock), HOST) => clock.stopped.store(time, Ordering::Release),
            (Self::Instructions(clock), INSTRUCTIONS) => clock.skipped.store(time, Ordering::Release),
            _ => return Err(LoadError::Value("the kind of clock")),
        }
        Ok(())
    }
}

impl Clock for VmClock {
    #[inline]
    fn now(&self) -> u64 {
        match self {
            Self::Host(clock) => clock.now(),
            Self::Instructions(clock) => clock.now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_stands_and_goes_on_from_there() {
        let clock = HostClock::default();
        clock.stop();
        let stood = clock.now();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(clock.now(), stood);
        clock.start_at(stood);
        assert!(clock.now() >= stood);
        clock.start_at(1 << 50);
        assert!(clock.now() >= 1 << 50, "a saved clock may be ahead of this process");
    }

    #[test]
    fn a_loaded_clock_stands_where_the_saved_one_stood() {
        let saved = VmClock::Host(HostClock::default());
        saved.stop();
        let mut writer = StateWriter::new();
        saved.save(&mut writer);
        let bytes = writer.finish();
        let loaded = VmClock::Host(HostClock::default());
        loaded.load(1, &mut StateReader::new(&bytes)).unwrap();
        assert_eq!(loaded.now(), saved.now());
        loaded.start();
        assert!(loaded.now() >= saved.now());
        let other = VmClock::Instructions(InstructionClock::default());
        assert_eq!(other.load(1, &mut StateReader::new(&bytes)), Err(LoadError::Value("the kind of clock")));
        let never = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(loaded.load(1, &mut StateReader::new(&never)), Err(LoadError::Value("the clock")));
        assert!(loaded.load(2, &mut StateReader::new(&bytes)).is_err());
    }

    #[test]
    fn the_instruction_clock_leaps_over_sleeps() {
        let clock = InstructionClock::default();
        clock.skip_to(500);
        assert_eq!(clock.now(), 500);
        clock.skip_to(100);
        assert_eq!(clock.now(), 500, "never back");
    }
}
