//! Looking into a running VM: registers, memory, ports, PCI functions.

use std::fs::File;
use std::io::{BufWriter, Write};

use ferro_console::monitor::{CpuInfo, Examination, MemorySpace, OperationError, PciInfo, PciRegion, Reply};
use ferro_devices::pci::{BarKind, PciBus};
use ferro_guest::PAGE_SIZE;
use ferro_hypervisor::{Bus, Registers, disassemble};

use super::operator::{Operator, failed};
use super::{core_file, pages};
use crate::bus::lock;

const PAGE: u64 = PAGE_SIZE as u64;

type Result = std::result::Result<Reply, OperationError>;

/// The names of the general registers in [`Registers::gpr`]'s order.
const GENERAL: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

fn named(registers: &Registers) -> Vec<(String, u64)> {
    let mut list: Vec<_> = GENERAL.into_iter().zip(registers.gpr).collect();
    list.extend([("rip", registers.rip), ("eflags", registers.rflags)]);
    list.extend(SEGMENTS.into_iter().zip(registers.segments.map(|segment| u64::from(segment.selector))));
    list.extend([
        ("fs_base", registers.segments[4].base),
        ("gs_base", registers.segments[5].base),
        ("ldt", u64::from(registers.ldtr.selector)),
        ("tr", u64::from(registers.tr.selector)),
        ("gdt", registers.gdtr.base),
        ("idt", registers.idtr.base),
        ("cr0", registers.cr0),
        ("cr2", registers.cr2),
        ("cr3", registers.cr3),
        ("cr4", registers.cr4),
        ("efer", registers.msr.efer),
        ("dr6", registers.dr6),
        ("dr7", registers.dr7),
    ]);
    list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Operator {
    /// A vCPU's registers.
    pub(super) fn registers(&self, cpu: u32) -> std::result::Result<Registers, OperationError> {
        if cpu >= self.control.vcpus() {
            return Err(OperationError::new(format!(
                "there is no vCPU {cpu}: they go from 0 to {}",
                self.control.vcpus() - 1
            )));
        }
        let read = self.control.with_vcpu(cpu, |vcpu| vcpu.registers());
        read.ok_or_else(|| OperationError::new("the VM has ended"))?.map_err(failed)
    }

    pub(super) fn query_registers(&self, cpu: u32) -> Result {
        self.registers(cpu).map(|registers| Reply::Registers(named(&registers)))
    }

    pub(super) fn query_cpus(&self) -> Result {
        let cpus = (0..self.control.vcpus()).map(|index| {
            let registers = self.registers(index)?;
            let halted = registers.activity != ferro_hypervisor::Activity::Running;
            Ok(CpuInfo { index, thread: None, halted, pc: registers.rip })
        });
        cpus.collect::<std::result::Result<_, _>>().map(Reply::Cpus)
    }

    pub(super) fn query_pages(&self, cpu: u32) -> Result {
        let registers = self.registers(cpu)?;
        Ok(Reply::Pages(pages::mapped(self.control.memory(), (&registers).into())))
    }

    pub(super) fn query_memory_map(&self) -> Reply {
        let lines = self
            .control
            .memory()
            .ranges()
            .iter()
            .map(|range| {
                let kind = if range.kind == ferro_guest::RangeKind::Ram { "ram" } else { "rom" };
                format!(
                    "{:016x}-{:016x} ({kind}): offset {:#x}\n",
                    range.start,
                    range.start + (range.len - 1),
                    range.offset
                )
            })
            .collect();
        Reply::Text(lines)
    }

    /// Reads RAM, and the VGA's window into its planes, which a text screen is in; how many bytes could be read.
    fn read_physical(&self, address: u64, bytes: &mut [u8]) -> usize {
        const WINDOW: std::ops::Range<u64> = 0xa_0000..0xc_0000;
        let memory = self.control.memory();
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let read = memory.read(at, &mut bytes[done..]);
            done += read;
            if read > 0 {
                continue;
            }
            if !WINDOW.contains(&at) {
                break;
            }
            bytes[done] = self.bus.mmio_read(at, 1) as u8;
            done += 1;
        }
        done
    }

    /// Reads memory as far as it can be read.
    fn read(&self, space: MemorySpace, address: u64, len: u64) -> std::result::Result<Vec<u8>, OperationError> {
        let mut bytes = vec![0; usize::try_from(len).map_err(failed)?];
        let MemorySpace::Virtual { cpu } = space else {
            let read = self.read_physical(address, &mut bytes);
            bytes.truncate(read);
            return Ok(bytes);
        };
        self.registers(cpu)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let Some(physical) = self.control.with_vcpu(cpu, move |vcpu| vcpu.translate(at)).flatten() else { break };
            let part = (PAGE - at % PAGE).min((bytes.len() - done) as u64) as usize;
            let read = self.read_physical(physical, &mut bytes[done..done + part]);
            done += read;
            if read < part {
                break;
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    pub(super) fn examine(&self, space: MemorySpace, address: u64, what: Examination) -> Result {
        const LONGEST: u64 = 15;
        match what {
            Examination::Bytes(len) => self.read(space, address, len.min(1 << 20)).map(Reply::Bytes),
            Examination::Instructions(count) => {
                let cpu = if let MemorySpace::Virtual { cpu } = space { cpu } else { 0 };
                let bits = self.registers(cpu)?.code_bits();
                let code = self.read(space, address, u64::from(count).min(10_000) * LONGEST)?;
                let found = disassemble(&code, address, bits).into_iter().take(count as usize);
                Ok(Reply::Instructions(found.map(|one| (one.address, one.text)).collect()))
            }
        }
    }

    pub(super) fn save_memory(&self, space: MemorySpace, address: u64, size: u64, path: &str) -> Result {
        const CHUNK: u64 = 1 << 20;
        let told = |error: std::io::Error| OperationError::new(format!("cannot write {path}: {error}"));
        let mut file = BufWriter::new(File::create(path).map_err(told)?);
        let mut done = 0;
        while done < size {
            let len = CHUNK.min(size - done);
            let bytes = self.read(space, address.wrapping_add(done), len)?;
            file.write_all(&bytes).map_err(told)?;
            if (bytes.len() as u64) < len {
                file.flush().map_err(told)?;
                let end = address.wrapping_add(done + bytes.len() as u64);
                return Err(OperationError::new(format!("Invalid addr {end:#x}: {path} has what is before it")));
            }
            done += len;
        }
        file.flush().map_err(told)?;
        Ok(Reply::Done)
    }

    pub(super) fn dump_guest_memory(&self, path: &str) -> Result {
        let vcpus =
            (0..self.control.vcpus()).map(|cpu| self.registers(cpu)).collect::<std::result::Result<Vec<_>, _>>()?;
        core_file::write(path.as_ref(), self.control.memory(), &vcpus)
            .map_err(|error| OperationError::new(format!("cannot write {path}: {error}")))?;
        Ok(Reply::Done)
    }

    pub(super) fn read_port(&self, port: u16, size: u8) -> Reply {
        Reply::Value(self.bus.port_read(port, size))
    }

    pub(super) fn write_port(&self, port: u16, size: u8, value: u32) -> Reply {
        self.bus.port_write(port, size, value);
        Reply::Done
    }
}

/// All functions as a guest's configuration software sees them.
pub(super) fn pci(bus: &PciBus) -> Reply {
    let functions = bus.functions().iter().map(|(number, function)| {
        let function = lock(function);
        let config = function.config();
        let word = |offset| u16::from_le_bytes(config.get(offset));
        let [line, pin] = config.get(0x3c);
        let regions = (0..6).filter_map(|bar| {
            let (kind, size) = config.bar(bar)?;
            Some(PciRegion {
                bar: bar as u8,
                io: kind == BarKind::Io,
                size,
                address: config.bar_address(bar),
                wide: matches!(kind, BarKind::Memory64 { .. }),
                prefetch: matches!(
                    kind,
                    BarKind::Memory32 { prefetchable: true } | BarKind::Memory64 { prefetchable: true }
                ),
            })
        });
        PciInfo {
            slot: number >> 3,
            function: number & 7,
            class: word(0x0a),
            id: (word(0), word(2)),
            irq: (pin != 0).then_some(line),
            regions: regions.collect(),
        }
    });
    Reply::Pci(functions.collect())
}
