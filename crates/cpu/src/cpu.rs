//! [`Cpu`]: the crate's face. Creation, reset, register access and debugging; the run loop itself is in `run`.

use std::sync::Arc;

use ferro_guest::GuestMemory;

use crate::cache::Cache;
use crate::core::{ATTENTION_WATCH, Core};
use crate::debug::Watchpoint;
use crate::registers::Registers;
use crate::tlb::Access;
use crate::{Activity, Platform, Signals};

/// What a CPU is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuConfig {
    /// Its APIC identifier. The CPU with identifier 0 is the boot CPU.
    pub apic_id: u32,
    /// How many CPUs the VM has.
    pub vcpus: u32,
    /// Ticks of the time stamp counter per millisecond.
    pub tsc_khz: u32,
    /// Ticks of the APIC timer per second, as CPUID leaf 0x15 and the hypervisor leaf 0x40000010 tell it; 0: not told.
    pub apic_hz: u32,
}

/// Why [`Cpu::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The CPU executed HLT and no event to wake it is pending: call again when [`Signals`] changed.
    Halted,
    /// The budget is used up.
    Budget,
    /// [`Signals::request_exit`].
    Kicked,
    /// Triple fault: only a reset helps.
    Shutdown,
    /// A debug stop; nothing of the instruction at RIP was executed, but for [`DebugStop::Watchpoint`].
    Debug(DebugStop),
    /// The CPU waits for a startup message.
    WaitForSipi,
}

/// Why the CPU stopped for the debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugStop {
    /// A breakpoint at RIP.
    Breakpoint,
    /// The instruction just executed used a watched address.
    Watchpoint {
        /// First watched byte that was used.
        address: u64,
        /// By a write.
        write: bool,
    },
    /// One instruction was executed.
    Step,
}

/// One virtual CPU.
pub struct Cpu {
    pub(crate) core: Core,
    pub(crate) cache: Cache,
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu").field("registers", &self.registers()).finish_non_exhaustive()
    }
}

impl Cpu {
    /// A CPU in its state after power-on: the boot CPU at the reset vector, others waiting for a startup message.
    pub fn new(config: CpuConfig, memory: Arc<GuestMemory>, signals: Arc<Signals>) -> Self {
        Self { core: Core::new(config, memory, signals), cache: Cache::new() }
    }

    /// The state after power-on.
    pub fn reset(&mut self) {
        self.core.reset();
    }

    /// Executes until something needs the caller, or until `budget` instructions were retired: exactly that many, so
    /// that runs repeat.
    pub fn run<P: Platform>(&mut self, platform: &mut P, budget: u64) -> Exit {
        let exit = self.run_with(platform, budget);
        self.core.signals.set_instructions(self.core.instructions);
        exit
    }

    /// Instructions retired since creation. A repeated string instruction counts once.
    pub fn instructions(&self) -> u64 {
        self.core.instructions
    }

    /// What `RDTSC` adds to [`Platform::timestamp`].
    pub fn tsc_offset(&self) -> u64 {
        self.core.msr.tsc_offset
    }

    /// What the CPU is doing.
    pub fn activity(&self) -> Activity {
        self.core.activity
    }

    /// The requests of other threads to this CPU.
    pub fn signals(&self) -> &Arc<Signals> {
        &self.core.signals
    }

    /// All registers.
    pub fn registers(&self) -> Registers {
        self.core.registers()
    }

    /// Replaces all registers. Values that no CPU could hold are forced into range.
    pub fn set_registers(&mut self, registers: &Registers) {
        self.core.set_registers(registers);
    }

    /// The guest-physical address behind a linear address, by the guest's current page tables, whatever the rights.
    pub fn translate(&self, address: u64) -> Option<u64> {
        self.core.probe(address)
    }

    /// Copies out of the guest's linear addresses; returns how many bytes are mapped.
    pub fn read_virtual(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let at = address.wrapping_add(done as u64);
            let part = (into.len() - done).min(0x1000 - (at & 0xfff) as usize);
            let Some(physical) = self.translate(at) else { break };
            let read = self.core.memory.read(physical, &mut into[done..done + part]);
            done += read;
            if read < part {
                break;
            }
        }
        done
    }

    /// Copies to the guest's linear addresses, even where the guest couldn't write; returns how many bytes are mapped.
    pub fn write_virtual(&mut self, address: u64, from: &[u8]) -> usize {
        let mut done = 0;
        while done < from.len() {
            let at = address.wrapping_add(done as u64);
            let part = (from.len() - done).min(0x1000 - (at & 0xfff) as usize);
            let Some(physical) = self.translate(at) else { break };
            let written = self.core.memory.write(physical, &from[done..done + part]);
            done += written;
            if written < part {
                break;
            }
        }
        done
    }

    /// Sets the linear addresses at which execution stops before the instruction, in place of those set before. The
    /// `run` after a stop at one executes what is there.
    pub fn set_breakpoints(&mut self, addresses: &[u64]) {
        self.core.debugger.breakpoints = addresses.to_vec();
        self.core.debugger.stopped_at = None;
        self.core.update_breakpoints();
    }

    /// Sets the linear addresses whose use stops the CPU after the instruction.
    pub fn set_watchpoints(&mut self, points: &[Watchpoint]) {
        self.core.debugger.watchpoints = points.iter().copied().filter(|point| point.len != 0).collect();
        self.core.debugger.hit = None;
        self.core.attention &= !ATTENTION_WATCH;
        self.core.update_breakpoints();
    }

    /// Makes every `run` return [`DebugStop::Step`] after one instruction (or one interrupt delivered).
    pub fn set_single_step(&mut self, on: bool) {
        self.core.debugger.single_step = on;
        self.core.update_breakpoints();
    }

    /// Forgets all cached translations, as after a change of page tables from outside.
    pub fn flush_translations(&mut self) {
        self.core.flush_translations();
    }

    /// Whether `address` could be executed by the current privilege. For debuggers.
    pub fn can_fetch(&mut self, address: u64) -> bool {
        self.core.tlb.find(Access::Fetch, address, 1).is_some() || self.core.probe(address).is_some()
    }
}
