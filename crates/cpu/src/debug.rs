//! Breakpoints: what a debugger outside the guest sets ([`Debugger`]) and the guest's own debug registers. The protocol
//! that a debugger speaks is not here.

use crate::core::{ATTENTION_BREAK, ATTENTION_TRAP, ATTENTION_WATCH, Core, bit};
use crate::tlb::Set;

/// What the debugger outside asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Debugger {
    pub(crate) breakpoints: Vec<u64>,
    pub(crate) watchpoints: Vec<Watchpoint>,
    pub(crate) single_step: bool,
    /// The breakpoint that the last `run` stopped at: the next one executes what is there.
    pub(crate) stopped_at: Option<u64>,
    /// The watchpoint that was just hit: its address, and whether by a write.
    pub(crate) hit: Option<(u64, bool)>,
}

/// A range of linear addresses whose use stops the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchpoint {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// Stop on reads.
    pub read: bool,
    /// Stop on writes.
    pub write: bool,
}

impl Core {
    /// Whether DR7 enables breakpoint `index`.
    fn breakpoint_enabled(&self, index: usize) -> bool {
        self.dr7 >> (2 * index) & 3 != 0
    }

    fn breakpoint_kind(&self, index: usize) -> u64 {
        self.dr7 >> (16 + 4 * index) & 3
    }

    /// First and last address of data breakpoint `index`.
    fn breakpoint_range(&self, index: usize) -> (u64, u64) {
        let len = match self.dr7 >> (18 + 4 * index) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let start = self.dr[index] & !(len - 1);
        (start, start + (len - 1))
    }

    /// Looks at everything that asks for breakpoints anew, after a change.
    pub(crate) fn update_breakpoints(&mut self) {
        let execution = (0..4).any(|index| self.breakpoint_enabled(index) && self.breakpoint_kind(index) == 0);
        let debugger = !self.debugger.breakpoints.is_empty() || self.debugger.single_step;
        // Data breakpoints stop right after the instruction, so what follows in its block has to wait too.
        if execution || debugger || self.watches_data() {
            self.attention |= ATTENTION_BREAK;
        } else {
            self.attention &= !ATTENTION_BREAK;
        }
        self.select_translations();
    }

    /// Whether every access to data has to be looked at.
    pub(crate) fn watches_data(&self) -> bool {
        !self.debugger.watchpoints.is_empty()
            || (0..4).any(|index| self.breakpoint_enabled(index) && self.breakpoint_kind(index) & 1 != 0)
    }

    /// Chooses the translations that the current privilege and debugging allow.
    pub(crate) fn select_translations(&mut self) {
        let aligned = self.cpl == 3 && self.rflags & bit::AC != 0 && self.cr0 & bit::CR0_AM != 0;
        let set = match (aligned || self.watches_data(), self.cpl == 3) {
            (true, _) => Set::Checked,
            (false, true) => Set::User,
            (false, false) => Set::Supervisor,
        };
        self.tlb.select(set);
    }

    /// DR6 bits of the execution breakpoints at this linear address.
    pub(crate) fn execution_breakpoints(&self, address: u64) -> u64 {
        (0..4)
            .filter(|&index| {
                self.breakpoint_enabled(index) && self.breakpoint_kind(index) == 0 && self.dr[index] == address
            })
            .fold(0, |bits, index| bits | 1 << index)
    }

    /// Notes the data breakpoints that an access hits; the trap comes after the instruction.
    #[cold]
    pub(crate) fn check_watchpoints(&mut self, address: u64, size: u64, write: bool) {
        let last = address.wrapping_add(size - 1);
        let mut hits = 0;
        for index in 0..4 {
            let kind = self.breakpoint_kind(index);
            let (start, end) = self.breakpoint_range(index);
            if self.breakpoint_enabled(index) && (kind == 3 || kind == 1 && write) && address <= end && last >= start {
                hits |= 1 << index;
            }
        }
        if hits != 0 {
            self.debug_trap |= hits;
            self.attention |= ATTENTION_TRAP;
        }
        let watched = self.debugger.watchpoints.iter().find(|point| {
            (if write { point.write } else { point.read })
                && address <= point.address.saturating_add(point.len - 1)
                && last >= point.address
        });
        if let Some(point) = watched {
            self.debugger.hit = Some((address.max(point.address), write));
            self.attention |= ATTENTION_WATCH;
        }
    }
}
