//! Seeds of the simulation: a fixed set, a few fresh ones, and one that the environment names.

use std::time::{SystemTime, UNIX_EPOCH};

fn run(seeds: impl Iterator<Item = u64>) {
    let mut failed = Vec::new();
    for seed in seeds {
        if let Err(what) = ferro_sim::run(seed) {
            println!("{what}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "repeat one with FERRO_SEED={}: {failed:?}", failed[0]);
}

fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    u64::try_from(now & 0xffff_ffff).unwrap() << 20
}

#[test]
fn fixed_seeds() {
    run(0..150);
}

#[test]
fn fresh_seeds() {
    let first = fresh();
    println!("seeds {first}..{}", first + 30);
    run(first..first + 30);
}

#[test]
fn the_seed_of_the_environment() {
    let Ok(seed) = std::env::var("FERRO_SEED") else {
        println!("skipped: FERRO_SEED names no seed");
        return;
    };
    let seed = seed.parse().expect("FERRO_SEED is a number");
    println!("{:?}", ferro_sim::run(seed));
    run(std::iter::once(seed));
}

#[test]
fn a_seed_repeats_exactly() {
    assert_eq!(ferro_sim::run(7), ferro_sim::run(7));
}

#[test]
#[ignore = "minutes: thousands of fresh seeds"]
fn many_fresh_seeds() {
    let first = fresh();
    println!("seeds {first}..{}", first + 5000);
    run(first..first + 5000);
}
