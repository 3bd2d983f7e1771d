//! MMX and SSE instructions: handlers generic over the operation (a [`Vector`]) and the kind of register.
//!
//! `M` says whether registers are MMX (64 bits, shared with the x87 unit) or XMM.

pub(crate) mod arrange;
pub(crate) mod convert;
mod exactness;
pub(crate) mod float;
pub(crate) mod horizontal;
pub(crate) mod integer;
pub(crate) mod lanes;
pub(crate) mod moves;
pub(crate) mod order;
pub(crate) mod state;
pub(crate) mod text;

use crate::core::{Bus, Core, Flow, Handler, Op, vector};
use crate::int::operand::{Address, Based, Flat};
use crate::x87::F80;

/// [`Op::bits`]: a 16-byte memory operand must be aligned.
pub(crate) const ALIGNED: u8 = 4;

/// An operation on whole registers that can't fail.
pub(crate) trait Vector: 'static {
    /// On 128 bits: the destination's old value, the source, the immediate.
    fn apply(a: u128, b: u128, imm: u8) -> u128;
    /// On 64 bits, where that isn't just the lower half.
    #[inline(always)]
    fn apply_64(a: u64, b: u64, imm: u8) -> u64 {
        Self::apply(u128::from(a), u128::from(b), imm) as u64
    }
}

impl Core {
    /// What every MMX instruction does first: all x87 registers become valid, TOP zero.
    #[inline(always)]
    pub(crate) fn enter_mmx(&mut self) -> Flow {
        if self.fpu.status & 0x80 != 0 {
            return self.raise(vector::MF);
        }
        self.fpu.top = 0;
        self.fpu.used = 0xff;
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn vector<const M: bool>(&self, index: u8) -> u128 {
        if M {
            u128::from(self.fpu.regs[usize::from(index) % 8].significand)
        } else {
            self.xmm[usize::from(index) % 16]
        }
    }

    #[inline(always)]
    pub(crate) fn set_vector<const M: bool>(&mut self, index: u8, value: u128) {
        if M {
            self.fpu.regs[usize::from(index) % 8] = F80 { significand: value as u64, exponent: 0xffff };
        } else {
            self.xmm[usize::from(index) % 16] = value;
        }
    }

    /// Reads a memory operand of `op.size` bytes.
    #[inline(always)]
    pub(crate) fn vector_memory<A: Address>(&mut self, bus: &mut Bus<'_>, op: &Op) -> Flow<u128> {
        let linear = A::linear(self, op, u64::from(op.size), false)?;
        match op.size {
            16 => {
                if op.bits & ALIGNED != 0 && !linear.is_multiple_of(16) {
                    return self.raise_code(vector::GP, 0);
                }
                self.load_128(bus, linear, op.seg)
            }
            8 => self.load::<u64>(bus, linear, op.seg).map(u128::from),
            4 => self.load::<u32>(bus, linear, op.seg).map(u128::from),
            2 => self.load::<u16>(bus, linear, op.seg).map(u128::from),
            _ => self.load::<u8>(bus, linear, op.seg).map(u128::from),
        }
    }
}

#[inline(always)]
fn apply<O: Vector, const M: bool>(core: &mut Core, op: &Op, b: u128) {
    let a = core.vector::<M>(op.dst);
    let imm = op.imm as u8;
    let result = if M { u128::from(O::apply_64(a as u64, b as u64, imm)) } else { O::apply(a, b, imm) };
    core.set_vector::<M>(op.dst, result);
}

fn on_register<O: Vector, const M: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    let b = core.vector::<M>(op.src);
    apply::<O, M>(core, op, b);
    Ok(())
}

fn on_memory<O: Vector, A: Address, const M: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M && core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let b = core.vector_memory::<A>(bus, op)?;
    if M {
        core.enter_mmx()?;
    }
    apply::<O, M>(core, op, b);
    Ok(())
}

/// With the immediate as the second operand: shifts by a constant.
fn on_immediate<O: Vector, const M: bool>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    if M {
        core.enter_mmx()?;
    }
    apply::<O, M>(core, op, u128::from(op.imm as u8));
    Ok(())
}

/// Where the second operand of a vector operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Register,
    Memory,
    Immediate,
}

/// The handler of a [`Vector`].
pub(crate) fn select<O: Vector>(from: From, mmx: bool, flat: bool) -> Handler {
    match (from, mmx) {
        (From::Register, false) => on_register::<O, false>,
        (From::Register, true) => on_register::<O, true>,
        (From::Memory, false) if flat => on_memory::<O, Flat, false>,
        (From::Memory, false) => on_memory::<O, Based, false>,
        (From::Memory, true) => on_memory::<O, Based, true>,
        (From::Immediate, false) => on_immediate::<O, false>,
        (From::Immediate, true) => on_immediate::<O, true>,
    }
}

/// An XMM register or a memory operand, as a type.
pub(crate) trait Operand: 'static {
    fn get(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<u128>;
}

/// The register `op.src`.
pub(crate) struct XmmSrc;
/// Memory of `op.size` bytes.
pub(crate) struct XmmMem<A>(std::marker::PhantomData<A>);
/// The MMX register `op.src`.
pub(crate) struct MmxSrc;

impl Operand for XmmSrc {
    #[inline(always)]
    fn get(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow<u128> {
        Ok(core.xmm[usize::from(op.src) % 16])
    }
}

impl<A: Address> Operand for XmmMem<A> {
    #[inline(always)]
    fn get(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<u128> {
        core.vector_memory::<A>(bus, op)
    }
}

impl Operand for MmxSrc {
    fn get(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow<u128> {
        core.enter_mmx()?;
        Ok(core.vector::<true>(op.src))
    }
}

/// #NM: the unit is switched off by CR0.TS.
pub(crate) fn not_available(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.raise(vector::NM)
}
