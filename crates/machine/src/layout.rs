//! Where things are in the guest's physical address space and its ports: the one place that says so.

use ferro_devices::pci::{SEGMENTS, Segment, Shadow};
use ferro_guest::{Range, RangeKind};

/// End of conventional memory, below the video window.
pub(crate) const LOW_END: u64 = 0xa_0000;
/// Where the E820 map ends usable conventional memory: an extended BIOS data area would follow.
pub(crate) const LOW_USABLE_END: u64 = 0x9_fc00;
/// The area of option ROMs and firmware; ACPI tables are here when there is no firmware.
pub(crate) const FIRMWARE_START: u64 = 0xe_0000;
/// Where the ACPI root pointer lies.
pub(crate) const ACPI_START: u64 = 0xe_0000;
/// First address of extended memory.
pub(crate) const HIGH_START: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest: PCI windows follow.
pub(crate) const PCI_HOLE_START: u64 = 0xc000_0000;
/// First address that firmware assigns to PCI memory windows.
pub(crate) const PCI_MEMORY_START: u64 = 0xe000_0000;
/// PCI memory windows end here: the I/O APIC follows.
pub(crate) const PCI_HOLE_END: u64 = 0xfec0_0000;
/// First port that firmware assigns to PCI windows.
pub(crate) const PCI_PORT_START: u64 = 0xc000;
/// RAM that doesn't fit below [`PCI_HOLE_START`] goes on here.
pub(crate) const ABOVE_4G: u64 = 0x1_0000_0000;

/// The I/O APIC's registers.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;

/// The PCI slot of the ISA bridge and the functions that share its chip.
pub(crate) const ISA_SLOT: u8 = 1;
/// Bytes of video memory.
pub(crate) const VIDEO_MEMORY: u64 = 16 << 20;
/// The PCI slot of the VGA.
pub(crate) const VGA_SLOT: u8 = 2;
/// Devices that a description adds are in this slot and those after it.
pub(crate) const FIRST_FREE_SLOT: u8 = 3;

/// The ACPI power management ports.
pub(crate) const POWER_PORTS: u16 = 0x600;
/// The interrupt input of ACPI's system control interrupt.
pub(crate) const SCI: u32 = 9;
/// The interrupt input of the keyboard.
pub(crate) const KEYBOARD_IRQ: u32 = 1;
/// The interrupt input of the mouse.
pub(crate) const MOUSE_IRQ: u32 = 12;
/// The interrupt input of the first IDE channel; that of the second follows.
pub(crate) const IDE_IRQ: u32 = 14;
/// The interrupt input of the first serial port.
pub(crate) const COM1_IRQ: u32 = 4;
/// The first serial port.
pub(crate) const COM1_PORT: u64 = 0x3f8;
/// The interrupt input of the real-time clock.
pub(crate) const RTC_IRQ: u32 = 8;
/// PCI interrupts go to this and the three inputs after it.
pub(crate) const PCI_IRQ: u32 = 16;

/// Host memory of a VM: the guest's RAM from offset 0 on, the firmware's ROM after it, then video memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arena {
    /// Bytes of RAM.
    pub(crate) ram: u64,
    /// Bytes of the firmware's ROM; zero without firmware.
    pub(crate) rom: u64,
    /// Bytes of video memory; zero without a VGA.
    pub(crate) video: u64,
}

impl Arena {
    /// Bytes in all.
    pub(crate) fn len(&self) -> u64 {
        self.ram + self.rom + self.video
    }

    /// Where video memory begins in it.
    pub(crate) fn video_offset(&self) -> u64 {
        self.ram + self.rom
    }

    /// The guest's memory map, given what the host bridge says of the firmware area and where video memory is.
    pub(crate) fn ranges(&self, shadow: &[Shadow; 13], video: Option<u64>) -> Vec<Range> {
        let ram = |start: u64, end: u64, offset: u64| Range { start, len: end - start, offset, kind: RangeKind::Ram };
        let low = self.ram.min(PCI_HOLE_START);
        let mut map = Joined(vec![]);
        map.add(ram(0, LOW_END.min(low), 0));
        for (Segment { start, len }, shadow) in SEGMENTS.into_iter().zip(shadow) {
            let below = HIGH_START - start;
            match shadow {
                Shadow { read: true, write } if start + len <= low => {
                    let kind = if *write { RangeKind::Ram } else { RangeKind::Rom };
                    map.add(Range { start, len, offset: start, kind });
                }
                Shadow { read: false, .. } if below <= self.rom => {
                    map.add(Range { start, len, offset: self.ram + self.rom - below, kind: RangeKind::Rom });
                }
                _ => {}
            }
        }
        if low > HIGH_START {
            map.add(ram(HIGH_START, low, HIGH_START));
        }
        // Windows that the guest puts over something else stay away.
        let free = |start: u64| start >= low && start + self.video <= ABOVE_4G - self.rom;
        if let Some(start) = video.filter(|&start| self.video > 0 && free(start)) {
            map.add(ram(start, start + self.video, self.video_offset()));
        }
        if self.rom > 0 {
            let start = ABOVE_4G - self.rom;
            map.add(Range { start, len: self.rom, offset: self.ram, kind: RangeKind::Rom });
        }
        if self.ram > low {
            map.add(ram(ABOVE_4G, ABOVE_4G + (self.ram - low), low));
        }
        map.0
    }
}

/// Ranges in the order of their addresses; those that continue the one before are joined to it.
struct Joined(Vec<Range>);

impl Joined {
    fn add(&mut self, range: Range) {
        match self.0.last_mut() {
            Some(last)
                if last.kind == range.kind
                    && last.start + last.len == range.start
                    && last.offset + last.len == range.offset =>
            {
                last.len += range.len;
            }
            _ => self.0.push(range),
        }
    }
}

/// What the E820 map says of a stretch of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryType {
    Usable = 1,
    Reserved = 2,
}

/// The E820 map of a VM with `memory` bytes that is booted without firmware: start, length, type.
pub(crate) fn e820(memory: u64) -> Vec<(u64, u64, MemoryType)> {
    let low = memory.min(PCI_HOLE_START);
    let mut map = vec![
        (0, LOW_USABLE_END, MemoryType::Usable),
        (LOW_USABLE_END, LOW_END - LOW_USABLE_END, MemoryType::Reserved),
        (FIRMWARE_START, HIGH_START - FIRMWARE_START, MemoryType::Reserved),
    ];
    if low > HIGH_START {
        map.push((HIGH_START, low - HIGH_START, MemoryType::Usable));
    }
    if memory > low {
        map.push((ABOVE_4G, memory - low, MemoryType::Usable));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: Shadow = Shadow { read: true, write: true };
    const ROM: Shadow = Shadow { read: false, write: false };

    #[test]
    fn memory_beyond_three_gigabytes_goes_on_above_four() {
        let arena = Arena { ram: 5 << 30, rom: 0, video: 0 };
        let ranges = arena.ranges(&[RAM; 13], None);
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), (5 << 30) - (0xc_0000 - LOW_END));
        assert_eq!((ranges.len(), ranges[1].start, ranges[1].offset), (3, 0xc_0000, 0xc_0000));
        let last = ranges.last().unwrap();
        assert_eq!((last.start, last.len, last.offset), (ABOVE_4G, 2 << 30, 3 << 30));
        assert_eq!(e820(5 << 30).last().unwrap(), &(ABOVE_4G, 2 << 30, MemoryType::Usable));
    }

    #[test]
    fn firmware_is_below_one_megabyte_and_below_four_gigabytes_until_ram_takes_its_place() {
        let arena = Arena { ram: 16 << 20, rom: 0x4_0000, video: 0 };
        let ranges = arena.ranges(&[ROM; 13], None);
        let rom = |start, len, offset| Range { start, len, offset, kind: RangeKind::Rom };
        assert_eq!(ranges[1], rom(0xc_0000, 0x4_0000, 16 << 20));
        assert_eq!(*ranges.last().unwrap(), rom(ABOVE_4G - 0x4_0000, 0x4_0000, 16 << 20));
        let mut shadow = [ROM; 13];
        shadow[12] = RAM;
        shadow[11] = Shadow { write: false, ..RAM };
        let ranges = arena.ranges(&shadow, None);
        assert_eq!(ranges[2], rom(0xe_c000, 0x4000, 0xe_c000));
        assert_eq!((ranges[3].start, ranges[3].offset), (0xf_0000, 0xf_0000));
    }

    #[test]
    fn video_memory_is_where_nothing_else_is() {
        let arena = Arena { ram: 16 << 20, rom: 0x4_0000, video: 16 << 20 };
        let at = |video| {
            let ranges = arena.ranges(&[RAM; 13], Some(video));
            ranges.iter().find(|range| range.offset == arena.video_offset()).map(|range| range.start)
        };
        assert_eq!((at(0xfd00_0000), at(0x100_0000), at(0x80_0000)), (Some(0xfd00_0000), Some(0x100_0000), None));
        assert_eq!(at(0xff80_0000), None);
    }
}
