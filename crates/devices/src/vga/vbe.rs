//! Bochs' VBE registers: resolution, colour depth, bank and the part of video memory that is shown.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::registers::Registers;
use crate::state;

/// Indices of the registers.
mod index {
    pub(super) const ID: u16 = 0;
    pub(super) const WIDTH: u16 = 1;
    pub(super) const HEIGHT: u16 = 2;
    pub(super) const DEPTH: u16 = 3;
    pub(super) const ENABLE: u16 = 4;
    pub(super) const BANK: u16 = 5;
    pub(super) const VIRTUAL_WIDTH: u16 = 6;
    pub(super) const VIRTUAL_HEIGHT: u16 = 7;
    pub(super) const X: u16 = 8;
    pub(super) const Y: u16 = 9;
    pub(super) const MEMORY: u16 = 10;
}

const NEWEST_ID: u16 = 0xb0c5;
const OLDEST_ID: u16 = 0xb0c0;
const ENABLED: u16 = 1;
const CAPABILITIES: u16 = 2;
const WIDE_PALETTE: u16 = 0x20;
const KEEP_MEMORY: u16 = 0x80;
/// Pixels of a row and rows at most.
const MAX_SIZE: u16 = 4096;
const BANK: usize = 64 << 10;

/// The registers.
#[derive(Debug, Clone)]
pub(super) struct Vbe {
    index: u16,
    id: u16,
    width: u16,
    height: u16,
    depth: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x: u16,
    y: u16,
    memory: usize,
}

/// A mode that VBE has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) depth: u16,
    /// The first byte shown.
    pub(super) start: usize,
    /// Bytes from one row to the next.
    pub(super) pitch: usize,
}

/// What a write asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// The picture is another.
    Changed,
    /// A mode was set; its memory is to be cleared.
    Clear,
}

impl Vbe {
    /// Registers of a VGA with so many bytes of memory; none of them set a mode yet.
    pub(super) fn new(memory: usize) -> Self {
        Self {
            index: 0,
            id: NEWEST_ID,
            width: 0,
            height: 0,
            depth: 8,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x: 0,
            y: 0,
            memory,
        }
    }

    pub(super) fn bank_offset(&self) -> usize {
        usize::from(self.bank) * BANK
    }

    pub(super) fn has_wide_palette(&self) -> bool {
        self.enable & WIDE_PALETTE != 0
    }

    /// Bytes of so many pixels.
    fn bytes(&self, pixels: u16) -> usize {
        match self.depth {
            4 => usize::from(pixels) / 2,
            depth => usize::from(pixels) * usize::from(depth.div_ceil(8)),
        }
    }

    /// The mode, if one is set. Everything that it shows lies within the memory.
    pub(super) fn mode(&self) -> Option<Mode> {
        if self.enable & ENABLED == 0 || self.width == 0 || self.height == 0 {
            return None;
        }
        let pitch = self.bytes(self.virtual_width.max(self.width));
        let wanted = usize::from(self.y) * pitch + self.bytes(self.x);
        let shown = pitch * usize::from(self.height);
        let start = wanted.min(self.memory.checked_sub(shown)?);
        Some(Mode { width: self.width.into(), height: self.height.into(), depth: self.depth, start, pitch })
    }

    pub(super) fn select(&mut self, index: u16) {
        self.index = index;
    }

    pub(super) fn selected(&self) -> u16 {
        self.index
    }

    pub(super) fn read(&self, register: u16) -> u16 {
        let capabilities = self.enable & CAPABILITIES != 0;
        match register {
            index::ID => self.id,
            index::WIDTH | index::HEIGHT if capabilities => MAX_SIZE,
            index::DEPTH if capabilities => 32,
            index::WIDTH => self.width,
            index::HEIGHT => self.height,
            index::DEPTH => self.depth,
            index::ENABLE => self.enable,
            index::BANK => self.bank,
            index::VIRTUAL_WIDTH => self.virtual_width.max(self.width),
            index::VIRTUAL_HEIGHT => {
                let pitch = self.bytes(self.virtual_width.max(self.width)).max(1);
                (self.memory / pitch).min(0xffff) as u16
            }
            index::X => self.x,
            index::Y => self.y,
            index::MEMORY => (self.memory / BANK) as u16,
            _ => 0,
        }
    }

    /// Whether a register takes a value.
    fn is_possible(&self, register: u16, value: u16) -> bool {
        match register {
            index::ID => (OLDEST_ID..=NEWEST_ID).contains(&value),
            index::WIDTH => value <= MAX_SIZE && value.is_multiple_of(8),
            index::HEIGHT => value <= MAX_SIZE,
            index::DEPTH => matches!(value, 0 | 4 | 8 | 15 | 16 | 24 | 32),
            index::BANK => usize::from(value) < self.memory / BANK,
            index::VIRTUAL_WIDTH => value <= 2 * MAX_SIZE,
            _ => true,
        }
    }

    pub(super) fn write(&mut self, register: u16, value: u16) -> Effect {
        let set = |to: &mut u16, value| {
            let changed = *to != value;
            *to = value;
            if changed { Effect::Changed } else { Effect::Nothing }
        };
        if !self.is_possible(register, value) {
            return Effect::Nothing;
        }
        match register {
            index::ID => set(&mut self.id, value),
            index::WIDTH => set(&mut self.width, value),
            index::HEIGHT => set(&mut self.height, value),
            index::DEPTH => set(&mut self.depth, if value == 0 { 8 } else { value }),
            index::BANK => set(&mut self.bank, value),
            index::VIRTUAL_WIDTH => set(&mut self.virtual_width, value),
            index::X => set(&mut self.x, value),
            index::Y => set(&mut self.y, value),
            index::ENABLE => self.enable(value),
            _ => Effect::Nothing,
        }
    }

    fn enable(&mut self, value: u16) -> Effect {
        let begins = value & ENABLED != 0 && self.enable & ENABLED == 0;
        self.enable = value;
        if begins {
            (self.virtual_width, self.x, self.y) = (0, 0, 0);
        }
        if value & ENABLED == 0 {
            self.bank = 0;
        }
        if begins && value & KEEP_MEMORY == 0 { Effect::Clear } else { Effect::Changed }
    }

    /// Brings the VGA's own registers in line with the mode, as software that mixes the two expects.
    pub(super) fn program(mode: &Mode, registers: &mut Registers) {
        // Graphics, the window at 0xA0000 with 64 KiB.
        registers.graphics[6] = 5;
        let crtc = &mut registers.crtc.0;
        crtc[0x17] |= 3;
        crtc[0x13] = (mode.pitch / 8).min(255) as u8;
        crtc[1] = (mode.width / 8).saturating_sub(1).min(255) as u8;
        let last = mode.height - 1;
        crtc[0x12] = last as u8;
        crtc[7] = crtc[7] & !0x42 | (last >> 7 & 2) as u8 | (last >> 3 & 0x40) as u8;
        // No split of the screen, no rows shown twice.
        crtc[0x18] = 0xff;
        crtc[7] |= 0x10;
        crtc[9] = 0x40;
        if mode.depth == 4 {
            registers.sequencer[4] &= !8;
            registers.graphics[5] &= !0x60;
        } else {
            registers.sequencer[4] |= 8;
            registers.sequencer[2] |= 15;
            registers.graphics[5] = registers.graphics[5] & !0x60 | 0x40;
        }
        registers.changed = true;
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.u64(self.memory as u64);
        for register in [
            self.index,
            self.id,
            self.width,
            self.height,
            self.depth,
            self.enable,
            self.bank,
            self.virtual_width,
            self.x,
            self.y,
        ] {
            into.u16(register);
        }
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        state::check(from.u64()? == self.memory as u64, "the amount of video memory")?;
        for register in [
            &mut self.index,
            &mut self.id,
            &mut self.width,
            &mut self.height,
            &mut self.depth,
            &mut self.enable,
            &mut self.bank,
            &mut self.virtual_width,
            &mut self.x,
            &mut self.y,
        ] {
            *register = from.u16()?;
        }
        let registers = [
            (index::ID, self.id),
            (index::WIDTH, self.width),
            (index::HEIGHT, self.height),
            (index::DEPTH, self.depth),
            (index::BANK, self.bank),
            (index::VIRTUAL_WIDTH, self.virtual_width),
        ];
        let possible = registers.into_iter().all(|(register, value)| self.is_possible(register, value));
        state::check(possible && self.depth != 0, "the VGA's mode")
    }
}
