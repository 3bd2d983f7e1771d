//! Executes single instructions from given registers, many in a row, for tables of results.

use ferro_cpu::{Activity, Exit, Registers};

use super::{CODE, Machine};

/// The six arithmetic flags.
pub const CF: u64 = 1;
pub const PF: u64 = 4;
pub const AF: u64 = 0x10;
pub const ZF: u64 = 0x40;
pub const SF: u64 = 0x80;
pub const OF: u64 = 0x800;
pub const ALL: u64 = CF | PF | AF | ZF | SF | OF;

pub struct Bench {
    pub machine: Machine,
    base: Registers,
    code: Vec<u8>,
}

impl Bench {
    /// 64-bit code in ring 0.
    pub fn long() -> Self {
        Self::with(Machine::new(&[], false))
    }

    /// 32-bit code in ring 0.
    pub fn legacy() -> Self {
        Self::with(Machine::legacy(&[], false))
    }

    fn with(machine: Machine) -> Self {
        let base = machine.cpu.registers();
        Self { machine, base, code: vec![] }
    }

    /// Executes one instruction; `Err` has the vector and the top word of the stack if it faulted.
    pub fn try_run(&mut self, code: &[u8], prepare: impl FnOnce(&mut Registers)) -> Result<Registers, (u64, u64)> {
        if self.code != code {
            self.code = code.to_vec();
            self.machine.memory.write(CODE, code);
            self.machine.memory.store(CODE + code.len() as u64, 0xf4_u8).unwrap();
        }
        let mut registers = self.base;
        registers.activity = Activity::Running;
        prepare(&mut registers);
        self.machine.cpu.set_registers(&registers);
        assert_eq!(self.machine.run(1000), Exit::Halted, "{code:x?}");
        let registers = self.machine.cpu.registers();
        if registers.rip == CODE + code.len() as u64 + 1 {
            return Ok(registers);
        }
        let top = self.machine.memory.load::<u32>(registers.gpr[4]).unwrap();
        Err(((registers.rip - super::HANDLERS) / 16, u64::from(top)))
    }

    /// Executes one instruction that doesn't fault.
    pub fn run(&mut self, code: &[u8], prepare: impl FnOnce(&mut Registers)) -> Registers {
        self.try_run(code, prepare).unwrap_or_else(|fault| panic!("{code:x?} raised {fault:x?}"))
    }
}

/// Repeats from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// All ones in `bits` bits.
pub fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// The sign-extension of a value of `bits` bits.
pub fn signed(value: u64, bits: u32) -> i128 {
    i128::from((value << (64 - bits)) as i64 >> (64 - bits))
}

/// SF, ZF and PF of a result.
pub fn result_flags(result: u64, bits: u32) -> u64 {
    let result = result & mask(bits);
    let flag = |on: bool, bit| if on { bit } else { 0 };
    let ones = (0..8).filter(|bit| result >> bit & 1 != 0).count();
    flag(result == 0, ZF) | flag(result >> (bits - 1) != 0, SF) | flag(ones % 2 == 0, PF)
}

/// A register after `bits` bits of it were written: 32-bit writes clear the upper half.
pub fn written(old: u64, value: u64, bits: u32) -> u64 {
    if bits >= 32 { value & mask(bits) } else { old & !mask(bits) | value & mask(bits) }
}

/// Prefixes and opcode for a width of 8 to 64 bits, where the opcode's lowest bit says that it isn't 8.
pub fn sized(bits: u32, opcode: u8) -> Vec<u8> {
    match bits {
        8 => vec![opcode & !1],
        16 => vec![0x66, opcode | 1],
        32 => vec![opcode | 1],
        _ => vec![0x48, opcode | 1],
    }
}

/// Values at the edges of a width, and some between.
pub fn edges(bits: u32) -> Vec<u64> {
    let top = 1 << (bits - 1);
    vec![0, 1, 2, 0x0f, 0x10, 0x55, top - 1, top, top + 1, mask(bits) - 1, mask(bits)]
        .into_iter()
        .map(|value| value & mask(bits))
        .collect()
}
