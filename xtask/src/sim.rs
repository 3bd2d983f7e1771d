//! `cargo xtask sim`: runs simulations under seeds. One seed repeats a run; many fresh ones look for what nobody thought of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use ferro_sim::{Scenario, run as simulate};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Repeat this one
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Run so many fresh ones
    #[arg(long, value_name = "N", default_value_t = 1000)]
    seeds: u64,
    /// The first of them [default: by the clock]
    #[arg(long, value_name = "N")]
    first: Option<u64>,
    /// Which one [default: all]
    #[arg(long, value_parser = ["mirror", "mirror-b", "mirror-a", "mirror-disks", "witness", "fence"])]
    scenario: Option<String>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    jobs: u64,
}

/// Runs them; fails if one does.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let wanted = |scenario: &Scenario| args.scenario.as_deref().is_none_or(|name| name == scenario.name());
    for scenario in Scenario::ALL.into_iter().filter(wanted) {
        if let Some(seed) = args.seed {
            let happened = simulate(scenario, seed, true).map_err(anyhow::Error::msg)?;
            println!("seed {seed} of {}: {happened:?}", scenario.name());
            continue;
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        many(scenario, args.first.unwrap_or(clock << 20), args.seeds, args.jobs.max(1))?;
    }
    Ok(())
}

fn many(scenario: Scenario, first: u64, count: u64, jobs: u64) -> anyhow::Result<()> {
    let (next, writes, crashes, promotions) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    println!("{}: seeds {first}..{}", scenario.name(), first + count);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    match simulate(scenario, first + index, false) {
                        Ok(happened) => {
                            writes.fetch_add(happened.writes, Ordering::Relaxed);
                            crashes.fetch_add(happened.crashes, Ordering::Relaxed);
                            promotions.fetch_add(happened.promotions, Ordering::Relaxed);
                        }
                        Err(what) => {
                            println!("{what}");
                            if let Ok(mut failures) = failures.lock() {
                                failures.push(first + index);
                            }
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    println!(
        "{}: {count} seeds, {} failed; {} writes, {} crashes, {} promotions; {:.0} s",
        scenario.name(),
        failures.len(),
        writes.into_inner(),
        crashes.into_inner(),
        promotions.into_inner(),
        start.elapsed().as_secs_f64()
    );
    if let Some(first) = failures.first() {
        bail!("repeat one with: cargo xtask sim --scenario {} --seed {first}", scenario.name());
    }
    Ok(())
}
