//! ELF kernels by the PVH protocol: an x86 ELF file with a Xen note that gives a 32-bit entry point.

use ferro_guest::GuestMemory;
use ferro_hypervisor::Registers;

use super::{
    BootError, COMMAND_LINE, COMMAND_LINE_ROOM, Kernel, START_INFO, put, put_command_line, put_initrd, registers,
};
use crate::layout;

const MAGIC: u32 = 0x336e_c578;
const NOTE_PHYS32_ENTRY: u32 = 18;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const MAX_SEGMENTS: usize = 64;

pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_len: u64,
    memory_len: u64,
}

fn number(image: &[u8], at: u64, len: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = image.get(at..at.checked_add(len)?)?;
    let mut value = [0; 8];
    value[..len].copy_from_slice(bytes);
    Some(u64::from_le_bytes(value))
}

fn segments(image: &[u8]) -> Option<Vec<Segment>> {
    let wide = *image.get(4)? == 2;
    let (table, size, count) = if wide {
        (number(image, 0x20, 8)?, number(image, 0x36, 2)?, number(image, 0x38, 2)?)
    } else {
        (number(image, 0x1c, 4)?, number(image, 0x2a, 2)?, number(image, 0x2c, 2)?)
    };
    if count as usize > MAX_SEGMENTS {
        return None;
    }
    (0..count)
        .map(|index| {
            let at = table.checked_add(index * size)?;
            let field = |narrow: u64, wide_at: u64| {
                if wide {
                    number(image, at.checked_add(wide_at)?, 8)
                } else {
                    number(image, at.checked_add(narrow)?, 4)
                }
            };
            Some(Segment {
                kind: number(image, at, 4)? as u32,
                offset: field(4, 8)?,
                address: field(12, 24)?,
                file_len: field(16, 32)?,
                memory_len: field(20, 40)?,
            })
        })
        .collect()
}

/// The bytes of a segment that are in the file.
fn contents<'a>(image: &'a [u8], segment: &Segment) -> Option<&'a [u8]> {
    let start = usize::try_from(segment.offset).ok()?;
    image.get(start..start.checked_add(usize::try_from(segment.file_len).ok()?)?)
}

/// Looks for the entry point in the notes of one segment.
fn pvh_entry(notes: &[u8]) -> Option<u64> {
    let mut at = 0;
    loop {
        let name_len = number(notes, at, 4)?;
        let value_len = number(notes, at + 4, 4)?;
        let kind = number(notes, at + 8, 4)? as u32;
        let value_at = at + 12 + name_len.next_multiple_of(4);
        if kind == NOTE_PHYS32_ENTRY && notes.get(at as usize + 12..)?.starts_with(b"Xen\0") {
            return number(notes, value_at, if value_len == 8 { 8 } else { 4 });
        }
        at = value_at + value_len.next_multiple_of(4);
    }
}

pub(super) fn load(
    memory: &GuestMemory,
    ram_size: u64,
    kernel: &Kernel,
    acpi: u64,
    base: &Registers,
) -> Result<Registers, BootError> {
    let refuse = |problem: &str| BootError::Format { path: kernel.path.clone(), problem: problem.to_owned() };
    let image = &kernel.image;
    let segments = segments(image).ok_or_else(|| refuse("the ELF file is damaged"))?;
    let mut entry = None;
    let mut end = layout::HIGH_START;
    for segment in &segments {
        let bytes = contents(image, segment).ok_or_else(|| refuse("the ELF file is cut off"))?;
        match segment.kind {
            PT_NOTE => entry = entry.or_else(|| pvh_entry(bytes)),
            PT_LOAD => {
                put(memory, segment.address, bytes, "the kernel")?;
                let last = segment.address.saturating_add(segment.memory_len.max(segment.file_len));
                // Past the kernel's initialised data RAM is zero after power-on; not so after a reset.
                let initialised = segment.address + bytes.len() as u64;
                let zeroes = last.min(ram_size).saturating_sub(initialised);
                put(memory, initialised, &vec![0; zeroes as usize], "the kernel")?;
                end = end.max(last);
            }
            _ => {}
        }
    }
    let entry = entry.ok_or_else(|| refuse("the ELF file has no PVH note, so its entry point isn't known"))?;
    put_command_line(memory, kernel, COMMAND_LINE_ROOM)?;
    let (initrd, initrd_len) = put_initrd(memory, ram_size, kernel, end, u64::from(u32::MAX))?;
    put(memory, START_INFO, &start_info(ram_size, acpi, initrd, initrd_len), "the kernel's parameters")?;
    let mut registers = registers::protected_mode(base, memory, entry)?;
    registers.gpr[ferro_hypervisor::RBX] = START_INFO;
    Ok(registers)
}

/// `hvm_start_info` version 1, followed by the one module's entry and the memory map.
fn start_info(ram_size: u64, acpi: u64, initrd: u64, initrd_len: u64) -> Vec<u8> {
    const INFO: u64 = 56;
    const MODULE: u64 = 32;
    let map = layout::e820(ram_size);
    let modules = u32::from(initrd_len != 0);
    let mut bytes = vec![];
    for word in [MAGIC, 1, 0, modules] {
        bytes.extend(word.to_le_bytes());
    }
    for address in [START_INFO + INFO, COMMAND_LINE, acpi, START_INFO + INFO + MODULE] {
        bytes.extend(address.to_le_bytes());
    }
    bytes.extend((map.len() as u32).to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    for field in [initrd, initrd_len, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    for (start, len, kind) in map {
        bytes.extend(start.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend((kind as u32).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
    }
    bytes
}
