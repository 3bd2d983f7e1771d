//! Steps of their own for the instructions that programs consist of, in 64-bit code with flat operands. What the
//! instructions do is in `int` and `sse`: here their handlers are inlined into steps, without the flags where these are
//! dead, and paired with the branch that follows. Which instruction gets which is `lower`'s affair.

pub(crate) mod arithmetic;
pub(crate) mod control;
pub(crate) mod moves;
pub(crate) mod operand;
pub(crate) mod vector;

use crate::step::Step;

/// What an operation does to the flags, as those before it see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// May look at them, or stop where somebody else may.
    Looks,
    /// Neither looks at them nor changes them.
    Passes,
    /// Changes all of them.
    Replaces,
    /// Changes some and keeps others.
    Changes,
}

/// A frequent operation in its forms.
#[derive(Clone, Copy)]
pub(crate) struct Fast {
    pub(crate) step: Step,
    /// For where the flags are dead.
    pub(crate) quiet: Option<Step>,
    /// Together with the branch of this condition.
    pub(crate) pair: Option<fn(u8) -> Option<Step>>,
    pub(crate) effect: Effect,
}

impl Fast {
    /// Only the step.
    pub(crate) fn new(step: Step, effect: Effect) -> Self {
        Self { step, quiet: None, pair: None, effect }
    }
}

/// Evaluates an expression with `$a` standing for the kind of flat memory address: with an index register or without.
macro_rules! by_index {
    ($index:expr, $a:ident => $e:expr) => {
        if $index {
            type $a = crate::int::operand::Flat;
            $e
        } else {
            type $a = crate::int::operand::Direct;
            $e
        }
    };
}

/// Evaluates an expression with `$cc` standing for the number of a condition that programs branch on (neither overflow
/// nor parity).
macro_rules! by_frequent_condition {
    ($number:expr, $cc:ident => $e:expr) => {
        crate::fast::by_frequent_condition!(@ $number, $cc, $e, 2 3 4 5 6 7 8 9 12 13 14 15)
    };
    (@ $number:expr, $cc:ident, $e:expr, $($n:literal)*) => {
        match $number {
            $($n => { const $cc: u8 = $n; Some($e) })*
            _ => None,
        }
    };
}
pub(crate) use {by_frequent_condition, by_index};
