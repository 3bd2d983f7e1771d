//! `ferro net leases` and `serve`: what DHCP gave, and the process that gives it.

use std::time::{Duration, SystemTime};

use clap::Args;
use ferro_node::segment::service::{self, LeaseStatus};

use super::declared::Memory;
use super::report::{Output, table};

#[derive(Debug, Args)]
pub(crate) struct LeasesArgs {
    #[command(flatten)]
    memory: Memory,
    /// Also those that have ended
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    memory: Memory,
}

impl LeasesArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut leases = service::leases(&self.memory.state)?;
        leases.retain(|lease| self.all || lease.holds);
        let row = |one: &LeaseStatus| {
            let name = one.name.clone().unwrap_or_else(|| "-".into());
            let ends = if one.holds { left(one.lease.ends) } else { "ended".into() };
            [one.segment.clone(), one.lease.address.to_string(), one.lease.mac.to_string(), name, ends]
        };
        self.output.value(&leases, || {
            if leases.is_empty() {
                return "leases: none\n".into();
            }
            table(["SEGMENT", "ADDRESS", "MAC", "NAME", "ENDS IN"], &leases.iter().map(row).collect::<Vec<_>>())
        })
    }
}

/// How long it is until then, in seconds since 1970.
fn left(ends: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_secs(ends).saturating_sub(now).as_secs();
    match left {
        0..60 => format!("{left} s"),
        60..3600 => format!("{} min", left / 60),
        _ => format!("{} h {} min", left / 3600, left / 60 % 60),
    }
}

impl ServeArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        Ok(service::serve(&self.memory.state)?)
    }
}
