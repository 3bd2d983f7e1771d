//! How the CPU reaches video memory through the window at 0xA0000: chained, odd and even, or by planes, with latches, set
//! and reset, rotation, logical functions and bit masks.

use super::memory::VideoMemory;
use super::registers::Registers;

/// Each bit of the low four, spread over the byte of its plane.
fn spread(bits: u8) -> u32 {
    (0..4).fold(0, |mask, plane| mask | if bits >> plane & 1 != 0 { 0xff << (8 * plane) } else { 0 })
}

/// The same byte in each plane.
fn everywhere(value: u8) -> u32 {
    u32::from(value) * 0x0101_0101
}

/// The window's state beside the registers.
#[derive(Debug, Clone, Default)]
pub(super) struct Planes {
    pub(super) latch: u32,
    /// Bytes by which VBE's bank moves the window.
    pub(super) bank: usize,
}

impl Planes {
    /// The address in the window that the memory map select shows, for an offset from 0xA0000.
    fn address(&self, registers: &Registers, offset: u64) -> Option<usize> {
        let offset = offset as usize;
        match registers.graphics[6] >> 2 & 3 {
            0 => Some(offset),
            1 => (offset < 0x1_0000).then(|| offset + self.bank),
            2 => offset.checked_sub(0x1_0000).filter(|offset| *offset < 0x8000),
            _ => offset.checked_sub(0x1_8000).filter(|offset| *offset < 0x8000),
        }
    }

    pub(super) fn read(&mut self, registers: &Registers, memory: &VideoMemory, offset: u64) -> u8 {
        let Some(address) = self.address(registers, offset) else { return 0xff };
        let graphics = &registers.graphics;
        if registers.sequencer[4] & 8 != 0 {
            return memory.byte(address);
        }
        if graphics[5] & 0x10 != 0 {
            let plane = usize::from(graphics[4] & 2) | address & 1;
            return memory.byte((address & !1) << 1 | plane);
        }
        self.latch = memory.planes(address);
        if graphics[5] & 8 == 0 {
            return (self.latch >> (8 * (graphics[4] & 3))) as u8;
        }
        // Read mode 1: the pixels whose colour is the one to compare with, of the planes that count.
        let differs = (self.latch ^ spread(graphics[2])) & spread(graphics[7]);
        !differs.to_le_bytes().into_iter().fold(0, |all, plane| all | plane)
    }

    pub(super) fn write(&mut self, registers: &Registers, memory: &VideoMemory, offset: u64, value: u8) {
        let Some(address) = self.address(registers, offset) else { return };
        let (graphics, mask) = (&registers.graphics, registers.sequencer[2]);
        if registers.sequencer[4] & 8 != 0 {
            if mask >> (address & 3) & 1 != 0 {
                memory.set_byte(address, value);
            }
            return;
        }
        if graphics[5] & 0x10 != 0 {
            let plane = usize::from(graphics[4] & 2) | address & 1;
            if mask >> plane & 1 != 0 {
                memory.set_byte((address & !1) << 1 | plane, value);
            }
            return;
        }
        let mask = spread(mask & 15);
        let new = self.combine(graphics, value);
        let old = memory.planes(address);
        memory.set_planes(address, old & !mask | new & mask);
    }

    /// What a write in one of the four write modes makes of the byte and the latches.
    fn combine(&self, graphics: &[u8; 16], value: u8) -> u32 {
        let rotated = value.rotate_right(u32::from(graphics[3] & 7));
        let (data, bits) = match graphics[5] & 3 {
            0 => {
                let set = spread(graphics[1]);
                (everywhere(rotated) & !set | spread(graphics[0]) & set, graphics[8])
            }
            1 => return self.latch,
            2 => (spread(value), graphics[8]),
            _ => (spread(graphics[0]), graphics[8] & rotated),
        };
        let bits = everywhere(bits);
        let data = match graphics[3] >> 3 & 3 {
            0 => data,
            1 => data & self.latch,
            2 => data | self.latch,
            _ => data ^ self.latch,
        };
        data & bits | self.latch & !bits
    }
}
