//! A machine in 32-bit protected mode with segments, gates and task states of every kind, for tests of what 64-bit mode
//! no longer has. Paging is off.

use ferro_cpu::{CS, DS, ES, FS, GS, Registers, SS, SegmentRegister, TableRegister};

use super::{Board, CODE, DATA, HANDLERS, Machine, STACK};

pub const GDT: u64 = 0x6000;
pub const IDT: u64 = 0x7000;
pub const TSS: u64 = 0x8000;
/// A second 32-bit task state.
pub const OTHER: u64 = 0x8200;
/// A 16-bit task state.
pub const NARROW: u64 = 0x8400;
/// Top of the stack of ring 0, 1 and 2.
pub const INNER: [u64; 3] = [0xa000, 0x9c00, 0x9800];

pub const CODE0: u16 = 8;
pub const DATA0: u16 = 0x10;
pub const CODE3: u16 = 0x1b;
pub const DATA3: u16 = 0x23;
pub const TASK: u16 = 0x28;
pub const OTHER_TASK: u16 = 0x30;
pub const NARROW_TASK: u16 = 0x38;
/// Code of ring 1 and its stack.
pub const CODE1: u16 = 0x41;
pub const DATA1: u16 = 0x49;
/// Conforming code of ring 0.
pub const CONFORMING: u16 = 0x50;
/// 16-bit code and data of ring 0, based at `CODE`.
pub const CODE16: u16 = 0x58;
pub const DATA16: u16 = 0x60;
/// Expand-down data above 0xffff, 32 and 16 bits.
pub const DOWN32: u16 = 0x68;
/// As `DOWN32` with 16-bit offsets, above 0xfff.
pub const DOWN16: u16 = 0x70;
/// Code that can't be read.
pub const EXECUTE_ONLY: u16 = 0x78;
/// Data that can't be written.
pub const READ_ONLY: u16 = 0x80;
/// Data that isn't present.
pub const ABSENT: u16 = 0x88;
/// A task gate to `OTHER_TASK` that ring 3 may use.
pub const TASK_GATE: u16 = 0x93;
/// Slots for the test itself.
pub const FREE: u16 = 0x98;

/// A segment or system descriptor. `attributes` as in [`SegmentRegister`]; the limit is in units of its granularity.
pub fn descriptor(base: u64, limit: u64, attributes: u64) -> u64 {
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (attributes >> 12 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

/// A call, interrupt, trap or task gate.
pub fn gate(selector: u16, offset: u64, kind: u64, dpl: u64, parameters: u64) -> u64 {
    (offset & 0xffff)
        | u64::from(selector) << 16
        | parameters << 32
        | (kind | dpl << 5 | 0x80) << 40
        | (offset >> 16 & 0xffff) << 48
}

pub fn register(selector: u16, base: u64, limit: u32, attributes: u32) -> SegmentRegister {
    SegmentRegister { selector, base, limit, attributes }
}

impl Machine {
    /// 32-bit code in ring 0 or 3, flat, at `CODE`; handlers of all vectors are 32-bit interrupt gates of ring 0 that halt.
    pub fn legacy(code: &[u8], user: bool) -> Self {
        let mut machine = Self::new(code, false);
        machine.board = Board::default();
        let flat = 0xfffff;
        let table = [
            0,
            descriptor(0, flat, 0xc09b),
            descriptor(0, flat, 0xc093),
            descriptor(0, flat, 0xc0fb),
            descriptor(0, flat, 0xc0f3),
            descriptor(TSS, 0x67, 0x8b),
            descriptor(OTHER, 0x67, 0x89),
            descriptor(NARROW, 0x2b, 0x81),
            descriptor(0, flat, 0xc0bb),
            descriptor(0, flat, 0xc0b3),
            descriptor(0, flat, 0xc09f),
            descriptor(CODE, 0xffff, 0x009b),
            descriptor(CODE, 0xffff, 0x0093),
            descriptor(0, 0xf, 0xc097),
            descriptor(DATA, 0xfff, 0x0097),
            descriptor(0, flat, 0xc0f9),
            descriptor(0, flat, 0xc0f1),
            descriptor(0, flat, 0xc073),
            gate(OTHER_TASK, 0, 5, 3, 0),
        ];
        for (index, value) in table.into_iter().enumerate() {
            machine.put(GDT + 8 * index as u64, value);
        }
        for vector in 0..256 {
            machine.put(IDT + vector * 8, gate(CODE0, HANDLERS + vector * 16, 14, 0, 0));
        }
        for (level, top) in INNER.into_iter().enumerate() {
            machine.memory.store(TSS + 4 + 8 * level as u64, top as u32).unwrap();
            let selector = [DATA0, DATA1, 0][level];
            machine.memory.store(TSS + 8 + 8 * level as u64, u32::from(selector)).unwrap();
        }
        machine.memory.store(TSS + 0x66, 0x68_u16).unwrap();
        machine.edit(|registers| {
            registers.cr0 = 0x11;
            registers.cr4 = 0x600;
            registers.msr.efer = 0;
            registers.gdtr = TableRegister { base: GDT, limit: 0xff };
            registers.idtr = TableRegister { base: IDT, limit: 0x7ff };
            registers.tr = register(TASK, TSS, 0x67, 0x8b);
            registers.ldtr = register(0, 0, 0, 0x1_0000);
            let (code, data) = if user {
                (register(CODE3, 0, u32::MAX, 0xc0fb), register(DATA3, 0, u32::MAX, 0xc0f3))
            } else {
                (register(CODE0, 0, u32::MAX, 0xc09b), register(DATA0, 0, u32::MAX, 0xc093))
            };
            registers.segments[CS] = code;
            for index in [ES, SS, DS, FS, GS] {
                registers.segments[index] = data;
            }
            registers.gpr[4] = STACK;
        });
        machine
    }

    /// Writes eight bytes of memory.
    pub fn put(&self, at: u64, value: u64) {
        self.memory.store(at, value).unwrap();
    }

    /// Reads four bytes of memory.
    pub fn word(&self, at: u64) -> u32 {
        self.memory.load(at).unwrap()
    }

    /// Four-byte words at the top of the stack.
    pub fn stack<const N: usize>(&self) -> [u32; N] {
        let registers = self.cpu.registers();
        let top = registers.segments[SS].base + registers.gpr[4];
        std::array::from_fn(|index| self.word(top + 4 * index as u64))
    }

    /// Runs until a handler halts, and says which.
    pub fn vector(&mut self) -> u64 {
        assert_eq!(self.run(1000), ferro_cpu::Exit::Halted);
        let registers = self.cpu.registers();
        assert!((HANDLERS..HANDLERS + 0x1000).contains(&registers.rip), "halted at {:#x}", registers.rip);
        (registers.rip - HANDLERS) / 16
    }

    /// Runs until the code itself (in ring 0) halts, at the offset given from `CODE`.
    pub fn halts_at(&mut self, offset: u64) -> Registers {
        assert_eq!(self.run(1000), ferro_cpu::Exit::Halted);
        let registers = self.cpu.registers();
        assert_eq!(registers.rip, CODE + offset + 1, "vector {}", registers.rip.wrapping_sub(HANDLERS) / 16);
        registers
    }
}
