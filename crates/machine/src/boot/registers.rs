//! The boot CPU's registers when a kernel begins: flat 32-bit protected mode, or long mode with the first gigabytes
//! mapped one to one.

use ferro_guest::GuestMemory;
use ferro_hypervisor::{Registers, SegmentRegister, TableRegister};

use super::{BootError, put};

const GDT: u64 = 0x500;
/// Page tables: the PML4, one page of directory pointers, four directories of 2 MiB pages.
const PAGE_TABLES: u64 = 0x9000;
const MAPPED_GIGABYTES: u64 = 4;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Access rights of a flat segment: present, and 4 KiB granular.
const CODE_32: u32 = 0xc09b;
const CODE_64: u32 = 0xa09b;
const DATA: u32 = 0xc093;
const TSS: u32 = 0x008b;

/// A flat segment's descriptor.
fn descriptor(attributes: u32) -> u64 {
    u64::from(attributes & 0xf0ff) << 40 | 0xf << 48 | 0xffff
}

fn flat(selector: u16, attributes: u32) -> SegmentRegister {
    SegmentRegister { selector, base: 0, limit: u32::MAX, attributes }
}

fn segments(registers: &mut Registers, memory: &GuestMemory, code: u32) -> Result<(), BootError> {
    let mut table = vec![];
    // Linux's boot protocol wants code at 0x10 and data at 0x18.
    for entry in [0, 0, descriptor(code), descriptor(DATA), 0x0000_8b00_0000_0067] {
        table.extend(u64::to_le_bytes(entry));
    }
    put(memory, GDT, &table, "the descriptor table")?;
    registers.gdtr = TableRegister { base: GDT, limit: table.len() as u16 - 1 };
    registers.idtr = TableRegister { base: 0, limit: 0 };
    registers.segments = [flat(0x18, DATA); 6];
    registers.segments[ferro_hypervisor::CS] = flat(0x10, code);
    registers.tr = SegmentRegister { selector: 0x20, base: 0, limit: 0x67, attributes: TSS };
    registers.rflags = 2;
    Ok(())
}

/// 32-bit protected mode without paging, as PVH begins.
pub(super) fn protected_mode(base: &Registers, memory: &GuestMemory, entry: u64) -> Result<Registers, BootError> {
    let mut registers = *base;
    segments(&mut registers, memory, CODE_32)?;
    registers.cr0 = CR0_PE | CR0_ET;
    registers.cr4 = 0;
    registers.rip = entry;
    Ok(registers)
}

/// 64-bit long mode with the first four gigabytes mapped one to one, as Linux's 64-bit boot protocol begins.
pub(super) fn long_mode(base: &Registers, memory: &GuestMemory, entry: u64) -> Result<Registers, BootError> {
    let mut registers = *base;
    segments(&mut registers, memory, CODE_64)?;
    let pointers = PAGE_TABLES + 0x1000;
    put(memory, PAGE_TABLES, &(pointers | 3).to_le_bytes(), "the page tables")?;
    for gigabyte in 0..MAPPED_GIGABYTES {
        let directory = pointers + 0x1000 * (gigabyte + 1);
        put(memory, pointers + 8 * gigabyte, &(directory | 3).to_le_bytes(), "the page tables")?;
        let pages: Vec<u8> = (0..512_u64).flat_map(|page| (gigabyte << 30 | page << 21 | 0x83).to_le_bytes()).collect();
        put(memory, directory, &pages, "the page tables")?;
    }
    registers.cr3 = PAGE_TABLES;
    registers.cr4 = CR4_PAE;
    registers.msr.efer = EFER_LME | EFER_LMA;
    registers.cr0 = CR0_PE | CR0_ET | CR0_PG;
    registers.rip = entry;
    Ok(registers)
}
