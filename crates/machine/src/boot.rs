//! Booting a kernel without firmware: what of a bzImage or PVH ELF file, an initial RAM disk and a command line goes
//! where in memory, and with which registers the boot CPU begins. The protocols are Linux's
//! (Documentation/arch/x86/boot.rst) and Xen's PVH (docs/misc/pvh).

mod acpi;
mod bzimage;
mod elf;
mod registers;

pub(crate) use acpi::{AcpiBoard, AcpiFiles};

use std::path::PathBuf;

use ferro_guest::GuestMemory;
use ferro_hypervisor::Registers;

use crate::layout;

/// What to boot.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// The kernel file's name, for messages.
    pub(crate) path: PathBuf,
    /// Its contents.
    pub(crate) image: Vec<u8>,
    /// The initial RAM disk.
    pub(crate) initrd: Option<Vec<u8>>,
    /// The command line.
    pub(crate) command_line: String,
}

/// Why a kernel can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file is neither of the formats that can be booted without firmware.
    #[error("{path}: {problem}", path = path.display())]
    Format {
        /// The kernel file.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// Kernel, RAM disk or command line don't fit.
    #[error("{what} doesn't fit: it takes {need} bytes, and {have} are free; give the VM more memory")]
    Memory {
        /// What was to be placed.
        what: &'static str,
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel takes a command line of at most {limit} bytes, this one has {len}")]
    CommandLine {
        /// Bytes of the command line.
        len: usize,
        /// The kernel's limit.
        limit: usize,
    },
}

/// Where the command line is put.
const COMMAND_LINE: u64 = 0x2_0000;
/// How much room there is for it.
const COMMAND_LINE_ROOM: usize = 0x1_0000;
/// Where the page that describes the machine to the kernel is put.
const START_INFO: u64 = 0x7000;

/// Places everything in memory and returns the boot CPU's registers. `base` are the registers after power-on.
pub(crate) fn load(
    memory: &GuestMemory,
    ram_size: u64,
    board: AcpiBoard,
    kernel: &Kernel,
    base: &Registers,
) -> Result<Registers, BootError> {
    let acpi = acpi::place(memory, board);
    if elf::is_elf(&kernel.image) {
        elf::load(memory, ram_size, kernel, acpi, base)
    } else {
        bzimage::load(memory, ram_size, kernel, acpi, base)
    }
}

/// Writes bytes to where RAM is known to be.
fn put(memory: &GuestMemory, address: u64, bytes: &[u8], what: &'static str) -> Result<(), BootError> {
    let written = memory.write(address, bytes);
    if written == bytes.len() {
        return Ok(());
    }
    Err(BootError::Memory { what, need: bytes.len() as u64, have: written as u64 })
}

fn put_command_line(memory: &GuestMemory, kernel: &Kernel, limit: usize) -> Result<(), BootError> {
    let bytes = kernel.command_line.as_bytes();
    let limit = limit.min(COMMAND_LINE_ROOM - 1);
    if bytes.len() > limit {
        return Err(BootError::CommandLine { len: bytes.len(), limit });
    }
    put(memory, COMMAND_LINE, &[bytes, &[0]].concat(), "the command line")
}

/// Puts the RAM disk as high as the kernel allows, at a page; returns its address and length.
fn put_initrd(
    memory: &GuestMemory,
    ram_size: u64,
    kernel: &Kernel,
    kernel_end: u64,
    highest: u64,
) -> Result<(u64, u64), BootError> {
    let Some(initrd) = &kernel.initrd else { return Ok((0, 0)) };
    let len = initrd.len() as u64;
    let top = ram_size.min(layout::PCI_HOLE_START).min(highest.saturating_add(1));
    let have = top.saturating_sub(kernel_end);
    let address = top.saturating_sub(len) & !0xfff;
    if len > have || address < kernel_end {
        return Err(BootError::Memory { what: "the initial RAM disk", need: len, have });
    }
    put(memory, address, initrd, "the initial RAM disk")?;
    Ok((address, len))
}
