//! Linux's bzImage by the 64-bit boot protocol: set-up header, "zero page", kernel, RAM disk.

use ferro_guest::GuestMemory;
use ferro_hypervisor::Registers;

use super::{BootError, COMMAND_LINE, Kernel, START_INFO, put, put_command_line, put_initrd, registers};
use crate::layout;

/// Offsets in the file's first sectors, which are the same in the zero page.
mod header {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const START: usize = 0x1f1;
    pub(super) const JUMP: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const RAMDISK: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const RAMDISK_MAX: usize = 0x22c;
    pub(super) const EXTENDED_FLAGS: usize = 0x236;
    pub(super) const COMMAND_LINE_SIZE: usize = 0x238;
    pub(super) const INIT_SIZE: usize = 0x260;
}

const ACPI_POINTER: usize = 0x070;
const E820_COUNT: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const LOADED_HIGH: u8 = 1;
const HAS_64_BIT_ENTRY: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// The oldest protocol with the fields that are used here.
const OLDEST: u16 = 0x20c;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

/// Checks the file and returns where its protected-mode part begins.
fn check(kernel: &Kernel) -> Result<usize, BootError> {
    let refuse = |problem: String| BootError::Format { path: kernel.path.clone(), problem };
    let image = &kernel.image;
    if image.len() < 0x1000 || image[header::MAGIC..header::MAGIC + 4] != *b"HdrS" {
        return Err(refuse("this is no kernel: give a Linux bzImage (vmlinuz) or an ELF file with a PVH note".into()));
    }
    let version = u16_at(image, header::VERSION);
    if version < OLDEST || u16_at(image, header::EXTENDED_FLAGS) & HAS_64_BIT_ENTRY == 0 {
        return Err(refuse(format!(
            "the kernel has no 64-bit entry (boot protocol {}.{:02}); boot it through firmware instead",
            version >> 8,
            version & 0xff
        )));
    }
    let sectors = match image[header::SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512;
    if start >= image.len() {
        return Err(refuse("the file is cut off".into()));
    }
    Ok(start)
}

pub(super) fn load(
    memory: &GuestMemory,
    ram_size: u64,
    kernel: &Kernel,
    acpi: u64,
    base: &Registers,
) -> Result<Registers, BootError> {
    let start = check(kernel)?;
    let image = &kernel.image;
    let need = u64::from(u32_at(image, header::INIT_SIZE)).max((image.len() - start) as u64);
    let have = ram_size.min(layout::PCI_HOLE_START).saturating_sub(layout::HIGH_START);
    if need > have {
        return Err(BootError::Memory { what: "the kernel", need, have });
    }
    put(memory, layout::HIGH_START, &image[start..], "the kernel")?;
    put_command_line(memory, kernel, u32_at(image, header::COMMAND_LINE_SIZE) as usize)?;
    let highest = u64::from(u32_at(image, header::RAMDISK_MAX));
    let (initrd, initrd_len) = put_initrd(memory, ram_size, kernel, layout::HIGH_START + need, highest)?;

    let mut page = vec![0; 0x1000];
    // The set-up header is as long as the byte at 0x201 says, counted from 0x202.
    let header_end = (header::MAGIC + usize::from(image[header::JUMP])).min(E820_TABLE);
    page[header::START..header_end].copy_from_slice(&image[header::START..header_end]);
    let mut set = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    set(header::LOADER, &[0xff]);
    set(header::LOAD_FLAGS, &[image[header::LOAD_FLAGS] | LOADED_HIGH]);
    set(header::RAMDISK, &(initrd as u32).to_le_bytes());
    set(header::RAMDISK_SIZE, &(initrd_len as u32).to_le_bytes());
    set(header::COMMAND_LINE, &(COMMAND_LINE as u32).to_le_bytes());
    set(ACPI_POINTER, &acpi.to_le_bytes());
    let map = layout::e820(ram_size);
    set(E820_COUNT, &[map.len() as u8]);
    for (index, (start, len, kind)) in map.into_iter().enumerate() {
        let at = E820_TABLE + 20 * index;
        set(at, &start.to_le_bytes());
        set(at + 8, &len.to_le_bytes());
        set(at + 16, &(kind as u32).to_le_bytes());
    }
    put(memory, START_INFO, &page, "the kernel's parameters")?;

    let mut registers = registers::long_mode(base, memory, layout::HIGH_START + ENTRY_64)?;
    registers.gpr[ferro_hypervisor::RSI] = START_INFO;
    Ok(registers)
}
