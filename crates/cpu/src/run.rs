//! The run loop: finds blocks and executes them, and between them looks at signals, traps, interrupts and breakpoints in
//! the order of priority that the architecture gives them.

use crate::cache::Exits;
use crate::core::{
    ATTENTION_BREAK, ATTENTION_IDLE, ATTENTION_RESUME, ATTENTION_SHADOW, ATTENTION_SHADOW_SS, ATTENTION_STEP,
    ATTENTION_TRAP, ATTENTION_WATCH, BLOCK, Bus, Core, Fault, Op, Stop, bit, vector,
};
use crate::exception::Event;
use crate::platform::{SIGNAL_EXIT, SIGNAL_FLUSH, SIGNAL_INIT, SIGNAL_INTERRUPT, SIGNAL_NMI, SIGNAL_SIPI};
use crate::registers::{Activity, CS};
use crate::segment::Segment;
use crate::{Cpu, DebugStop, Exit, step};

/// DR6: single-step trap.
const DR6_STEP: u64 = 1 << 14;

/// What to do after looking at everything that isn't plain execution.
enum Next {
    /// Execute whole blocks.
    Blocks,
    /// Execute one instruction; single-step trap after it if set.
    One(bool),
    /// Look again: an event was delivered.
    Again,
    Leave(Exit),
}

/// Why the CPU stopped executing whole blocks.
#[derive(PartialEq, Eq)]
enum Pause {
    /// Something wants attention, or the budget is used up.
    Attention,
    /// The next block is longer than what is left of the budget.
    TooLong,
}

impl Cpu {
    pub(crate) fn run_with(&mut self, bus: &mut Bus<'_>, budget: u64) -> Exit {
        self.core.refresh_memory_map();
        let end = self.core.instructions.saturating_add(budget);
        let mut first = true;
        loop {
            let core = &mut self.core;
            let limit = end - core.instructions;
            if core.wants_attention() {
                if limit == 0 && (core.attention & ATTENTION_IDLE == 0 || core.wakes()) {
                    return Exit::Budget;
                }
                match core.attend(bus, first) {
                    Next::Blocks => {}
                    Next::One(trap) if limit > 0 => {
                        first = false;
                        self.run_single(bus, 1, trap);
                        continue;
                    }
                    Next::One(_) => {}
                    Next::Again => {
                        first = false;
                        continue;
                    }
                    Next::Leave(exit) => return exit,
                }
                first = false;
            }
            if limit == 0 {
                return Exit::Budget;
            }
            if self.run_blocks(bus, end) == Pause::TooLong {
                self.run_single(bus, end - self.core.instructions, false);
            }
        }
    }

    /// Executes blocks as long as nothing wants attention and they fit into the budget.
    #[inline(never)]
    fn run_blocks(&mut self, bus: &mut Bus<'_>, end: u64) -> Pause {
        let Self { core, cache } = self;
        let mut exit = Exits::default();
        while !core.wants_attention() {
            core.notice_changed_code();
            let index = match cache.recent(core, exit) {
                Some(index) => index,
                None if core.instructions == end => return Pause::Attention,
                None => {
                    let Ok(index) = cache.find(core) else {
                        core.deliver_fault(bus);
                        return Pause::Attention;
                    };
                    index
                }
            };
            let (found, ops) = cache.block(index);
            let (begin, stamp) = (core.rip, core.stamp);
            loop {
                let left = end - core.instructions;
                if u64::from(found.instructions) > left {
                    return if left == 0 { Pause::Attention } else { Pause::TooLong };
                }
                core.regs[BLOCK] = begin;
                core.rip = begin.wrapping_add(u64::from(found.len)) & core.rip_mask;
                exit = match step::next(core, bus, ops) {
                    Ok(()) => {
                        core.instructions += u64::from(found.instructions);
                        Exits::end(index)
                    }
                    Err(Stop::Left) => Exits::branch(index),
                    Err(stop) => {
                        core.stop(bus, &ops[ops.len() - 1 - core.left], stop);
                        break;
                    }
                };
                // Small loops are a block that branches to its own start.
                let again = core.rip == begin && core.stamp == stamp && core.code_is_unchanged();
                if !again || core.wants_attention() {
                    break;
                }
            }
        }
        Pause::Attention
    }

    /// Executes at most `limit` instructions one by one, up to the end of a block.
    #[inline(never)]
    fn run_single(&mut self, bus: &mut Bus<'_>, limit: u64, mut trap_after: bool) {
        let Self { core, cache } = self;
        core.notice_changed_code();
        let Ok(index) = cache.find_single(core) else {
            return core.deliver_fault(bus);
        };
        let (_, ops) = cache.block(index);
        let ops = &ops[..ops.len().min(limit as usize)];
        let len = ops.last().map_or(0, |op| u64::from(op.end));
        core.regs[BLOCK] = core.rip;
        core.rip = core.rip.wrapping_add(len) & core.rip_mask;
        let stopped = ops.iter().find_map(|op| (op.run)(core, bus, op).err().map(|stop| (op, stop)));
        match stopped {
            None => core.instructions += ops.len() as u64,
            Some((op, stop)) => {
                core.stop(bus, op, stop);
                trap_after &= stop != Stop::Fault;
            }
        }
        if trap_after {
            core.trap_step();
        }
    }
}

impl Core {
    #[inline(always)]
    fn wants_attention(&self) -> bool {
        self.attention != 0 || self.signals.pending() & self.signal_mask != 0
    }

    /// Whether no code was overwritten lately.
    #[inline(always)]
    fn code_is_unchanged(&self) -> bool {
        self.memory.ram().code_epoch() == self.code_epoch
    }

    /// Makes sure that no stale block is taken for current.
    #[inline(always)]
    fn notice_changed_code(&mut self) {
        let epoch = self.memory.ram().code_epoch();
        if epoch != self.code_epoch {
            self.code_epoch = epoch;
            self.forget_blocks();
        }
    }

    /// Leaves a block in the middle.
    #[inline(never)]
    fn stop(&mut self, bus: &mut Bus<'_>, op: &Op, stop: Stop) {
        if stop == Stop::Left {
            return;
        }
        self.instructions += u64::from(op.number);
        match stop {
            Stop::Fault => {
                self.rip = self.this_rip(op);
                self.deliver_fault(bus);
            }
            Stop::Sync => {
                self.rip = self.next_rip(op);
                self.instructions += 1;
            }
            Stop::Again | Stop::Left => self.rip = self.this_rip(op),
        }
    }

    /// After an instruction that began with TF or RF set.
    fn trap_step(&mut self) {
        if self.attention & ATTENTION_SHADOW_SS == 0 && !self.step_suppressed {
            self.debug_trap |= DR6_STEP;
            self.attention |= ATTENTION_TRAP;
        }
    }

    /// Everything between two instructions but executing.
    #[cold]
    fn attend(&mut self, bus: &mut Bus<'_>, first: bool) -> Next {
        self.step_suppressed = false;
        if let Some(next) = self.attend_requests() {
            return next;
        }
        let shadow = self.attention & (ATTENTION_SHADOW | ATTENTION_SHADOW_SS);
        if self.attention & ATTENTION_WATCH != 0 {
            self.attention &= !ATTENTION_WATCH;
            if let Some((address, write)) = self.debugger.hit.take() {
                return Next::Leave(Exit::Debug(DebugStop::Watchpoint { address, write }));
            }
        }
        if self.debugger.single_step && !first {
            return Next::Leave(Exit::Debug(DebugStop::Step));
        }
        if self.attention & ATTENTION_TRAP != 0 && shadow & ATTENTION_SHADOW_SS == 0 {
            self.attention &= !ATTENTION_TRAP;
            self.dr6 |= std::mem::take(&mut self.debug_trap);
            self.dr7 &= !(1 << 13);
            self.deliver(bus, Event::trap(vector::DB));
            return Next::Again;
        }
        if shadow == 0 && self.attend_interrupts(bus) {
            return Next::Again;
        }
        if self.attention & ATTENTION_BREAK != 0 {
            let linear = self.segments[CS].base.wrapping_add(self.rip);
            let passed = self.debugger.stopped_at.take() == Some(linear);
            if !passed && self.debugger.breakpoints.contains(&linear) {
                self.debugger.stopped_at = Some(linear);
                return Next::Leave(Exit::Debug(DebugStop::Breakpoint));
            }
            let hits = self.execution_breakpoints(linear);
            if hits != 0 && self.rflags & bit::RF == 0 && shadow & ATTENTION_SHADOW_SS == 0 {
                self.dr6 |= hits;
                self.dr7 &= !(1 << 13);
                self.fault = Fault { vector: vector::DB, error: None, address: 0 };
                self.deliver_fault(bus);
                return Next::Again;
            }
        }
        self.attention &= !(ATTENTION_SHADOW | ATTENTION_SHADOW_SS);
        let one = self.attention & (ATTENTION_STEP | ATTENTION_BREAK | ATTENTION_RESUME) | shadow;
        if one == 0 {
            return Next::Blocks;
        }
        self.rflags &= !bit::RF;
        self.attention &= !ATTENTION_RESUME;
        Next::One(self.rflags & bit::TF != 0)
    }

    /// Requests from outside, and waiting.
    fn attend_requests(&mut self) -> Option<Next> {
        let pending = self.signals.pending();
        if pending & SIGNAL_EXIT != 0 && self.signals.take(SIGNAL_EXIT) {
            return Some(Next::Leave(Exit::Kicked));
        }
        if pending & SIGNAL_FLUSH != 0 && self.signals.take(SIGNAL_FLUSH) {
            self.refresh_memory_map();
        }
        if pending & SIGNAL_INIT != 0 && self.signals.take(SIGNAL_INIT) {
            self.init();
        }
        if pending & SIGNAL_SIPI != 0 && self.signals.take(SIGNAL_SIPI) && self.activity == Activity::WaitForSipi {
            let page = u16::from(self.signals.sipi_vector());
            self.segments[CS] = Segment::new(page << 8, u64::from(page) << 12, 0xffff, 0x9b);
            self.rip = 0;
            self.set_activity(Activity::Running);
            self.update_mode();
        }
        match self.activity {
            Activity::Running => None,
            Activity::WaitForSipi => Some(Next::Leave(Exit::WaitForSipi)),
            Activity::Shutdown => Some(Next::Leave(Exit::Shutdown)),
            Activity::Halted => {
                if !self.wakes() {
                    return Some(Next::Leave(Exit::Halted));
                }
                self.set_activity(Activity::Running);
                None
            }
        }
    }

    /// Whether a halt ends, by something whose delivery counts as an instruction.
    fn wakes(&self) -> bool {
        let wakes = self.signal_mask & (SIGNAL_INTERRUPT | SIGNAL_NMI);
        self.activity == Activity::Halted
            && (self.signals.pending() & wakes != 0 || self.attention & ATTENTION_TRAP != 0)
    }

    /// Takes an NMI or an external interrupt if there is one; says whether it did.
    fn attend_interrupts(&mut self, bus: &mut Bus<'_>) -> bool {
        let pending = self.signals.pending() & self.signal_mask;
        if pending & SIGNAL_NMI != 0 && self.signals.take(SIGNAL_NMI) {
            self.nmi_blocked = true;
            self.update_flags();
            self.deliver(bus, Event::external(vector::NMI));
            return true;
        }
        if pending & SIGNAL_INTERRUPT != 0 {
            self.signals.set_instructions(self.instructions);
            if let Some(vector) = bus.acknowledge_interrupt() {
                self.deliver(bus, Event::external(vector));
                return true;
            }
        }
        false
    }
}
