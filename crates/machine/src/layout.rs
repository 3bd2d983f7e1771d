//! Where things are in the guest's physical address space and its ports: the one place that says so.

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

/// The ACPI power management ports.
pub(crate) const POWER_PORTS: u16 = 0x600;
/// The interrupt input of ACPI's system control interrupt.
pub(crate) const SCI: u32 = 9;
/// The interrupt input of the first serial port.
pub(crate) const COM1_IRQ: u32 = 4;
/// The first serial port.
pub(crate) const COM1_PORT: u64 = 0x3f8;
/// The interrupt input of the real-time clock.
pub(crate) const RTC_IRQ: u32 = 8;
/// PCI interrupts go to this and the three inputs after it.
pub(crate) const PCI_IRQ: u32 = 16;

/// The interrupt input that INTA# of a PCI slot drives.
pub(crate) fn pci_interrupt(slot: u8) -> u32 {
    PCI_IRQ + u32::from(slot % 4)
}

/// The memory map of a VM with `memory` bytes of RAM, which begin at offset 0 of its host memory.
pub(crate) fn ranges(memory: u64) -> Vec<Range> {
    let ram = |start: u64, end: u64, offset: u64| Range { start, len: end - start, offset, kind: RangeKind::Ram };
    let low = memory.min(PCI_HOLE_START);
    let mut ranges = vec![ram(0, LOW_END.min(low), 0)];
    if low > FIRMWARE_START {
        ranges.push(ram(FIRMWARE_START, low, FIRMWARE_START));
    }
    if memory > low {
        ranges.push(ram(ABOVE_4G, ABOVE_4G + (memory - low), low));
    }
    ranges
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

    #[test]
    fn memory_beyond_three_gigabytes_goes_on_above_four() {
        let ranges = ranges(5 << 30);
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), (5 << 30) - (FIRMWARE_START - LOW_END));
        let last = ranges.last().unwrap();
        assert_eq!((last.start, last.len, last.offset), (ABOVE_4G, 2 << 30, 3 << 30));
        assert_eq!(e820(5 << 30).last().unwrap(), &(ABOVE_4G, 2 << 30, MemoryType::Usable));
    }
}
