//! `IRET` in every mode.

use crate::core::{Bus, Core, Flow, Op, bit, vector};
use crate::memory::is_canonical;
use crate::registers::{CS, DS, ES, FS, GS, SS};
use crate::segment::Segment;
use crate::system::Switch;

/// `IRET`, `IRETD`, `IRETQ`
pub(crate) fn iret(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    // NMIs come again even if the return faults (SDM volume 3, 6.7.1 and 26.1.2).
    core.nmi_blocked = false;
    core.update_flags();
    if core.is_long() {
        core.iret_long(bus, op)?;
    } else if !core.is_protected() {
        core.iret_real(bus, op)?;
    } else if core.rflags & bit::NT != 0 {
        let link = core.load_system::<u16>(bus, core.tr.base)?;
        core.rip = core.next_rip(op);
        core.switch_task_now(bus, link, Switch::Return)?;
    } else {
        core.iret_protected(bus, op)?;
    }
    Ok(())
}

impl Core {
    fn iret_real(&mut self, bus: &mut Bus<'_>, op: &Op) -> Flow {
        if self.is_v86() && self.rflags & bit::IOPL != bit::IOPL {
            return self.raise_code(vector::GP, 0);
        }
        let size = u64::from(op.size);
        let rip = self.peek(bus, op.size, 0)?;
        let selector = self.peek(bus, op.size, size)? as u16;
        let flags = self.peek(bus, op.size, 2 * size)?;
        if rip > u64::from(self.segments[CS].limit) {
            return self.raise_code(vector::GP, 0);
        }
        self.release(3 * size);
        if self.is_v86() {
            self.segments[CS] = Segment::virtual_8086(selector);
        } else {
            self.segments[CS].load_real(selector);
        }
        self.rip = rip;
        self.return_flags(flags, op.size);
        self.update_mode();
        Ok(())
    }

    /// Writes the flags popped, with the rights of the privilege before the return.
    fn return_flags(&mut self, flags: u64, size: u8) {
        self.write_flags(flags, size);
        if size > 2 && flags & bit::RF != 0 {
            self.rflags |= bit::RF;
            self.update_flags();
        }
    }

    fn iret_protected(&mut self, bus: &mut Bus<'_>, op: &Op) -> Flow {
        let size = u64::from(op.size);
        let rip = self.peek(bus, op.size, 0)?;
        let selector = self.peek(bus, op.size, size)? as u16;
        let flags = self.peek(bus, op.size, 2 * size)?;
        if op.size == 4 && flags & bit::VM != 0 && self.cpl == 0 {
            return self.iret_to_v86(bus, rip, selector, flags);
        }
        let segment = self.return_segment(bus, selector)?;
        if rip > u64::from(segment.limit) {
            return self.raise_code(vector::GP, 0);
        }
        self.return_from_frame(bus, op, segment, selector, rip, flags, false)
    }

    fn iret_to_v86(&mut self, bus: &mut Bus<'_>, rip: u64, selector: u16, flags: u64) -> Flow {
        let mut values = [0; 6];
        for (index, value) in values.iter_mut().enumerate() {
            *value = self.peek(bus, 4, 12 + 4 * index as u64)?;
        }
        if rip > 0xffff {
            return self.raise_code(vector::GP, 0);
        }
        let [esp, ss, es, ds, fs, gs] = values;
        for (index, value) in [(SS, ss), (ES, es), (DS, ds), (FS, fs), (GS, gs)] {
            self.segments[index] = Segment::virtual_8086(value as u16);
        }
        self.segments[CS] = Segment::virtual_8086(selector);
        self.regs[crate::core::RSP] = esp;
        self.cpl = 3;
        self.rip = rip;
        self.set_rflags(flags);
        self.update_mode();
        Ok(())
    }

    fn iret_long(&mut self, bus: &mut Bus<'_>, op: &Op) -> Flow {
        if self.rflags & bit::NT != 0 {
            return self.raise_code(vector::GP, 0);
        }
        let size = u64::from(op.size);
        let rip = self.peek(bus, op.size, 0)?;
        let selector = self.peek(bus, op.size, size)? as u16;
        let flags = self.peek(bus, op.size, 2 * size)?;
        let segment = self.return_segment(bus, selector)?;
        let long = segment.is_long();
        let good = if long { is_canonical(rip) } else { rip <= u64::from(segment.limit) };
        if !good {
            return self.raise_code(vector::GP, 0);
        }
        self.return_from_frame(bus, op, segment, selector, rip, flags, long)
    }

    /// The part that both share: the old stack comes off the frame too where privilege changes, and always in 64-bit
    /// mode. `long`: the return is to 64-bit code.
    fn return_from_frame(
        &mut self,
        bus: &mut Bus<'_>,
        op: &Op,
        segment: Segment,
        selector: u16,
        rip: u64,
        flags: u64,
        long: bool,
    ) -> Flow {
        let size = u64::from(op.size);
        let level = selector as u8 & 3;
        if level == self.cpl && !self.is_code_64() {
            self.release(3 * size);
            self.return_flags(flags, op.size);
            self.return_to(segment, selector, rip, None);
            return Ok(());
        }
        let pointer = self.peek(bus, op.size, 3 * size)?;
        let stack_selector = self.peek(bus, op.size, 4 * size)? as u16;
        let stack = self.return_stack(bus, stack_selector, level, long)?;
        self.return_flags(flags, op.size);
        self.return_to(segment, selector, rip, Some((stack, pointer)));
        Ok(())
    }
}
