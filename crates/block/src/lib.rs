//! Disk images: what a file, a qcow2 image, a network export and a block device have in common ([`Storage`]), the formats
//! themselves, and the jobs done on them. Nothing here knows of guests, chips or virtual machines.

pub mod crypto;
mod error;
pub mod file;
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod jobs;
mod memory;
pub mod mount;
pub mod nbd;
pub mod partition;
pub mod qcow2;
pub mod queue;
mod storage;
mod switch;
pub mod throttle;

pub use error::{Error, Result};
pub use file::{FileOptions, FileStorage};
pub use memory::MemoryStorage;
pub use storage::{DirectRange, Extent, ExtentKind, Limits, Storage, WriteFlags, ZeroFlags, check_range};
pub use switch::Switch;
