//! A small machine for tests: flat memory, page tables, handlers that halt.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod bench;
pub mod legacy;

use std::sync::Arc;

use ferro_cpu::{CS, Cpu, CpuConfig, DS, ES, FS, GS, Platform, Registers, SS, SegmentRegister, Signals, TableRegister};
use ferro_guest::{GuestMemory, Ram, Range, RangeKind};

pub const MEMORY: u64 = 4 << 20;
pub const CODE: u64 = 0x1_0000;
pub const DATA: u64 = 0x2_0000;
pub const STACK: u64 = 0x3_0000;
pub const HANDLERS: u64 = 0xb000;
pub const TABLE: u64 = 0x4000;

/// Records I/O and hands out one interrupt vector.
#[derive(Debug, Default)]
pub struct Board {
    pub writes: Vec<(u16, u8, u32)>,
    pub mmio: Vec<(u64, u8, u64)>,
    pub vector: Option<u8>,
    pub time: u64,
    /// What a write to any port makes a device write to memory: where and what.
    pub dma: Option<(Arc<GuestMemory>, u64, Vec<u8>)>,
}

impl Platform for Board {
    fn port_read(&mut self, port: u16, _size: u8) -> u32 {
        u32::from(port) * 0x0101
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.writes.push((port, size, value));
        if let Some((memory, address, bytes)) = &self.dma {
            memory.write(*address, bytes);
        }
    }
    fn mmio_read(&mut self, address: u64, _size: u8) -> u64 {
        address
    }
    fn mmio_write(&mut self, address: u64, size: u8, value: u64) {
        self.mmio.push((address, size, value));
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.vector
    }
    fn read_tpr(&mut self) -> u8 {
        0
    }
    fn write_tpr(&mut self, _value: u8) {}
    fn read_msr(&mut self, _index: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _index: u32, _value: u64) -> Option<()> {
        None
    }
    fn timestamp(&mut self) -> u64 {
        self.time
    }
    fn random(&mut self) -> u64 {
        7
    }
}

pub struct Machine {
    pub cpu: Cpu,
    pub memory: Arc<GuestMemory>,
    pub board: Board,
}

fn segment(selector: u16, attributes: u32) -> SegmentRegister {
    SegmentRegister { selector, base: 0, limit: u32::MAX, attributes }
}

impl Machine {
    /// Long mode, ring 0 (or 3), pages mapped one to one, writable and for users.
    pub fn new(code: &[u8], user: bool) -> Self {
        let ram = Ram::new(MEMORY).unwrap();
        let range = Range { start: 0, len: MEMORY, offset: 0, kind: RangeKind::Ram };
        let memory = Arc::new(GuestMemory::new(ram, &[range]).unwrap());
        let put = |at: u64, value: u64| memory.store(at, value).unwrap();
        put(0x1000, 0x2007);
        put(0x2000, 0x3007);
        put(0x3000, TABLE | 7);
        for page in 0..512 {
            put(TABLE + page * 8, page << 12 | 7);
        }
        let descriptors =
            [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff_u64];
        for (index, descriptor) in descriptors.into_iter().enumerate() {
            put(0x6000 + index as u64 * 8, descriptor);
        }
        put(0x8004, 0xa000);
        for vector in 0..256 {
            let handler = HANDLERS + vector * 16;
            put(0x7000 + vector * 16, (handler & 0xffff) | 8 << 16 | 0x8e00 << 32);
            put(0x7008 + vector * 16, 0);
            memory.store(handler, 0xf4_u8).unwrap();
        }
        memory.write(CODE, code);
        let config = CpuConfig { apic_id: 0, vcpus: 1, tsc_khz: 1_000_000, apic_hz: 0 };
        let mut cpu = Cpu::new(config, memory.clone(), Arc::new(Signals::new()));
        let mut registers = cpu.registers();
        registers.cr0 = 0x8001_0033;
        registers.cr3 = 0x1000;
        registers.cr4 = 0x620;
        registers.msr.efer = 0xd01;
        let (code, data) = if user {
            (segment(0x23, 0xa0fb), segment(0x1b, 0xc0f3))
        } else {
            (segment(8, 0xa09b), segment(0x10, 0xc093))
        };
        registers.segments[CS] = code;
        for index in [ES, SS, DS, FS, GS] {
            registers.segments[index] = data;
        }
        registers.gdtr = TableRegister { base: 0x6000, limit: 0x3f };
        registers.idtr = TableRegister { base: 0x7000, limit: 0xfff };
        registers.tr = SegmentRegister { selector: 0x30, base: 0x8000, limit: 0x67, attributes: 0x8b };
        registers.rip = CODE;
        registers.rflags = 2;
        registers.gpr[4] = STACK;
        cpu.set_registers(&registers);
        Self { cpu, memory, board: Board::default() }
    }

    pub fn edit(&mut self, change: impl FnOnce(&mut Registers)) {
        let mut registers = self.cpu.registers();
        change(&mut registers);
        self.cpu.set_registers(&registers);
    }

    pub fn run(&mut self, budget: u64) -> ferro_cpu::Exit {
        self.cpu.run(&mut self.board, budget)
    }

    /// Which handler the CPU halted in, and the words of the frame on its stack.
    pub fn handler(&self) -> (u64, [u64; 3]) {
        let registers = self.cpu.registers();
        let word = |at: u64| self.memory.load::<u64>(registers.gpr[4] + at).unwrap_or(0);
        ((registers.rip.wrapping_sub(HANDLERS)) / 16, [word(0), word(8), word(16)])
    }

    /// Replaces a page's entry.
    pub fn map(&self, address: u64, entry: u64) {
        self.memory.store(TABLE + (address >> 12) * 8, entry).unwrap();
    }
}
