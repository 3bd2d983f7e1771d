//! Tuning of SSE instructions: which fast step each gets. As for integers (`lower::fast`), what they mean is decided
//! elsewhere.

use iced_x86::Mnemonic;

use crate::core::ZERO;
use crate::fast::{Fast, vector};
use crate::lower::Lowering;
use crate::sse::float::{self, Shape};

impl Lowering<'_> {
    fn is_xmm(&self, operand: u32) -> bool {
        self.is_register(operand) && self.register(operand).is_xmm()
    }

    /// The fast form of an instruction on XMM registers, where there is one.
    pub(super) fn fast_vector(&self, memory: bool) -> Option<Fast> {
        use Mnemonic as M;
        let index = usize::from(self.op.index) != ZERO;
        if self.fpu_off() || !self.has_fxsr() || !(self.is_xmm(0) || self.is_xmm(1)) {
            return None;
        }
        match self.instr.mnemonic() {
            M::Movaps | M::Movapd | M::Movdqa | M::Movups | M::Movupd | M::Movdqu | M::Lddqu | M::Movntdqa => {
                Some(if self.is_memory(0) { vector::store(index) } else { vector::load(memory, index) })
            }
            M::Movntps | M::Movntpd | M::Movntdq => Some(vector::store(index)),
            M::Movss | M::Movsd | M::Movq | M::Movd if memory => {
                Some(vector::low(self.is_memory(0), self.memory_size(), index))
            }
            M::Comisd | M::Ucomisd => Some(vector::compare(true, memory, index)),
            M::Comiss | M::Ucomiss => Some(vector::compare(false, memory, index)),
            _ => self.fast_operation.or_else(|| self.fast_real(memory, index)),
        }
    }

    fn fast_real(&self, memory: bool, index: bool) -> Option<Fast> {
        use Mnemonic as M;
        use Shape::{Pd, Ps, Sd, Ss};
        Some(match self.instr.mnemonic() {
            M::Addsd => vector::arithmetic::<float::Add>(Sd, memory, index),
            M::Subsd => vector::arithmetic::<float::Sub>(Sd, memory, index),
            M::Mulsd => vector::arithmetic::<float::Mul>(Sd, memory, index),
            M::Divsd => vector::arithmetic::<float::Div>(Sd, memory, index),
            M::Sqrtsd => vector::arithmetic::<float::Sqrt>(Sd, memory, index),
            M::Addss => vector::arithmetic::<float::Add>(Ss, memory, index),
            M::Subss => vector::arithmetic::<float::Sub>(Ss, memory, index),
            M::Mulss => vector::arithmetic::<float::Mul>(Ss, memory, index),
            M::Divss => vector::arithmetic::<float::Div>(Ss, memory, index),
            M::Sqrtss => vector::arithmetic::<float::Sqrt>(Ss, memory, index),
            M::Addpd => vector::arithmetic::<float::Add>(Pd, memory, index),
            M::Subpd => vector::arithmetic::<float::Sub>(Pd, memory, index),
            M::Mulpd => vector::arithmetic::<float::Mul>(Pd, memory, index),
            M::Divpd => vector::arithmetic::<float::Div>(Pd, memory, index),
            M::Addps => vector::arithmetic::<float::Add>(Ps, memory, index),
            M::Subps => vector::arithmetic::<float::Sub>(Ps, memory, index),
            M::Mulps => vector::arithmetic::<float::Mul>(Ps, memory, index),
            M::Divps => vector::arithmetic::<float::Div>(Ps, memory, index),
            _ => return None,
        })
    }
}
