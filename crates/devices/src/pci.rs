//! PCI 3.0: configuration space, the bus with configuration mechanism #1, and MSI-X. Where windows lie in the guest's
//! address space and how interrupts are wired is the board's business.

mod bus;
mod config;
mod host;
mod msix;

pub use bus::{ConfigPorts, DoorbellPlace, PciBus, PciFunction, SharedFunction};
pub use config::{BarKind, ConfigSpace, Identity};
pub use host::{HostBridge, IsaBridge};
pub use msix::{MsiSink, Msix};
