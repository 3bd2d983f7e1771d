//! What every accelerator offers: a VM with memory, interrupt inputs and a clock, and vCPUs that run until something
//! needs the caller.

use std::sync::Arc;

use ferro_guest::{GuestMemory, InterruptLine, LoadError, MapError, Range};

use crate::{DebugStop, Registers, VmClock, Watchpoint};

/// The devices as the vCPUs reach them. Called by all vCPU threads at once, in the middle of guest instructions.
pub trait Bus: Send + Sync {
    /// `IN` from a port that the accelerator doesn't serve itself; `size` is 1, 2 or 4.
    fn port_read(&self, port: u16, size: u8) -> u32;
    /// `OUT`, likewise.
    fn port_write(&self, port: u16, size: u8, value: u32);
    /// A read of a guest-physical address where neither memory nor the accelerator answers; `size` is 1, 2, 4 or 8.
    fn mmio_read(&self, address: u64, size: u8) -> u64;
    /// A write, likewise.
    fn mmio_write(&self, address: u64, size: u8, value: u64);
}

/// Why [`Vcpu::run`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// [`Vm::kick`] was called.
    Kicked,
    /// Triple fault: only a reset helps.
    Shutdown,
    /// A stop for the debugger.
    Debug(DebugStop),
    /// The accelerator can't execute what the guest does; the text says what and where.
    Failed(String),
}

/// What went wrong with an accelerator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no such accelerator, or it doesn't work; the text says what to do.
    #[error("{0}")]
    Unavailable(String),
    /// The host refused an operation.
    #[error("cannot {operation}: {source}")]
    Host {
        /// What was tried, as a verb phrase.
        operation: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The memory map contradicts itself.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A part of a VM's state that the accelerator keeps: what becomes one section of a saved VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which chip: `pic`, `lapic`…
    pub name: String,
    /// Which one of those.
    pub instance: u32,
    /// The version of the bytes' format.
    pub version: u32,
    /// The state.
    pub bytes: Vec<u8>,
}

/// Why saved state could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state isn't what was saved.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The host refused it.
    #[error(transparent)]
    Host(#[from] Error),
    /// It is the state of a chip that this VM doesn't have.
    #[error("there is no such chip")]
    Unknown,
}

/// Rung by a guest's write to one of some addresses, or by [`Doorbell::ring`]; a thread waits for it.
pub trait Doorbell: Send + Sync {
    /// Puts it at these guest-physical addresses, in place of where it was. Writes there no longer reach the [`Bus`].
    ///
    /// # Errors
    /// The host's refusal; at addresses that it isn't at, writes reach the bus.
    fn place(&self, addresses: &[u64]) -> Result<(), Error>;
    /// Rings it.
    fn ring(&self);
    /// Waits until it has been rung since the last call.
    ///
    /// # Errors
    /// The host's refusal to wait.
    fn wait(&self) -> std::io::Result<()>;
}

/// A virtual machine of some accelerator. Methods may be called from any thread.
pub trait Vm: Send + Sync {
    /// The accelerator's name: `kvm` or `soft`.
    fn accelerator(&self) -> &'static str;
    /// The guest's memory.
    fn memory(&self) -> &Arc<GuestMemory>;
    /// The VM's clock.
    fn clock(&self) -> &Arc<VmClock>;
    /// Makes the vCPU with this index; each only once, and before any runs.
    ///
    /// # Errors
    /// The host's refusal.
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error>;
    /// The interrupt input with this global number: 0 to 15 as on a PC's ISA bus, up to 23 for PCI.
    fn line(&self, gsi: u32) -> Arc<dyn InterruptLine>;
    /// A message-signalled interrupt: a device's write of `data` to `address`.
    fn signal_msi(&self, address: u64, data: u32);
    /// A bell for a device whose work is done by a thread of its own; `None` where a guest's writes reach the bus without
    /// a costly exit, so that they are best acted upon at once.
    ///
    /// # Errors
    /// The host's refusal.
    fn doorbell(&self) -> Result<Option<Arc<dyn Doorbell>>, Error> {
        Ok(None)
    }
    /// Starts or goes on logging all writes to a range of host memory (offsets in [`ferro_guest::Ram`], whole pages),
    /// those of the guest included: its pages count as clean from now on.
    ///
    /// # Errors
    /// The host's refusal.
    fn arm_dirty_log(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.memory().ram().arm_dirty_log(offset, len);
        Ok(())
    }
    /// Stops logging writes to a range and forgets what was logged.
    ///
    /// # Errors
    /// The host's refusal.
    fn disarm_dirty_log(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.memory().ram().disarm_dirty_log(offset, len);
        Ok(())
    }
    /// Calls `each` with the offset of every page of the range written since it was armed or taken last.
    ///
    /// # Errors
    /// The host's refusal; what was written is then told the next time.
    fn take_dirty(&self, offset: usize, len: usize, each: &mut dyn FnMut(usize)) -> Result<(), Error> {
        self.memory().ram().take_dirty(offset, len, each);
        Ok(())
    }
    /// Replaces the memory map.
    ///
    /// # Errors
    /// A contradictory map, or the host's refusal; the old map then stays.
    fn remap(&self, ranges: &[Range]) -> Result<(), Error>;
    /// Makes the vCPU's `run` return [`Exit::Kicked`] soon, or at once when it is called next.
    fn kick(&self, vcpu: u32);
    /// Puts interrupt controllers and timer into their state after power-on. No vCPU may be running.
    fn reset(&self);
    /// An NMI to one vCPU, as from a button on the front.
    fn inject_nmi(&self, vcpu: u32);
    /// What its CPUs are, for people and for comparing: a state saved under one model may not load under another.
    fn cpu_model(&self) -> String;
    /// The state of interrupt controllers and timer. All vCPUs and the clock are stopped.
    ///
    /// # Errors
    /// The host's refusal.
    fn save_chips(&self) -> Result<Vec<Part>, Error>;
    /// Takes over one of those. All vCPUs and the clock are stopped, and the clock stands where the saved one stood.
    ///
    /// # Errors
    /// State that none of these chips wrote, and the host's refusal. The chip is then in any state.
    fn load_chip(&self, part: &Part) -> Result<(), StateError>;
    /// The frequency in hertz that the timer's third counter sends to the speaker now.
    fn speaker(&self) -> Option<f64>;
}

/// One vCPU; it belongs to the thread that runs it.
pub trait Vcpu: Send {
    /// Executes guest code, sleeping while the guest halts, until something needs the caller.
    fn run(&mut self, bus: &dyn Bus) -> Exit;
    /// All registers.
    ///
    /// # Errors
    /// The host's refusal.
    fn registers(&mut self) -> Result<Registers, Error>;
    /// Replaces all registers.
    ///
    /// # Errors
    /// The host's refusal of a value.
    fn set_registers(&mut self, registers: &Registers) -> Result<(), Error>;
    /// The state after power-on.
    ///
    /// # Errors
    /// The host's refusal.
    fn reset(&mut self) -> Result<(), Error>;
    /// The guest-physical address behind a linear one, by the guest's page tables.
    fn translate(&mut self, address: u64) -> Option<u64>;
    /// Stops before the instructions at these linear addresses, after the use of these data, and after every single
    /// instruction; in place of what was set before.
    ///
    /// # Errors
    /// More than the accelerator can watch.
    fn set_debug(&mut self, breakpoints: &[u64], watchpoints: &[Watchpoint], step: bool) -> Result<(), Error>;
    /// Everything that makes it go on where it stands, beyond [`Vcpu::registers`]: pending events, timers, all of the
    /// floating-point state; with the version of the format.
    ///
    /// # Errors
    /// The host's refusal.
    fn save(&mut self) -> Result<(u32, Vec<u8>), Error>;
    /// Takes over what [`Vcpu::save`] of the same accelerator wrote.
    ///
    /// # Errors
    /// Bytes that no vCPU wrote, and the host's refusal. The vCPU is then in any state.
    fn load(&mut self, version: u32, bytes: &[u8]) -> Result<(), StateError>;
    /// Instructions executed so far, where the accelerator counts them.
    fn instructions(&self) -> Option<u64>;
}
