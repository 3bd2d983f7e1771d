//! Two mirror engines: simulated disks with volatile caches, a link that breaks, nodes that crash, and an arbiter that does
//! what a cluster would.

mod disk;
mod oracle;
mod world;

pub use world::{Outcome, World};
