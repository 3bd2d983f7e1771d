//! The board's ACPI tables, placed in memory for a kernel without firmware or handed to firmware: root pointer, XSDT, FADT, FACS, MADT and a DSDT that names the PCI bus, its
//! interrupts, the serial port and the sleep states (ACPI 6.5, chapter 5).

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope,
    ZERO,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use ferro_devices::pci::PirqRouter;
use ferro_devices::{power, reset};
use ferro_guest::GuestMemory;

use crate::layout;

const OEM: [u8; 6] = *b"FERRO ";
const TABLE: [u8; 8] = *b"FERROPC ";

/// A field of the tables that holds the address of a place in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    /// Its offset in the tables.
    pub(super) at: u32,
    /// Its bytes, 4 or 8.
    pub(super) size: u8,
}

/// The tables but the root pointer, laid one after the other for a certain address, and the root pointer.
pub(super) struct Tables {
    pub(super) bytes: Vec<u8>,
    pub(super) pointers: Vec<Pointer>,
    /// Offset and length of the tables whose checksum covers a pointer; the checksum is the tenth byte of each.
    pub(super) summed: Vec<(u32, u32)>,
    pub(super) root: Vec<u8>,
}

/// Where the root pointer keeps the address of the XSDT, in 8 bytes.
pub(super) const ROOT_POINTER: u32 = 24;

/// Lays tables one after the other, each at a multiple of 64.
struct Shelf {
    bytes: Vec<u8>,
    base: u64,
}

impl Shelf {
    /// Adds a table and returns its address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let at = self.base + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        at
    }
}

/// The board as the tables describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AcpiBoard {
    /// vCPUs.
    pub(crate) vcpus: u32,
    /// Whether there is a VGA.
    pub(crate) vga: bool,
}

/// Makes the tables for a place in memory, a multiple of 64.
pub(super) fn tables(board: AcpiBoard, base: u64) -> Tables {
    let mut shelf = Shelf { bytes: vec![], base };
    let mut facs = [0; 64];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = 64;
    facs[32] = 2;
    let facs = shelf.put(&facs);
    let dsdt = shelf.put(dsdt(board.vcpus).as_slice());
    let fadt_bytes = fadt(facs, dsdt, board);
    let fadt = shelf.put(fadt_bytes.as_slice());
    let madt = shelf.put(madt(board.vcpus).as_slice());
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let mut xsdt_bytes = vec![];
    xsdt.to_aml_bytes(&mut xsdt_bytes);
    let xsdt = shelf.put(&xsdt_bytes);
    let mut root = vec![];
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    let within = |address: u64| (address - base) as u32;
    let pointer = |table: u64, at: u32, size: u8| Pointer { at: within(table) + at, size };
    let pointers = vec![
        pointer(fadt, FADT_FACS, 4),
        pointer(fadt, FADT_DSDT, 4),
        pointer(fadt, FADT_X_FACS, 8),
        pointer(fadt, FADT_X_DSDT, 8),
        pointer(xsdt, 36, 8),
        pointer(xsdt, 44, 8),
    ];
    let summed = vec![(within(fadt), fadt_bytes.as_slice().len() as u32), (within(xsdt), xsdt_bytes.len() as u32)];
    Tables { bytes: shelf.bytes, pointers, summed, root }
}

/// Writes the tables where a kernel looks for them and returns the root pointer's address.
pub(super) fn place(memory: &GuestMemory, board: AcpiBoard) -> u64 {
    // The root pointer comes first, where a search from the area's beginning would find it too.
    let base = (layout::ACPI_START + Rsdp::len() as u64).next_multiple_of(64);
    let tables = tables(board, base);
    assert!(base + tables.bytes.len() as u64 <= layout::HIGH_START, "the ACPI tables of a board fit their area");
    memory.write(base, &tables.bytes);
    memory.write(layout::ACPI_START, &tables.root);
    layout::ACPI_START
}

const FADT_FACS: u32 = 36;
const FADT_DSDT: u32 = 40;
const FADT_X_FACS: u32 = 132;
const FADT_X_DSDT: u32 = 140;

/// The fixed description: where the power management registers are.
fn fadt(facs: u64, dsdt: u64, board: AcpiBoard) -> Sdt {
    const LEN: u32 = 276;
    const FLAG_WBINVD: u32 = 1;
    const FLAG_C1: u32 = 1 << 2;
    const FLAG_SLEEP_BUTTON_ABSENT: u32 = 1 << 5;
    const FLAG_RESET: u32 = 1 << 10;
    let mut table = Sdt::new(*b"FACP", LEN, 6, OEM, TABLE, 1);
    let port = |offset: u16| u32::from(layout::POWER_PORTS + offset);
    table.write_u32(FADT_FACS as usize, facs as u32);
    table.write_u32(FADT_DSDT as usize, dsdt as u32);
    table.write_u16(46, layout::SCI as u16);
    table.write_u32(56, port(power::PM1_EVENT));
    table.write_u32(64, port(power::PM1_CONTROL));
    table.write_u32(76, port(power::PM_TIMER));
    table.write_u8(88, 4);
    table.write_u8(89, 2);
    table.write_u8(91, 4);
    // C2 and C3 are not supported.
    table.write_u16(96, 0xffff);
    table.write_u16(98, 0xffff);
    // The century is in the clock's memory.
    table.write_u8(108, 0x32);
    // Legacy devices, a keyboard controller, no ASPM.
    let no_vga = if board.vga { 0 } else { 1 << 2 };
    table.write_u16(109, 1 | 1 << 1 | no_vga | 1 << 4);
    table.write_u32(112, FLAG_WBINVD | FLAG_C1 | FLAG_SLEEP_BUTTON_ABSENT | FLAG_RESET);
    let mut port_register = |at: usize, bits: u8, access: u8, port: u32| {
        table.write_bytes(at, &[1, bits, 0, access]);
        table.write_u64(at + 4, u64::from(port));
    };
    port_register(116, 8, 1, u32::from(reset::RESET_CONTROL));
    port_register(148, 32, 2, port(power::PM1_EVENT));
    port_register(172, 16, 2, port(power::PM1_CONTROL));
    port_register(208, 32, 3, port(power::PM_TIMER));
    table.write_u8(128, reset::RESET_VALUE);
    table.write_u64(FADT_X_FACS as usize, facs);
    table.write_u64(FADT_X_DSDT as usize, dsdt);
    table.update_checksum();
    table
}

/// The interrupt controllers.
fn madt(vcpus: u32) -> Sdt {
    let mut table = Sdt::new(*b"APIC", 44, 5, OEM, TABLE, 1);
    table.write_u32(36, layout::LOCAL_APIC);
    // There are 8259s too.
    table.write_u32(40, 1);
    for vcpu in 0..vcpus {
        if vcpu < 255 {
            table.append_slice(&[0, 8, vcpu as u8, vcpu as u8, 1, 0, 0, 0]);
        } else {
            let mut entry = vec![9, 16, 0, 0];
            entry.extend(vcpu.to_le_bytes());
            entry.extend(1_u32.to_le_bytes());
            entry.extend(vcpu.to_le_bytes());
            table.append_slice(&entry);
        }
    }
    let mut ioapic = vec![1, 12, 0, 0];
    ioapic.extend(layout::IOAPIC.to_le_bytes());
    ioapic.extend(0_u32.to_le_bytes());
    table.append_slice(&ioapic);
    // The timer's ISA interrupt 0 is input 2; the system control interrupt is level-triggered, active high.
    table.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    table.append_slice(&[2, 10, 0, layout::SCI as u8, layout::SCI as u8, 0, 0, 0, 0xd, 0]);
    // LINT1 of every CPU is the NMI.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.update_checksum();
    table
}

fn dsdt(vcpus: u32) -> Sdt {
    let mut body = vec![];
    let sleep = power::SLEEP_TYPE_S5;
    Name::new(Path::new("_S5_"), &Package::new(vec![&sleep, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut body);
    pci_bus(&mut body);
    cpus(vcpus, &mut body);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    table.append_slice(&body);
    table.update_checksum();
    table
}

fn cpus(vcpus: u32, body: &mut Vec<u8>) {
    for vcpu in 0..vcpus {
        let uid = Name::new(Path::new("_UID"), &vcpu);
        let hid = Name::new(Path::new("_HID"), &"ACPI0007");
        let device = Device::new(Path::new(&format!("C{vcpu:03X}")), vec![&hid, &uid]);
        Scope::new(Path::new("\\_SB_"), vec![&device]).to_aml_bytes(body);
    }
}

/// The PCI root with its windows and interrupts, and the ISA devices that don't announce themselves.
fn pci_bus(body: &mut Vec<u8>) {
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0A03"));
    let adr = Name::new(Path::new("_ADR"), &ZERO);
    let uid = Name::new(Path::new("_UID"), &ZERO);
    let buses = AddressSpace::new_bus_number(0_u16, 0_u16);
    let config = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::new_io(0_u16, 0xcf7, None);
    let high_ports = AddressSpace::new_io(0xd00_u16, 0xffff, None);
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_HOLE_START as u32,
        (layout::PCI_HOLE_END - 1) as u32,
        None,
    );
    let resources =
        Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&buses, &config, &low_ports, &high_ports, &window]));

    let routes: Vec<[u32; 4]> =
        (0..32_u32).flat_map(|slot| (0..4).map(move |pin| [slot << 16 | 0xffff, pin, 0, route(slot, pin)])).collect();
    let entries: Vec<Package<'_>> =
        routes.iter().map(|route| Package::new(route.iter().map(|field| field as &dyn Aml).collect())).collect();
    let table = aml::PackageBuilder::new();
    let table = entries.iter().fold(table, |mut table, entry| {
        table.add_element(entry);
        table
    });
    let routing = Name::new(Path::new("_PRT"), &table);

    let serial_hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
    let serial_uid = Name::new(Path::new("_UID"), &ZERO);
    let serial_ports = IO::new(layout::COM1_PORT as u16, layout::COM1_PORT as u16, 0, 8);
    let serial_interrupt = Interrupt::new(true, true, false, false, layout::COM1_IRQ);
    let serial_resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&serial_ports, &serial_interrupt]));
    let serial = Device::new(Path::new("COM1"), vec![&serial_hid, &serial_uid, &serial_resources]);

    let clock_hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0B00"));
    let clock_ports = IO::new(0x70, 0x70, 0, 2);
    let clock_interrupt = Interrupt::new(true, true, false, false, layout::RTC_IRQ);
    let clock_resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&clock_ports, &clock_interrupt]));
    let clock = Device::new(Path::new("RTC_"), vec![&clock_hid, &clock_resources]);

    let keyboard_hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0303"));
    let (data_port, command_port) = (IO::new(0x60, 0x60, 0, 1), IO::new(0x64, 0x64, 0, 1));
    let keyboard_interrupt = Interrupt::new(true, true, false, false, layout::KEYBOARD_IRQ);
    let keyboard_resources =
        Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&data_port, &command_port, &keyboard_interrupt]));
    let keyboard = Device::new(Path::new("KBD_"), vec![&keyboard_hid, &keyboard_resources]);

    let mouse_hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0F13"));
    let mouse_interrupt = Interrupt::new(true, true, false, false, layout::MOUSE_IRQ);
    let mouse_resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&mouse_interrupt]));
    let mouse = Device::new(Path::new("MOU_"), vec![&mouse_hid, &mouse_resources]);

    let children: Vec<&dyn Aml> = vec![&hid, &adr, &uid, &resources, &routing, &serial, &clock, &keyboard, &mouse];
    let bus = Device::new(Path::new("PCI0"), children);
    Scope::new(Path::new("\\_SB_"), vec![&bus]).to_aml_bytes(body);
}

/// The interrupt input of pin INTA#+`pin` of a slot.
fn route(slot: u32, pin: u32) -> u32 {
    layout::PCI_IRQ + PirqRouter::wire(slot as u8, pin as u8) as u32
}

/// The tables as firmware takes them: two files, and the commands by which it places and joins them (QEMU's
/// `etc/table-loader`).
pub(crate) struct AcpiFiles {
    /// All tables but the root pointer.
    pub(crate) tables: Vec<u8>,
    /// The root pointer.
    pub(crate) root: Vec<u8>,
    /// The commands.
    pub(crate) loader: Vec<u8>,
}

/// Commands of 128 bytes each: a number, then its fields, little-endian; file names take 56 bytes.
struct Commands(Vec<u8>);

impl Commands {
    fn add(&mut self, number: u32, files: &[&str], rest: &[u8]) {
        let start = self.0.len();
        self.0.extend(number.to_le_bytes());
        for file in files {
            let mut name = file.as_bytes().to_vec();
            name.resize(56, 0);
            self.0.extend(name);
        }
        self.0.extend(rest);
        self.0.resize(start + 128, 0);
    }

    fn allocate(&mut self, file: &str, alignment: u32, low: bool) {
        self.add(1, &[file], &[&alignment.to_le_bytes()[..], &[1 + u8::from(low)]].concat());
    }

    fn point(&mut self, file: &str, to: &str, at: u32, size: u8) {
        self.add(2, &[file, to], &[&at.to_le_bytes()[..], &[size]].concat());
    }

    fn sum(&mut self, file: &str, at: u32, start: u32, len: u32) {
        self.add(3, &[file], &[at, start, len].map(u32::to_le_bytes).concat());
    }
}

impl AcpiFiles {
    /// The name of the tables' file.
    pub(crate) const TABLES: &str = "etc/acpi/tables";
    /// The name of the root pointer's file.
    pub(crate) const ROOT: &str = "etc/acpi/rsdp";

    pub(crate) fn new(board: AcpiBoard) -> Self {
        let Tables { bytes, pointers, summed, root } = tables(board, 0);
        let mut commands = Commands(vec![]);
        commands.allocate(Self::TABLES, 64, false);
        commands.allocate(Self::ROOT, 16, true);
        for Pointer { at, size } in pointers {
            commands.point(Self::TABLES, Self::TABLES, at, size);
        }
        for (start, len) in summed {
            commands.sum(Self::TABLES, start + 9, start, len);
        }
        commands.point(Self::ROOT, Self::TABLES, ROOT_POINTER, 8);
        // Its first 20 bytes are summed as before version 2, then all 36.
        commands.sum(Self::ROOT, 8, 0, 20);
        commands.sum(Self::ROOT, 32, 0, Rsdp::len() as u32);
        Self { tables: bytes, root, loader: commands.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOARD: AcpiBoard = AcpiBoard { vcpus: 2, vga: true };

    fn at(bytes: &[u8], offset: usize, size: usize) -> u64 {
        bytes[offset..offset + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    #[test]
    fn tables_moved_by_the_loader_are_those_made_in_place() {
        let files = AcpiFiles::new(BOARD);
        let base = 0x7fe_0000;
        let (mut tables_file, mut root) = (files.tables, files.root);
        for command in files.loader.chunks(128) {
            let in_root = command[4..].starts_with(b"etc/acpi/rsdp\0");
            let file = if in_root { &mut root } else { &mut tables_file };
            match at(command, 0, 4) {
                1 => {}
                2 => {
                    let (offset, size) = (at(command, 116, 4) as usize, usize::from(command[120]));
                    let value = at(file, offset, size) + base;
                    file[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
                3 => {
                    let [offset, start, len] = [60, 64, 68].map(|field| at(command, field, 4) as usize);
                    let sum = file[start..start + len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                    file[offset] = file[offset].wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
        let expected = tables(BOARD, base);
        assert_eq!(tables_file, expected.bytes);
        assert_eq!(root, expected.root);
    }
}
