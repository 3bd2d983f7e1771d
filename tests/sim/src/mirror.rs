//! Two mirror engines: simulated disks with volatile caches, a link that breaks, nodes that crash, disks that fail, and an
//! arbiter that does what a cluster would.

mod arbiter;
mod consumer;
mod disk;
mod fault;
mod finale;
mod oracle;
mod world;

pub use world::{Outcome, Setup, World};
