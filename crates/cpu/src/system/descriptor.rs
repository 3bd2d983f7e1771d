//! Reading descriptors out of the GDT and LDT, and the stacks out of task states.

use crate::core::{Bus, Core, Flow, vector};
use crate::segment::{Segment, attribute};

impl Core {
    /// Linear address of a selector's descriptor; `None` if it is outside its table (of `size` bytes per entry).
    pub(crate) fn descriptor_address(&self, selector: u16, size: u64) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.is_usable() {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            return None;
        };
        (offset + size - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Reads a selector's descriptor; outside of its table raises `vector` with the selector (plus `ext`).
    pub(crate) fn descriptor(&mut self, bus: &mut Bus<'_>, selector: u16, vector: u8, ext: u32) -> Flow<u64> {
        match self.descriptor_address(selector, 8) {
            Some(address) => self.load_system(bus, address),
            None => self.raise_code(vector, selector_code(selector, ext)),
        }
    }

    /// The upper half of a 16-byte descriptor: bits 32 to 63 of its base or offset.
    pub(crate) fn descriptor_high(&mut self, bus: &mut Bus<'_>, selector: u16, vector: u8) -> Flow<u64> {
        match self.descriptor_address(selector, 16) {
            Some(address) => self.load_system(bus, address.wrapping_add(8)),
            None => self.raise_code(vector, selector_code(selector, 0)),
        }
    }

    /// Sets the accessed bit in the table, if it isn't set.
    pub(crate) fn mark_accessed(&mut self, bus: &mut Bus<'_>, selector: u16, descriptor: u64) -> Flow {
        if descriptor >> 40 & u64::from(attribute::ACCESSED) == 0
            && let Some(address) = self.descriptor_address(selector, 8)
        {
            self.store_system(bus, address.wrapping_add(5), (descriptor >> 40) as u8 | 1)?;
        }
        Ok(())
    }

    /// SS:ESP for a privilege level out of a 16- or 32-bit task state.
    pub(crate) fn inner_stack(&mut self, bus: &mut Bus<'_>, level: u8, ext: u32) -> Flow<(u16, u64)> {
        let wide = self.tr.kind() & 8 != 0;
        let level = u64::from(level);
        let (offset, size) = if wide { (4 + level * 8, 6) } else { (2 + level * 4, 4) };
        if offset + size - 1 > u64::from(self.tr.limit) {
            return self.raise_code(vector::TS, selector_code(self.tr.selector, ext));
        }
        let at = self.tr.base.wrapping_add(offset);
        if wide {
            let esp = self.load_system::<u32>(bus, at)?;
            Ok((self.load_system::<u16>(bus, at.wrapping_add(4))?, u64::from(esp)))
        } else {
            let sp = self.load_system::<u16>(bus, at)?;
            Ok((self.load_system::<u16>(bus, at.wrapping_add(2))?, u64::from(sp)))
        }
    }

    /// The stack pointer at `offset` of a 64-bit task state.
    pub(crate) fn long_stack(&mut self, bus: &mut Bus<'_>, offset: u64, ext: u32) -> Flow<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            return self.raise_code(vector::TS, selector_code(self.tr.selector, ext));
        }
        let at = self.tr.base.wrapping_add(offset);
        self.load_system(bus, at)
    }

    /// The stack segment for an inner level, checked as gates do.
    pub(crate) fn inner_stack_segment(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        level: u8,
        ext: u32,
    ) -> Flow<Segment> {
        if selector & !3 == 0 {
            return self.raise_code(vector::TS, ext);
        }
        let code = selector_code(selector, ext);
        let descriptor = self.descriptor(bus, selector, vector::TS, ext)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        if selector as u8 & 3 != level || segment.dpl() != level || !segment.is_writable_data() {
            return self.raise_code(vector::TS, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::SS, code);
        }
        self.mark_accessed(bus, selector, descriptor)?;
        Ok(segment)
    }
}

/// An error code that names a selector.
pub(crate) fn selector_code(selector: u16, ext: u32) -> u32 {
    u32::from(selector & !3) | ext
}

/// A stack that is being pushed to before it becomes the current one.
#[derive(Clone, Copy)]
pub(crate) struct NewStack {
    pub(crate) segment: Segment,
    pub(crate) pointer: u64,
    /// 0xffff, 0xffff_ffff, or all ones.
    pub(crate) mask: u64,
    /// Pushes have user rights.
    pub(crate) user: bool,
    /// Error code for pushes that the segment doesn't allow.
    pub(crate) code: u32,
}

impl NewStack {
    /// Pushes `size` (2, 4, 8) bytes.
    pub(crate) fn push(&mut self, core: &mut Core, bus: &mut Bus<'_>, size: u8, value: u64) -> Flow {
        let pointer = self.pointer.wrapping_sub(u64::from(size)) & self.mask;
        if self.mask == u64::MAX {
            if !crate::memory::is_canonical(pointer) || !crate::memory::is_canonical(pointer.wrapping_add(7)) {
                return core.raise_code(vector::SS, self.code);
            }
            core.store_as(bus, pointer, usize::from(size), self.user, value)?;
        } else {
            if !self.segment.allows(pointer, u64::from(size), true) {
                return core.raise_code(vector::SS, self.code);
            }
            let linear = core.wrap(self.segment.base.wrapping_add(pointer) & 0xffff_ffff);
            core.store_as(bus, linear, usize::from(size), self.user, value)?;
        }
        self.pointer = (self.pointer & !self.mask) | pointer;
        Ok(())
    }

    /// For a segment outside of 64-bit mode.
    pub(crate) fn new(segment: Segment, pointer: u64, user: bool, code: u32) -> Self {
        let mask = if segment.is_big() { 0xffff_ffff } else { 0xffff };
        Self { segment, pointer, mask, user, code }
    }
}
