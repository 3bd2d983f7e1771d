//! The x87 unit's registers and instructions.

pub(crate) mod arithmetic;
pub(crate) mod control;
pub(crate) mod handlers;
pub(crate) mod transcendental;
pub(crate) mod transfer;

use crate::registers::FpuRegisters;

/// An 80-bit floating-point register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct F80 {
    /// Significand, with its explicit top bit.
    pub(crate) significand: u64,
    /// Sign (bit 15) and biased exponent.
    pub(crate) exponent: u16,
}

/// Condition codes in the status word.
pub(crate) const C0: u16 = 1 << 8;
/// C1: rounded up, or stack overflow.
pub(crate) const C1: u16 = 1 << 9;
/// C2: incomplete.
pub(crate) const C2: u16 = 1 << 10;
/// C3.
pub(crate) const C3: u16 = 1 << 14;
/// Stack fault.
pub(crate) const SF: u16 = 1 << 6;

impl F80 {
    /// What masked invalid operations give.
    pub(crate) const INDEFINITE: Self = Self { significand: 3 << 62, exponent: 0xffff };

    pub(crate) fn to_bits(self) -> u128 {
        u128::from(self.exponent) << 64 | u128::from(self.significand)
    }

    pub(crate) fn from_bits(bits: u128) -> Self {
        Self { significand: bits as u64, exponent: (bits >> 64) as u16 }
    }
}

/// The x87 unit, which MMX shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fpu {
    /// Physical registers R0 to R7.
    pub(crate) regs: [F80; 8],
    pub(crate) control: u16,
    /// Status word without TOP.
    pub(crate) status: u16,
    pub(crate) top: u8,
    /// Bit n: physical register n isn't empty.
    pub(crate) used: u8,
    pub(crate) opcode: u16,
    pub(crate) ip: u64,
    pub(crate) cs: u16,
    pub(crate) dp: u64,
    pub(crate) ds: u16,
}

impl Default for Fpu {
    fn default() -> Self {
        Self {
            regs: [F80::default(); 8],
            control: 0x40,
            status: 0,
            top: 0,
            used: 0xff,
            opcode: 0,
            ip: 0,
            cs: 0,
            dp: 0,
            ds: 0,
        }
    }
}

impl Fpu {
    /// Status word with TOP.
    pub(crate) fn status_word(&self) -> u16 {
        self.status & !0x3800 | u16::from(self.top) << 11
    }

    pub(crate) fn set_status_word(&mut self, word: u16) {
        self.top = (word >> 11 & 7) as u8;
        self.status = word & !0x3800;
    }

    /// Tag word, two bits per physical register: valid, zero, special, empty.
    pub(crate) fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, index| {
            let register = &self.regs[index];
            let tag = if self.used >> index & 1 == 0 {
                3
            } else if register.exponent & 0x7fff == 0 && register.significand == 0 {
                1
            } else if register.exponent & 0x7fff == 0x7fff
                || register.exponent & 0x7fff == 0
                || register.significand >> 63 == 0
            {
                2
            } else {
                0
            };
            word | tag << (2 * index)
        })
    }

    pub(crate) fn set_tag_word(&mut self, word: u16) {
        self.used = (0..8).fold(0, |used, index| used | u8::from(word >> (2 * index) & 3 != 3) << index);
    }

    pub(crate) fn to_registers(&self, mxcsr: u32, xmm: &[u128; 16]) -> FpuRegisters {
        let mut st = [0; 8];
        for (index, value) in st.iter_mut().enumerate() {
            *value = self.regs[(usize::from(self.top) + index) % 8].to_bits();
        }
        FpuRegisters {
            fcw: self.control,
            fsw: self.status_word(),
            ftw: self.tag_word(),
            fop: self.opcode,
            fip: self.ip,
            fcs: self.cs,
            fdp: self.dp,
            fds: self.ds,
            st,
            mxcsr,
            xmm: *xmm,
        }
    }

    pub(crate) fn from_registers(registers: &FpuRegisters) -> Self {
        let mut fpu = Self {
            control: registers.fcw & 0x1f7f | 0x40,
            opcode: registers.fop & 0x7ff,
            ip: registers.fip,
            cs: registers.fcs,
            dp: registers.fdp,
            ds: registers.fds,
            ..Self::default()
        };
        fpu.set_status_word(registers.fsw);
        fpu.set_tag_word(registers.ftw);
        for (index, &value) in registers.st.iter().enumerate() {
            fpu.regs[(usize::from(fpu.top) + index) % 8] = F80::from_bits(value);
        }
        fpu
    }
}

impl Fpu {
    /// Derives ES and B from the exceptions that aren't masked.
    pub(crate) fn update_summary(&mut self) {
        if self.status & !self.control & 0x3f != 0 {
            self.status |= 0x8080;
        } else {
            self.status &= !0x8080;
        }
    }
}

impl Fpu {
    fn physical(&self, index: u8) -> usize {
        usize::from(self.top.wrapping_add(index) & 7)
    }

    /// ST(index); `None` if it is empty.
    pub(crate) fn get(&self, index: u8) -> Option<F80> {
        let physical = self.physical(index);
        (self.used >> physical & 1 != 0).then(|| self.regs[physical])
    }

    pub(crate) fn set(&mut self, index: u8, value: F80) {
        let physical = self.physical(index);
        self.regs[physical] = value;
        self.used |= 1 << physical;
    }

    pub(crate) fn free(&mut self, index: u8) {
        self.used &= !(1 << self.physical(index));
    }

    pub(crate) fn pop(&mut self) {
        self.free(0);
        self.top = self.top.wrapping_add(1) & 7;
    }

    /// Notes a stack fault; says whether it isn't masked.
    pub(crate) fn stack_fault(&mut self, overflow: bool) -> bool {
        self.status |= SF;
        self.set_c1(overflow);
        self.note(crate::soft::status::INVALID, 1)
    }

    /// Pushes, or what a full stack makes of it.
    pub(crate) fn push(&mut self, value: F80) {
        let mut value = value;
        if self.get(7).is_some() {
            if self.stack_fault(true) {
                return;
            }
            value = F80::INDEFINITE;
        }
        self.top = self.top.wrapping_sub(1) & 7;
        self.set(0, value);
    }
}
