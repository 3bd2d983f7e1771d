//! The colour look-up table (DAC): 256 colours, written through its four ports.

use ferro_guest::{LoadError, StateReader, StateWriter};

use crate::state;

/// The table and where the guest is in it.
#[derive(Debug, Clone)]
pub(super) struct Palette {
    entries: [[u8; 3]; 256],
    mask: u8,
    read_index: u8,
    write_index: u8,
    component: usize,
    reading: bool,
    /// Components have 8 bits rather than 6.
    pub(super) wide: bool,
    partial: [u8; 3],
}

impl Default for Palette {
    fn default() -> Self {
        Self {
            entries: [[0; 3]; 256],
            mask: 0xff,
            read_index: 0,
            write_index: 0,
            component: 0,
            reading: false,
            wide: false,
            partial: [0; 3],
        }
    }
}

impl Palette {
    /// Reads port 0x3C6 to 0x3C9.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        match port {
            0x3c6 => self.mask,
            0x3c7 => {
                if self.reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => self.write_index,
            _ => {
                let value = self.entries[usize::from(self.read_index)][self.component];
                self.component = (self.component + 1) % 3;
                if self.component == 0 {
                    self.read_index = self.read_index.wrapping_add(1);
                }
                value
            }
        }
    }

    /// Writes port 0x3C6 to 0x3C9; whether colours changed.
    pub(super) fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            0x3c6 => {
                let changed = self.mask != value;
                self.mask = value;
                return changed;
            }
            0x3c7 => (self.read_index, self.component, self.reading) = (value, 0, true),
            0x3c8 => (self.write_index, self.component, self.reading) = (value, 0, false),
            _ => {
                self.partial[self.component] = value;
                self.component = (self.component + 1) % 3;
                if self.component == 0 {
                    let entry = &mut self.entries[usize::from(self.write_index)];
                    let changed = *entry != self.partial;
                    *entry = self.partial;
                    self.write_index = self.write_index.wrapping_add(1);
                    return changed;
                }
            }
        }
        false
    }

    /// All colours as pixels.
    pub(super) fn pixels(&self) -> [u32; 256] {
        std::array::from_fn(|index| {
            let entry = self.entries[index & usize::from(self.mask)];
            entry.into_iter().fold(0, |pixel, component| {
                let full = if self.wide { component } else { (component & 0x3f) << 2 | (component & 0x3f) >> 4 };
                pixel << 8 | u32::from(full)
            })
        })
    }

    /// Writes all but the components' width, which VBE's registers say.
    pub(super) fn save(&self, into: &mut StateWriter) {
        into.bytes(self.entries.as_flattened());
        [self.mask, self.read_index, self.write_index, self.component as u8].into_iter().for_each(|byte| into.u8(byte));
        into.bool(self.reading);
        into.bytes(&self.partial);
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        state::load_bytes(self.entries.as_flattened_mut(), "the palette", from)?;
        for byte in [&mut self.mask, &mut self.read_index, &mut self.write_index] {
            *byte = from.u8()?;
        }
        self.component = from.u8()?.into();
        state::check(self.component < 3, "the palette's component")?;
        self.reading = from.bool()?;
        state::load_bytes(&mut self.partial, "the palette's colour", from)
    }
}
