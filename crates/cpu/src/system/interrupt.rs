//! Entering interrupt, trap and task gates in every mode, and the real-mode vector table.

use crate::core::{Bus, CodeSize, Core, Flow, RSP, bit, vector};
use crate::exception::Event;
use crate::registers::{CS, DS, ES, FS, GS, SS};
use crate::segment::Segment;
use crate::system::Switch;
use crate::system::descriptor::{NewStack, selector_code};

/// A gate of the IDT, unpacked.
struct Gate {
    selector: u16,
    offset: u64,
    kind: u8,
    dpl: u8,
    present: bool,
    ist: u8,
}

impl Core {
    /// Transfers control to the handler of an event. On failure nothing has changed but [`Core::fault`].
    pub(crate) fn enter_gate(&mut self, bus: &mut Bus<'_>, event: &Event) -> Flow {
        if self.cr0 & bit::CR0_PE == 0 {
            return self.enter_real(bus, event);
        }
        let gate = self.read_gate(bus, event)?;
        if gate.kind == 5 {
            if event.software {
                return self.switch_task_now(bus, gate.selector, Switch::Gate);
            }
            return self.switch_task(bus, gate.selector, Switch::Gate, event.error, event.ext())?;
        }
        if gate.selector & !3 == 0 {
            return self.raise_code(vector::GP, event.ext());
        }
        let code = selector_code(gate.selector, event.ext());
        let descriptor = self.descriptor(bus, gate.selector, vector::GP, event.ext())?;
        let segment = Segment::from_descriptor(gate.selector, descriptor);
        if !segment.is_code() || segment.dpl() > self.cpl {
            return self.raise_code(vector::GP, code);
        }
        if self.is_long() && (!segment.is_long() || segment.is_big()) {
            return self.raise_code(vector::GP, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, code);
        }
        let level = if segment.is_conforming() { self.cpl } else { segment.dpl() };
        if self.is_v86() && level != 0 {
            return self.raise_code(vector::GP, code);
        }
        self.mark_accessed(bus, gate.selector, descriptor)?;
        if self.is_long() {
            self.enter_long(bus, event, &gate, segment, level)
        } else {
            self.enter_protected(bus, event, &gate, segment, level)
        }
    }

    fn read_gate(&mut self, bus: &mut Bus<'_>, event: &Event) -> Flow<Gate> {
        let long = self.is_long();
        let size = if long { 16 } else { 8 };
        let code = u32::from(event.vector) * 8 + 2 + event.ext();
        let offset = u64::from(event.vector) * size;
        if offset + size - 1 > u64::from(self.idtr.limit) {
            return self.raise_code(vector::GP, code);
        }
        let address = self.idtr.base.wrapping_add(offset);
        let low = self.load_system::<u64>(bus, address)?;
        let high = if long { self.load_system::<u64>(bus, address.wrapping_add(8))? } else { 0 };
        let gate = Gate {
            selector: (low >> 16) as u16,
            offset: (low & 0xffff) | (low >> 32 & 0xffff_0000) | high << 32,
            kind: (low >> 40 & 0x1f) as u8,
            dpl: (low >> 45 & 3) as u8,
            present: low >> 47 & 1 != 0,
            ist: if long { (low >> 32 & 7) as u8 } else { 0 },
        };
        let known = matches!(gate.kind, 0xe | 0xf) || !long && matches!(gate.kind, 5..=7);
        if !known || event.software && gate.dpl < self.cpl {
            return self.raise_code(vector::GP, code);
        }
        if !gate.present {
            return self.raise_code(vector::NP, code);
        }
        Ok(gate)
    }

    fn pushed_flags(&self, event: &Event) -> u64 {
        let resume = if event.resume { bit::RF } else { 0 };
        self.read_rflags() | resume
    }

    fn enter_real(&mut self, bus: &mut Bus<'_>, event: &Event) -> Flow {
        let offset = u64::from(event.vector) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return self.raise_code(vector::GP, u32::from(event.vector) * 8 + 2);
        }
        let entry = self.load_system::<u32>(bus, self.idtr.base.wrapping_add(offset))?;
        let mut stack = NewStack::new(self.segments[SS], self.regs[RSP], false, 0);
        stack.push(self, bus, 2, self.read_rflags())?;
        stack.push(self, bus, 2, u64::from(self.segments[CS].selector))?;
        stack.push(self, bus, 2, self.rip)?;
        self.regs[RSP] = stack.pointer;
        self.segments[CS].load_real((entry >> 16) as u16);
        self.rip = u64::from(entry & 0xffff);
        self.rflags &= !(bit::IF | bit::TF | bit::AC | bit::RF);
        self.update_mode();
        Ok(())
    }

    fn enter_protected(
        &mut self,
        bus: &mut Bus<'_>,
        event: &Event,
        gate: &Gate,
        mut segment: Segment,
        level: u8,
    ) -> Flow {
        let size = if gate.kind & 8 != 0 { 4 } else { 2 };
        let inner = level < self.cpl;
        let old_ss = self.segments[SS].selector;
        let mut stack = if inner {
            let (selector, pointer) = self.inner_stack(bus, level, event.ext())?;
            let new = self.inner_stack_segment(bus, selector, level, event.ext())?;
            NewStack::new(new, pointer, level == 3, selector_code(selector, event.ext()))
        } else {
            NewStack::new(self.segments[SS], self.regs[RSP], self.cpl == 3, event.ext())
        };
        let flags = self.pushed_flags(event);
        if inner {
            if self.is_v86() {
                for index in [GS, FS, DS, ES] {
                    stack.push(self, bus, size, u64::from(self.segments[index].selector))?;
                }
            }
            stack.push(self, bus, size, u64::from(old_ss))?;
            stack.push(self, bus, size, self.regs[RSP])?;
        }
        stack.push(self, bus, size, flags)?;
        stack.push(self, bus, size, u64::from(self.segments[CS].selector))?;
        stack.push(self, bus, size, self.rip)?;
        if let Some(error) = event.error {
            stack.push(self, bus, size, u64::from(error))?;
        }
        if inner {
            if self.is_v86() {
                for index in [GS, FS, DS, ES] {
                    self.segments[index] = Segment::null(0);
                }
            }
            self.segments[SS] = stack.segment;
        }
        self.regs[RSP] = stack.pointer;
        segment.selector = gate.selector & !3 | u16::from(level);
        self.finish_gate(gate, segment, level, if size == 4 { gate.offset } else { gate.offset & 0xffff });
        Ok(())
    }

    fn enter_long(&mut self, bus: &mut Bus<'_>, event: &Event, gate: &Gate, mut segment: Segment, level: u8) -> Flow {
        if !crate::memory::is_canonical(gate.offset) {
            return self.raise_code(vector::GP, event.ext());
        }
        let inner = level < self.cpl;
        let pointer = if gate.ist != 0 {
            self.long_stack(bus, 0x24 + u64::from(gate.ist - 1) * 8, event.ext())?
        } else if inner {
            self.long_stack(bus, 4 + u64::from(level) * 8, event.ext())?
        } else if self.code == CodeSize::Bits64 {
            self.regs[RSP]
        } else {
            self.regs[RSP] & self.stack_mask
        };
        let mut stack = NewStack {
            segment: self.segments[SS],
            pointer: pointer & !15,
            mask: u64::MAX,
            user: level == 3,
            code: event.ext(),
        };
        stack.push(self, bus, 8, u64::from(self.segments[SS].selector))?;
        stack.push(self, bus, 8, self.regs[RSP])?;
        stack.push(self, bus, 8, self.pushed_flags(event))?;
        stack.push(self, bus, 8, u64::from(self.segments[CS].selector))?;
        stack.push(self, bus, 8, self.rip)?;
        if let Some(error) = event.error {
            stack.push(self, bus, 8, u64::from(error))?;
        }
        if inner {
            self.segments[SS] = Segment::null(u16::from(level));
        }
        self.regs[RSP] = stack.pointer;
        segment.selector = gate.selector & !3 | u16::from(level);
        self.finish_gate(gate, segment, level, gate.offset);
        Ok(())
    }

    fn finish_gate(&mut self, gate: &Gate, segment: Segment, level: u8, rip: u64) {
        self.segments[CS] = segment;
        self.cpl = level;
        self.rip = rip;
        self.rflags &= !(bit::TF | bit::VM | bit::RF | bit::NT);
        if gate.kind & 1 == 0 {
            self.rflags &= !bit::IF;
        }
        self.update_mode();
    }
}
