//! Chip models: each is a state machine behind its registers, written against small traits of its own (a disk, a network,
//! a serial output) and those of `ferro-guest` (memory, interrupt line, clock). Nothing here knows the host's operating
//! system, an image format, or on which board a chip sits.

pub mod debug_port;
pub mod dma;
pub mod fuzzing;
pub mod fw_cfg;
pub mod i8042;
pub mod ide;
pub mod network;
pub mod pci;
pub mod power;
pub mod ps2;
pub mod reset;
pub mod rtc;
pub mod serial;
pub mod sound;
mod state;
pub mod vga;
pub mod virtio;
