//! Operands: where an operation's values come from and go to (register, immediate, memory), as types that handlers are
//! generic over, and effective addresses.

use std::marker::PhantomData;

use crate::core::{Bus, CodeSize, Core, Flow, Op, REGISTERS, vector};
use crate::flags::Int;
use crate::memory::Slot;
use crate::registers::{FS, SS};

/// A value that is only read.
pub(crate) trait Source<W> {
    fn get(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<W>;
}

/// A value that is read and written.
pub(crate) trait Place<W>: Source<W> {
    type Slot: Copy;
    /// Reads it, and makes sure that [`Place::set`] can't fault.
    fn update(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<(W, Self::Slot)>;
    /// Writes what `update` read. The last thing an instruction does.
    fn set(core: &mut Core, bus: &mut Bus<'_>, op: &Op, slot: Self::Slot, value: W) -> Flow;
    /// Writes without having read. The last thing an instruction does, unless it fails.
    fn put(core: &mut Core, bus: &mut Bus<'_>, op: &Op, value: W) -> Flow;
}

/// The register `op.dst`.
pub(crate) struct Dst;
/// The register `op.src`.
pub(crate) struct Src;
/// `op.imm`.
pub(crate) struct Imm;
/// Memory, addressed as `A` says.
pub(crate) struct Mem<A>(PhantomData<A>);

impl Core {
    /// A general register by its index; for bytes bit 7 of the index means the register's second byte.
    #[inline(always)]
    pub(crate) fn reg<W: Int>(&self, index: u8) -> W {
        if W::BITS == 8 {
            W::truncate(self.regs[usize::from(index & 0x7f)] >> ((index >> 7) * 8))
        } else {
            W::truncate(self.regs[usize::from(index)])
        }
    }

    /// Writes a general register: 32-bit writes clear the upper half, narrower ones keep the rest.
    #[inline(always)]
    pub(crate) fn set_reg<W: Int>(&mut self, index: u8, value: W) {
        let register = &mut self.regs[usize::from(if W::BITS == 8 { index & 0x7f } else { index })];
        let value = value.widen();
        match W::BITS {
            8 => {
                let shift = (index >> 7) * 8;
                *register = (*register & !(0xff << shift)) | value << shift;
            }
            16 => *register = (*register & !0xffff) | value,
            _ => *register = value,
        }
    }

    /// A register of `size` (2, 4, 8) bytes.
    pub(crate) fn reg_sized(&self, index: usize, size: u8) -> u64 {
        self.regs[index % REGISTERS] & size_mask(size)
    }

    /// Writes a register of `size` bytes.
    pub(crate) fn set_reg_sized(&mut self, index: usize, size: u8, value: u64) {
        match size {
            2 => self.set_reg(index as u8, value as u16),
            4 => self.set_reg(index as u8, value as u32),
            _ => self.regs[index % REGISTERS] = value,
        }
    }

    /// Base, index and displacement added, not cut to the address size.
    #[inline(always)]
    pub(crate) fn effective(&self, op: &Op) -> u64 {
        let base = self.regs[usize::from(op.base)];
        let index = self.regs[usize::from(op.index)] << (op.scale & 3);
        base.wrapping_add(index).wrapping_add(op.disp)
    }

    /// The linear address of an offset in a segment, checked against its limit and type.
    #[inline(always)]
    pub(crate) fn segment_linear(&mut self, seg: u8, offset: u64, size: u64, write: bool) -> Flow<u64> {
        let segment = &self.segments[usize::from(seg) % 6];
        if self.code == CodeSize::Bits64 {
            let base = if usize::from(seg) >= FS { segment.base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        if segment.allows(offset, size, write) {
            return Ok(segment.base.wrapping_add(offset) & 0xffff_ffff);
        }
        self.raise_code(if usize::from(seg) == SS { vector::SS } else { vector::GP }, 0)
    }
}

/// All ones in `size` bytes.
#[inline(always)]
pub(crate) fn size_mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

/// How a memory operand's linear address comes about.
pub(crate) trait Address: 'static {
    fn linear(core: &mut Core, op: &Op, size: u64, write: bool) -> Flow<u64>;
}

/// 64-bit mode, no segment base, 64-bit addresses: nothing but the sum.
pub(crate) struct Flat;

impl Address for Flat {
    #[inline(always)]
    fn linear(core: &mut Core, op: &Op, _size: u64, _write: bool) -> Flow<u64> {
        Ok(core.effective(op))
    }
}

/// As [`Flat`], without an index register.
pub(crate) struct Direct;

impl Address for Direct {
    #[inline(always)]
    fn linear(core: &mut Core, op: &Op, _size: u64, _write: bool) -> Flow<u64> {
        Ok(core.regs[usize::from(op.base)].wrapping_add(op.disp))
    }
}

/// Any mode.
pub(crate) struct Based;

impl Address for Based {
    #[inline]
    fn linear(core: &mut Core, op: &Op, size: u64, write: bool) -> Flow<u64> {
        let offset = core.effective(op) & size_mask(op.addr);
        core.segment_linear(op.seg, offset, size, write)
    }
}

impl<W: Int> Source<W> for Dst {
    #[inline(always)]
    fn get(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow<W> {
        Ok(core.reg(op.dst))
    }
}

impl<W: Int> Place<W> for Dst {
    type Slot = ();

    #[inline(always)]
    fn update(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow<(W, ())> {
        Ok((core.reg(op.dst), ()))
    }

    #[inline(always)]
    fn set(core: &mut Core, _bus: &mut Bus<'_>, op: &Op, _slot: (), value: W) -> Flow {
        core.set_reg(op.dst, value);
        Ok(())
    }

    #[inline(always)]
    fn put(core: &mut Core, _bus: &mut Bus<'_>, op: &Op, value: W) -> Flow {
        core.set_reg(op.dst, value);
        Ok(())
    }
}

impl<W: Int> Source<W> for Src {
    #[inline(always)]
    fn get(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow<W> {
        Ok(core.reg(op.src))
    }
}

impl<W: Int> Source<W> for Imm {
    #[inline(always)]
    fn get(_core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow<W> {
        Ok(W::truncate(op.imm))
    }
}

impl<W: Int, A: Address> Source<W> for Mem<A> {
    #[inline(always)]
    fn get(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<W> {
        let linear = A::linear(core, op, W::SIZE as u64, false)?;
        core.load(bus, linear, op.seg)
    }
}

impl<W: Int, A: Address> Place<W> for Mem<A> {
    type Slot = (u64, Slot);

    #[inline(always)]
    fn update(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<(W, Self::Slot)> {
        let linear = A::linear(core, op, W::SIZE as u64, true)?;
        let (value, slot) = core.load_for_update(bus, linear, op.seg)?;
        Ok((value, (linear, slot)))
    }

    #[inline(always)]
    fn set(core: &mut Core, bus: &mut Bus<'_>, op: &Op, (linear, slot): Self::Slot, value: W) -> Flow {
        core.store_slot(bus, linear, op.seg, slot, value)
    }

    #[inline(always)]
    fn put(core: &mut Core, bus: &mut Bus<'_>, op: &Op, value: W) -> Flow {
        let linear = A::linear(core, op, W::SIZE as u64, true)?;
        core.store(bus, linear, op.seg, value)
    }
}
