//! Two nodes and their arbiter under a seed: cut cables, lost witnesses, crashed machines, daemons that die while what they
//! started runs on. Held against the two rules: never two nodes at once, and no acknowledged write lost.

mod world;

use world::{Arbitration, World};

fn run(arbitration: Arbitration, seeds: std::ops::Range<u64>) {
    let (mut takeovers, mut writes) = (0, 0);
    for seed in seeds {
        match World::new(seed, arbitration).run() {
            Ok(outcome) => (takeovers, writes) = (takeovers + outcome.takeovers, writes + outcome.writes),
            Err(what) => panic!("seed {seed} with {arbitration:?}: {what}"),
        }
    }
    println!("{takeovers} starts, {writes} writes");
    assert!(takeovers > 0 && writes > 0, "nothing happened");
}

fn fresh() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let first = u64::try_from(now & 0xffff_ffff).unwrap() << 16;
    println!("seeds from {first}");
    first
}

#[test]
fn a_witness_lets_one_node_run() {
    run(Arbitration::Witness, 0..150);
}

#[test]
fn a_fence_lets_one_node_run() {
    run(Arbitration::Fence, 0..150);
}

#[test]
fn fresh_seeds() {
    let first = fresh();
    run(Arbitration::Witness, first..first + 40);
    run(Arbitration::Fence, first..first + 40);
}

#[test]
fn a_seed_repeats_exactly() {
    let run = |seed| World::new(seed, Arbitration::Witness).run();
    assert_eq!(run(3), run(3));
}

#[test]
#[ignore = "minutes: thousands of fresh seeds"]
fn many_fresh_seeds() {
    let first = fresh();
    run(Arbitration::Witness, first..first + 5000);
    run(Arbitration::Fence, first..first + 5000);
}

/// FERRO_SEED=N and FERRO_ARBITER=witness|fence repeat one run and print its log.
#[test]
fn the_seed_of_the_environment() {
    let Ok(seed) = std::env::var("FERRO_SEED") else {
        println!("skipped: FERRO_SEED names no seed");
        return;
    };
    let fence = std::env::var("FERRO_ARBITER").is_ok_and(|arbiter| arbiter == "fence");
    let arbitration = if fence { Arbitration::Fence } else { Arbitration::Witness };
    let mut world = World::new(seed.parse().unwrap(), arbitration);
    world.verbose = true;
    println!("{:?}", world.run());
}
