//! Hardware task switches between 16- and 32-bit task states.

use crate::core::{ATTENTION_TRAP, Bus, Core, Flow, bit, vector};
use crate::flags::Lazy;
use crate::registers::{CS, DS, ES, FS, GS, SS};
use crate::segment::{Segment, attribute};
use crate::system::descriptor::selector_code;

/// DR6: the task switched to asks for a debug trap.
const DR6_TASK_SWITCH: u64 = 1 << 15;

/// What causes a task switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    Jump,
    Call,
    /// An interrupt or exception through a task gate.
    Gate,
    /// IRET with NT set.
    Return,
}

/// The registers in a task state.
struct TaskState {
    cr3: u32,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    /// ES, CS, SS, DS, FS, GS, LDT.
    selectors: [u16; 7],
    /// The T bit: a debug trap follows the switch.
    trap: bool,
}

impl Core {
    /// As [`Core::switch_task`], by an instruction: a fault inside the new task is delivered there at once, since it isn't
    /// the instruction's.
    pub(crate) fn switch_task_now(&mut self, bus: &mut Bus<'_>, selector: u16, why: Switch) -> Flow {
        if self.switch_task(bus, selector, why, None, 0)?.is_err() {
            self.deliver_within(bus);
        }
        Ok(())
    }

    /// Switches to the task whose state `selector` names; RIP is already past the instruction (or at the fault). The
    /// outer failure leaves the old task as it was, the inner one is a fault in the context of the new task.
    pub(crate) fn switch_task(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        why: Switch,
        error: Option<u32>,
        ext: u32,
    ) -> Flow<Flow> {
        let bad = if why == Switch::Return { vector::TS } else { vector::GP };
        let code = selector_code(selector, ext);
        if selector & 4 != 0 || selector & !3 == 0 {
            return self.raise_code(bad, code);
        }
        let descriptor = self.descriptor(bus, selector, bad, ext)?;
        let new = Segment::from_descriptor(selector, descriptor);
        let wanted = if why == Switch::Return { 3 } else { 1 };
        if new.has(attribute::NOT_SYSTEM) || new.kind() & 7 != wanted {
            return self.raise_code(bad, code);
        }
        if !new.is_present() {
            return self.raise_code(vector::NP, code);
        }
        let wide = new.kind() & 8 != 0;
        if new.limit < if wide { 0x67 } else { 0x2b } {
            return self.raise_code(vector::TS, code);
        }
        let state = self.read_task(bus, new.base, wide)?;
        self.save_task(bus, why)?;
        let old_selector = self.tr.selector;
        if matches!(why, Switch::Jump | Switch::Return) {
            self.set_busy(bus, old_selector, false)?;
        }
        if matches!(why, Switch::Call | Switch::Gate) {
            self.store_system(bus, new.base, old_selector)?;
        }
        if why != Switch::Return {
            self.set_busy(bus, selector, true)?;
        }
        self.tr = new;
        self.tr.attributes |= 2;
        let entered = self.begin_task(bus, &state, why, wide, error);
        if entered.is_err()
            && matches!(self.fault.vector, vector::TS | vector::NP | vector::SS | vector::GP)
            && let Some(code) = &mut self.fault.error
        {
            *code |= ext;
        }
        Ok(entered)
    }

    /// Everything that may fault in the new task.
    fn begin_task(
        &mut self,
        bus: &mut Bus<'_>,
        state: &TaskState,
        why: Switch,
        wide: bool,
        error: Option<u32>,
    ) -> Flow {
        self.enter_task(bus, state, why, wide)?;
        if let Some(error) = error {
            let size = if wide { 4 } else { 2 };
            crate::memory::done(self.push(bus, size, u64::from(error)))?;
        }
        if self.rip > u64::from(self.segments[CS].limit) {
            return self.raise_code(vector::GP, 0);
        }
        if state.trap {
            self.debug_trap |= DR6_TASK_SWITCH;
            self.attention |= ATTENTION_TRAP;
        }
        Ok(())
    }

    fn set_busy(&mut self, bus: &mut Bus<'_>, selector: u16, busy: bool) -> Flow {
        let Some(address) = self.descriptor_address(selector, 8) else { return Ok(()) };
        let access = self.load_system::<u8>(bus, address.wrapping_add(5))?;
        self.store_system(bus, address.wrapping_add(5), if busy { access | 2 } else { access & !2 })
    }

    fn read_task(&mut self, bus: &mut Bus<'_>, base: u64, wide: bool) -> Flow<TaskState> {
        let mut state = TaskState { cr3: 0, eip: 0, eflags: 0, gpr: [0; 8], selectors: [0; 7], trap: false };
        if wide {
            state.trap = self.load_system::<u16>(bus, base + 0x64)? & 1 != 0;
            state.cr3 = self.load_system(bus, base + 0x1c)?;
            state.eip = self.load_system(bus, base + 0x20)?;
            state.eflags = self.load_system(bus, base + 0x24)?;
            for index in 0..8 {
                state.gpr[index] = self.load_system(bus, base + 0x28 + 4 * index as u64)?;
            }
            for index in 0..7 {
                state.selectors[index] = self.load_system(bus, base + 0x48 + 4 * index as u64)?;
            }
        } else {
            state.eip = u32::from(self.load_system::<u16>(bus, base + 0xe)?);
            state.eflags = u32::from(self.load_system::<u16>(bus, base + 0x10)?);
            for index in 0..8 {
                state.gpr[index] = u32::from(self.load_system::<u16>(bus, base + 0x12 + 2 * index as u64)?);
            }
            for (index, at) in [(0, 0x22), (1, 0x24), (2, 0x26), (3, 0x28), (6, 0x2a)] {
                state.selectors[index] = self.load_system(bus, base + at)?;
            }
        }
        Ok(state)
    }

    fn save_task(&mut self, bus: &mut Bus<'_>, why: Switch) -> Flow {
        let base = self.tr.base;
        let mut flags = self.read_rflags();
        if why == Switch::Return {
            flags &= !bit::NT;
        }
        if self.tr.kind() & 8 != 0 {
            self.store_system(bus, base + 0x20, self.rip as u32)?;
            self.store_system(bus, base + 0x24, flags as u32)?;
            for index in 0..8 {
                self.store_system(bus, base + 0x28 + 4 * index as u64, self.regs[index] as u32)?;
            }
            for index in 0..6 {
                self.store_system(bus, base + 0x48 + 4 * index as u64, self.segments[index].selector)?;
            }
        } else {
            self.store_system(bus, base + 0xe, self.rip as u16)?;
            self.store_system(bus, base + 0x10, flags as u16)?;
            for index in 0..8 {
                self.store_system(bus, base + 0x12 + 2 * index as u64, self.regs[index] as u16)?;
            }
            for index in 0..4 {
                self.store_system(bus, base + 0x22 + 2 * index as u64, self.segments[index].selector)?;
            }
        }
        Ok(())
    }

    fn enter_task(&mut self, bus: &mut Bus<'_>, state: &TaskState, why: Switch, wide: bool) -> Flow {
        if wide && self.cr0 & bit::CR0_PG != 0 {
            self.cr3 = u64::from(state.cr3);
            self.load_pdptes_quietly();
            self.flush_local_translations();
        }
        self.cr0 |= bit::CR0_TS;
        self.rip = u64::from(state.eip);
        for index in 0..8 {
            self.regs[index] = u64::from(state.gpr[index]);
        }
        self.flags = Lazy::from_bits(0);
        let mut flags = u64::from(state.eflags);
        if matches!(why, Switch::Call | Switch::Gate) {
            flags |= bit::NT;
        }
        self.set_rflags(flags);
        self.dr7 &= !0x155;
        self.update_breakpoints();
        for index in 0..6 {
            self.segments[index] = Segment::null(state.selectors[index]);
        }
        self.ldtr = Segment::null(state.selectors[6]);
        if self.is_v86() {
            self.cpl = 3;
            for index in 0..6 {
                self.segments[index] = Segment::virtual_8086(state.selectors[index]);
            }
            self.update_mode();
            return self.load_task_ldt(bus, state.selectors[6]);
        }
        self.cpl = state.selectors[CS] as u8 & 3;
        self.load_task_ldt(bus, state.selectors[6])?;
        self.load_task_segments(bus, state)
    }

    fn load_task_ldt(&mut self, bus: &mut Bus<'_>, selector: u16) -> Flow {
        if selector & !3 == 0 {
            return Ok(());
        }
        let code = selector_code(selector, 0);
        let descriptor = self.descriptor(bus, selector, vector::TS, 0)?;
        let table = Segment::from_descriptor(selector, descriptor);
        if selector & 4 != 0 || table.has(attribute::NOT_SYSTEM) || table.kind() != 2 || !table.is_present() {
            return self.raise_code(vector::TS, code);
        }
        self.ldtr = table;
        Ok(())
    }

    fn load_task_segments(&mut self, bus: &mut Bus<'_>, state: &TaskState) -> Flow {
        let selector = state.selectors[CS];
        let code = selector_code(selector, 0);
        let descriptor = self.descriptor(bus, selector, vector::TS, 0)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let level = if segment.is_conforming() { segment.dpl() <= self.cpl } else { segment.dpl() == self.cpl };
        if selector & !3 == 0 || !segment.is_code() || !level {
            return self.raise_code(vector::TS, code);
        }
        if !segment.is_present() {
            return self.raise_code(vector::NP, code);
        }
        self.segments[CS] = segment;
        self.update_mode();
        let stack = self.inner_stack_segment(bus, state.selectors[SS], self.cpl, 0)?;
        self.segments[SS] = stack;
        self.update_mode();
        for index in [ES, DS, FS, GS] {
            if let Err(stop) = self.load_segment(bus, index, state.selectors[index]) {
                if self.fault.vector == vector::GP {
                    self.fault.vector = vector::TS;
                }
                return Err(stop);
            }
        }
        Ok(())
    }
}
