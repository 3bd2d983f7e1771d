//! A local APIC in xAPIC and x2APIC mode, with its timer (Intel SDM volume 3, chapter "Advanced Programmable Interrupt
//! Controller"). It knows no other APIC: what its guest's writes ask of the rest of the machine comes back as [`Effect`].

use super::ioapic::Message;

/// Nanoseconds per tick of the timer's input clock, before its divider: the bus clock is 1 GHz.
const TICK: u64 = 1;

const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_BOOT_CPU: u64 = 1 << 8;
/// Where the register page lies unless the guest moves it.
pub(crate) const DEFAULT_BASE: u64 = 0xfee0_0000;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;

/// Index of a register: its offset in the page divided by 16, which is also its x2APIC MSR less 0x800.
mod register {
    pub(super) const ID: u32 = 0x02;
    pub(super) const VERSION: u32 = 0x03;
    pub(super) const TPR: u32 = 0x08;
    pub(super) const PPR: u32 = 0x0a;
    pub(super) const EOI: u32 = 0x0b;
    pub(super) const LDR: u32 = 0x0d;
    pub(super) const DFR: u32 = 0x0e;
    pub(super) const SVR: u32 = 0x0f;
    pub(super) const ISR: u32 = 0x10;
    pub(super) const TMR: u32 = 0x18;
    pub(super) const IRR: u32 = 0x20;
    pub(super) const ESR: u32 = 0x28;
    pub(super) const CMCI: u32 = 0x2f;
    pub(super) const ICR: u32 = 0x30;
    pub(super) const ICR_HIGH: u32 = 0x31;
    pub(super) const LVT_TIMER: u32 = 0x32;
    pub(super) const LVT_ERROR: u32 = 0x37;
    pub(super) const INITIAL_COUNT: u32 = 0x38;
    pub(super) const CURRENT_COUNT: u32 = 0x39;
    pub(super) const DIVIDE: u32 = 0x3e;
    pub(super) const SELF_IPI: u32 = 0x3f;
}

/// What a register write asks of the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing beyond this APIC.
    None,
    /// Send this message to the APICs that its shorthand and destination name.
    Send(Message, Shorthand),
    /// The end of a level-triggered interrupt, for the I/O APIC.
    EndOfInterrupt(u8),
}

/// Whom an interprocessor interrupt goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shorthand {
    Destination,
    OnlySelf,
    All,
    Others,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimerMode {
    OneShot,
    Periodic,
    Deadline,
}

#[derive(Debug, Clone)]
pub(crate) struct Lapic {
    pub(super) id: u32,
    pub(super) base: u64,
    pub(super) tpr: u32,
    pub(super) ldr: u32,
    pub(super) dfr: u32,
    pub(super) svr: u32,
    pub(super) esr: u32,
    pub(super) pending_esr: u32,
    pub(super) icr: u64,
    /// CMCI and the six entries from the timer to the error entry.
    pub(super) lvt: [u32; 7],
    pub(super) irr: [u32; 8],
    pub(super) isr: [u32; 8],
    pub(super) tmr: [u32; 8],
    pub(super) initial_count: u32,
    pub(super) divide: u32,
    /// When the timer was last started, in nanoseconds.
    pub(super) started: u64,
    /// When it fires next, in nanoseconds.
    pub(super) deadline: Option<u64>,
    pub(super) tsc_deadline: u64,
}

/// The highest set bit of 256.
fn highest(bits: &[u32; 8]) -> Option<u8> {
    (0..8).rev().find(|&word| bits[word] != 0).map(|word| (word as u32 * 32 + bits[word].ilog2()) as u8)
}

fn set(bits: &mut [u32; 8], vector: u8) {
    bits[usize::from(vector) / 32] |= 1 << (vector % 32);
}

fn clear(bits: &mut [u32; 8], vector: u8) {
    bits[usize::from(vector) / 32] &= !(1 << (vector % 32));
}

fn test(bits: &[u32; 8], vector: u8) -> bool {
    bits[usize::from(vector) / 32] & 1 << (vector % 32) != 0
}

impl Lapic {
    /// The state after power-on; the one with ID 0 is the boot CPU's.
    pub(crate) fn new(id: u32) -> Self {
        Self::after_reset(id, DEFAULT_BASE | BASE_ENABLED | if id == 0 { BASE_BOOT_CPU } else { 0 })
    }

    /// INIT: everything but the ID and the base goes back to its reset value.
    pub(crate) fn reset(&mut self) {
        *self = Self::after_reset(self.id, self.base);
    }

    fn after_reset(id: u32, base: u64) -> Self {
        Self {
            id,
            base,
            tpr: 0,
            ldr: if base & BASE_X2APIC == 0 { 0 } else { x2apic_ldr(id) },
            dfr: u32::MAX,
            svr: 0xff,
            esr: 0,
            pending_esr: 0,
            icr: 0,
            lvt: [MASKED; 7],
            irr: [0; 8],
            isr: [0; 8],
            tmr: [0; 8],
            initial_count: 0,
            divide: 0,
            started: 0,
            deadline: None,
            tsc_deadline: 0,
        }
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0 && self.svr & 0x100 != 0
    }

    /// Where the register page lies; `None` in x2APIC mode or with the APIC off.
    pub(crate) fn page(&self) -> Option<u64> {
        (self.base & (BASE_ENABLED | BASE_X2APIC) == BASE_ENABLED).then_some(self.base & 0x000f_ffff_ffff_f000)
    }

    /// Whether the 8259's output reaches this CPU: through LINT0 programmed as ExtINT, or past a disabled APIC.
    pub(crate) fn accepts_external(&self) -> bool {
        let lint0 = self.lvt[4];
        self.base & BASE_ENABLED == 0 || (lint0 & MASKED == 0 && lint0 >> 8 & 7 == 7)
    }

    /// Whether this APIC is named by a destination.
    pub(crate) fn is_named(&self, logical: bool, destination: u32) -> bool {
        if self.x2apic() {
            // Devices and I/O APICs have 8-bit destinations, where 0xff means all.
            if destination == u32::MAX || destination == 0xff {
                return true;
            }
            return if logical {
                destination >> 16 == self.ldr >> 16 && destination & self.ldr & 0xffff != 0
            } else {
                destination == self.id
            };
        }
        let destination = destination & 0xff;
        if !logical {
            return destination == 0xff || destination == self.id;
        }
        let mine = self.ldr >> 24;
        if self.dfr >> 28 == 0xf {
            destination & mine != 0
        } else {
            (destination >> 4 == mine >> 4 || destination >> 4 == 0xf) && destination & mine & 15 != 0
        }
    }

    /// Takes a fixed or lowest-priority interrupt.
    pub(crate) fn accept(&mut self, vector: u8, level: bool) {
        if !self.enabled() {
            return;
        }
        if vector < 16 {
            self.error(1 << 6);
            return;
        }
        set(&mut self.irr, vector);
        if level { set(&mut self.tmr, vector) } else { clear(&mut self.tmr, vector) }
    }

    fn error(&mut self, bit: u32) {
        self.pending_esr |= bit;
        let entry = self.lvt[6];
        if entry & MASKED == 0 {
            set(&mut self.irr, entry as u8);
        }
    }

    fn processor_priority(&self) -> u32 {
        let in_service = highest(&self.isr).map_or(0, u32::from);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 }
    }

    /// The vector that should interrupt the CPU now.
    pub(crate) fn pending(&self) -> Option<u8> {
        let vector = highest(&self.irr)?;
        (u32::from(vector >> 4) > self.processor_priority() >> 4).then_some(vector)
    }

    /// The CPU takes the pending interrupt.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        clear(&mut self.irr, vector);
        set(&mut self.isr, vector);
        Some(vector)
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = highest(&self.isr) else { return Effect::None };
        clear(&mut self.isr, vector);
        if test(&self.tmr, vector) { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }

    pub(crate) fn task_priority(&self) -> u8 {
        (self.tpr >> 4) as u8
    }

    pub(crate) fn set_task_priority(&mut self, value: u8) {
        self.tpr = u32::from(value & 15) << 4;
    }

    fn timer_mode(&self) -> TimerMode {
        match self.lvt[1] >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            _ => TimerMode::Deadline,
        }
    }

    fn divider(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        if code == 7 { 1 } else { 2 << code }
    }

    fn period(&self) -> u64 {
        u64::from(self.initial_count) * self.divider() * TICK
    }

    fn start_timer(&mut self, now: u64) {
        self.started = now;
        self.deadline = (self.initial_count != 0).then(|| now + self.period());
    }

    fn current_count(&self, now: u64) -> u32 {
        let Some(deadline) = self.deadline.filter(|_| self.timer_mode() != TimerMode::Deadline) else { return 0 };
        (deadline.saturating_sub(now) / (self.divider() * TICK)) as u32
    }

    /// When the timer fires next, in nanoseconds of the VM's clock.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Lets the timer fire if it is due; returns whether it did.
    pub(crate) fn advance(&mut self, now: u64) -> bool {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return false;
        }
        let entry = self.lvt[1];
        match self.timer_mode() {
            TimerMode::Periodic => {
                let period = self.period().max(1);
                let passed = (now - self.started) / period;
                self.started += passed * period;
                self.deadline = Some(self.started + period);
            }
            TimerMode::OneShot => self.deadline = None,
            TimerMode::Deadline => {
                self.deadline = None;
                self.tsc_deadline = 0;
            }
        }
        if entry & MASKED == 0 && self.enabled() {
            self.accept(entry as u8, false);
        }
        true
    }

    /// Reads the register page.
    pub(crate) fn read_page(&self, offset: u64, now: u64) -> u32 {
        match (offset >> 4) as u32 {
            register::ID => self.id << 24,
            register::ICR => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::SELF_IPI => 0,
            index => self.read(index, now).unwrap_or(0),
        }
    }

    fn read(&self, index: u32, now: u64) -> Option<u32> {
        Some(match index {
            register::VERSION => 0x14 | 6 << 16,
            register::TPR => self.tpr,
            register::PPR => self.processor_priority(),
            register::LDR => self.ldr,
            register::DFR if !self.x2apic() => self.dfr,
            register::SVR => self.svr,
            register::ISR..0x18 => self.isr[(index - register::ISR) as usize],
            register::TMR..0x20 => self.tmr[(index - register::TMR) as usize],
            register::IRR..0x28 => self.irr[(index - register::IRR) as usize],
            register::ESR => self.esr,
            register::CMCI => self.lvt[0],
            register::LVT_TIMER..=register::LVT_ERROR => self.lvt[(index - register::LVT_TIMER + 1) as usize],
            register::INITIAL_COUNT => self.initial_count,
            register::CURRENT_COUNT => self.current_count(now),
            register::DIVIDE => self.divide,
            _ => return None,
        })
    }

    /// Writes the register page.
    pub(crate) fn write_page(&mut self, offset: u64, value: u32, now: u64) -> Effect {
        match (offset >> 4) as u32 {
            register::ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & !(1 << 12));
                self.send(self.icr >> 56)
            }
            register::ICR_HIGH => {
                self.icr = self.icr & 0xffff_ffff | u64::from(value) << 32;
                Effect::None
            }
            register::LDR => {
                self.ldr = value & 0xff00_0000;
                Effect::None
            }
            register::DFR => {
                self.dfr = value | 0x0fff_ffff;
                Effect::None
            }
            register::SELF_IPI => Effect::None,
            index => self.write(index, value, now).unwrap_or(Effect::None),
        }
    }

    fn write(&mut self, index: u32, value: u32, now: u64) -> Option<Effect> {
        match index {
            register::ID => {}
            register::TPR => self.tpr = value & 0xff,
            register::EOI => return Some(self.end_of_interrupt()),
            register::SVR => {
                self.svr = value & 0x1ff;
                if value & 0x100 == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= MASKED);
                }
            }
            register::ESR => self.esr = std::mem::take(&mut self.pending_esr),
            register::CMCI => self.write_entry(0, value, now),
            register::LVT_TIMER..=register::LVT_ERROR => {
                self.write_entry((index - register::LVT_TIMER + 1) as usize, value, now);
            }
            register::INITIAL_COUNT => {
                self.initial_count = value;
                if self.timer_mode() != TimerMode::Deadline {
                    self.start_timer(now);
                }
            }
            register::DIVIDE => self.divide = value & 0xb,
            _ => return None,
        }
        Some(Effect::None)
    }

    fn write_entry(&mut self, index: usize, value: u32, now: u64) {
        let mask = match index {
            1 => 0x0007_10ff,
            4 | 5 => 0x0001_f7ff,
            6 => 0x0001_10ff,
            _ => 0x0001_17ff,
        };
        let old_mode = self.timer_mode();
        self.lvt[index] = value & mask & !(1 << 12) | if self.svr & 0x100 == 0 { MASKED } else { 0 };
        if index == 1 && self.timer_mode() != old_mode {
            let deadline = self.timer_mode() == TimerMode::Deadline || old_mode == TimerMode::Deadline;
            if deadline {
                self.deadline = None;
                self.tsc_deadline = 0;
            } else if self.deadline.is_some() {
                self.start_timer(now);
            }
        }
    }

    fn send(&self, destination: u64) -> Effect {
        let command = self.icr as u32;
        let mode = (command >> 8 & 7) as u8;
        let level = command & LEVEL != 0;
        // An INIT level de-assert only synchronises arbitration IDs.
        if mode == 5 && level && command & 1 << 14 == 0 {
            return Effect::None;
        }
        let shorthand = match command >> 18 & 3 {
            0 => Shorthand::Destination,
            1 => Shorthand::OnlySelf,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        let message = Message {
            vector: command as u8,
            mode,
            logical: command & 1 << 11 != 0,
            destination: destination as u32,
            level: false,
        };
        Effect::Send(message, shorthand)
    }

    /// Reads MSR 0x1B, 0x6E0 or 0x800–0x83F. `None`: there is no such register now.
    pub(crate) fn read_msr(&self, msr: u32, now: u64) -> Option<u64> {
        match msr {
            0x1b => return Some(self.base),
            0x6e0 => return Some(self.tsc_deadline),
            _ if !self.x2apic() => return None,
            _ => {}
        }
        match msr - 0x800 {
            register::ID => Some(u64::from(self.id)),
            register::ICR => Some(self.icr),
            register::ICR_HIGH | register::SELF_IPI | register::EOI => None,
            index => self.read(index, now).map(u64::from),
        }
    }

    /// Writes MSR 0x1B, 0x6E0 or 0x800–0x83F; `tsc_to_clock` turns a time stamp into the VM's nanoseconds.
    pub(crate) fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
        tsc_to_clock: impl Fn(u64) -> u64,
    ) -> Option<Effect> {
        match msr {
            0x1b => return self.write_base(value),
            0x6e0 => {
                if self.timer_mode() == TimerMode::Deadline {
                    self.tsc_deadline = value;
                    self.deadline = (value != 0).then(|| tsc_to_clock(value));
                }
                return Some(Effect::None);
            }
            _ if !self.x2apic() => return None,
            _ => {}
        }
        match msr - 0x800 {
            register::ICR => {
                self.icr = value;
                Some(self.send(value >> 32))
            }
            register::SELF_IPI => {
                self.accept(value as u8, false);
                Some(Effect::None)
            }
            register::ID | register::LDR | register::DFR | register::ICR_HIGH => None,
            register::EOI | register::ESR if value != 0 => None,
            index => self.write(index, u32::try_from(value).ok()?, now),
        }
    }

    fn write_base(&mut self, value: u64) -> Option<Effect> {
        let mode = value & (BASE_ENABLED | BASE_X2APIC);
        let leaves_x2apic = self.x2apic() && mode == BASE_ENABLED;
        if mode == BASE_X2APIC || leaves_x2apic || value >> 52 != 0 {
            return None;
        }
        let was_x2apic = self.x2apic();
        self.base = value & !0x2ff & !BASE_BOOT_CPU | self.base & BASE_BOOT_CPU;
        if mode == 0 {
            self.reset();
        } else if self.x2apic() && !was_x2apic {
            self.ldr = x2apic_ldr(self.id);
        }
        Some(Effect::None)
    }
}

/// The logical ID that x2APIC mode derives from the APIC ID: cluster in the high half, one bit in the low.
fn x2apic_ldr(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled(id: u32) -> Lapic {
        let mut lapic = Lapic::new(id);
        lapic.write_page(0xf0, 0x1ff, 0);
        lapic
    }

    #[test]
    fn the_highest_vector_comes_first_and_blocks_its_class() {
        let mut lapic = enabled(0);
        lapic.accept(0x41, false);
        lapic.accept(0x52, false);
        assert_eq!(lapic.acknowledge(), Some(0x52));
        assert_eq!(lapic.pending(), None);
        lapic.accept(0x61, false);
        assert_eq!(lapic.acknowledge(), Some(0x61));
        assert_eq!(lapic.write_page(0xb0, 0, 0), Effect::None);
        lapic.write_page(0xb0, 0, 0);
        assert_eq!(lapic.acknowledge(), Some(0x41));
    }

    #[test]
    fn the_task_priority_holds_back_its_classes() {
        let mut lapic = enabled(0);
        lapic.set_task_priority(5);
        lapic.accept(0x5f, false);
        assert_eq!(lapic.pending(), None);
        lapic.set_task_priority(4);
        assert_eq!(lapic.pending(), Some(0x5f));
        assert_eq!(lapic.read_page(0xa0, 0), 0x40);
    }

    #[test]
    fn ending_a_level_interrupt_tells_the_io_apic() {
        let mut lapic = enabled(0);
        lapic.accept(0x33, true);
        lapic.acknowledge();
        assert_eq!(lapic.write_page(0xb0, 0, 0), Effect::EndOfInterrupt(0x33));
    }

    #[test]
    fn the_timer_fires_once_or_periodically() {
        let mut lapic = enabled(0);
        lapic.write_page(0x320, 0x40, 0);
        lapic.write_page(0x3e0, 0xb, 0);
        lapic.write_page(0x380, 1000, 5);
        assert_eq!(lapic.deadline(), Some(1005));
        assert_eq!(lapic.read_page(0x390, 505), 500);
        assert!(!lapic.advance(1004));
        assert!(lapic.advance(1005));
        assert_eq!((lapic.deadline(), lapic.acknowledge()), (None, Some(0x40)));
        lapic.write_page(0xb0, 0, 0);
        lapic.write_page(0x320, 0x2_0041, 2000);
        lapic.write_page(0x380, 100, 2000);
        assert!(lapic.advance(2350));
        assert_eq!(lapic.deadline(), Some(2400));
    }

    #[test]
    fn the_deadline_timer_follows_the_time_stamp() {
        let mut lapic = enabled(0);
        lapic.write_page(0x320, 0x4_0045, 0);
        assert!(lapic.write_msr(0x6e0, 500, 0, |tsc| tsc * 2).is_some());
        assert_eq!(lapic.deadline(), Some(1000));
        assert!(lapic.advance(1000));
        assert_eq!(lapic.read_msr(0x6e0, 0), Some(0));
        assert_eq!(lapic.pending(), Some(0x45));
    }

    #[test]
    fn x2apic_mode_is_entered_once_and_left_through_off() {
        let mut lapic = enabled(17);
        assert_eq!(lapic.read_msr(0x802, 0), None);
        assert!(lapic.write_msr(0x1b, DEFAULT_BASE | 0xc00, 0, |t| t).is_some());
        assert_eq!(lapic.read_msr(0x802, 0), Some(17));
        assert_eq!(lapic.read_msr(0x80d, 0), Some(1 << 16 | 2));
        assert_eq!(lapic.page(), None);
        assert!(lapic.write_msr(0x1b, DEFAULT_BASE | 0x800, 0, |t| t).is_none());
        assert!(lapic.is_named(true, 1 << 16 | 2));
        assert!(!lapic.is_named(true, 2));
    }

    #[test]
    fn destinations_name_the_right_apics() {
        let mut lapic = enabled(3);
        assert!(lapic.is_named(false, 3) && lapic.is_named(false, 0xff) && !lapic.is_named(false, 1));
        lapic.write_page(0xd0, 0x0800_0000, 0);
        assert!(lapic.is_named(true, 0x0c) && !lapic.is_named(true, 0x04));
        lapic.write_page(0xe0, 0, 0);
        lapic.write_page(0xd0, 0x2100_0000, 0);
        assert!(lapic.is_named(true, 0x21) && !lapic.is_named(true, 0x11));
    }

    #[test]
    fn interprocessor_interrupts_come_back_as_messages() {
        let mut lapic = enabled(0);
        lapic.write_page(0x310, 2 << 24, 0);
        let Effect::Send(message, Shorthand::Destination) = lapic.write_page(0x300, 0x4600 | 0x9a, 0) else {
            panic!("a start-up message was asked for");
        };
        assert_eq!((message.mode, message.vector, message.destination), (6, 0x9a, 2));
        assert!(matches!(lapic.write_page(0x300, 0xc_4500, 0), Effect::Send(_, Shorthand::Others)));
        assert_eq!(lapic.write_page(0x300, 0x8500, 0), Effect::None);
    }
}
