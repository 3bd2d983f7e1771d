//! The two 8237 DMA controllers and their page registers, as far as software that probes and programs them looks: the
//! registers keep what is written. Nothing on the board asks for their transfers.

use ferro_guest::{BusDevice, LoadError, SaveState, StateReader, StateWriter};

use crate::state;

/// One controller: eight address and count registers of 16 bits, written a byte at a time, and the control registers.
#[derive(Debug, Default)]
struct Controller {
    registers: [u16; 8],
    high_next: bool,
    mask: u8,
}

impl Controller {
    fn read(&mut self, register: usize) -> u8 {
        match register {
            0..=7 => {
                let [low, high] = self.registers[register].to_le_bytes();
                self.high_next = !self.high_next;
                if self.high_next { low } else { high }
            }
            15 => self.mask | 0xf0,
            _ => 0,
        }
    }

    fn write(&mut self, register: usize, value: u8) {
        match register {
            0..=7 => {
                let bytes = &mut self.registers[register].to_le_bytes();
                bytes[usize::from(self.high_next)] = value;
                self.registers[register] = u16::from_le_bytes(*bytes);
                self.high_next = !self.high_next;
            }
            10 => {
                let bit = 1 << (value & 3);
                self.mask = if value & 4 != 0 { self.mask | bit } else { self.mask & !bit };
            }
            12 => self.high_next = false,
            13 => *self = Self { mask: 15, ..Self::default() },
            14 => self.mask = 0,
            15 => self.mask = value & 15,
            _ => {}
        }
    }

    fn save(&self, into: &mut StateWriter) {
        self.registers.iter().for_each(|register| into.u16(*register));
        into.bool(self.high_next);
        into.u8(self.mask);
    }

    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        for register in &mut self.registers {
            *register = from.u16()?;
        }
        self.high_next = from.bool()?;
        self.mask = from.u8()?;
        state::check(self.mask < 16, "a DMA controller's mask")
    }
}

/// Where a part of the chip's ports begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte,
    Page,
    Word,
}

/// The chip, for all of its ports: 0x00–0x0F, 0x80–0x8F and 0xC0–0xDF, each offset being the port itself.
#[derive(Debug, Default)]
pub struct Dma {
    byte: Controller,
    word: Controller,
    pages: [u8; 16],
}

impl Dma {
    /// The ranges of its ports.
    pub const PORTS: [std::ops::Range<u64>; 3] = [0x00..0x10, 0x80..0x90, 0xc0..0xe0];

    fn part(port: u64) -> (Part, usize) {
        match port {
            0x00..0x80 => (Part::Byte, port as usize & 15),
            0x80..0xc0 => (Part::Page, port as usize & 15),
            _ => (Part::Word, port as usize >> 1 & 15),
        }
    }
}

impl BusDevice for Dma {
    fn read(&mut self, port: u64, _size: u8) -> u64 {
        u64::from(match Self::part(port) {
            (Part::Byte, register) => self.byte.read(register),
            (Part::Word, register) => self.word.read(register),
            (Part::Page, register) => self.pages[register],
        })
    }

    fn write(&mut self, port: u64, _size: u8, value: u64) {
        match Self::part(port) {
            (Part::Byte, register) => self.byte.write(register, value as u8),
            (Part::Word, register) => self.word.write(register, value as u8),
            (Part::Page, register) => self.pages[register] = value as u8,
        }
    }
}

impl SaveState for Dma {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.byte.save(into);
        self.word.save(into);
        into.bytes(&self.pages);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.byte.load(from)?;
        self.word.load(from)?;
        state::load_bytes(&mut self.pages, "the DMA page registers", from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_keep_two_bytes_each() {
        let mut dma = Dma::default();
        dma.write(0x0c, 1, 0);
        dma.write(0x02, 1, 0x34);
        dma.write(0x02, 1, 0x12);
        assert_eq!((dma.read(0x02, 1), dma.read(0x02, 1)), (0x34, 0x12));
        dma.write(0xd4, 1, 5);
        assert_eq!(dma.read(0xde, 1), 0xf2);
        dma.write(0x81, 1, 7);
        assert_eq!(dma.read(0x81, 1), 7);
    }
}
