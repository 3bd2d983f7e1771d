//! The bus-master registers of a channel (Intel 290550, section 2.7) and the table of physical regions that a transfer
//! walks.

use ferro_guest::{GuestMemory, LoadError, StateReader, StateWriter};

use super::unit::Unit;
use crate::state;

const START: u8 = 1;
const TO_MEMORY: u8 = 8;
const ACTIVE: u8 = 1;
const ERROR: u8 = 2;
const INTERRUPT: u8 = 4;
const CAPABLE: u8 = 0x60;

/// Bytes of one transfer between disk and memory at most.
const PIECE: usize = 64 << 10;
/// A table that never ends is given up here: it fills a 64 KiB page, which it may not cross.
const MAX_REGIONS: usize = 8192;

/// One channel's registers.
#[derive(Debug, Default)]
pub(super) struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
}

/// A region of the table: where it is and how long.
struct Region {
    address: u64,
    len: usize,
    last: bool,
}

impl BusMaster {
    pub(super) fn read(&self, offset: u64) -> u8 {
        match offset {
            0 => self.command,
            2 => self.status,
            4..=7 => (self.table >> (8 * (offset - 4))) as u8,
            _ => 0xff,
        }
    }

    /// Writes a byte; returns whether the transfer is to begin.
    pub(super) fn write(&mut self, offset: u64, value: u8) -> bool {
        match offset {
            0 => {
                let starts = value & START != 0 && self.command & START == 0;
                self.command = value & (START | TO_MEMORY);
                if starts {
                    self.status |= ACTIVE;
                } else if value & START == 0 {
                    self.status &= !ACTIVE;
                }
                return starts;
            }
            2 => {
                self.status &= !(value & (ERROR | INTERRUPT));
                self.status = self.status & !CAPABLE | value & CAPABLE;
            }
            4..=7 => {
                let shift = 8 * (offset - 4);
                self.table = (self.table & !(0xff << shift) | u32::from(value) << shift) & !3;
            }
            _ => {}
        }
        false
    }

    pub(super) fn is_started(&self) -> bool {
        self.status & ACTIVE != 0
    }

    /// The unit has raised its interrupt.
    pub(super) fn note_interrupt(&mut self) {
        self.status |= INTERRUPT;
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.u8(self.command);
        into.u8(self.status);
        into.u32(self.table);
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.command = from.u8()?;
        state::check(self.command & !(START | TO_MEMORY) == 0, "the bus master's command")?;
        self.status = from.u8()?;
        state::check(self.status & !(ACTIVE | ERROR | INTERRUPT | CAPABLE) == 0, "the bus master's status")?;
        self.table = from.u32()?;
        state::check(self.table & 3 == 0, "the bus master's table")
    }

    fn region(&self, memory: &GuestMemory, index: usize) -> Option<Region> {
        let entry = memory.load::<u64>(u64::from(self.table) + 8 * index as u64)?;
        let len = match (entry >> 32) as usize & 0xfffe {
            0 => 0x1_0000,
            len => len,
        };
        Some(Region { address: entry & 0xffff_fffe, len, last: entry >> 63 != 0 })
    }

    /// Moves the data of the unit's command by the table.
    pub(super) fn run(&mut self, unit: &mut Unit, memory: &GuestMemory) {
        let Some((len, to_memory)) = unit.dma() else { return };
        let mut left = len as usize;
        let mut buffer = vec![0; left.min(PIECE)];
        // What is in the buffer between units that don't end together: sectors and regions.
        let mut regions = Regions { table: self, memory, index: 0, current: None };
        while left > 0 {
            let piece = &mut buffer[..left.min(PIECE)];
            let ready = to_memory || regions.copy(piece, false);
            if !ready {
                break;
            }
            if unit.dma_piece(piece, to_memory).is_err() {
                self.status &= !ACTIVE;
                return;
            }
            if to_memory && !regions.copy(piece, true) {
                break;
            }
            left -= piece.len();
        }
        let exhausted = regions.is_exhausted();
        if left > 0 {
            // The table ended before the data, or names memory that isn't there.
            self.status = self.status & !ACTIVE | ERROR;
            unit.dma_failed();
            return;
        }
        if exhausted {
            self.status &= !ACTIVE;
        }
        unit.dma_done();
    }
}

/// The way through the table.
struct Regions<'a> {
    table: &'a BusMaster,
    memory: &'a GuestMemory,
    index: usize,
    current: Option<Region>,
}

impl Regions<'_> {
    fn is_exhausted(&self) -> bool {
        self.current.as_ref().is_none_or(|region| region.last && region.len == 0)
    }

    /// Goes to a region with room; `None` at the table's end.
    fn advance(&mut self) -> Option<&mut Region> {
        while self.current.as_ref().is_none_or(|region| region.len == 0) {
            if self.current.as_ref().is_some_and(|region| region.last) || self.index == MAX_REGIONS {
                return None;
            }
            self.current = Some(self.table.region(self.memory, self.index)?);
            self.index += 1;
        }
        self.current.as_mut()
    }

    /// Copies between the buffer and the next regions; whether there was memory for all of it.
    fn copy(&mut self, buffer: &mut [u8], to_memory: bool) -> bool {
        let memory = self.memory;
        let mut done = 0;
        while done < buffer.len() {
            let Some(region) = self.advance() else { return false };
            let len = region.len.min(buffer.len() - done);
            let part = &mut buffer[done..done + len];
            let moved = if to_memory { memory.write(region.address, part) } else { memory.read(region.address, part) };
            if moved != len {
                return false;
            }
            region.address += len as u64;
            region.len -= len;
            done += len;
        }
        true
    }
}
