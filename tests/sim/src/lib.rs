//! Engines in one thread under a seed, held against what must always be so. The same seed gives the same run. Not shipped.

pub mod cluster;
pub mod mirror;
mod rng;

use ferro_mirror::Protocol;
pub use rng::Rng;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Two mirrors under protocol C and an arbiter: no acknowledged write is lost, replicas are equal after a resync.
    Mirror,
    /// The same under protocol B: what was received by the peer survives the primary.
    MirrorB,
    /// The same under protocol A: a peer that takes over may lack what was acknowledged last, but nothing older.
    MirrorA,
    /// One of the three protocols, and disks that fail.
    MirrorDisks,
    /// A pair with a witness: never two nodes at once, nothing stale is started, and service returns.
    Witness,
    /// The same with a fence.
    Fence,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Mirror, Self::MirrorB, Self::MirrorA, Self::MirrorDisks, Self::Witness, Self::Fence];

    /// Its name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::MirrorB => "mirror-b",
            Self::MirrorA => "mirror-a",
            Self::MirrorDisks => "mirror-disks",
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
    /// Disks that failed under a mirror.
    pub detached: u64,
    /// Verifies of mirrors that came to their end.
    pub verifies: u64,
    /// Split brains of mirrors that were told.
    pub splits: u64,
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
        Ok(Happened {
            writes: outcome.writes,
            crashes: outcome.crashes,
            promotions: outcome.starts,
            ..Happened::default()
        })
    };
    let mirror = |protocol, disk_errors| {
        let mut world = mirror::World::new(seed, mirror::Setup { protocol, disk_errors });
        world.verbose = verbose;
        let o = world.run().map_err(told)?;
        let (writes, crashes, promotions) = (o.writes, o.crashes, o.promotions);
        let (detached, verifies, splits) = (o.detached, o.verifies, o.splits);
        Ok(Happened { writes, crashes, promotions, detached, verifies, splits })
    };
    match scenario {
        Scenario::Witness => pair(cluster::Arbitration::Witness),
        Scenario::Fence => pair(cluster::Arbitration::Fence),
        Scenario::Mirror => mirror(Protocol::C, false),
        Scenario::MirrorB => mirror(Protocol::B, false),
        Scenario::MirrorA => mirror(Protocol::A, false),
        Scenario::MirrorDisks => mirror([Protocol::A, Protocol::B, Protocol::C][(seed % 3) as usize], true),
    }
}
