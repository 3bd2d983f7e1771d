//! Integer instructions: handlers generic over width and operand kinds, which `lower` picks from.

pub(crate) mod alu;
pub(crate) mod bits;
pub(crate) mod branch;
pub(crate) mod data;
pub(crate) mod decimal;
pub(crate) mod exchange;
pub(crate) mod muldiv;
pub(crate) mod operand;
pub(crate) mod shift;
pub(crate) mod stack;
pub(crate) mod string;

/// Evaluates an expression with `$w` standing for the integer type of `$size` bytes.
macro_rules! by_width {
    ($size:expr, $w:ident => $e:expr) => {
        match $size {
            1 => {
                type $w = u8;
                $e
            }
            2 => {
                type $w = u16;
                $e
            }
            4 => {
                type $w = u32;
                $e
            }
            _ => {
                type $w = u64;
                $e
            }
        }
    };
}

/// As `by_width`, for operands of 16, 32 and 64 bits.
macro_rules! by_wide {
    ($size:expr, $w:ident => $e:expr) => {
        match $size {
            2 => {
                type $w = u16;
                $e
            }
            4 => {
                type $w = u32;
                $e
            }
            _ => {
                type $w = u64;
                $e
            }
        }
    };
}

/// Evaluates an expression with `$a` standing for the kind of memory address.
macro_rules! by_address {
    ($flat:expr, $a:ident => $e:expr) => {
        if $flat {
            type $a = crate::int::operand::Flat;
            $e
        } else {
            type $a = crate::int::operand::Based;
            $e
        }
    };
}

/// Evaluates an expression with `$cc` standing for a condition's number.
macro_rules! by_condition {
    ($number:expr, $cc:ident => $e:expr) => {
        by_condition!(@ $number, $cc, $e, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $number:expr, $cc:ident, $e:expr, $($n:literal)*) => {
        match $number {
            $($n => { const $cc: u8 = $n; $e })*
            _ => { const $cc: u8 = 15; $e }
        }
    };
}
pub(crate) use {by_address, by_condition, by_wide, by_width};
