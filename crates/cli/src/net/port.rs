//! `ferro net port`.

use std::net::Ipv4Addr;

use clap::Subcommand;
use ferro_node::segment::port::{self, Port, Wish};
use ferro_node::segment::{Host, tap};

use super::declared::Memory;
use super::report::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// Make a port of a segment for a VM's network card
    Add {
        /// The VM's name, by which the segment's DNS knows it
        vm: String,
        /// The segment
        #[arg(long, value_name = "NAME")]
        segment: String,
        /// The number of the VM's card
        #[arg(long, value_name = "N", default_value_t = 0)]
        card: usize,
        /// The card's address [default: the one that `ferro run` gives this VM's card]
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// The VM's address, where it isn't given by DHCP: no other passes then
        #[arg(long, value_name = "ADDRESS")]
        address: Option<Ipv4Addr>,
        /// Let frames with any addresses pass, for a VM that is a router or a bridge itself
        #[arg(long)]
        allow_spoofing: bool,
        /// Who may attach a VM to it without being root: a user's name or number
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        #[command(flatten)]
        memory: Memory,
        #[command(flatten)]
        output: Output,
    },
    /// List the ports
    List {
        #[command(flatten)]
        memory: Memory,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a port
    Delete {
        /// The VM's name, or the port's interface
        vm: String,
        /// The number of the VM's card
        #[arg(long, value_name = "N", default_value_t = 0)]
        card: usize,
        #[command(flatten)]
        memory: Memory,
        #[command(flatten)]
        output: Output,
    },
}

impl PortCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let host = Host::open()?;
        match self {
            Self::Add { vm, segment, card, mac, address, allow_spoofing, owner, memory, output } => {
                let wish = Wish {
                    segment,
                    vm,
                    card,
                    mac: mac.as_deref().map(str::parse).transpose()?,
                    address,
                    spoofing: allow_spoofing,
                    owner: owner.as_deref().map(tap::user).transpose()?,
                    passing: false,
                };
                let (port, change) = port::plug(&host, &memory.state, &wish)?;
                output.change(&format!("port {}", port.interface), change, "already there", "added")
            }
            Self::List { memory, output } => {
                let ports = port::list(&memory.state)?;
                output.value(&ports, || {
                    table(
                        ["PORT", "SEGMENT", "VM", "CARD", "MAC", "ADDRESS"],
                        &ports.iter().map(row).collect::<Vec<_>>(),
                    )
                })
            }
            Self::Delete { vm, card, memory, output } => {
                let is_interface = port::list(&memory.state)?.iter().any(|port| port.interface == vm);
                let interface = if is_interface { vm } else { port::interface(&vm, card) };
                let change = port::unplug(&host, &memory.state, &interface)?;
                output.change(&format!("port {interface}"), change, "already gone", "deleted")
            }
        }
    }
}

fn row(port: &Port) -> [String; 6] {
    let address = match port.address {
        _ if port.spoofing => "any".to_owned(),
        Some(address) => address.to_string(),
        None => "by DHCP or as it likes".to_owned(),
    };
    [
        port.interface.clone(),
        port.segment.clone(),
        port.vm.clone(),
        port.card.to_string(),
        port.mac.to_string(),
        address,
    ]
}
