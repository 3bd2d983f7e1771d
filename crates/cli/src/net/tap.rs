//! `ferro net tap`.

use clap::Subcommand;
use ferro_node::segment::{Host, tap};

use super::report::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum TapCommand {
    /// Make a TAP interface and plug it into a bridge
    Add {
        /// Its name
        name: String,
        /// The bridge
        #[arg(long, value_name = "BRIDGE")]
        bridge: Option<String>,
        /// Who may attach a VM to it without being root: a user's name or number
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// List the TAP interfaces
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Delete a TAP interface
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

impl TapCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let host = Host::open()?;
        match self {
            Self::Add { name, bridge, owner, output } => {
                let owner = owner.as_deref().map(tap::user).transpose()?;
                let change = tap::add(&host, &name, bridge.as_deref(), owner)?;
                output.change(&format!("TAP interface {name}"), change, "already there", "added")
            }
            Self::List { output } => {
                let taps = tap::list(&host)?;
                output.value(&taps, || table(["NAME", "STATE", "BRIDGE", "OWNER", "ATTACHED"], &rows(&taps)))
            }
            Self::Delete { name, output } => {
                let change = tap::delete(&host, &name)?;
                output.change(&format!("TAP interface {name}"), change, "already gone", "deleted")
            }
        }
    }
}

fn rows(taps: &[tap::Tap]) -> Vec<[String; 5]> {
    let row = |tap: &tap::Tap| {
        let state = if tap.up { "up" } else { "down" };
        let attached = if tap.attached { "yes" } else { "no" };
        [
            tap.name.clone(),
            state.to_owned(),
            tap.bridge.clone().unwrap_or_default(),
            tap.owner.map(|owner| owner.to_string()).unwrap_or_default(),
            attached.to_owned(),
        ]
    };
    taps.iter().map(row).collect()
}
