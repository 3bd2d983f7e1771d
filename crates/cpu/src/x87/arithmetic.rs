//! x87 arithmetic on two registers or a register and memory, comparison, and the rounding and flags they share.

use std::cmp::Ordering;

use crate::core::Core;
use crate::flags::Lazy;
use crate::soft::{self, Class, Context, EXTENDED, Exact, Format, Number, Rounded, Rounding, round, status};
use crate::x87::{C0, C1, C2, C3, F80, Fpu};

/// Which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Multiply,
    Subtract,
    SubtractReversed,
    Divide,
    DivideReversed,
}

impl Operation {
    pub(crate) const ALL: [Self; 6] =
        [Self::Add, Self::Multiply, Self::Subtract, Self::SubtractReversed, Self::Divide, Self::DivideReversed];
}

impl Fpu {
    pub(crate) fn rounding(&self) -> Rounding {
        Rounding::from_bits(u32::from(self.control >> 10))
    }

    /// Rounding of results in registers: the precision that the control word says.
    pub(crate) fn context(&self) -> Context {
        let precision = match self.control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Context { precision, wrap: 24576, ..self.memory_context(&EXTENDED) }
    }

    /// Rounding of results in memory.
    pub(crate) fn memory_context(&self, format: &Format) -> Context {
        Context {
            rounding: self.rounding(),
            precision: format.precision,
            masked: u32::from(self.control & 0x3f),
            flush: false,
            wrap: 0,
        }
    }

    /// Notes exceptions; says whether one of `deciding` isn't masked, so that the result must not be written.
    pub(crate) fn note(&mut self, flags: u32, deciding: u32) -> bool {
        self.status |= flags as u16;
        self.update_summary();
        flags & deciding & !u32::from(self.control) != 0
    }

    pub(crate) fn set_c1(&mut self, on: bool) {
        self.status = self.status & !C1 | if on { C1 } else { 0 };
    }

    /// Rounds a result to a register and notes what that raises, with `flags` so far. `None`: it must not be written.
    pub(crate) fn finish(&mut self, exact: Exact, mut flags: u32) -> Option<F80> {
        let context = self.context();
        if flags & 7 & !u32::from(self.control) != 0 {
            // Found before computing: nothing else is.
            self.note(flags & 7, 7);
            return None;
        }
        let rounded = round(exact, &EXTENDED, &context, &mut flags);
        self.set_c1(flags & status::PRECISION != 0 && rounded.up);
        self.note(flags, 0);
        Some(F80::pack(&rounded))
    }

    /// The result where an operand is a NaN or no number, if so; `None` in it: an unmasked exception.
    pub(crate) fn special(&mut self, x: Number, y: Number) -> Option<Option<F80>> {
        if x.class == Class::Unsupported || y.class == Class::Unsupported {
            return Some(self.invalid());
        }
        if !x.is_nan() && !y.is_nan() {
            return None;
        }
        if (x.class == Class::Signaling || y.class == Class::Signaling) && self.note(status::INVALID, 1) {
            return Some(None);
        }
        Some(Some(F80::pack(&pick_nan(x, y).into())))
    }

    /// The masked response to an invalid operation.
    pub(crate) fn invalid(&mut self) -> Option<F80> {
        if self.note(status::INVALID, 1) { None } else { Some(F80::INDEFINITE) }
    }

    /// One of the basic operations.
    pub(crate) fn operate(&mut self, operation: Operation, x: Number, y: Number) -> Option<F80> {
        self.set_c1(false);
        if let Some(result) = self.special(x, y) {
            return result;
        }
        let rounding = self.rounding();
        let mut flags = 0;
        let exact = match operation {
            Operation::Add => soft::add(x, y, rounding, &mut flags),
            Operation::Multiply => soft::multiply(x, y, &mut flags),
            Operation::Subtract => soft::add(x, y.negated(), rounding, &mut flags),
            Operation::SubtractReversed => soft::add(y, x.negated(), rounding, &mut flags),
            Operation::Divide => soft::divide(x, y, &mut flags),
            Operation::DivideReversed => soft::divide(y, x, &mut flags),
        };
        if (x.denormal || y.denormal) && flags & (status::INVALID | status::ZERO_DIVIDE) == 0 {
            flags |= status::DENORMAL;
        }
        self.finish(exact, flags)
    }

    /// Square root.
    pub(crate) fn root(&mut self, x: Number) -> Option<F80> {
        self.set_c1(false);
        if let Some(result) = self.special(x, x) {
            return result;
        }
        let mut flags = 0;
        let exact = soft::square_root(x, &mut flags);
        if x.denormal && flags == 0 {
            flags |= status::DENORMAL;
        }
        self.finish(exact, flags)
    }

    /// Compares; quiet NaNs are invalid if `signaling`. `Err`: an unmasked exception.
    pub(crate) fn order(&mut self, x: Number, y: Number, signaling: bool) -> Result<Option<Ordering>, ()> {
        let order = x.compare(&y);
        let mut flags = 0;
        if order.is_none() {
            let bad = |number: &Number| {
                matches!(number.class, Class::Signaling | Class::Unsupported)
                    || signaling && number.class == Class::Quiet
            };
            if bad(&x) || bad(&y) {
                flags |= status::INVALID;
            }
        } else if x.denormal || y.denormal {
            flags |= status::DENORMAL;
        }
        if self.note(flags, 3) { Err(()) } else { Ok(order) }
    }

    /// Sets C0, C2 and C3 by a comparison.
    pub(crate) fn set_order(&mut self, order: Option<Ordering>) {
        self.status &= !(C0 | C2 | C3);
        self.status |= match order {
            None => C0 | C2 | C3,
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => C0,
            Some(Ordering::Equal) => C3,
        };
    }
}

impl Core {
    /// Sets ZF, PF and CF by a comparison.
    pub(crate) fn set_order_flags(&mut self, order: Option<Ordering>) {
        let bits = crate::sse::order::order_flags(order);
        self.flags = Lazy::from_bits(bits);
    }
}

/// x87's choice between NaNs: the quiet one of a quiet and a signaling one, else the greater significand, then the
/// positive.
fn pick_nan(x: Number, y: Number) -> Number {
    match (x.is_nan(), y.is_nan()) {
        (true, false) => x.quieted(),
        (false, true) => y.quieted(),
        _ => match (x.class, y.class) {
            (Class::Quiet, Class::Signaling) => x,
            (Class::Signaling, Class::Quiet) => y,
            _ => match x.significand.cmp(&y.significand) {
                Ordering::Greater => x.quieted(),
                Ordering::Less => y.quieted(),
                Ordering::Equal if x.sign => y.quieted(),
                Ordering::Equal => x.quieted(),
            },
        },
    }
}

/// A value that fits its format as it is.
pub(crate) fn exact_f80(number: Number) -> F80 {
    F80::pack(&Rounded::from(number))
}
