//! What a debugger's commands do to the VM: registers, memory through the guest's page tables, breakpoints, watchpoints,
//! stepping. vCPU n is thread n + 1. The connection is not known here.

use std::sync::Arc;

use ferro_guest::PAGE_SIZE;
use ferro_hypervisor::{CS, DebugStop, Error, Vcpu, Watchpoint};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;

use super::registers;
use crate::control::Control;

/// The debugger's number for a vCPU.
pub(super) fn thread(vcpu: u32) -> Tid {
    Tid::MIN.saturating_add(vcpu as usize)
}

fn vcpu_of(tid: Tid) -> u32 {
    tid.get() as u32 - 1
}

/// A bit per vCPU, of which there are at most 64.
fn bit(vcpu: u32) -> u64 {
    1 << (vcpu % u64::BITS)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Software,
    Hardware,
}

/// The VM as a debugger sees it.
pub(super) struct Debugged {
    control: Arc<Control>,
    breakpoints: Vec<(u64, Origin)>,
    watchpoints: Vec<(Watchpoint, WatchKind)>,
    /// vCPUs that are to execute one instruction.
    stepping: u64,
    /// vCPUs that the debugger mentioned when it resumed.
    mentioned: u64,
    /// Those that it didn't mention stand still.
    locked: bool,
    /// Stops that came while another one was being looked at.
    kept: Vec<(u32, DebugStop)>,
}

impl Debugged {
    pub(super) fn new(control: Arc<Control>) -> Self {
        let (breakpoints, watchpoints, kept) = (vec![], vec![], vec![]);
        Self { control, breakpoints, watchpoints, stepping: 0, mentioned: 0, locked: false, kept }
    }

    /// Work on a vCPU in its thread; a VM that has ended meanwhile is an error that the debugger sees.
    fn with<T: Send + 'static>(
        &self,
        tid: Tid,
        work: impl FnOnce(&mut dyn Vcpu) -> T + Send + 'static,
    ) -> TargetResult<T, Self> {
        self.control.with_vcpu(vcpu_of(tid), work).ok_or(TargetError::NonFatal)
    }

    /// Sets every vCPU's debugging to what is wanted now.
    fn set_debug(&self) -> Result<(), Error> {
        let breakpoints: Vec<_> = self.breakpoints.iter().map(|&(address, _)| address).collect();
        let watchpoints: Vec<_> = self.watchpoints.iter().map(|&(point, _)| point).collect();
        (0..self.control.vcpus()).try_for_each(|vcpu| {
            let (breakpoints, watchpoints) = (breakpoints.clone(), watchpoints.clone());
            let step = self.stepping & bit(vcpu) != 0;
            let set = move |vcpu: &mut dyn Vcpu| vcpu.set_debug(&breakpoints, &watchpoints, step);
            self.control.with_vcpu(vcpu, set).unwrap_or(Ok(()))
        })
    }

    /// After a change of the lists: whether the accelerator can do it. If not, `undo` has the lists as before.
    fn try_debug(&mut self, undo: impl FnOnce(&mut Self)) -> bool {
        if self.set_debug().is_ok() {
            return true;
        }
        undo(self);
        // What was set before can be set again.
        let _ = self.set_debug();
        false
    }

    /// Takes everything out of the vCPUs that the debugger put there.
    pub(super) fn release(&mut self) {
        self.breakpoints.clear();
        self.watchpoints.clear();
        self.stepping = 0;
        self.control.pause();
        if let Err(error) = self.set_debug() {
            tracing::warn!("breakpoints stay behind: {error}");
        }
    }

    /// Remembers a stop that came while the VM was paused for another one.
    pub(super) fn keep(&mut self, vcpu: u32, stop: DebugStop) {
        if stop != DebugStop::Step {
            self.kept.push((vcpu, stop));
        }
    }

    /// A stop that was kept, if what it stopped for is still wanted.
    pub(super) fn take_kept(&mut self) -> Option<(u32, DebugStop)> {
        let allowed = self.allowed();
        let at = self.kept.iter().position(|&(vcpu, _)| allowed & bit(vcpu) != 0)?;
        let (vcpu, stop) = self.kept.remove(at);
        match stop {
            DebugStop::Breakpoint if !self.is_at_breakpoint(vcpu) => self.take_kept(),
            _ => Some((vcpu, stop)),
        }
    }

    fn allowed(&self) -> u64 {
        if self.locked { self.mentioned } else { u64::MAX }
    }

    fn linear_pc(&self, vcpu: u32) -> Option<u64> {
        let registers = self.control.with_vcpu(vcpu, |vcpu| vcpu.registers())?.ok()?;
        Some(registers.segments[CS].base.wrapping_add(registers.rip))
    }

    fn is_at_breakpoint(&self, vcpu: u32) -> bool {
        let pc = self.linear_pc(vcpu);
        self.breakpoints.iter().any(|&(address, _)| Some(address) == pc)
    }

    /// How the debugger is told of a stop.
    pub(super) fn reason(&self, vcpu: u32, stop: DebugStop) -> MultiThreadStopReason<u64> {
        let tid = thread(vcpu);
        match stop {
            DebugStop::Step => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP },
            DebugStop::Breakpoint => {
                let pc = self.linear_pc(vcpu);
                match self.breakpoints.iter().find(|&&(address, _)| Some(address) == pc) {
                    Some((_, Origin::Software)) => MultiThreadStopReason::SwBreak(tid),
                    _ => MultiThreadStopReason::HwBreak(tid),
                }
            }
            DebugStop::Watchpoint { address, write } => {
                let hit = self.watchpoints.iter().find(|(point, _)| {
                    (point.address..=point.address.saturating_add(point.len - 1)).contains(&address)
                });
                let kind = hit.map_or(if write { WatchKind::Write } else { WatchKind::Read }, |&(_, kind)| kind);
                MultiThreadStopReason::Watch { tid, kind, addr: address }
            }
        }
    }

    fn add_breakpoint(&mut self, address: u64, origin: Origin) -> bool {
        self.breakpoints.push((address, origin));
        self.try_debug(|target| target.breakpoints.truncate(target.breakpoints.len() - 1))
    }

    fn remove_breakpoint(&mut self, address: u64, origin: Origin) -> bool {
        let Some(at) = self.breakpoints.iter().position(|&point| point == (address, origin)) else { return false };
        self.breakpoints.remove(at);
        self.set_debug().is_ok()
    }

    /// The guest-physical pieces of a range of linear addresses, up to the first page that isn't mapped.
    fn pieces(&self, tid: Tid, start: u64, len: usize) -> TargetResult<Vec<(u64, usize)>, Self> {
        self.with(tid, move |vcpu| {
            let (mut pieces, mut done) = (vec![], 0);
            while done < len {
                let at = start.wrapping_add(done as u64);
                let part = (len - done).min(PAGE_SIZE - at as usize % PAGE_SIZE);
                let Some(physical) = vcpu.translate(at) else { break };
                pieces.push((physical, part));
                done += part;
            }
            pieces
        })
    }
}

impl Target for Debugged {
    type Arch = X86_64_SSE;
    type Error = Error;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Debugged {
    fn read_registers(&mut self, regs: &mut X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let from = self.with(tid, |vcpu| vcpu.registers())?.map_err(TargetError::Fatal)?;
        registers::fill(regs, &from);
        Ok(())
    }

    fn write_registers(&mut self, regs: &X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let mut to = self.with(tid, |vcpu| vcpu.registers())?.map_err(TargetError::Fatal)?;
        if !registers::apply(regs, &mut to) {
            return Err(TargetError::NonFatal);
        }
        self.with(tid, move |vcpu| vcpu.set_registers(&to))?.map_err(|_| TargetError::NonFatal)
    }

    fn read_addrs(&mut self, start_addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mut done = 0;
        for (physical, len) in self.pieces(tid, start_addr, data.len())? {
            let read = self.control.memory().read(physical, &mut data[done..done + len]);
            done += read;
            if read < len {
                break;
            }
        }
        if done == 0 && !data.is_empty() { Err(TargetError::NonFatal) } else { Ok(done) }
    }

    fn write_addrs(&mut self, start_addr: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let pieces = self.pieces(tid, start_addr, data.len())?;
        if pieces.iter().map(|(_, len)| len).sum::<usize>() < data.len() {
            return Err(TargetError::NonFatal);
        }
        let mut rest = data;
        for (physical, len) in pieces {
            let (now, later) = rest.split_at(len);
            if self.control.memory().write(physical, now) < len {
                return Err(TargetError::NonFatal);
            }
            rest = later;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Self::Error> {
        (0..self.control.vcpus()).map(thread).for_each(thread_is_active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Debugged {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let registers = self.control.with_vcpu(vcpu_of(tid), |vcpu| vcpu.registers());
        let activity = registers.and_then(Result::ok).map(|registers| format!("{:?}", registers.activity));
        let text = format!("vCPU {} {}", vcpu_of(tid), activity.unwrap_or_default());
        let len = text.len().min(buf.len());
        buf[..len].copy_from_slice(&text.as_bytes()[..len]);
        Ok(len)
    }
}

impl MultiThreadResume for Debugged {
    fn resume(&mut self) -> Result<(), Self::Error> {
        self.set_debug()?;
        // What happened at the same time as the last stop comes before anything new.
        if let Some(kept) = self.take_kept() {
            self.kept.insert(0, kept);
            return Ok(());
        }
        self.control.resume_some(self.allowed());
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Self::Error> {
        (self.stepping, self.mentioned, self.locked) = (0, 0, false);
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Self::Error> {
        self.mentioned |= bit(vcpu_of(tid));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Debugged {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Self::Error> {
        self.stepping |= bit(vcpu_of(tid));
        self.mentioned |= bit(vcpu_of(tid));
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debugged {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Self::Error> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Debugged {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged {
    fn add_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.add_breakpoint(addr, Origin::Software))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_breakpoint(addr, Origin::Software))
    }
}

impl HwBreakpoint for Debugged {
    fn add_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.add_breakpoint(addr, Origin::Hardware))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove_breakpoint(addr, Origin::Hardware))
    }
}

fn watchpoint(address: u64, len: u64, kind: WatchKind) -> Watchpoint {
    Watchpoint { address, len, read: kind != WatchKind::Write, write: kind != WatchKind::Read }
}

impl HwWatchpoint for Debugged {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        if len == 0 {
            return Ok(false);
        }
        self.watchpoints.push((watchpoint(addr, len, kind), kind));
        Ok(self.try_debug(|target| target.watchpoints.truncate(target.watchpoints.len() - 1)))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let wanted = (watchpoint(addr, len, kind), kind);
        let Some(at) = self.watchpoints.iter().position(|&point| point == wanted) else { return Ok(false) };
        self.watchpoints.remove(at);
        Ok(self.set_debug().is_ok())
    }
}

impl MonitorCmd for Debugged {
    /// `monitor registers`: the system registers of every vCPU, which gdb has no numbers for.
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Self::Error> {
        if cmd != b"registers" {
            out.write_raw(b"monitor registers: the system registers of every vCPU\n");
            return Ok(());
        }
        for vcpu in 0..self.control.vcpus() {
            if let Some(registers) = self.control.with_vcpu(vcpu, |vcpu| vcpu.registers()) {
                out.write_raw(format!("vCPU {vcpu}\n{}", registers::system(&registers?)).as_bytes());
            }
        }
        Ok(())
    }
}
