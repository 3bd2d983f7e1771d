//! The VGA's registers behind ports 0x3B0 to 0x3DF (IBM's VGA, as the FreeVGA project describes it): miscellaneous output,
//! sequencer, graphics controller, CRT controller, attribute controller and palette.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::palette::Palette;
use crate::state;

/// First of the ports.
pub(super) const FIRST_PORT: u16 = 0x3b0;
/// How many there are.
pub(super) const PORTS: u16 = 0x30;

const STATUS_RETRACE: u8 = 9;
const PALETTE_SOURCE: u8 = 0x20;

/// The registers; each array is addressed by its index register.
#[derive(Debug, Clone, Default)]
pub(super) struct Registers {
    misc: u8,
    feature: u8,
    status: u8,
    sequencer_index: u8,
    pub(super) sequencer: [u8; 8],
    graphics_index: u8,
    pub(super) graphics: [u8; 16],
    crtc_index: u8,
    pub(super) crtc: CrtController,
    attribute_index: u8,
    attribute_data_next: bool,
    pub(super) attribute: [u8; 32],
    pub(super) palette: Palette,
    /// Something changed that the whole picture depends on.
    pub(super) changed: bool,
}

/// The CRT controller's registers.
#[derive(Debug, Clone, Default)]
pub(super) struct CrtController(pub(super) [u8; 32]);

impl CrtController {
    fn write(&mut self, index: u8, value: u8) {
        let index = usize::from(index & 31);
        // Bit 7 of register 0x11 protects the first eight, but for one bit.
        if self.0[0x11] & 0x80 != 0 && index <= 7 {
            if index == 7 {
                self.0[7] = self.0[7] & !0x10 | value & 0x10;
            }
            return;
        }
        self.0[index] = value;
    }

    /// Characters of a row.
    pub(super) fn columns(&self) -> u32 {
        u32::from(self.0[1]) + 1
    }

    /// Scan lines of the picture.
    pub(super) fn scan_lines(&self) -> u32 {
        let overflow = u32::from(self.0[7]);
        (u32::from(self.0[0x12]) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
    }

    /// Scan lines of a character row, or how often a row of pixels is repeated.
    pub(super) fn row_scans(&self) -> u32 {
        u32::from(self.0[9] & 31) + 1
    }

    /// Every scan line is shown twice.
    pub(super) fn doubles(&self) -> bool {
        self.0[9] & 0x80 != 0
    }

    /// The plane address of the first character or pixel.
    pub(super) fn start(&self) -> usize {
        usize::from(self.0[0xc]) << 8 | usize::from(self.0[0xd])
    }

    /// Plane addresses from one row to the next.
    pub(super) fn pitch(&self) -> usize {
        usize::from(self.0[0x13]) * 2
    }

    /// The plane address of the cursor.
    pub(super) fn cursor(&self) -> usize {
        usize::from(self.0[0xe]) << 8 | usize::from(self.0[0xf])
    }

    /// The scan line at which the picture begins anew at address 0.
    pub(super) fn split(&self) -> u32 {
        let (overflow, more) = (u32::from(self.0[7]), u32::from(self.0[9]));
        u32::from(self.0[0x18]) | (overflow & 0x10) << 4 | (more & 0x40) << 3
    }
}

impl Registers {
    /// Whether pixels rather than characters are shown.
    pub(super) fn is_graphics(&self) -> bool {
        self.graphics[6] & 1 != 0
    }

    /// Whether nothing is shown.
    pub(super) fn is_blank(&self) -> bool {
        self.attribute_index & PALETTE_SOURCE == 0 || self.sequencer[1] & 0x20 != 0
    }

    /// The port where the CRT controller is not, by the miscellaneous output register.
    fn is_elsewhere(&self, port: u16) -> bool {
        let colour = self.misc & 1 != 0;
        matches!(port, 0x3b0..=0x3bf) && colour || matches!(port, 0x3d0..=0x3df) && !colour
    }

    pub(super) fn read(&mut self, port: u16) -> u8 {
        if self.is_elsewhere(port) {
            return 0xff;
        }
        match port {
            0x3c0 if self.attribute_data_next => 0,
            0x3c0 => self.attribute_index,
            0x3c1 => self.attribute[usize::from(self.attribute_index & 31)],
            0x3c2 => 0,
            0x3c4 => self.sequencer_index,
            0x3c5 => self.sequencer[usize::from(self.sequencer_index & 7)],
            0x3c6..=0x3c9 => self.palette.read(port),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.graphics_index,
            0x3cf => self.graphics[usize::from(self.graphics_index & 15)],
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => self.crtc.0[usize::from(self.crtc_index & 31)],
            0x3ba | 0x3da => {
                // The beam is elsewhere at each look: whoever waits for the retrace sees it come and go.
                self.attribute_data_next = false;
                self.status ^= STATUS_RETRACE;
                self.status
            }
            _ => 0xff,
        }
    }

    pub(super) fn write(&mut self, port: u16, value: u8) {
        if self.is_elsewhere(port) {
            return;
        }
        match port {
            0x3c0 => self.write_attribute(value),
            0x3c2 => self.misc = value,
            0x3c4 => self.sequencer_index = value & 7,
            0x3c5 => {
                let register = &mut self.sequencer[usize::from(self.sequencer_index & 7)];
                // The plane mask changes all the time and nothing that is shown.
                self.changed |= *register != value && self.sequencer_index != 2;
                *register = value;
            }
            0x3c6..=0x3c9 => self.changed |= self.palette.write(port, value),
            0x3ce => self.graphics_index = value & 15,
            0x3cf => {
                let register = &mut self.graphics[usize::from(self.graphics_index & 15)];
                self.changed |= *register != value && matches!(self.graphics_index, 5 | 6);
                *register = value;
            }
            0x3b4 | 0x3d4 => self.crtc_index = value & 31,
            0x3b5 | 0x3d5 => {
                // The cursor has renderers of its own look at it.
                let cursor = matches!(self.crtc_index, 0xa | 0xb | 0xe | 0xf);
                let before = self.crtc.0[usize::from(self.crtc_index & 31)];
                self.crtc.write(self.crtc_index, value);
                self.changed |= !cursor && before != value;
            }
            0x3ba | 0x3da => self.feature = value & 0x10,
            _ => {}
        }
    }

    fn write_attribute(&mut self, value: u8) {
        if self.attribute_data_next {
            let register = &mut self.attribute[usize::from(self.attribute_index & 31)];
            self.changed |= *register != value;
            *register = value;
        } else {
            self.changed |= (self.attribute_index ^ value) & PALETTE_SOURCE != 0;
            self.attribute_index = value & 0x3f;
        }
        self.attribute_data_next = !self.attribute_data_next;
    }

    /// The 16 colours of text and planar modes as pixels.
    pub(super) fn colours(&self) -> [u32; 16] {
        let pixels = self.palette.pixels();
        let select = self.attribute[0x14];
        std::array::from_fn(|index| {
            let entry = self.attribute[index];
            let entry = if self.attribute[0x10] & 0x80 != 0 {
                entry & 15 | (select & 15) << 4
            } else {
                entry & 0x3f | (select & 12) << 4
            };
            pixels[usize::from(entry)]
        })
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        for register in [
            self.misc,
            self.feature,
            self.status,
            self.sequencer_index,
            self.graphics_index,
            self.crtc_index,
            self.attribute_index,
        ] {
            into.u8(register);
        }
        into.bool(self.attribute_data_next);
        for registers in [&self.sequencer[..], &self.graphics, &self.crtc.0, &self.attribute] {
            into.bytes(registers);
        }
        self.palette.save(into);
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        for register in [
            &mut self.misc,
            &mut self.feature,
            &mut self.status,
            &mut self.sequencer_index,
            &mut self.graphics_index,
            &mut self.crtc_index,
            &mut self.attribute_index,
        ] {
            *register = from.u8()?;
        }
        self.attribute_data_next = from.bool()?;
        for registers in [&mut self.sequencer[..], &mut self.graphics, &mut self.crtc.0, &mut self.attribute] {
            state::load_bytes(registers, "the VGA's registers", from)?;
        }
        self.changed = true;
        self.palette.load(from)
    }
}
