//! `cargo xtask test`: packages, guests, then every test of the workspace.

use crate::process::{self, cargo};
use crate::{guests, packages};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also run the tests that take minutes to hours
    #[arg(long)]
    long: bool,
    /// Install nothing and build no guests: tests that miss something say that they are skipped
    #[arg(long)]
    offline: bool,
    /// Passed on to the tests, such as a part of their names
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the suite.
fn tests(args: &Args) -> anyhow::Result<()> {
    let mut test = cargo();
    test.args(["test", "--workspace", "--", "--show-output"]);
    if args.long {
        test.arg("--include-ignored");
    }
    test.args(&args.rest);
    process::run(&mut test)
}

/// The whole command.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !args.offline {
        packages::ensure(packages::ALL)?;
        guests::build_all()?;
    }
    tests(args)
}
