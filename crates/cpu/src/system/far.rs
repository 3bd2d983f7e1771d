//! Far jumps, calls and returns, through call gates and to tasks, and software interrupts.

use crate::core::{BLOCK, Bus, Core, Flow, Op, RSP, bit, vector};
use crate::exception::Event;
use crate::int::operand::{Address, Based, size_mask};
use crate::memory::is_canonical;
use crate::registers::{CS, DS, ES, FS, GS, SS};
use crate::segment::{Segment, attribute};
use crate::system::Switch;
use crate::system::descriptor::{NewStack, selector_code};

/// Where a far transfer goes.
struct Target {
    selector: u16,
    offset: u64,
}

/// An immediate far pointer: offset in the low 32 bits, selector above.
fn immediate(op: &Op) -> Target {
    Target { selector: (op.imm >> 32) as u16, offset: op.imm & 0xffff_ffff & size_mask(op.size) }
}

fn pointer(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<Target> {
    let size = u64::from(op.size);
    let linear = Based::linear(core, op, size + 2, false)?;
    core.probe_read(linear, op.size as usize + 2, op.seg)?;
    let user = core.cpl == 3;
    let offset = core.load_as(bus, linear, size as usize, user)?;
    let at = core.wrap(linear.wrapping_add(size));
    Ok(Target { selector: core.load::<u16>(bus, at, op.seg)?, offset })
}

/// `JMP ptr16:16/32`
pub(crate) fn jmp_immediate(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.far_jump(bus, op, &immediate(op))
}

/// `JMP m16:16/32/64`
pub(crate) fn jmp_memory(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let target = pointer(core, bus, op)?;
    core.far_jump(bus, op, &target)
}

/// `CALL ptr16:16/32`
pub(crate) fn call_immediate(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.far_call(bus, op, &immediate(op))
}

/// `CALL m16:16/32/64`
pub(crate) fn call_memory(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let target = pointer(core, bus, op)?;
    core.far_call(bus, op, &target)
}

impl Core {
    fn check_limit(&mut self, segment: &Segment, offset: u64) -> Flow {
        let good =
            if self.is_long() && segment.is_long() { is_canonical(offset) } else { offset <= u64::from(segment.limit) };
        if good { Ok(()) } else { self.raise_code(vector::GP, 0) }
    }

    fn set_code_segment(&mut self, mut segment: Segment, selector: u16, level: u8, rip: u64) {
        segment.selector = selector & !3 | u16::from(level);
        segment.attributes |= attribute::ACCESSED;
        self.segments[CS] = segment;
        self.cpl = level;
        self.rip = rip;
        self.update_mode();
    }

    /// What a code descriptor must satisfy for a direct transfer (or through a jump through a gate).
    fn check_code(&mut self, segment: &Segment, selector: u16, through_gate: bool) -> Flow {
        let code = selector_code(selector, 0);
        let rpl = selector as u8 & 3;
        let level_good = if segment.is_conforming() {
            segment.dpl() <= self.cpl
        } else {
            segment.dpl() == self.cpl && (through_gate || rpl <= self.cpl)
        };
        if !segment.is_code() || !level_good || self.is_long() && segment.is_long() && segment.is_big() {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, code);
        }
        Ok(())
    }

    fn real_far(&mut self, target: &Target) {
        if self.is_v86() {
            self.segments[CS] = Segment::virtual_8086(target.selector);
        } else {
            self.segments[CS].load_real(target.selector);
        }
        self.rip = target.offset;
        self.update_mode();
    }

    fn far_jump(&mut self, bus: &mut Bus<'_>, op: &Op, target: &Target) -> Flow {
        if !self.is_protected() {
            let limit = self.segments[CS];
            self.check_limit(&limit, target.offset)?;
            self.real_far(target);
            return Ok(());
        }
        if target.selector & !3 == 0 {
            return self.raise_code(vector::GP, 0);
        }
        let descriptor = self.descriptor(bus, target.selector, vector::GP, 0)?;
        let segment = Segment::from_descriptor(target.selector, descriptor);
        if segment.has(attribute::NOT_SYSTEM) {
            self.check_code(&segment, target.selector, false)?;
            self.check_limit(&segment, target.offset)?;
            self.mark_accessed(bus, target.selector, descriptor)?;
            self.set_code_segment(segment, target.selector, self.cpl, target.offset);
            return Ok(());
        }
        if let Some(selector) = self.task_target(&segment, target.selector, descriptor)? {
            self.rip = self.next_rip(op);
            return self.switch_task_now(bus, selector, Switch::Jump);
        }
        let (gate, code_descriptor, segment) = self.call_gate(bus, target.selector, descriptor)?;
        self.check_code(&segment, gate.selector, true)?;
        self.check_limit(&segment, gate.offset)?;
        self.mark_accessed(bus, gate.selector, code_descriptor)?;
        self.set_code_segment(segment, gate.selector, self.cpl, gate.offset);
        Ok(())
    }

    /// The selector of a task state, if the descriptor is one or a task gate; privileges are checked.
    fn task_target(&mut self, segment: &Segment, selector: u16, descriptor: u64) -> Flow<Option<u16>> {
        let kind = segment.kind();
        if self.is_long() || !matches!(kind, 1 | 3 | 5 | 9 | 11) {
            return Ok(None);
        }
        let code = selector_code(selector, 0);
        if segment.dpl() < self.cpl.max(selector as u8 & 3) {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, code);
        }
        Ok(Some(if kind == 5 { (descriptor >> 16) as u16 } else { selector }))
    }

    /// Reads a call gate and the code descriptor it leads to.
    fn call_gate(&mut self, bus: &mut Bus<'_>, selector: u16, low: u64) -> Flow<(Target, u64, Segment)> {
        let code = selector_code(selector, 0);
        let gate = Segment::from_descriptor(selector, low);
        let long = self.is_long();
        if gate.kind() != 12 && (long || gate.kind() != 4) || gate.dpl() < self.cpl.max(selector as u8 & 3) {
            return self.raise_code(vector::GP, code);
        }
        if !gate.is_present() {
            return self.raise_code(vector::NP, code);
        }
        let mut offset = low & 0xffff;
        if gate.kind() == 12 {
            offset |= low >> 32 & 0xffff_0000;
        }
        if long {
            let high = self.descriptor_high(bus, selector, vector::GP)?;
            if high >> 40 & 0x1f != 0 {
                return self.raise_code(vector::GP, code);
            }
            offset |= high << 32;
        }
        let selector = (low >> 16) as u16;
        if selector & !3 == 0 {
            return self.raise_code(vector::GP, 0);
        }
        let descriptor = self.descriptor(bus, selector, vector::GP, 0)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let long_code = segment.is_long() && !segment.is_big();
        if !segment.is_code() || segment.dpl() > self.cpl || long && !long_code {
            return self.raise_code(vector::GP, selector_code(selector, 0));
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, selector_code(selector, 0));
        }
        Ok((Target { selector, offset }, descriptor, segment))
    }

    fn current_stack(&self) -> NewStack {
        let mut stack = NewStack::new(self.segments[SS], self.regs[RSP], self.cpl == 3, 0);
        stack.mask = self.stack_mask;
        stack
    }

    fn far_call(&mut self, bus: &mut Bus<'_>, op: &Op, target: &Target) -> Flow {
        let next = self.next_rip(op);
        let old_cs = u64::from(self.segments[CS].selector);
        if !self.is_protected() {
            let limit = self.segments[CS];
            self.check_limit(&limit, target.offset)?;
            let mut stack = self.current_stack();
            stack.push(self, bus, op.size, old_cs)?;
            stack.push(self, bus, op.size, next)?;
            self.regs[RSP] = stack.pointer;
            self.real_far(target);
            return Ok(());
        }
        if target.selector & !3 == 0 {
            return self.raise_code(vector::GP, 0);
        }
        let descriptor = self.descriptor(bus, target.selector, vector::GP, 0)?;
        let segment = Segment::from_descriptor(target.selector, descriptor);
        if segment.has(attribute::NOT_SYSTEM) {
            self.check_code(&segment, target.selector, false)?;
            self.check_limit(&segment, target.offset)?;
            let mut stack = self.current_stack();
            stack.push(self, bus, op.size, old_cs)?;
            stack.push(self, bus, op.size, next)?;
            self.mark_accessed(bus, target.selector, descriptor)?;
            self.regs[RSP] = stack.pointer;
            self.set_code_segment(segment, target.selector, self.cpl, target.offset);
            return Ok(());
        }
        if let Some(selector) = self.task_target(&segment, target.selector, descriptor)? {
            self.rip = next;
            return self.switch_task_now(bus, selector, Switch::Call);
        }
        self.call_through_gate(bus, target.selector, descriptor, next)
    }

    fn call_through_gate(&mut self, bus: &mut Bus<'_>, selector: u16, low: u64, next: u64) -> Flow {
        let (gate, code_descriptor, segment) = self.call_gate(bus, selector, low)?;
        let size = if self.is_long() {
            8
        } else if low >> 43 & 1 != 0 {
            4
        } else {
            2
        };
        let parameters = if size == 8 { 0 } else { low >> 32 & 31 };
        let old_cs = u64::from(self.segments[CS].selector);
        let inner = !segment.is_conforming() && segment.dpl() < self.cpl;
        let level = if inner { segment.dpl() } else { self.cpl };
        self.check_limit(&segment, gate.offset)?;
        let mut stack = self.current_stack();
        if inner {
            stack = if size == 8 {
                let pointer = self.long_stack(bus, 4 + u64::from(level) * 8, 0)?;
                let segment = Segment::null(u16::from(level));
                NewStack { segment, pointer, mask: u64::MAX, user: level == 3, code: 0 }
            } else {
                let (selector, pointer) = self.inner_stack(bus, level, 0)?;
                let segment = self.inner_stack_segment(bus, selector, level, 0)?;
                NewStack::new(segment, pointer, level == 3, selector_code(selector, 0))
            };
            let (old_ss, old_sp) = (u64::from(self.segments[SS].selector), self.regs[RSP]);
            stack.push(self, bus, size, old_ss)?;
            stack.push(self, bus, size, old_sp)?;
            for index in (0..parameters).rev() {
                let value = self.peek(bus, size, index * u64::from(size))?;
                stack.push(self, bus, size, value)?;
            }
        }
        stack.push(self, bus, size, old_cs)?;
        stack.push(self, bus, size, next)?;
        self.mark_accessed(bus, gate.selector, code_descriptor)?;
        if inner {
            self.segments[SS] = stack.segment;
        }
        self.regs[RSP] = stack.pointer;
        self.set_code_segment(segment, gate.selector, level, gate.offset);
        Ok(())
    }

    /// Makes segment registers null that the privilege just returned to may not use.
    pub(crate) fn drop_inner_segments(&mut self) {
        for index in [ES, DS, FS, GS] {
            let segment = &self.segments[index];
            if segment.is_usable() && !segment.is_conforming() && segment.dpl() < self.cpl {
                self.segments[index] = Segment::null(0);
            }
        }
    }

    /// Checks a code segment that a return of any kind goes to.
    pub(crate) fn return_segment(&mut self, bus: &mut Bus<'_>, selector: u16) -> Flow<Segment> {
        if selector & !3 == 0 {
            return self.raise_code(vector::GP, 0);
        }
        let code = selector_code(selector, 0);
        let descriptor = self.descriptor(bus, selector, vector::GP, 0)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let rpl = selector as u8 & 3;
        let level = if segment.is_conforming() { segment.dpl() <= rpl } else { segment.dpl() == rpl };
        if !segment.is_code() || rpl < self.cpl || !level || self.is_long() && segment.is_long() && segment.is_big() {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, code);
        }
        self.mark_accessed(bus, selector, descriptor)?;
        Ok(segment)
    }

    /// Checks the stack segment that a return to an outer level brings.
    pub(crate) fn return_stack(&mut self, bus: &mut Bus<'_>, selector: u16, level: u8, long: bool) -> Flow<Segment> {
        if selector & !3 == 0 {
            if long && level < 3 && selector as u8 & 3 == level {
                return Ok(Segment::null(selector));
            }
            return self.raise_code(vector::GP, 0);
        }
        let code = selector_code(selector, 0);
        let descriptor = self.descriptor(bus, selector, vector::GP, 0)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        if selector as u8 & 3 != level || segment.dpl() != level || !segment.is_writable_data() {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::SS, code);
        }
        self.mark_accessed(bus, selector, descriptor)?;
        Ok(segment)
    }

    /// Finishes a return: loads CS, and SS with its pointer if the level changes.
    pub(crate) fn return_to(&mut self, segment: Segment, selector: u16, rip: u64, stack: Option<(Segment, u64)>) {
        if let Some((stack, _)) = stack {
            self.segments[SS] = stack;
        }
        self.set_code_segment(segment, selector, selector as u8 & 3, rip);
        if let Some((_, pointer)) = stack {
            self.set_stack_pointer(pointer);
            self.drop_inner_segments();
        }
    }
}

/// `RETF` and `RETF imm`
pub(crate) fn retf(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let size = u64::from(op.size);
    let rip = core.peek(bus, op.size, 0)?;
    let selector = core.peek(bus, op.size, size)? as u16;
    if !core.is_protected() {
        let limit = core.segments[CS];
        core.check_limit(&limit, rip)?;
        core.release(2 * size + op.imm);
        core.real_far(&Target { selector, offset: rip });
        return Ok(());
    }
    let segment = core.return_segment(bus, selector)?;
    core.check_limit(&segment, rip)?;
    let level = selector as u8 & 3;
    if level == core.cpl {
        core.release(2 * size + op.imm);
        core.return_to(segment, selector, rip, None);
        return Ok(());
    }
    let pointer = core.peek(bus, op.size, 2 * size + op.imm)?;
    let stack_selector = core.peek(bus, op.size, 3 * size + op.imm)? as u16;
    let long = core.is_long() && segment.is_long();
    let stack = core.return_stack(bus, stack_selector, level, long)?;
    core.return_to(segment, selector, rip, Some((stack, pointer.wrapping_add(op.imm))));
    Ok(())
}

/// `INT n` (`op.imm`), `INT3`
pub(crate) fn int(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.is_v86() && core.rflags & bit::IOPL != bit::IOPL && op.bits == 0 {
        return core.raise_code(vector::GP, 0);
    }
    core.software_interrupt(bus, op, op.imm as u8, true)
}

/// `INT1`
pub(crate) fn int1(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    core.software_interrupt(bus, op, vector::DB, false)
}

/// `INTO`
pub(crate) fn into(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.flags.of() { core.software_interrupt(bus, op, vector::OF, true) } else { Ok(()) }
}

impl Core {
    fn software_interrupt(&mut self, bus: &mut Bus<'_>, op: &Op, vector: u8, checked: bool) -> Flow {
        self.rip = self.regs[BLOCK].wrapping_add(u64::from(op.end)) & self.rip_mask;
        let event = if checked { Event::software(vector) } else { Event::trap(vector) };
        self.enter_gate(bus, &event)?;
        self.step_suppressed = true;
        Ok(())
    }
}
