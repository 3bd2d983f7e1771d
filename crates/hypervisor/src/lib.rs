//! Virtual machines and their CPUs: the traits [`Vm`] and [`Vcpu`], and the two accelerators behind them, [`soft`] (the
//! software CPU with our own interrupt controllers and timer) and [`kvm`] (Linux's). Devices, boards and boot paths are
//! not known here: guest accesses to them leave through [`Bus`].

mod accelerator;
mod clock;
pub mod kvm;
pub mod soft;

pub use accelerator::{Bus, Doorbell, Error, Exit, Part, StateError, Vcpu, Vm};
pub use clock::{HostClock, InstructionClock, VmClock};
pub use ferro_cpu::{
    Activity, CS, DebugStop, Disassembled, Registers, SegmentRegister, TableRegister, Watchpoint, disassemble,
};

/// Index of RBX in [`Registers::gpr`].
pub const RBX: usize = 3;
/// Index of RSI in [`Registers::gpr`].
pub const RSI: usize = 6;
