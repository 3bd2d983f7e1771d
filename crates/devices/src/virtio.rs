//! Virtio 1.2 devices: split virtqueues, the PCI transport, and the device types. Backends (disks, networks, consoles)
//! are traits of this module; nothing here opens a file or a socket.

mod balloon;
mod block;
mod console;
mod input;
mod net;
mod queue;
mod rng;
mod transport;

pub use balloon::{Balloon, MemoryReturn};
pub use block::{Block, Disk, DiskError};
pub use console::{Console, ConsoleOutput};
pub use input::{TABLET_MAX, Tablet};
pub use net::{MAX_PAIRS, Net};
pub use queue::{Chain, Queue, QueueError};
pub use rng::{Entropy, Rng};
pub use transport::{DeviceType, VirtioDevice, VirtioPci};
