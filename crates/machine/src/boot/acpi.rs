//! ACPI tables for a machine without firmware: root pointer, XSDT, FADT, FACS, MADT and a DSDT that names the PCI bus, its
//! interrupts, the serial port and the sleep states (ACPI 6.5, chapter 5).

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope,
    ZERO,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use ferro_devices::power;
use ferro_guest::GuestMemory;

use crate::layout;

const OEM: [u8; 6] = *b"FERRO ";
const TABLE: [u8; 8] = *b"FERROPC ";

/// Lays tables one after the other, each at a multiple of 64.
struct Shelf<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Shelf<'_> {
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.next.next_multiple_of(64);
        self.memory.write(at, bytes);
        self.next = at + bytes.len() as u64;
        assert!(self.next <= layout::HIGH_START, "the ACPI tables of a board fit their area");
        at
    }
}

/// Writes the tables and returns the root pointer's address.
pub(super) fn place(memory: &GuestMemory, vcpus: u32) -> u64 {
    // The root pointer comes first, where a search from the area's beginning would find it too.
    let mut shelf = Shelf { memory, next: layout::ACPI_START + Rsdp::len() as u64 };
    let mut facs = [0; 64];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = 64;
    facs[32] = 2;
    let facs = shelf.put(&facs);
    let dsdt = shelf.put(dsdt(vcpus).as_slice());
    let fadt = shelf.put(fadt(facs, dsdt).as_slice());
    let madt = shelf.put(madt(vcpus).as_slice());
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let mut bytes = vec![];
    xsdt.to_aml_bytes(&mut bytes);
    let xsdt = shelf.put(&bytes);
    let mut root = vec![];
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    memory.write(layout::ACPI_START, &root);
    layout::ACPI_START
}

/// The fixed description: where the power management registers are.
fn fadt(facs: u64, dsdt: u64) -> Sdt {
    const LEN: u32 = 276;
    const FLAG_WBINVD: u32 = 1;
    const FLAG_C1: u32 = 1 << 2;
    const FLAG_SLEEP_BUTTON_ABSENT: u32 = 1 << 5;
    const FLAG_RESET: u32 = 1 << 10;
    let mut table = Sdt::new(*b"FACP", LEN, 6, OEM, TABLE, 1);
    let port = |offset: u16| u32::from(layout::POWER_PORTS + offset);
    table.write_u32(36, facs as u32);
    table.write_u32(40, dsdt as u32);
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
    // Legacy devices, no keyboard controller to look for (its reset command works all the same), no VGA, no ASPM.
    table.write_u16(109, 1 | 1 << 2 | 1 << 4);
    table.write_u32(112, FLAG_WBINVD | FLAG_C1 | FLAG_SLEEP_BUTTON_ABSENT | FLAG_RESET);
    let mut port_register = |at: usize, bits: u8, access: u8, offset: u16| {
        table.write_bytes(at, &[1, bits, 0, access]);
        table.write_u64(at + 4, u64::from(port(offset)));
    };
    port_register(116, 8, 1, power::RESET);
    port_register(148, 32, 2, power::PM1_EVENT);
    port_register(172, 16, 2, power::PM1_CONTROL);
    port_register(208, 32, 3, power::PM_TIMER);
    table.write_u8(128, power::RESET_VALUE);
    table.write_u64(132, facs);
    table.write_u64(140, dsdt);
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

    let bus = Device::new(Path::new("PCI0"), vec![&hid, &adr, &uid, &resources, &routing, &serial, &clock]);
    Scope::new(Path::new("\\_SB_"), vec![&bus]).to_aml_bytes(body);
}

/// The interrupt input of pin INTA#+`pin` of a slot.
fn route(slot: u32, pin: u32) -> u32 {
    layout::PCI_IRQ + (slot + pin) % 4
}
