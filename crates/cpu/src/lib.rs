//! The software x86-64 CPU: executes guest code out of [`ferro_guest::GuestMemory`] without the host's help.
//!
//! Each instruction is decoded once (`lower`), kept as a compact operation in a cache of blocks by physical address
//! (`cache`), and executed by a handler that is specialised for its width and kind of operands (`int`, `sse`, `x87`).
//! Handlers become steps (`step`), which call each other; frequent ones have steps of their own (`fast`).
//! What the handlers work on is [`core::Core`].
//!
//! Nothing here knows the host's operating system, a clock, a thread or a device: time and I/O come through
//! [`Platform`], requests of other threads through [`Signals`]. A guest can't make this crate panic or return an error:
//! what it does wrong is an exception inside it.

mod cache;
mod core;
mod cpu;
mod cpuid;
mod debug;
mod disassembly;
mod exception;
mod fast;
mod flags;
mod int;
mod lower;
mod memory;
mod msr;
mod paging;
mod platform;
mod registers;
mod run;
mod save;
mod segment;
mod snapshot;
mod soft;
mod sse;
mod step;
mod system;
mod tlb;
mod x87;

pub use cpu::{Cpu, CpuConfig, DebugStop, Exit};
pub use debug::Watchpoint;
pub use disassembly::{Disassembled, disassemble};
pub use platform::{Platform, Signals, Unconnected};
pub use registers::{
    Activity, CS, DS, ES, FS, FpuRegisters, GS, ModelRegisters, Registers, SS, SegmentRegister, TableRegister,
};
