//! PCI 3.0: configuration space, the bus with configuration mechanism #1, MSI-X, and the
//! functions that make the bus a PC's. Where windows lie in the guest's
//! address space and how interrupts are wired is the board's business.

mod bus;
mod config;
mod host;
mod msix;
mod pirq;
mod power;

pub use bus::{ConfigObserver, ConfigPorts, DoorbellPlace, FixedWindow, PciBus, PciFunction, SharedFunction};
pub use config::{BarKind, ConfigSpace, Identity};
pub use host::{HostBridge, SEGMENTS, Segment, Shadow};
pub use msix::{MsiSink, Msix};
pub use pirq::{IsaBridge, PirqRouter};
pub use power::PowerFunction;
