//! The state of the software accelerator's chips as sections of a saved VM: 8259s, I/O APIC, local APICs, 8254. What the
//! vCPUs hold is `ferro-cpu`'s; which sections a VM has is the hub's business.

use ferro_guest::{LoadError, SaveState, StateReader, StateWriter};

use super::ioapic::{INPUTS, IoApic};
use super::lapic::Lapic;
use super::pic::{Pic, PicPair};
use super::pit::{ByteOrder, Counter, Pit};

/// Times beyond this can't come from a clock that was loaded: see [`crate::VmClock::load`].
const LAST: u64 = 1 << 62;

fn time(value: u64) -> Result<u64, LoadError> {
    if value > LAST { Err(LoadError::Value("a timer's time")) } else { Ok(value) }
}

fn save_pic(pic: &Pic, into: &mut StateWriter) {
    for value in [pic.lines, pic.irr, pic.isr, pic.imr, pic.level, pic.base, pic.priority, pic.expected] {
        into.u8(value);
    }
    for flag in [
        pic.needs_icw4,
        pic.single,
        pic.read_isr,
        pic.poll,
        pic.special_mask,
        pic.auto_eoi,
        pic.rotate_on_auto_eoi,
        pic.special_fully_nested,
    ] {
        into.bool(flag);
    }
}

fn load_pic(from: &mut StateReader<'_>) -> Result<Pic, LoadError> {
    let pic = Pic {
        lines: from.u8()?,
        irr: from.u8()?,
        isr: from.u8()?,
        imr: from.u8()?,
        level: from.u8()?,
        base: from.u8()?,
        priority: from.u8()?,
        expected: from.u8()?,
        needs_icw4: from.bool()?,
        single: from.bool()?,
        read_isr: from.bool()?,
        poll: from.bool()?,
        special_mask: from.bool()?,
        auto_eoi: from.bool()?,
        rotate_on_auto_eoi: from.bool()?,
        special_fully_nested: from.bool()?,
    };
    if pic.priority > 7 || !matches!(pic.expected, 0 | 2 | 3 | 4) || pic.base & 7 != 0 {
        return Err(LoadError::Value("the 8259's initialisation"));
    }
    Ok(pic)
}

impl SaveState for PicPair {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.chips.iter().for_each(|pic| save_pic(pic, into));
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.chips = [load_pic(from)?, load_pic(from)?];
        Ok(())
    }
}

impl SaveState for IoApic {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u8(self.select);
        into.u8(self.id);
        into.u32(self.lines);
        into.u32(self.waiting);
        self.entries.iter().for_each(|&entry| into.u64(entry));
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.select = from.u8()?;
        self.id = from.u8()?;
        self.lines = from.u32()?;
        self.waiting = from.u32()?;
        if self.id > 15 || (self.lines | self.waiting) >> INPUTS != 0 {
            return Err(LoadError::Value("the I/O APIC's inputs"));
        }
        for entry in &mut self.entries {
            *entry = from.u64()?;
        }
        Ok(())
    }
}

impl SaveState for Lapic {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u32(self.id);
        into.u64(self.base);
        for value in [self.tpr, self.ldr, self.dfr, self.svr, self.esr, self.pending_esr] {
            into.u32(value);
        }
        into.u64(self.icr);
        let vectors = self.irr.iter().chain(&self.isr).chain(&self.tmr);
        self.lvt.iter().chain(vectors).for_each(|&word| into.u32(word));
        into.u32(self.initial_count);
        into.u32(self.divide);
        into.u64(self.started);
        into.optional(self.deadline);
        into.u64(self.tsc_deadline);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        let id = from.u32()?;
        self.base = from.u64()?;
        // Enabled, x2APIC or both; never x2APIC alone.
        if id != self.id || self.base >> 52 != 0 || self.base & 0xc00 == 0x400 {
            return Err(LoadError::Value("the local APIC's identity and base"));
        }
        for value in [&mut self.tpr, &mut self.ldr, &mut self.dfr, &mut self.svr, &mut self.esr, &mut self.pending_esr]
        {
            *value = from.u32()?;
        }
        self.icr = from.u64()?;
        let vectors = self.irr.iter_mut().chain(&mut self.isr).chain(&mut self.tmr);
        for word in self.lvt.iter_mut().chain(vectors) {
            *word = from.u32()?;
        }
        self.initial_count = from.u32()?;
        self.divide = from.u32()?;
        self.started = time(from.u64()?)?;
        self.deadline = from.optional()?;
        self.tsc_deadline = from.u64()?;
        if self.tpr > 0xff || self.svr > 0x1ff || self.divide & !0xb != 0 {
            return Err(LoadError::Value("a register of the local APIC"));
        }
        let by_tsc = self.lvt[1] >> 17 & 2 != 0;
        if self.deadline.is_some_and(|deadline| !by_tsc && deadline < self.started) {
            return Err(LoadError::Value("the local APIC's timer"));
        }
        Ok(())
    }
}

fn save_counter(counter: &Counter, into: &mut StateWriter) {
    into.u8(counter.mode);
    into.bool(counter.bcd);
    into.u8(match counter.order {
        ByteOrder::Low => 1,
        ByteOrder::High => 2,
        ByteOrder::Both => 3,
    });
    into.u64(counter.reload);
    into.optional(counter.started);
    into.bool(counter.gate);
    into.optional(counter.low_written.map(u64::from));
    into.bool(counter.high_read_next);
    into.optional(counter.latched.map(u64::from));
    into.optional(counter.latched_status.map(u64::from));
}

fn load_counter(from: &mut StateReader<'_>) -> Result<Counter, LoadError> {
    const WRONG: LoadError = LoadError::Value("a counter of the timer");
    let narrow = |value: Option<u64>| value.map(u8::try_from).transpose().map_err(|_| WRONG);
    let counter = Counter {
        mode: from.u8()?,
        bcd: from.bool()?,
        order: match from.u8()? {
            1 => ByteOrder::Low,
            2 => ByteOrder::High,
            3 => ByteOrder::Both,
            _ => return Err(WRONG),
        },
        reload: from.u64()?,
        started: from.optional()?.map(time).transpose()?,
        gate: from.bool()?,
        low_written: narrow(from.optional()?)?,
        high_read_next: from.bool()?,
        latched: from.optional()?.map(u16::try_from).transpose().map_err(|_| WRONG)?,
        latched_status: narrow(from.optional()?)?,
    };
    if counter.mode > 5 || counter.reload > 0x1_0000 { Err(WRONG) } else { Ok(counter) }
}

impl SaveState for Pit {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.counters.iter().for_each(|counter| save_counter(counter, into));
        into.bool(self.speaker_data);
        into.optional(self.next);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        for counter in &mut self.counters {
            *counter = load_counter(from)?;
        }
        self.speaker_data = from.bool()?;
        self.next = from.optional()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ferro_guest::StateSection;

    use super::*;

    /// What a guest would see of a timer from now on.
    fn timer_goes_on(pit: &mut Pit, from: u64) -> Vec<(bool, u8, u8, u8)> {
        let mut seen = vec![];
        for step in 0..50 {
            let now = from + step * 333_333;
            seen.push((pit.advance(now), pit.read(0x40, now), pit.read(0x42, now), pit.read(0x61, now)));
        }
        seen
    }

    #[test]
    fn a_loaded_timer_goes_on_as_the_saved_one() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 5);
        pit.write(0x40, 0x9c, 6);
        pit.write(0x40, 0x2e, 7);
        pit.write(0x61, 3, 8);
        pit.write(0x43, 0xb6, 9);
        pit.write(0x42, 0xa9, 10);
        // In the middle: one byte of a reload value written, one of a latched count read, a status latched.
        pit.write(0x43, 0xe2, 12_345);
        pit.write(0x43, 0, 20_000);
        pit.read(0x40, 20_001);
        let bytes = pit.save_section();
        let mut loaded = Pit::new();
        loaded.load_section(1, &bytes).unwrap();
        loaded.write(0x42, 4, 30_000);
        pit.write(0x42, 4, 30_000);
        assert_eq!(timer_goes_on(&mut loaded, 50_000), timer_goes_on(&mut pit, 50_000));
        for len in 0..bytes.len() {
            assert!(Pit::new().load_section(1, &bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn loaded_interrupt_controllers_hold_what_was_pending_and_in_service() {
        let mut pics = PicPair::new();
        for (port, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            pics.write(port, 0x11);
            pics.write(port + 1, base);
            pics.write(port + 1, cascade);
            pics.write(port + 1, 1);
        }
        pics.set_line(12, true);
        assert_eq!(pics.acknowledge(), 0x2c);
        pics.set_line(1, true);
        pics.set_line(14, true);
        let mut loaded = PicPair::new();
        loaded.load_section(1, &pics.save_section()).unwrap();
        assert!(loaded.output());
        assert_eq!(loaded.acknowledge(), 0x21);
        loaded.write(0x20, 0x20);
        assert!(!loaded.output(), "mouse in service holds the disk off");
        loaded.write(0xa0, 0x20);
        loaded.write(0x20, 0x20);
        assert_eq!(loaded.acknowledge(), 0x2e);

        let mut ioapic = IoApic::new();
        ioapic.write(0, 0x10 + 2 * 5);
        ioapic.write(0x10, 0x41 | 1 << 15);
        let message = ioapic.set_line(5, true).expect("it is sent");
        let mut loaded = IoApic::new();
        loaded.load_section(1, &ioapic.save_section()).unwrap();
        assert_eq!(loaded.set_line(5, true), None, "its interrupt isn't ended");
        assert_eq!(loaded.end_of_interrupt(0x41).collect::<Vec<_>>(), [message]);
    }

    #[test]
    fn a_loaded_local_apic_fires_when_the_saved_one_would_have() {
        let mut lapic = Lapic::new(0);
        lapic.write_page(0xf0, 0x1ff, 0);
        lapic.write_page(0x3e0, 0xb, 0);
        lapic.write_page(0x320, 0x2_0030, 0);
        lapic.write_page(0x380, 1000, 100);
        lapic.accept(0x55, false);
        assert_eq!(lapic.acknowledge(), Some(0x55));
        lapic.accept(0x44, true);
        let mut loaded = Lapic::new(0);
        loaded.load_section(1, &lapic.save_section()).unwrap();
        assert_eq!((loaded.deadline(), loaded.pending()), (lapic.deadline(), None));
        assert!(!loaded.advance(1099) && loaded.advance(1100));
        assert_eq!(loaded.deadline(), Some(2100));
        loaded.write_page(0xb0, 0, 1200);
        assert_eq!(loaded.acknowledge(), Some(0x44));
        let told = Lapic::new(1).load_section(1, &lapic.save_section()).unwrap_err();
        assert!(told.to_string().contains("identity"), "{told}");
    }

    proptest::proptest! {
        /// Whatever is taken over can be used without a panic, at any time.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0_u8..5, 0..300), now in 0_u64..1 << 62) {
            let mut pit = Pit::new();
            if pit.load_section(1, &bytes).is_ok() {
                timer_goes_on(&mut pit, now);
            }
            let mut lapic = Lapic::new(0);
            if lapic.load_section(1, &bytes).is_ok() {
                lapic.advance(now);
                lapic.read_page(0x390, now);
            }
            let _ = PicPair::new().load_section(1, &bytes);
            let _ = IoApic::new().load_section(1, &bytes);
        }

        #[test]
        fn any_damage_is_survived(at in 0_usize..1000, with in proptest::prelude::any::<u8>(), now in 0_u64..1 << 62) {
            let mut pit = Pit::new();
            pit.write(0x43, 0x34, 5);
            pit.write(0x40, 0x9c, 6);
            pit.write(0x40, 0x2e, 7);
            let mut bytes = pit.save_section();
            let len = bytes.len();
            bytes[at % len] = with;
            if pit.load_section(1, &bytes).is_ok() {
                timer_goes_on(&mut pit, now);
            }
            let mut lapic = Lapic::new(0);
            lapic.write_page(0xf0, 0x1ff, 0);
            lapic.write_page(0x320, 0x2_0030, 0);
            lapic.write_page(0x380, 1000, 100);
            let mut bytes = lapic.save_section();
            let len = bytes.len();
            bytes[at % len] = with;
            if lapic.load_section(1, &bytes).is_ok() {
                lapic.advance(now);
                lapic.read_page(0x390, now);
                lapic.pending();
            }
        }
    }
}
