//! Loading segment registers, LDTR and TR, and the instructions that ask what a selector would allow.

use crate::core::{ATTENTION_SHADOW, ATTENTION_SHADOW_SS, Bus, Core, Flow, Op, vector};
use crate::int::operand::{Address, Based};
use crate::memory::done;
use crate::registers::SS;
use crate::segment::Segment;
use crate::system::descriptor::selector_code;

impl Core {
    /// Loads ES, SS, DS, FS or GS.
    pub(crate) fn load_segment(&mut self, bus: &mut Bus<'_>, index: usize, selector: u16) -> Flow {
        if !self.is_protected() {
            if self.is_v86() {
                self.segments[index] = Segment::virtual_8086(selector);
            } else {
                self.segments[index].load_real(selector);
            }
            if index == SS {
                self.update_mode();
            }
            return Ok(());
        }
        let code = selector_code(selector, 0);
        if selector & !3 == 0 {
            let allowed = index != SS || self.is_code_64() && self.cpl < 3 && selector as u8 & 3 == self.cpl;
            if !allowed {
                return self.raise_code(vector::GP, 0);
            }
            self.segments[index] = Segment::null(selector);
            return Ok(());
        }
        let descriptor = self.descriptor(bus, selector, vector::GP, 0)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let rpl = selector as u8 & 3;
        let allowed = if index == SS {
            rpl == self.cpl && segment.dpl() == self.cpl && segment.is_writable_data()
        } else {
            segment.is_readable() && (segment.is_conforming() || segment.dpl() >= self.cpl.max(rpl))
        };
        if !allowed {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(if index == SS { vector::SS } else { vector::NP }, code);
        }
        self.mark_accessed(bus, selector, descriptor)?;
        self.segments[index] = Segment::from_descriptor(selector, descriptor | 1 << 40);
        if index == SS {
            self.update_mode();
        }
        Ok(())
    }

    fn require_protected(&mut self) -> Flow {
        if self.is_protected() { Ok(()) } else { self.raise(vector::UD) }
    }

    /// Raises #GP(0) unless the privilege is 0.
    pub(crate) fn require_supervisor(&mut self) -> Flow {
        if self.cpl == 0 { Ok(()) } else { self.raise_code(vector::GP, 0) }
    }
}

/// The 16-bit operand of an instruction: a register (`op.src`) or memory.
fn selector_operand<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<u16> {
    if MEMORY {
        let linear = Based::linear(core, op, 2, false)?;
        core.load(bus, linear, op.seg)
    } else {
        Ok(core.reg(op.src))
    }
}

/// `MOV Sreg, r/m16`; the segment register is in `op.dst`.
pub(crate) fn mov_to_segment<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let selector = selector_operand::<MEMORY>(core, bus, op)?;
    core.load_segment(bus, usize::from(op.dst), selector)?;
    if usize::from(op.dst) == SS {
        core.attention |= ATTENTION_SHADOW | ATTENTION_SHADOW_SS;
    }
    Ok(())
}

/// `POP Sreg`
pub(crate) fn pop_segment(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let selector = core.peek(bus, op.size, 0)? as u16;
    let mask = core.stack_mask;
    core.load_segment(bus, usize::from(op.dst), selector)?;
    let pointer = core.regs[crate::core::RSP];
    core.regs[crate::core::RSP] = (pointer & !mask) | (pointer.wrapping_add(u64::from(op.size)) & mask);
    if usize::from(op.dst) == SS {
        core.attention |= ATTENTION_SHADOW | ATTENTION_SHADOW_SS;
    }
    Ok(())
}

/// `PUSH Sreg`
pub(crate) fn push_segment(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let selector = u64::from(core.segments[usize::from(op.src) % 6].selector);
    if op.size == 4 {
        // Only the low half of the slot is written.
        let pointer = core.regs[crate::core::RSP].wrapping_sub(4);
        let linear = core.segment_linear(SS as u8, pointer & core.stack_mask, 4, true)?;
        core.probe_write(linear, 4, SS as u8)?;
        done(core.store(bus, linear, SS as u8, selector as u16))?;
        core.set_stack_pointer(pointer);
        return core.synced();
    }
    core.push(bus, op.size, selector)
}

/// `MOV r, Sreg`
pub(crate) fn mov_from_segment(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let selector = u64::from(core.segments[usize::from(op.src) % 6].selector);
    core.set_reg_sized(usize::from(op.dst), op.size, selector);
    Ok(())
}

/// `MOV m16, Sreg`
pub(crate) fn store_segment(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let selector = core.segments[usize::from(op.src) % 6].selector;
    let linear = Based::linear(core, op, 2, true)?;
    core.store(bus, linear, op.seg, selector)
}

/// `LES`, `LDS`, `LSS`, `LFS`, `LGS`; the segment register is in `op.imm`.
pub(crate) fn load_pointer(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let size = u64::from(op.size);
    let linear = Based::linear(core, op, size + 2, false)?;
    let user = core.cpl == 3;
    core.probe_read(linear, op.size as usize + 2, op.seg)?;
    let offset = core.load_as(bus, linear, size as usize, user)?;
    let at = core.wrap(linear.wrapping_add(size));
    let selector = core.load::<u16>(bus, at, op.seg)?;
    core.load_segment(bus, op.imm as usize, selector)?;
    core.set_reg_sized(usize::from(op.dst), op.size, offset);
    Ok(())
}

/// `LLDT`
pub(crate) fn lldt<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    core.require_supervisor()?;
    let selector = selector_operand::<MEMORY>(core, bus, op)?;
    if selector & !3 == 0 {
        core.ldtr = Segment::null(selector);
        return Ok(());
    }
    core.ldtr = core.load_table(bus, selector, |kind| kind == 2)?;
    Ok(())
}

/// `LTR`
pub(crate) fn ltr<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    core.require_supervisor()?;
    let selector = selector_operand::<MEMORY>(core, bus, op)?;
    if selector & !3 == 0 {
        return core.raise_code(vector::GP, 0);
    }
    let long = core.is_long();
    let mut segment = core.load_table(bus, selector, |kind| kind == 9 || kind == 1 && !long)?;
    if let Some(address) = core.descriptor_address(selector, 8) {
        let access = core.load_system::<u8>(bus, address.wrapping_add(5))?;
        core.store_system(bus, address.wrapping_add(5), access | 2)?;
    }
    segment.attributes |= 2;
    core.tr = segment;
    Ok(())
}

impl Core {
    /// A system segment's descriptor out of the GDT.
    fn load_table(&mut self, bus: &mut Bus<'_>, selector: u16, wanted: impl Fn(u8) -> bool) -> Flow<Segment> {
        let code = selector_code(selector, 0);
        if selector & 4 != 0 {
            return self.raise_code(vector::GP, code);
        }
        let descriptor = self.descriptor(bus, selector, vector::GP, 0)?;
        let mut segment = Segment::from_descriptor(selector, descriptor);
        if segment.has(crate::segment::attribute::NOT_SYSTEM) || !wanted(segment.kind()) {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, code);
        }
        if self.is_long() {
            let high = self.descriptor_high(bus, selector, vector::GP)?;
            segment.base |= high << 32;
            if !crate::memory::is_canonical(segment.base) {
                return self.raise_code(vector::GP, code);
            }
        }
        Ok(segment)
    }

    /// The descriptor that a selector names, if the current privilege may ask about it.
    fn visible(&mut self, bus: &mut Bus<'_>, selector: u16) -> Flow<Option<(Segment, u64)>> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let Some(address) = self.descriptor_address(selector, 8) else { return Ok(None) };
        let descriptor = self.load_system::<u64>(bus, address)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let seen = segment.is_conforming() || segment.dpl() >= self.cpl.max(selector as u8 & 3);
        Ok(seen.then_some((segment, descriptor)))
    }
}

/// `LAR`
pub(crate) fn lar<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    let selector = selector_operand::<MEMORY>(core, bus, op)?;
    let long = core.is_long();
    let found = core.visible(bus, selector)?.filter(|(segment, _)| {
        segment.has(crate::segment::attribute::NOT_SYSTEM)
            || matches!(segment.kind(), 2 | 9 | 11 | 12)
            || !long && matches!(segment.kind(), 1 | 3 | 4 | 5)
    });
    if let Some((_, descriptor)) = found {
        core.set_reg_sized(usize::from(op.dst), op.size, descriptor >> 32 & 0x00ff_ff00);
    }
    core.flags.set_zf_alone(found.is_some());
    Ok(())
}

/// `LSL`
pub(crate) fn lsl<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    let selector = selector_operand::<MEMORY>(core, bus, op)?;
    let long = core.is_long();
    let found = core.visible(bus, selector)?.filter(|(segment, _)| {
        segment.has(crate::segment::attribute::NOT_SYSTEM)
            || matches!(segment.kind(), 2 | 9 | 11)
            || !long && matches!(segment.kind(), 1 | 3)
    });
    if let Some((segment, _)) = found {
        core.set_reg_sized(usize::from(op.dst), op.size, u64::from(segment.limit));
    }
    core.flags.set_zf_alone(found.is_some());
    Ok(())
}

/// `VERR` and `VERW`
pub(crate) fn verify<const MEMORY: bool, const WRITE: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    let selector = selector_operand::<MEMORY>(core, bus, op)?;
    let found = core.visible(bus, selector)?;
    let good = found.is_some_and(|(segment, _)| if WRITE { segment.is_writable_data() } else { segment.is_readable() });
    core.flags.set_zf_alone(good);
    Ok(())
}

/// `SLDT`, `STR` into a register; which one is in `op.imm`.
pub(crate) fn store_table_reg(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    let selector = if op.imm == 0 { core.ldtr.selector } else { core.tr.selector };
    core.set_reg_sized(usize::from(op.dst), op.size, u64::from(selector));
    Ok(())
}

/// `SLDT`, `STR` into memory.
pub(crate) fn store_table_mem(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    let selector = if op.imm == 0 { core.ldtr.selector } else { core.tr.selector };
    let linear = Based::linear(core, op, 2, true)?;
    core.store(bus, linear, op.seg, selector)
}

/// `ARPL`
pub(crate) fn arpl<const MEMORY: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.require_protected()?;
    let rpl = core.reg::<u16>(op.src) & 3;
    if MEMORY {
        let linear = Based::linear(core, op, 2, true)?;
        let (value, slot) = core.load_for_update::<u16>(bus, linear, op.seg)?;
        core.flags.set_zf_alone(value & 3 < rpl);
        if value & 3 < rpl {
            return core.store_slot(bus, linear, op.seg, slot, value & !3 | rpl);
        }
    } else {
        let value = core.reg::<u16>(op.dst);
        core.flags.set_zf_alone(value & 3 < rpl);
        if value & 3 < rpl {
            core.set_reg(op.dst, value & !3 | rpl);
        }
    }
    Ok(())
}
