//! The 8254 programmable interval timer of a PC (ports 0x40–0x43) and the part of port 0x61 that gates and reads its
//! third counter, as in Intel's 8254 data sheet. Time is an argument: nanoseconds of the VM's clock.

/// The counters' input clock in hertz.
const FREQUENCY: u64 = 1_193_182;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ByteOrder {
    Low,
    High,
    #[default]
    Both,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Counter {
    pub(super) mode: u8,
    pub(super) bcd: bool,
    pub(super) order: ByteOrder,
    /// Reload value, 1 to 65536.
    pub(super) reload: u64,
    /// When the present count began, in nanoseconds; `None` until a count is written, or while the gate holds it.
    pub(super) started: Option<u64>,
    pub(super) gate: bool,
    pub(super) low_written: Option<u8>,
    pub(super) high_read_next: bool,
    pub(super) latched: Option<u16>,
    pub(super) latched_status: Option<u8>,
}

fn to_ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(FREQUENCY) / 1_000_000_000) as u64
}

/// The first nanosecond at which `ticks` have passed.
fn to_nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(FREQUENCY)) as u64
}

impl Counter {
    fn elapsed(&self, now: u64) -> Option<u64> {
        self.started.map(|started| to_ticks(now.saturating_sub(started)))
    }

    fn count(&self, now: u64) -> u16 {
        let Some(elapsed) = self.elapsed(now) else { return self.reload as u16 };
        let reload = self.reload.max(1);
        let value = match self.mode {
            2 => reload - elapsed % reload,
            3 => reload - (elapsed * 2) % reload,
            _ => reload.wrapping_sub(elapsed) & 0xffff,
        };
        if self.bcd { to_bcd(value % 10_000) } else { value as u16 }
    }

    fn output(&self, now: u64) -> bool {
        let Some(elapsed) = self.elapsed(now) else { return self.mode != 0 };
        let reload = self.reload.max(1);
        match self.mode {
            0 | 1 => elapsed >= reload,
            2 => elapsed % reload != reload - 1,
            3 => elapsed % reload < reload.div_ceil(2),
            _ => elapsed != reload,
        }
    }

    /// The next rising edge of the output after `now`.
    fn next_edge(&self, now: u64) -> Option<u64> {
        let started = self.started?;
        let elapsed = to_ticks(now.saturating_sub(started));
        let reload = self.reload.max(1);
        match self.mode {
            2 | 3 => Some(started + to_nanoseconds((elapsed / reload + 1) * reload)),
            _ => (elapsed < reload).then(|| started + to_nanoseconds(reload)),
        }
    }

    fn load(&mut self, value: u16, now: u64) {
        let value = u64::from(if self.bcd { from_bcd(value) } else { value });
        self.reload = match (value, self.bcd) {
            (0, false) => 0x1_0000,
            (0, true) => 10_000,
            (value, _) => value,
        };
        self.started = (self.gate && self.mode != 1 && self.mode != 5).then_some(now);
    }

    fn write(&mut self, value: u8, now: u64) {
        match (self.order, self.low_written.take()) {
            (ByteOrder::Low, _) => self.load(u16::from(value), now),
            (ByteOrder::High, _) => self.load(u16::from(value) << 8, now),
            (ByteOrder::Both, Some(low)) => self.load(u16::from_le_bytes([low, value]), now),
            (ByteOrder::Both, None) => {
                self.low_written = Some(value);
                if self.mode == 0 {
                    self.started = None;
                }
            }
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let (byte, last) = match self.order {
            ByteOrder::Low => (low, true),
            ByteOrder::High => (high, true),
            ByteOrder::Both if self.high_read_next => (high, true),
            ByteOrder::Both => (low, false),
        };
        self.high_read_next = !last;
        if last {
            self.latched = None;
        }
        byte
    }

    fn set_mode(&mut self, control: u8) {
        self.order = match control >> 4 & 3 {
            1 => ByteOrder::Low,
            2 => ByteOrder::High,
            _ => ByteOrder::Both,
        };
        let mode = control >> 1 & 7;
        self.mode = if mode > 5 { mode & 3 } else { mode };
        self.bcd = control & 1 != 0;
        self.started = None;
        self.low_written = None;
        self.high_read_next = false;
        self.latched = None;
    }

    fn latch_status(&mut self, now: u64) {
        let order = match self.order {
            ByteOrder::Low => 1,
            ByteOrder::High => 2,
            ByteOrder::Both => 3,
        };
        let null_count = self.started.is_none();
        self.latched_status.get_or_insert(
            u8::from(self.output(now)) << 7
                | u8::from(null_count) << 6
                | order << 4
                | self.mode << 1
                | u8::from(self.bcd),
        );
    }

    fn set_gate(&mut self, high: bool, now: u64) {
        let rises = high && !self.gate;
        self.gate = high;
        match self.mode {
            1 | 2 | 3 | 5 if rises => self.started = Some(now),
            2 | 3 if !high => self.started = None,
            0 | 4 if rises && self.started.is_none() => self.started = Some(now),
            _ => {}
        }
    }
}

fn to_bcd(value: u64) -> u16 {
    let digit = |power: u64| (value / power % 10) as u16;
    digit(1) | digit(10) << 4 | digit(100) << 8 | digit(1000) << 12
}

fn from_bcd(value: u16) -> u16 {
    let digit = |shift: u16| (value >> shift & 15).min(9);
    digit(0) + digit(4) * 10 + digit(8) * 100 + digit(12) * 1000
}

/// The timer: counter 0 drives interrupt input 0, counter 2 the speaker.
#[derive(Debug, Clone)]
pub(crate) struct Pit {
    pub(super) counters: [Counter; 3],
    pub(super) speaker_data: bool,
    /// The output edge of counter 0 that comes next.
    pub(super) next: Option<u64>,
}

impl Pit {
    pub(crate) fn new() -> Self {
        let counter = |gate| Counter { gate, mode: 3, reload: 0x1_0000, ..Counter::default() };
        Self { counters: [counter(true), counter(true), counter(false)], speaker_data: false, next: None }
    }

    /// When counter 0's output next rises, in nanoseconds.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.next
    }

    /// Whether an edge of counter 0 has come since the last call. Several missed ones count as one.
    pub(crate) fn advance(&mut self, now: u64) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = self.counters[0].next_edge(now);
        }
        due
    }

    /// Counter 2's frequency in hertz, if it drives the speaker now.
    pub(crate) fn speaker(&self) -> Option<f64> {
        let counter = &self.counters[2];
        (self.speaker_data && counter.gate && counter.mode == 3 && counter.started.is_some())
            .then(|| FREQUENCY as f64 / counter.reload.max(1) as f64)
    }

    /// Reads port 0x40–0x43 or 0x61.
    pub(crate) fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.counters[usize::from(port - 0x40)].read(now),
            0x61 => {
                let refresh = to_ticks(now) / 18 & 1;
                u8::from(self.counters[2].gate)
                    | u8::from(self.speaker_data) << 1
                    | (refresh as u8) << 4
                    | u8::from(self.counters[2].output(now)) << 5
            }
            _ => 0xff,
        }
    }

    /// Writes port 0x40–0x43 or 0x61.
    pub(crate) fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => self.counters[usize::from(port - 0x40)].write(value, now),
            0x43 => self.control(value, now),
            _ => {
                self.counters[2].set_gate(value & 1 != 0, now);
                self.speaker_data = value & 2 != 0;
            }
        }
        self.next = self.counters[0].next_edge(now);
    }

    fn control(&mut self, value: u8, now: u64) {
        let select = usize::from(value >> 6);
        if select == 3 {
            for (index, counter) in self.counters.iter_mut().enumerate() {
                if value >> 1 & 1 << index == 0 {
                    continue;
                }
                if value & 0x20 == 0 && counter.latched.is_none() {
                    counter.latched = Some(counter.count(now));
                }
                if value & 0x10 == 0 {
                    counter.latch_status(now);
                }
            }
        } else if value & 0x30 == 0 {
            let counter = &mut self.counters[select];
            if counter.latched.is_none() {
                counter.latched = Some(counter.count(now));
            }
        } else {
            self.counters[select].set_mode(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_generator_fires_at_its_period() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0x9c, 0);
        pit.write(0x40, 0x2e, 0);
        let period = to_nanoseconds(0x2e9c);
        assert_eq!(pit.deadline(), Some(period));
        assert!(!pit.advance(period - 1));
        assert!(pit.advance(period));
        assert!(!pit.advance(period));
        assert!(pit.advance(5 * period), "missed edges collapse");
        assert!(pit.deadline().unwrap() > 5 * period);
    }

    #[test]
    fn one_shot_fires_once() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x30, 0);
        pit.write(0x40, 100, 0);
        pit.write(0x40, 0, 0);
        assert!(pit.advance(to_nanoseconds(100)));
        assert_eq!(pit.deadline(), None);
    }

    #[test]
    fn a_latched_count_holds_still() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0, 0);
        pit.write(0x40, 0, 0);
        let at = to_nanoseconds(0x1234);
        pit.write(0x43, 0, at);
        let low = pit.read(0x40, at * 2);
        let high = pit.read(0x40, at * 3);
        assert_eq!(u16::from_le_bytes([low, high]), 0_u16.wrapping_sub(0x1234));
    }

    #[test]
    fn the_gated_counter_is_read_at_port_61() {
        let mut pit = Pit::new();
        pit.write(0x61, 1, 0);
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, 0, 0);
        pit.write(0x42, 0x10, 0);
        assert_eq!(pit.read(0x61, to_nanoseconds(0xfff)) & 0x20, 0);
        assert_eq!(pit.read(0x61, to_nanoseconds(0x1000)) & 0x20, 0x20);
    }

    #[test]
    fn the_speaker_sounds_at_the_counters_frequency() {
        let mut pit = Pit::new();
        pit.write(0x43, 0xb6, 0);
        pit.write(0x42, 0xa9, 0);
        pit.write(0x42, 0x04, 0);
        assert_eq!(pit.speaker(), None);
        pit.write(0x61, 3, 0);
        assert!((pit.speaker().unwrap() - 1000.0).abs() < 1.0);
    }
}
