//! The board: wires chips to storage, TAP interfaces and consoles, boots a kernel, runs the VM, and lets others command
//! it while it runs. Neither the mirror nor the cluster is known here.

mod board;
mod boot;
mod boot_order;
mod bus;
mod config;
mod control;
mod description;
mod disk;
mod firmware;
mod gdb;
mod handle;
mod image;
mod io_thread;
mod layout;
mod limit;
mod log;
mod memory_map;
mod monitor;
mod network;
mod run;
mod sandbox;
mod serial;
mod snapshot;
mod socket;
mod sound;
mod state;
mod terminal;
mod vnc;

pub use boot::BootError;
pub use boot_order::{BootDevice, BootOrder};
pub use config::ConfigError;
pub use control::{Control, Event};
pub use description::{
    Accelerator, ClockSource, DescriptionError, DiskDescription, DiskInterface, Forward, GdbAddress, LimitDescription,
    MacAddress, MemorySize, MonitorTarget, NetBackend, NetDescription, NetOptions, Rate, SerialTarget, Transport,
    UserNet, VmDescription, stable_mac,
};
pub use ferro_devices::ide::{MediumState, TrayError};
pub use ferro_devices::ps2::{Buttons, Key};
pub use ferro_devices::vga::{Rect, Surface};
pub use firmware::FirmwareError;
pub use handle::{Handle, Screen};
pub use image::{DiskError, DiskImage};
pub use log::{LogControl, set_log_control};
pub use run::{Outcome, RunError, run, run_with};
pub use sandbox::SandboxDescription;
pub use sound::AudioTarget;
#[doc(hidden)]
pub use state::fuzzing;
pub use terminal::RawTerminal;
pub use vnc::{TlsCredentials, VncPlace, VncTarget, WebSocketPlace};
