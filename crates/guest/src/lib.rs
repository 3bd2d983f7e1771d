//! What a guest machine is made of before there is a chip in it: its physical memory and addresses, and the traits that
//! every chip is written against (bus access, interrupt lines, a clock, saved state).
//!
//! This crate knows nothing of the host's operating system but one anonymous memory mapping ([`Ram`]), and nothing of
//! CPUs, devices or boards.

mod chip;
mod map;
mod ram;

pub use chip::{
    BusDevice, Clock, InterruptLine, LoadError, NoInterrupt, SaveState, StateReader, StateSection, StateWriter,
};
pub use map::{GuestMemory, MapError, Mapping, Range, RangeKind};
pub use ram::{PAGE_SIZE, Ram, RamError, Word};
