//! Messages for people who look for a fault: `-v`, `-vv` or `FERRO_LOG` (tracing's filter language), to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts to log: warnings, or more with `-v` (info), `-vv` (debug) and `-vvv` (trace); `FERRO_LOG` goes first.
///
/// The FUSE library warns of every question of the kernel's that has no answer; those are left out.
pub(crate) fn start(verbose: u8) {
    let level = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = std::env::var("FERRO_LOG").ok().and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("{level},fuser=error")));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only if a test has started it before.
    let _ = if verbose == 0 { format.without_time().with_target(false).try_init() } else { format.try_init() };
}
