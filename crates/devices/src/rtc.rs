//! The MC146818 real-time clock with its CMOS memory (ports 0x70–0x71): time of day, alarm, periodic and update
//! interrupts. Wall-clock time comes from a trait; the VM's clock paces the interrupts.

use std::sync::Arc;

use ferro_guest::{BusDevice, Clock, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

use crate::state;

/// Tells what time of day it is.
pub trait WallClock: Send {
    /// Seconds since 1970-01-01 00:00 in the time zone that the guest's clock shows.
    fn seconds(&self) -> i64;
}

const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
const CENTURY: usize = 0x32;

const B_24_HOURS: u8 = 2;
const B_BINARY: u8 = 4;
const B_SET: u8 = 0x80;
const NANOSECONDS: u64 = 1_000_000_000;

/// The chip.
pub struct Rtc {
    line: Arc<dyn InterruptLine>,
    clock: Arc<dyn Clock>,
    wall: Box<dyn WallClock>,
    index: u8,
    memory: [u8; 128],
    /// What the guest's time differs from the wall clock by, in seconds.
    offset: i64,
    next_periodic: Option<u64>,
    next_update: Option<u64>,
}

/// A civil date and time of day.
struct Civil {
    year: i64,
    month: u8,
    day: u8,
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Civil {
    /// From seconds since 1970, by the era arithmetic of the proleptic Gregorian calendar.
    fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let rest = seconds.rem_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    fn to_seconds(&self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

impl Rtc {
    /// A clock that shows the wall clock's time and whose interrupt drives `line`.
    pub fn new(line: Arc<dyn InterruptLine>, clock: Arc<dyn Clock>, wall: Box<dyn WallClock>) -> Self {
        let mut memory = [0; 128];
        memory[REGISTER_A] = 0x26;
        memory[REGISTER_B] = B_24_HOURS;
        Self { line, clock, wall, index: 0, memory, offset: 0, next_periodic: None, next_update: None }
    }

    /// Puts a byte into the CMOS memory, as the firmware of a board would (0x0e to 0x7f).
    pub fn set_memory(&mut self, index: u8, value: u8) {
        self.memory[usize::from(index & 0x7f)] = value;
    }

    fn encode(&self, value: u8) -> u8 {
        if self.memory[REGISTER_B] & B_BINARY != 0 { value } else { value / 10 << 4 | value % 10 }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.memory[REGISTER_B] & B_BINARY != 0 { value } else { (value >> 4).wrapping_mul(10) + (value & 15) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.memory[REGISTER_B] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.memory[REGISTER_B] & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    /// Writes the current time into the time registers, unless the guest holds them.
    fn refresh(&mut self) {
        if self.memory[REGISTER_B] & B_SET != 0 {
            return;
        }
        let now = Civil::from_seconds(self.wall.seconds().saturating_add(self.offset));
        self.memory[0] = self.encode(now.second);
        self.memory[2] = self.encode(now.minute);
        self.memory[4] = self.encode_hour(now.hour);
        self.memory[6] = self.encode(now.weekday);
        self.memory[7] = self.encode(now.day);
        self.memory[8] = self.encode(now.month);
        self.memory[9] = self.encode(now.year.rem_euclid(100) as u8);
        self.memory[CENTURY] = self.encode((now.year.div_euclid(100)).clamp(0, 99) as u8);
    }

    /// Takes over the time that the guest wrote.
    fn adopt(&mut self) {
        let year = i64::from(self.decode(self.memory[CENTURY])) * 100 + i64::from(self.decode(self.memory[9]));
        let set = Civil {
            year,
            month: self.decode(self.memory[8]).clamp(1, 12),
            day: self.decode(self.memory[7]).clamp(1, 31),
            weekday: 1,
            hour: self.decode_hour(self.memory[4]) % 24,
            minute: self.decode(self.memory[2]) % 60,
            second: self.decode(self.memory[0]) % 60,
        };
        self.offset = set.to_seconds().saturating_sub(self.wall.seconds());
    }

    fn period(&self) -> Option<u64> {
        let rate = self.memory[REGISTER_A] & 15;
        let ticks = match rate {
            0 => return None,
            1 | 2 => 1 << (rate + 6),
            _ => 1_u64 << (rate - 1),
        };
        Some(ticks * NANOSECONDS / 32_768)
    }

    fn schedule(&mut self) {
        let now = self.clock.now();
        let wants = self.memory[REGISTER_B];
        self.next_periodic = self.period().filter(|_| wants & 0x40 != 0).map(|period| now + period);
        self.next_update = (wants & 0x30 != 0).then(|| (now / NANOSECONDS + 1) * NANOSECONDS);
    }

    /// When [`Rtc::advance`] has to be called next, in nanoseconds of the VM's clock.
    pub fn deadline(&self) -> Option<u64> {
        [self.next_periodic, self.next_update].into_iter().flatten().min()
    }

    /// Raises the interrupts that are due.
    pub fn advance(&mut self) {
        let now = self.clock.now();
        let mut causes = 0;
        if let Some(next) = self.next_periodic.filter(|&next| next <= now) {
            causes |= 0x40;
            let period = self.period().unwrap_or(NANOSECONDS);
            self.next_periodic = Some(next + ((now - next) / period + 1) * period);
        }
        if self.next_update.is_some_and(|next| next <= now) {
            self.next_update = Some((now / NANOSECONDS + 1) * NANOSECONDS);
            causes |= 0x10;
            self.refresh();
            let alarm = [(0, 1), (2, 3), (4, 5)]
                .iter()
                .all(|&(time, alarm)| self.memory[alarm] & 0xc0 == 0xc0 || self.memory[alarm] == self.memory[time]);
            if alarm {
                causes |= 0x20;
            }
        }
        self.memory[REGISTER_C] |= causes;
        self.update();
    }

    fn update(&mut self) {
        let active = self.memory[REGISTER_C] & self.memory[REGISTER_B] & 0x70 != 0;
        if active {
            self.memory[REGISTER_C] |= 0x80;
        }
        self.line.set_level(active);
    }

    fn read_register(&mut self, index: usize) -> u8 {
        match index {
            0..=9 | CENTURY => self.refresh(),
            REGISTER_C => {
                let causes = std::mem::take(&mut self.memory[REGISTER_C]);
                self.update();
                return causes;
            }
            REGISTER_D => return 0x80,
            _ => {}
        }
        self.memory[index]
    }

    fn write_register(&mut self, index: usize, value: u8) {
        match index {
            REGISTER_C | REGISTER_D => {}
            REGISTER_A => {
                self.memory[index] = value & 0x7f;
                self.schedule();
            }
            REGISTER_B => {
                if value & B_SET != 0 {
                    self.refresh();
                } else if self.memory[index] & B_SET != 0 {
                    self.adopt();
                }
                self.memory[index] = value;
                self.schedule();
                self.update();
            }
            0 | 2 | 4 | 6..=9 | CENTURY => {
                self.refresh();
                self.memory[index] = value;
                if self.memory[REGISTER_B] & B_SET == 0 {
                    self.adopt();
                }
            }
            _ => self.memory[index] = value,
        }
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        u64::from(if offset & 1 == 0 { 0xff } else { self.read_register(usize::from(self.index)) })
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        if offset & 1 == 0 {
            self.index = value as u8 & 0x7f;
        } else {
            self.write_register(usize::from(self.index), value as u8);
        }
    }
}

/// The furthest that a guest can set the clock from the wall clock, in seconds: BCD digits above 9 included, years of five
/// digits.
const MAX_OFFSET: u64 = 1_000_000_000_000;

/// The time of day goes on by the wall clock, as QEMU's does: what is saved is how far the guest has set its clock from it.
/// A guest that was saved for a week finds its clock a week later. The phases of the periodic and the update interrupt are
/// times of the VM's clock, which doesn't see that week.
impl SaveState for Rtc {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u8(self.index);
        into.bytes(&self.memory);
        into.u64(self.offset as u64);
        state::save_option_u64(self.next_periodic, into);
        state::save_option_u64(self.next_update, into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.index = from.u8()?;
        state::check(self.index < 0x80, "the clock's index register")?;
        state::load_bytes(&mut self.memory, "the CMOS memory", from)?;
        self.offset = from.u64()? as i64;
        state::check(self.offset.unsigned_abs() <= MAX_OFFSET, "the clock's time of day")?;
        self.next_periodic = state::load_option_u64(from)?;
        self.next_update = state::load_option_u64(from)?;
        self.update();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use ferro_guest::NoInterrupt;

    use super::*;

    struct Fixed(i64);

    impl WallClock for Fixed {
        fn seconds(&self) -> i64 {
            self.0
        }
    }

    #[derive(Default)]
    struct Manual(AtomicU64);

    impl Clock for Manual {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn rtc(seconds: i64) -> (Rtc, Arc<Manual>) {
        let clock = Arc::new(Manual::default());
        (Rtc::new(Arc::new(NoInterrupt), clock.clone(), Box::new(Fixed(seconds))), clock)
    }

    fn read(rtc: &mut Rtc, index: u8) -> u8 {
        rtc.write(0, 1, index.into());
        rtc.read(1, 1) as u8
    }

    fn write(rtc: &mut Rtc, index: u8, value: u8) {
        rtc.write(0, 1, index.into());
        rtc.write(1, 1, value.into());
    }

    #[test]
    fn the_date_is_shown_in_bcd() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let (mut rtc, _) = rtc(1_709_251_198);
        let shown = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(&mut rtc, index));
        assert_eq!(shown, [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
        write(&mut rtc, 0x0b, 4);
        assert_eq!(read(&mut rtc, 4), 11 | 0x80, "binary, twelve hours");
    }

    #[test]
    fn a_time_that_the_guest_sets_goes_on_from_there() {
        let (mut rtc, _) = rtc(1_000_000_000);
        write(&mut rtc, 0x0b, 0x82);
        for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x58), (0, 0x07)] {
            write(&mut rtc, index, value);
        }
        write(&mut rtc, 0x0b, 2);
        assert_eq!([9, 8, 7, 4, 2, 0].map(|index| read(&mut rtc, index)), [0x99, 0x12, 0x31, 0x23, 0x58, 0x07]);
    }

    #[test]
    fn the_periodic_interrupt_keeps_its_rate() {
        let (mut rtc, clock) = rtc(0);
        write(&mut rtc, 0x0a, 0x26);
        write(&mut rtc, 0x0b, 0x42);
        assert_eq!(rtc.deadline(), Some(976_562));
        clock.0.store(3_000_000, Ordering::Relaxed);
        rtc.advance();
        assert_eq!(rtc.deadline(), Some(4 * 976_562));
        assert_eq!(read(&mut rtc, 0x0c), 0xc0);
        assert_eq!(read(&mut rtc, 0x0c), 0);
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in -36_525..110_000 {
            let seconds = day * 86_400 + 12_345;
            assert_eq!(Civil::from_seconds(seconds).to_seconds(), seconds);
        }
    }

    #[test]
    fn a_loaded_clock_shows_the_wall_clock_and_what_the_guest_set_it_by() {
        let rtc = |seconds| Rtc::new(Arc::new(NoInterrupt), Arc::<Manual>::default(), Box::new(Fixed(seconds)));
        let (mut old, mut new) = (rtc(1_000_000_000), rtc(1_000_000_000 + 7 * 86_400));
        let mut write = |index: u64, value: u64| {
            old.write(0, 1, index);
            old.write(1, 1, value);
        };
        // One hour more than the wall clock's 01:46:40.
        [(0x0b, 0x82), (4, 0x02), (0x0b, 2)].into_iter().for_each(|(index, value)| write(index, value));
        let mut writer = StateWriter::new();
        old.save(&mut writer);
        new.load(1, &mut StateReader::new(&writer.finish())).unwrap();
        let read = |index: u64| {
            new.write(0, 1, index);
            new.read(1, 1)
        };
        // 2001-09-09, a week later.
        assert_eq!([4, 2, 7, 8].map(read), [0x02, 0x46, 0x16, 0x09]);
    }
}
