//! Two mirror engines in one thread under a seed: simulated disks with volatile caches, a link that breaks, nodes that
//! crash, and an arbiter that does what a cluster would. The same seed gives the same run. Not shipped.

mod disk;
mod oracle;
mod rng;
mod world;

pub use rng::Rng;
pub use world::{Outcome, World};

/// Runs one seed.
///
/// # Errors
///
/// What was violated, with the seed.
pub fn run(seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(seed);
    world.run().map_err(|what| format!("seed {seed}: {what}"))
}
