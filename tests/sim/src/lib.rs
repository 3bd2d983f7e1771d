//! Engines in one thread under a seed, held against what must always be so. The same seed gives the same run. Not shipped.

pub mod cluster;
pub mod mirror;
mod rng;

pub use rng::Rng;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Two mirrors under protocol C and an arbiter: no acknowledged write is lost, replicas are equal after a resync.
    Mirror,
    /// A pair with a witness: never two nodes at once, nothing stale is started, and service returns.
    Witness,
    /// The same with a fence.
    Fence,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mirror, Self::Witness, Self::Fence];

    /// Its name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Witness => "witness",
            Self::Fence => "fence",
        }
    }
}

/// What a run did, in numbers that grow with what happened in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Writes.
    pub writes: u64,
    /// Crashes of machines and daemons.
    pub crashes: u64,
    /// Promotions, or starts of a group.
    pub promotions: u64,
}

/// Runs one seed; `verbose` prints what happens, where the scenario can.
///
/// # Errors
///
/// What was violated, with the seed.
pub fn run(scenario: Scenario, seed: u64, verbose: bool) -> Result<Happened, String> {
    let told = |what| format!("seed {seed} of {}: {what}", scenario.name());
    let pair = |arbitration| {
        let mut world = cluster::World::new(seed, arbitration);
        world.verbose = verbose;
        let outcome = world.run().map_err(told)?;
        Ok(Happened { writes: outcome.writes, crashes: outcome.crashes, promotions: outcome.starts })
    };
    match scenario {
        Scenario::Witness => pair(cluster::Arbitration::Witness),
        Scenario::Fence => pair(cluster::Arbitration::Fence),
        Scenario::Mirror => {
            let outcome = mirror::World::new(seed).run().map_err(told)?;
            Ok(Happened { writes: outcome.writes, crashes: outcome.crashes, promotions: outcome.promotions })
        }
    }
}
