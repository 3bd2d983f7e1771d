//! Operands of fast steps: as `int::operand`, but what isn't in the translation cache is nobody's here. A step that finds
//! nothing leaves the instruction to its handler, so that steps make no calls that they would have to return from.

use ferro_guest::Word;

use crate::core::{Core, Op};
use crate::flags::Int;
use crate::int::operand::{Direct, Dst, Flat, Imm, Mem, Src};
use crate::tlb::Access;

/// A flat memory address.
pub(crate) trait Sum: 'static {
    fn sum(core: &Core, op: &Op) -> u64;
}

impl Sum for Flat {
    #[inline(always)]
    fn sum(core: &Core, op: &Op) -> u64 {
        core.effective(op)
    }
}

impl Sum for Direct {
    #[inline(always)]
    fn sum(core: &Core, op: &Op) -> u64 {
        core.regs[usize::from(op.base)].wrapping_add(op.disp)
    }
}

/// A value that may be at hand.
pub(crate) trait Peek<W> {
    fn peek(core: &Core, op: &Op) -> Option<W>;
}

impl<W: Int> Peek<W> for Dst {
    #[inline(always)]
    fn peek(core: &Core, op: &Op) -> Option<W> {
        Some(core.reg(op.dst))
    }
}

impl<W: Int> Peek<W> for Src {
    #[inline(always)]
    fn peek(core: &Core, op: &Op) -> Option<W> {
        Some(core.reg(op.src))
    }
}

impl<W: Int> Peek<W> for Imm {
    #[inline(always)]
    fn peek(_core: &Core, op: &Op) -> Option<W> {
        Some(W::truncate(op.imm))
    }
}

impl<W: Int, A: Sum> Peek<W> for Mem<A> {
    #[inline(always)]
    fn peek(core: &Core, op: &Op) -> Option<W> {
        core.load_cached(A::sum(core, op))
    }
}

impl Core {
    /// Reads a word whose translation is cached.
    #[inline(always)]
    pub(crate) fn load_cached<W: Word>(&self, linear: u64) -> Option<W> {
        let offset = self.tlb.find(Access::Read, linear, W::SIZE as u64)?;
        Some(self.memory.ram().load(offset))
    }

    /// Where a word whose translation is cached can be written.
    #[inline(always)]
    pub(crate) fn find_for_write<W: Word>(&self, linear: u64) -> Option<usize> {
        self.tlb.find(Access::Write, linear, W::SIZE as u64)
    }
}
