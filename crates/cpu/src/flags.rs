//! The six arithmetic flags, kept as what they derive from so that most instructions only store it. The system flags
//! are not here.

use ferro_guest::Word;

use crate::core::{Core, bit};

/// An operand of 8, 16, 32 or 64 bits, as integer instructions are generic over.
pub(crate) trait Int: Word + PartialEq + Eq + 'static {
    /// Bits in it.
    const BITS: u32;
    /// Its sign-extension.
    fn extend(self) -> u64;
    /// Its top bit.
    #[inline(always)]
    fn top(self) -> bool {
        (self.extend() as i64) < 0
    }
}

macro_rules! int {
    ($($t:ty, $s:ty);*) => {$(
        impl Int for $t {
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn extend(self) -> u64 {
                self as $s as i64 as u64
            }
        }
    )*};
}
int!(u8, i8; u16, i16; u32, i32; u64, i64);

/// The arithmetic flags in lazy form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lazy {
    /// ZF is set when this is zero.
    pub(crate) zero: u64,
    /// SF is its top bit; PF comes from its low byte.
    pub(crate) sign: u64,
    /// Carries out of each bit position: bit 63 is CF, bit 62 the carry into the sign (OF is their difference), bit 3 AF.
    pub(crate) carries: u64,
}

impl Lazy {
    #[inline(always)]
    pub(crate) fn cf(&self) -> bool {
        (self.carries as i64) < 0
    }

    #[inline(always)]
    pub(crate) fn of(&self) -> bool {
        ((self.carries ^ (self.carries << 1)) as i64) < 0
    }

    #[inline(always)]
    pub(crate) fn zf(&self) -> bool {
        self.zero == 0
    }

    #[inline(always)]
    pub(crate) fn sf(&self) -> bool {
        (self.sign as i64) < 0
    }

    #[inline(always)]
    pub(crate) fn pf(&self) -> bool {
        (self.sign as u8).count_ones() & 1 == 0
    }

    #[inline(always)]
    pub(crate) fn af(&self) -> bool {
        self.carries & 8 != 0
    }

    /// Takes ZF, SF and PF from a result.
    #[inline(always)]
    pub(crate) fn set_result<W: Int>(&mut self, result: W) {
        let value = result.extend();
        self.zero = value;
        self.sign = value;
    }

    /// Sets CF, OF and AF explicitly.
    #[inline(always)]
    pub(crate) fn set_carries(&mut self, cf: bool, of: bool, af: bool) {
        self.carries = u64::from(cf) << 63 | u64::from(cf ^ of) << 62 | u64::from(af) << 3;
    }

    /// Sets CF and OF, keeps AF.
    pub(crate) fn set_cf_of(&mut self, cf: bool, of: bool) {
        let af = self.af();
        self.set_carries(cf, of, af);
    }

    /// Sets CF alone.
    #[inline(always)]
    pub(crate) fn set_cf(&mut self, cf: bool) {
        if self.cf() != cf {
            self.carries ^= 3 << 62;
        }
    }

    /// Sets ZF alone.
    pub(crate) fn set_zf_alone(&mut self, zf: bool) {
        self.zero = u64::from(!zf);
    }

    /// After an addition (with or without carry in) of `a` and `b`.
    #[inline(always)]
    pub(crate) fn set_add<W: Int>(&mut self, a: W, b: W, result: W) {
        self.set_result(result);
        self.carries = spread::<W>(add_carries(a, b, result));
    }

    /// After a subtraction (with or without borrow in) of `b` from `a`.
    #[inline(always)]
    pub(crate) fn set_sub<W: Int>(&mut self, a: W, b: W, result: W) {
        self.set_result(result);
        self.carries = spread::<W>(sub_borrows(a, b, result));
    }

    /// As `set_add` or `set_sub` (by the carries given) without CF: `INC` and `DEC`.
    #[inline(always)]
    pub(crate) fn set_keeping_cf<W: Int>(&mut self, carries: u64, result: W) {
        self.set_result(result);
        let old = self.carries;
        let new = spread::<W>(carries);
        let changed = (old ^ new) & (1 << 63);
        self.carries = new ^ changed ^ (changed >> 1);
    }

    /// After a logical operation.
    #[inline(always)]
    pub(crate) fn set_logic<W: Int>(&mut self, result: W) {
        self.set_result(result);
        self.carries = 0;
    }

    /// The flags as RFLAGS has them.
    pub(crate) fn to_bits(self) -> u64 {
        let set = |flag, on| if on { flag } else { 0 };
        set(bit::CF, self.cf())
            | set(bit::PF, self.pf())
            | set(bit::AF, self.af())
            | set(bit::ZF, self.zf())
            | set(bit::SF, self.sf())
            | set(bit::OF, self.of())
    }

    /// Any combination of the flags.
    pub(crate) fn from_bits(bits: u64) -> Self {
        let mut flags = Self {
            zero: u64::from(bits & bit::ZF == 0),
            sign: u64::from(bits & bit::SF != 0) << 63 | u64::from(bits & bit::PF == 0),
            carries: 0,
        };
        flags.set_carries(bits & bit::CF != 0, bits & bit::OF != 0, bits & bit::AF != 0);
        flags
    }
}

/// Carries out of each bit of an addition.
#[inline(always)]
pub(crate) fn add_carries<W: Int>(a: W, b: W, result: W) -> u64 {
    let (a, b, result) = (a.widen(), b.widen(), result.widen());
    (a & b) | ((a | b) & !result)
}

/// Borrows out of each bit of a subtraction.
#[inline(always)]
pub(crate) fn sub_borrows<W: Int>(a: W, b: W, result: W) -> u64 {
    let (a, b, result) = (a.widen(), b.widen(), result.widen());
    (!a & b) | ((!a | b) & result)
}

/// Moves the top bits to where [`Lazy`] wants them, whatever the width; the low bits stay.
#[inline(always)]
fn spread<W: Int>(carries: u64) -> u64 {
    if W::BITS == 64 { carries } else { carries << (64 - W::BITS) | (carries & 8) }
}

impl Core {
    /// The condition of `Jcc`, `SETcc` and `CMOVcc` by its number in the opcode.
    #[inline(always)]
    pub(crate) fn condition<const CC: u8>(&self) -> bool {
        let flags = &self.flags;
        let met = match CC >> 1 {
            0 => flags.of(),
            1 => flags.cf(),
            2 => flags.zf(),
            3 => flags.cf() | flags.zf(),
            4 => flags.sf(),
            5 => flags.pf(),
            6 => flags.sf() ^ flags.of(),
            _ => flags.zf() | (flags.sf() ^ flags.of()),
        };
        met ^ (CC & 1 != 0)
    }

    /// All of RFLAGS.
    pub(crate) fn read_rflags(&self) -> u64 {
        self.rflags | 2 | self.flags.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_survives_the_lazy_form() {
        for bits in 0..0x1000 {
            let bits = bits & bit::ARITHMETIC;
            assert_eq!(Lazy::from_bits(bits).to_bits(), bits);
        }
    }

    #[test]
    fn byte_additions_and_subtractions_have_the_flags_of_the_definition() {
        let mut flags = Lazy::default();
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let (sum, carry) = a.overflowing_add(b);
                flags.set_add(a, b, sum);
                assert_eq!((flags.cf(), flags.of()), (carry, (a as i8).overflowing_add(b as i8).1));
                assert_eq!(flags.af(), (a & 15) + (b & 15) > 15);
                let (difference, borrow) = a.overflowing_sub(b);
                flags.set_sub(a, b, difference);
                assert_eq!((flags.cf(), flags.of()), (borrow, (a as i8).overflowing_sub(b as i8).1));
                assert_eq!(flags.af(), a & 15 < b & 15);
            }
        }
    }
}
