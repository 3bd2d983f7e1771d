//! A segment register with its hidden part, and what its attributes mean. Loading one from a descriptor table, with the
//! checks that this takes, is in `system::load`.

use crate::registers::SegmentRegister;

/// Bits of [`Segment::attributes`].
pub(crate) mod attribute {
    pub(crate) const ACCESSED: u32 = 1;
    /// Data: writable. Code: readable.
    pub(crate) const READ_WRITE: u32 = 1 << 1;
    /// Data: expand-down. Code: conforming.
    pub(crate) const DOWN_CONFORMING: u32 = 1 << 2;
    pub(crate) const CODE: u32 = 1 << 3;
    /// Code or data; clear for system segments and gates.
    pub(crate) const NOT_SYSTEM: u32 = 1 << 4;
    pub(crate) const DPL: u32 = 3 << 5;
    pub(crate) const PRESENT: u32 = 1 << 7;
    pub(crate) const LONG: u32 = 1 << 13;
    pub(crate) const BIG: u32 = 1 << 14;
    pub(crate) const GRANULAR: u32 = 1 << 15;
    /// A null selector was loaded.
    pub(crate) const UNUSABLE: u32 = 1 << 16;
}
use attribute::{BIG, CODE, DOWN_CONFORMING, DPL, GRANULAR, LONG, NOT_SYSTEM, PRESENT, READ_WRITE, UNUSABLE};

/// A segment register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub(crate) selector: u16,
    pub(crate) attributes: u32,
    pub(crate) limit: u32,
    pub(crate) base: u64,
    /// Offsets below this can be read without further checks.
    read_end: u64,
    /// Offsets below this can be written without further checks.
    write_end: u64,
}

impl Segment {
    /// A segment with everything given.
    pub(crate) fn new(selector: u16, base: u64, limit: u32, attributes: u32) -> Self {
        let mut segment = Self { selector, attributes, limit, base, read_end: 0, write_end: 0 };
        segment.derive();
        segment
    }

    /// A null segment register.
    pub(crate) fn null(selector: u16) -> Self {
        Self::new(selector, 0, 0, UNUSABLE)
    }

    /// What real mode makes of a selector: only base and type change.
    pub(crate) fn load_real(&mut self, selector: u16) {
        let attributes = self.attributes & (BIG | GRANULAR) | 0x93;
        *self = Self::new(selector, u64::from(selector) << 4, self.limit, attributes);
    }

    /// What virtual-8086 mode makes of a selector.
    pub(crate) fn virtual_8086(selector: u16) -> Self {
        Self::new(selector, u64::from(selector) << 4, 0xffff, 0xf3)
    }

    /// The segment that an 8-byte descriptor describes.
    pub(crate) fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 32 & 0xff00_0000);
        let attributes = (descriptor >> 40 & 0xf0ff) as u32;
        let mut limit = (descriptor & 0xffff) as u32 | (descriptor >> 32 & 0xf_0000) as u32;
        if attributes & GRANULAR != 0 {
            limit = limit << 12 | 0xfff;
        }
        Self::new(selector, base, limit, attributes)
    }

    fn derive(&mut self) {
        let usable = self.attributes & UNUSABLE == 0 && self.has(PRESENT | NOT_SYSTEM);
        let code = self.has(CODE);
        let simple = usable && (code || !self.has(DOWN_CONFORMING));
        let end = u64::from(self.limit) + 1;
        self.read_end = if simple && (!code || self.has(READ_WRITE)) { end } else { 0 };
        self.write_end = if simple && !code && self.has(READ_WRITE) { end } else { 0 };
    }

    /// Whether all of these attributes are set.
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.attributes & bits == bits
    }

    pub(crate) fn dpl(&self) -> u8 {
        ((self.attributes & DPL) >> 5) as u8
    }

    /// Type field of a system descriptor, or of code and data.
    pub(crate) fn kind(&self) -> u8 {
        (self.attributes & 15) as u8
    }

    pub(crate) fn is_code(&self) -> bool {
        self.has(NOT_SYSTEM | CODE)
    }

    pub(crate) fn is_data(&self) -> bool {
        self.has(NOT_SYSTEM) && !self.has(CODE)
    }

    pub(crate) fn is_conforming(&self) -> bool {
        self.has(NOT_SYSTEM | CODE | DOWN_CONFORMING)
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.has(NOT_SYSTEM) && (!self.has(CODE) || self.has(READ_WRITE))
    }

    pub(crate) fn is_writable_data(&self) -> bool {
        self.is_data() && self.has(READ_WRITE)
    }

    pub(crate) fn is_present(&self) -> bool {
        self.has(PRESENT)
    }

    pub(crate) fn is_long(&self) -> bool {
        self.has(LONG)
    }

    pub(crate) fn is_big(&self) -> bool {
        self.has(BIG)
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.attributes & UNUSABLE == 0
    }

    /// Whether `size` bytes at `offset` may be accessed.
    #[inline(always)]
    pub(crate) fn allows(&self, offset: u64, size: u64, write: bool) -> bool {
        let end = if write { self.write_end } else { self.read_end };
        offset + size <= end || self.allows_slowly(offset, size, write)
    }

    #[cold]
    fn allows_slowly(&self, offset: u64, size: u64, write: bool) -> bool {
        if !self.is_usable() || !self.has(PRESENT | NOT_SYSTEM | DOWN_CONFORMING) || self.has(CODE) {
            return false;
        }
        let top = if self.has(BIG) { 0xffff_ffff } else { 0xffff };
        (!write || self.has(READ_WRITE)) && offset > u64::from(self.limit) && offset + size - 1 <= top
    }

    pub(crate) fn to_register(self) -> SegmentRegister {
        SegmentRegister { selector: self.selector, base: self.base, limit: self.limit, attributes: self.attributes }
    }

    pub(crate) fn from_register(register: &SegmentRegister) -> Self {
        Self::new(register.selector, register.base, register.limit, register.attributes & 0x1_f0ff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_unpack_to_base_limit_and_attributes() {
        let flat = Segment::from_descriptor(8, 0x00cf_9b00_0000_ffff);
        assert_eq!((flat.base, flat.limit, flat.attributes), (0, 0xffff_ffff, 0xc09b));
        let odd = Segment::from_descriptor(16, 0x1240_9334_5678_9abc);
        assert_eq!((odd.base, odd.limit, odd.attributes), (0x1234_5678, 0x9abc, 0x4093));
    }

    #[test]
    fn limits_hold_up_and_down() {
        let up = Segment::new(0, 0, 0xfff, 0x93);
        assert!(up.allows(0xffc, 4, true) && !up.allows(0xffd, 4, true));
        let down = Segment::new(0, 0, 0xfff, 0x97);
        assert!(down.allows(0x1000, 4, true) && !down.allows(0xfff, 1, false) && !down.allows(0xfffe, 4, false));
        let code = Segment::new(0, 0, 0xfff, 0x9b);
        assert!(code.allows(0, 1, false) && !code.allows(0, 1, true));
        assert!(!Segment::null(0).allows(0, 1, false));
    }
}
