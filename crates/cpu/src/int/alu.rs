//! Addition, subtraction, comparison and logic, with one and two operands, and their locked forms.

use crate::core::{Bus, Core, Flow, Handler, Op};
use crate::flags::{Int, add_carries, sub_borrows};
use crate::int::operand::{Address, Based, Dst, Imm, Mem, Place, Source, Src};
use crate::int::{by_address, by_width};

/// What an instruction's operands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
}

/// An operation on two values that sets flags.
pub(crate) trait Binary: 'static {
    /// Whether the result goes anywhere but into the flags.
    const WRITES: bool = true;
    fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W;
    /// Whether the flags that `apply` just left meet a condition.
    #[inline(always)]
    fn met<W: Int, const CC: u8>(core: &Core, _a: W, _b: W) -> bool {
        core.condition::<CC>()
    }
}

pub(crate) struct Add;
pub(crate) struct Adc;
pub(crate) struct Sub;
pub(crate) struct Sbb;
pub(crate) struct Cmp;
pub(crate) struct And;
pub(crate) struct Or;
pub(crate) struct Xor;
pub(crate) struct Test;

impl Binary for Add {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W {
        let result = W::truncate(a.widen().wrapping_add(b.widen()));
        core.flags.set_add(a, b, result);
        result
    }
}

impl Binary for Adc {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W {
        let carry = u64::from(core.flags.cf());
        let result = W::truncate(a.widen().wrapping_add(b.widen()).wrapping_add(carry));
        core.flags.set_add(a, b, result);
        result
    }
}

impl Binary for Sub {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W {
        let result = W::truncate(a.widen().wrapping_sub(b.widen()));
        core.flags.set_sub(a, b, result);
        result
    }

    #[inline(always)]
    fn met<W: Int, const CC: u8>(core: &Core, a: W, b: W) -> bool {
        let (x, y) = (a.extend() as i64, b.extend() as i64);
        match CC {
            2 => a.widen() < b.widen(),
            3 => a.widen() >= b.widen(),
            4 => x == y,
            5 => x != y,
            6 => a.widen() <= b.widen(),
            7 => a.widen() > b.widen(),
            12 => x < y,
            13 => x >= y,
            14 => x <= y,
            15 => x > y,
            _ => core.condition::<CC>(),
        }
    }
}

impl Binary for Sbb {
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W {
        let borrow = u64::from(core.flags.cf());
        let result = W::truncate(a.widen().wrapping_sub(b.widen()).wrapping_sub(borrow));
        core.flags.set_sub(a, b, result);
        result
    }
}

impl Binary for Cmp {
    const WRITES: bool = false;
    #[inline(always)]
    fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W {
        Sub::apply(core, a, b)
    }

    #[inline(always)]
    fn met<W: Int, const CC: u8>(core: &Core, a: W, b: W) -> bool {
        Sub::met::<W, CC>(core, a, b)
    }
}

macro_rules! logic {
    ($name:ident, $writes:literal, $op:tt) => {
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<W: Int>(core: &mut Core, a: W, b: W) -> W {
                let result = W::truncate(a.widen() $op b.widen());
                core.flags.set_logic(result);
                result
            }
        }
    };
}
logic!(And, true, &);
logic!(Or, true, |);
logic!(Xor, true, ^);
logic!(Test, false, &);

fn binary<O: Binary, W: Int, D: Place<W>, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    if O::WRITES {
        let (a, slot) = D::update(core, bus, op)?;
        let result = O::apply(core, a, b);
        D::set(core, bus, op, slot, result)
    } else {
        let a = D::get(core, bus, op)?;
        O::apply(core, a, b);
        Ok(())
    }
}

fn binary_locked<O: Binary, W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let b = S::get(core, bus, op)?;
    let linear = Based::linear(core, op, W::SIZE as u64, true)?;
    let carry = u64::from(core.flags.cf());
    // The operation on a scratch copy of the flags: it may run several times.
    let compute = |a: W| -> W { pure::<O, W>(a, b, carry) };
    let old = core.locked(bus, linear, op.seg, compute)?;
    O::apply(core, old, b);
    core.synced()
}

/// The result of a binary operation without its flags.
fn pure<O: Binary, W: Int>(a: W, b: W, carry: u64) -> W {
    use std::any::TypeId;
    let (x, y) = (a.widen(), b.widen());
    let id = TypeId::of::<O>();
    W::truncate(if id == TypeId::of::<Add>() {
        x.wrapping_add(y)
    } else if id == TypeId::of::<Adc>() {
        x.wrapping_add(y).wrapping_add(carry)
    } else if id == TypeId::of::<Sub>() {
        x.wrapping_sub(y)
    } else if id == TypeId::of::<Sbb>() {
        x.wrapping_sub(y).wrapping_sub(carry)
    } else if id == TypeId::of::<And>() {
        x & y
    } else if id == TypeId::of::<Or>() {
        x | y
    } else {
        x ^ y
    })
}

/// The handler of a binary operation.
pub(crate) fn select<O: Binary>(form: Form, size: u8, flat: bool) -> Handler {
    by_width!(size, W => match form {
        Form::RegReg => binary::<O, W, Dst, Src>,
        Form::RegImm => binary::<O, W, Dst, Imm>,
        Form::RegMem => by_address!(flat, A => binary::<O, W, Dst, Mem<A>>),
        Form::MemReg => by_address!(flat, A => binary::<O, W, Mem<A>, Src>),
        Form::MemImm => by_address!(flat, A => binary::<O, W, Mem<A>, Imm>),
    })
}

/// The handler of a binary operation with LOCK.
pub(crate) fn select_locked<O: Binary>(form: Form, size: u8) -> Handler {
    by_width!(size, W => match form {
        Form::MemImm => binary_locked::<O, W, Imm>,
        _ => binary_locked::<O, W, Src>,
    })
}

/// An operation on one value.
pub(crate) trait Unary: 'static {
    fn compute<W: Int>(value: W) -> W;
    fn flags<W: Int>(core: &mut Core, value: W, result: W);
}

pub(crate) struct Inc;
pub(crate) struct Dec;
pub(crate) struct Neg;
pub(crate) struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn compute<W: Int>(value: W) -> W {
        W::truncate(value.widen().wrapping_add(1))
    }

    #[inline(always)]
    fn flags<W: Int>(core: &mut Core, value: W, result: W) {
        core.flags.set_keeping_cf(add_carries(value, W::truncate(1), result), result);
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn compute<W: Int>(value: W) -> W {
        W::truncate(value.widen().wrapping_sub(1))
    }

    #[inline(always)]
    fn flags<W: Int>(core: &mut Core, value: W, result: W) {
        core.flags.set_keeping_cf(sub_borrows(value, W::truncate(1), result), result);
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn compute<W: Int>(value: W) -> W {
        W::truncate(value.widen().wrapping_neg())
    }

    #[inline(always)]
    fn flags<W: Int>(core: &mut Core, value: W, result: W) {
        core.flags.set_sub(W::truncate(0), value, result);
    }
}

impl Unary for Not {
    #[inline(always)]
    fn compute<W: Int>(value: W) -> W {
        W::truncate(!value.widen())
    }

    #[inline(always)]
    fn flags<W: Int>(_core: &mut Core, _value: W, _result: W) {}
}

#[inline(always)]
pub(crate) fn unary<O: Unary, W: Int, D: Place<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let (value, slot) = D::update(core, bus, op)?;
    let result = O::compute(value);
    O::flags(core, value, result);
    D::set(core, bus, op, slot, result)
}

fn unary_locked<O: Unary, W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, W::SIZE as u64, true)?;
    let old = core.locked::<W>(bus, linear, op.seg, O::compute)?;
    O::flags(core, old, O::compute(old));
    core.synced()
}

/// The handler of a unary operation.
pub(crate) fn select_unary<O: Unary>(memory: bool, size: u8, flat: bool, lock: bool) -> Handler {
    by_width!(size, W => match (memory, lock) {
        (false, _) => unary::<O, W, Dst>,
        (true, false) => by_address!(flat, A => unary::<O, W, Mem<A>>),
        (true, true) => unary_locked::<O, W>,
    })
}
