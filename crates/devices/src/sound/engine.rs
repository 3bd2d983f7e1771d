//! A DMA engine of the AC'97 controller (Intel 82801AA data sheet, section 13.2): walks a ring of 32 buffer descriptors in
//! guest memory, sample by sample.

use ferro_guest::{GuestMemory, LoadError, StateReader, StateWriter};

use super::Frame;
use crate::state;

/// Bits of the status register.
mod status {
    pub(super) const HALTED: u16 = 1;
    pub(super) const AT_LAST: u16 = 2;
    pub(super) const LAST_DONE: u16 = 4;
    pub(super) const BUFFER_DONE: u16 = 8;
    pub(super) const CLEARABLE: u16 = 0x1c;
}

/// Bits of the control register.
mod control {
    pub(super) const RUN: u8 = 1;
    pub(super) const RESET: u8 = 2;
    pub(super) const LAST_INTERRUPT: u8 = 4;
    pub(super) const BUFFER_INTERRUPT: u8 = 0x10;
    pub(super) const INTERRUPTS: u8 = 0x1c;
}

const RING: u8 = 32;
const INTERRUPT_ON_COMPLETION: u32 = 1 << 31;

/// The engine's registers, and the buffer that it is in.
#[derive(Debug, Clone, Default)]
pub(super) struct Engine {
    table: u32,
    current: u8,
    last: u8,
    status: u16,
    /// Samples left of the current buffer.
    left: u16,
    control: u8,
    address: u32,
    flags: u32,
}

impl Engine {
    pub(super) fn reset(&mut self) {
        *self = Self { status: status::HALTED, ..Self::default() };
    }

    /// Whether it asks for an interrupt.
    pub(super) fn interrupts(&self) -> bool {
        self.status & status::LAST_DONE != 0 && self.control & control::LAST_INTERRUPT != 0
            || self.status & status::BUFFER_DONE != 0 && self.control & control::BUFFER_INTERRUPT != 0
    }

    pub(super) fn is_running(&self) -> bool {
        self.control & control::RUN != 0 && self.status & status::HALTED == 0
    }

    /// A byte of its 16 bytes of registers.
    pub(super) fn read(&self, offset: u64) -> u8 {
        let byte = |value: u32, at: u64| (value >> (8 * at)) as u8;
        match offset {
            0..=3 => byte(self.table, offset),
            4 => self.current,
            5 => self.last,
            6 | 7 => byte(self.status.into(), offset - 6),
            8 | 9 => byte(self.left.into(), offset - 8),
            10 => (self.current + 1) % RING,
            11 => self.control,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u8, memory: &GuestMemory) {
        match offset {
            0..=3 => {
                let shift = 8 * offset;
                self.table = (self.table & !(0xff << shift) | u32::from(value) << shift) & !7;
            }
            5 => {
                self.last = value % RING;
                // More buffers for an engine that ran out of them.
                if self.control & control::RUN != 0 && self.status & status::HALTED != 0 && self.last != self.current {
                    self.status &= !(status::HALTED | status::AT_LAST);
                    self.current = (self.current + 1) % RING;
                    self.fetch(memory);
                }
            }
            6 => self.status &= !(u16::from(value) & status::CLEARABLE),
            11 if value & control::RESET != 0 => {
                let kept = self.control & control::INTERRUPTS;
                self.reset();
                self.control = kept;
            }
            11 => {
                let starts = value & control::RUN != 0 && self.control & control::RUN == 0;
                self.control = value & (control::RUN | control::INTERRUPTS);
                if starts {
                    self.status &= !(status::HALTED | status::AT_LAST);
                    self.fetch(memory);
                } else if value & control::RUN == 0 {
                    self.status |= status::HALTED;
                }
            }
            _ => {}
        }
    }

    fn fetch(&mut self, memory: &GuestMemory) {
        let entry = memory.load::<u64>(u64::from(self.table) + 8 * u64::from(self.current)).unwrap_or(0);
        self.address = entry as u32 & !1;
        self.flags = (entry >> 32) as u32;
        self.left = self.flags as u16;
        if self.current == self.last {
            self.status |= status::AT_LAST;
        }
    }

    /// Goes on to the next buffer; whether there is one.
    fn complete(&mut self, memory: &GuestMemory) -> bool {
        if self.flags & INTERRUPT_ON_COMPLETION != 0 {
            self.status |= status::BUFFER_DONE;
        }
        if self.current == self.last {
            self.status |= status::LAST_DONE | status::HALTED;
            return false;
        }
        self.current = (self.current + 1) % RING;
        self.fetch(memory);
        true
    }

    /// The next sample, if it runs and has one; each is two bytes.
    fn sample(&mut self, memory: &GuestMemory) -> Option<i16> {
        // A ring of empty buffers ends somewhere.
        for _ in 0..RING {
            if !self.is_running() {
                return None;
            }
            if self.left > 0 {
                let sample = memory.load::<u16>(self.address.into()).unwrap_or(0) as i16;
                self.address = self.address.wrapping_add(2);
                self.left -= 1;
                if self.left == 0 {
                    self.complete(memory);
                }
                return Some(sample);
            }
            self.complete(memory);
        }
        None
    }

    /// The next frame; `None` when it has run dry.
    pub(super) fn frame(&mut self, memory: &GuestMemory) -> Option<Frame> {
        let left = self.sample(memory)?;
        Some([left, self.sample(memory).unwrap_or(left)])
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.u32(self.table);
        [self.current, self.last, self.control].into_iter().for_each(|byte| into.u8(byte));
        into.u16(self.status);
        into.u16(self.left);
        into.u32(self.address);
        into.u32(self.flags);
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.table = from.u32()?;
        for byte in [&mut self.current, &mut self.last, &mut self.control] {
            *byte = from.u8()?;
        }
        self.status = from.u16()?;
        self.left = from.u16()?;
        self.address = from.u32()?;
        self.flags = from.u32()?;
        let aligned = self.table & 7 == 0 && self.address & 1 == 0;
        state::check(aligned && self.current < RING && self.last < RING, "a place in the sound card's ring")?;
        state::check(self.control & !(control::RUN | control::INTERRUPTS) == 0, "the sound card's engine")
    }
}
