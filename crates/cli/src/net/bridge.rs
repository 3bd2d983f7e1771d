//! `ferro net bridge`.

use clap::Subcommand;
use ferro_node::segment::{Host, bridge};
use ipnet::Ipv4Net;

use super::report::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum BridgeCommand {
    /// Make a bridge and switch it on
    Add {
        /// Its name
        name: String,
        /// The host's address on it, such as 10.77.77.1/24
        #[arg(long, value_name = "ADDRESS/PREFIX")]
        address: Option<Ipv4Net>,
        #[command(flatten)]
        output: Output,
    },
    /// List the bridges
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Delete a bridge that nothing is plugged into
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

impl BridgeCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let host = Host::open()?;
        match self {
            Self::Add { name, address, output } => {
                let change = bridge::add(&host, &name, address)?;
                output.change(&format!("bridge {name}"), change, "already there", "added")
            }
            Self::List { output } => {
                let bridges = bridge::list(&host)?;
                output.value(&bridges, || table(["NAME", "STATE", "ADDRESSES", "PORTS"], &rows(&bridges)))
            }
            Self::Delete { name, output } => {
                let change = bridge::delete(&host, &name)?;
                output.change(&format!("bridge {name}"), change, "already gone", "deleted")
            }
        }
    }
}

fn rows(bridges: &[bridge::Bridge]) -> Vec<[String; 4]> {
    let row = |bridge: &bridge::Bridge| {
        let addresses: Vec<String> = bridge.addresses.iter().map(ToString::to_string).collect();
        let state = if bridge.up { "up" } else { "down" };
        [bridge.name.clone(), state.to_owned(), addresses.join(","), bridge.ports.join(",")]
    };
    bridges.iter().map(row).collect()
}
