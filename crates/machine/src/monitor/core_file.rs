//! A guest's memory and registers as an ELF core file, which gdb and crash read: the memory by guest-physical addresses,
//! and a note with the registers of each vCPU (System V ABI; NT_PRSTATUS as Linux has it for x86-64).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ferro_guest::{GuestMemory, Range};
use ferro_hypervisor::Registers;

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const PRSTATUS: usize = 336;
/// Where the registers lie in a prstatus.
const PRSTATUS_REGISTERS: usize = 112;

/// One vCPU's registers in the order of Linux's user_regs_struct.
fn registers_of(registers: &Registers) -> [u64; 27] {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers.gpr;
    let selector = |index: usize| u64::from(registers.segments[index].selector);
    let base = |index: usize| registers.segments[index].base;
    [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        u64::MAX,
        registers.rip,
        selector(1),
        registers.rflags,
        rsp,
        selector(2),
        base(4),
        base(5),
        selector(3),
        selector(0),
        selector(4),
        selector(5),
    ]
}

fn notes(vcpus: &[Registers]) -> Vec<u8> {
    let mut notes = vec![];
    for (index, registers) in vcpus.iter().enumerate() {
        for word in [5, PRSTATUS as u32, 1] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"CORE\0\0\0\0");
        let mut status = vec![0; PRSTATUS];
        status[32..36].copy_from_slice(&(index as u32 + 1).to_le_bytes());
        let words = registers_of(registers);
        for (at, word) in words.iter().enumerate() {
            status[PRSTATUS_REGISTERS + 8 * at..][..8].copy_from_slice(&word.to_le_bytes());
        }
        notes.extend(status);
    }
    notes
}

fn program_header(kind: u32, offset: u64, address: u64, len: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend(0_u32.to_le_bytes());
    // Offset, virtual and physical address, bytes in the file and in memory, alignment.
    for word in [offset, address, address, len, len, 0] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// Writes the file.
///
/// # Errors
/// The host's failure to write it.
pub(super) fn write(path: &Path, memory: &GuestMemory, vcpus: &[Registers]) -> io::Result<()> {
    const CORE: u16 = 4;
    const X86_64: u16 = 62;
    let ranges = memory.ranges();
    let notes = notes(vcpus);
    let headers = HEADER + PROGRAM_HEADER * (ranges.len() as u64 + 1);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0")?;
    file.write_all(&[CORE.to_le_bytes(), X86_64.to_le_bytes()].concat())?;
    file.write_all(&1_u32.to_le_bytes())?;
    // Entry, program headers, section headers.
    for word in [0, HEADER, 0] {
        file.write_all(&word.to_le_bytes())?;
    }
    file.write_all(&0_u32.to_le_bytes())?;
    for word in [HEADER as u16, PROGRAM_HEADER as u16, ranges.len() as u16 + 1, 64, 0, 0] {
        file.write_all(&word.to_le_bytes())?;
    }
    file.write_all(&program_header(4, headers, 0, notes.len() as u64))?;
    let mut offset = headers + notes.len() as u64;
    for Range { start, len, .. } in ranges.iter() {
        file.write_all(&program_header(1, offset, *start, *len))?;
        offset += len;
    }
    file.write_all(&notes)?;
    let mut chunk = vec![0; 1 << 20];
    for Range { start, len, .. } in ranges.iter() {
        let mut done = 0;
        while done < *len {
            let part = (len - done).min(chunk.len() as u64) as usize;
            memory.read(start + done, &mut chunk[..part]);
            file.write_all(&chunk[..part])?;
            done += part as u64;
        }
    }
    file.flush()
}
