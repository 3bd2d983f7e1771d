//! What units say of themselves: IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (ATA/ATAPI-6, sections 8.15 and 8.16).

use super::disk::{AtaDisk, Geometry, MAX_MULTIPLE};

/// The model that disks and drives show.
const DISK_MODEL: &str = "FERRO HARDDISK";
const CDROM_MODEL: &str = "FERRO DVD-ROM";
const FIRMWARE: &str = "1.0";

/// 256 words.
struct Words([u16; 256]);

impl Words {
    /// Text fills words with its first character in the high byte, and is padded with spaces.
    fn text(&mut self, at: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().filter(u8::is_ascii).chain(std::iter::repeat(b' '));
        for word in &mut self.0[at..at + words] {
            let [high, low] = std::array::from_fn(|_| bytes.next().unwrap_or(b' '));
            *word = u16::from_be_bytes([high, low]);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The transfer modes, of which the one that was set is marked.
    fn modes(&mut self, mode: u8) {
        let chosen = |kind: u8| if mode >> 3 == kind { 1 << (8 + (mode & 7)) } else { 0 };
        // Multiword DMA 0 to 2, Ultra DMA 0 to 5, PIO 3 and 4.
        self.0[63] = 7 | chosen(4);
        self.0[88] = 0x3f | chosen(8);
        self.0[64] = 3;
        // All cycle times in nanoseconds.
        self.0[65..69].fill(120);
        self.0[53] = 7;
    }
}

pub(super) fn disk(disk: &AtaDisk) -> Vec<u8> {
    let sectors = disk.sectors();
    let mut words = Words([0; 256]);
    let cylinders = (sectors / (16 * 63)).min(16_383) as u16;
    words.0[0] = 0x40;
    words.0[1] = cylinders;
    words.0[3] = 16;
    words.0[6] = 63;
    words.text(10, 10, disk.serial());
    words.text(23, 4, FIRMWARE);
    words.text(27, 20, DISK_MODEL);
    words.0[47] = 0x8000 | u16::from(MAX_MULTIPLE);
    // Logical addresses, DMA, standby timers by the standard.
    words.0[49] = 1 << 8 | 1 << 9 | 1 << 11;
    words.0[50] = 1 << 14;
    let Geometry { heads, sectors: per_track } = disk.geometry();
    let track = u64::from(heads) * u64::from(per_track).max(1);
    let current = (sectors / track).min(65_535);
    words.0[54] = current as u16;
    words.0[55] = u16::from(heads);
    words.0[56] = u16::from(per_track);
    let reachable = current * track;
    (words.0[57], words.0[58]) = (reachable as u16, (reachable >> 16) as u16);
    words.0[59] = if disk.multiple() > 0 { 0x100 | u16::from(disk.multiple()) } else { 0 };
    let short = sectors.min(0x0fff_ffff);
    (words.0[60], words.0[61]) = (short as u16, (short >> 16) as u16);
    words.modes(disk.mode);
    // ATA-4 to ATA-6.
    words.0[80] = 0x70;
    // Write cache; flush, 48-bit addresses; the words are valid.
    words.0[82] = 1 << 5 | 1 << 14;
    words.0[83] = 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10;
    words.0[84] = 1 << 14;
    words.0[85] = 1 << 14 | if disk.write_cache { 1 << 5 } else { 0 };
    words.0[86] = 1 << 13 | 1 << 12 | 1 << 10;
    words.0[87] = 1 << 14;
    // A device 0 with an 80-wire cable.
    words.0[93] = 1 | 1 << 14 | 0x2000;
    for (index, word) in words.0[100..104].iter_mut().enumerate() {
        *word = (sectors >> (16 * index)) as u16;
    }
    words.bytes()
}

pub(super) fn cdrom(serial: &str, mode: u8) -> Vec<u8> {
    let mut words = Words([0; 256]);
    // ATAPI, CD-ROM, removable, data requested within 50 µs, packets of 12 bytes.
    words.0[0] = 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5;
    words.text(10, 10, serial);
    words.text(23, 4, FIRMWARE);
    words.text(27, 20, CDROM_MODEL);
    words.0[48] = 1;
    words.0[49] = 1 << 9 | 1 << 8;
    words.modes(mode);
    words.0[71] = 30;
    words.0[72] = 30;
    words.0[80] = 0x70;
    // Packet commands, device reset; the words are valid.
    words.0[82] = 1 << 4 | 1 << 9 | 1 << 14;
    words.0[83] = 1 << 14;
    words.0[84] = 1 << 14;
    words.0[85] = 1 << 4 | 1 << 9 | 1 << 14;
    words.0[87] = 1 << 14;
    words.0[93] = 1 | 1 << 14 | 0x2000;
    words.bytes()
}
