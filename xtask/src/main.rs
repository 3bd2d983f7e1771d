//! Developer commands: `cargo xtask demo | test | bench | sim | guests | layers | packages | package`. Nothing here is shipped.

mod bench;
mod demo;
mod guests;
mod layers;
mod package;
mod packages;
mod process;
mod sim;
mod suite;

use clap::{Parser, Subcommand};

/// Developer commands of Ferro.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the main job on real input; installs the Debian packages that it needs, after saying which
    Demo,
    /// Run the whole test suite; installs the Debian packages that it needs, after saying which
    Test(suite::Args),
    /// Measure beside a peer in the same run and print ratios
    Bench(bench::Args),
    /// Run mirrors and clusters under seeds, or repeat one
    Sim(sim::Args),
    /// Build the guests that tests and benchmarks boot, under target/guests
    Guests,
    /// Hold the crates' dependencies against the table of layers
    Layers,
    /// Install the Debian packages that tests and benchmarks need, after saying which
    Packages,
    /// Make the Debian package of the command, its units, pages and examples
    Package(package::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Demo => demo::run(),
        Command::Test(args) => suite::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Guests => guests::build_all().map(drop),
        Command::Layers => layers::check(),
        Command::Packages => packages::ensure(packages::ALL),
        Command::Package(args) => package::run(&args),
    }
}
