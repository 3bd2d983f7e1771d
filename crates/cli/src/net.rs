//! `ferro net`: the networks of this host. What is done to them is `ferro_node::segment`'s; here are flags and words.

mod bridge;
mod declared;
mod forward;
mod leases;
mod port;
pub(crate) mod report;
mod route;
mod tap;

use std::process::ExitCode;

use clap::Subcommand;

use crate::exit;

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Bridges: what VMs' network cards are plugged into (brctl)
    #[command(subcommand)]
    Bridge(bridge::BridgeCommand),
    /// TAP interfaces: the host's end of VMs' network cards (tunctl)
    #[command(subcommand)]
    Tap(tap::TapCommand),
    /// IPv4 routes
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Whether this host passes IPv4 packets on between its networks
    Forward(forward::ForwardArgs),
    /// Bring the declared segments up: bridges, addresses, forwarding, firewall, DHCP and DNS
    Up(declared::UpArgs),
    /// Take everything down that `up` made
    Down(declared::DownArgs),
    /// Ports of segments: TAP interfaces for VMs, with checks of what they send
    #[command(subcommand)]
    Port(port::PortCommand),
    /// Which cards have which addresses by DHCP
    Leases(leases::LeasesArgs),
    /// Answer DHCP and DNS for the segments that are up; `up` starts this by itself
    Serve(leases::ServeArgs),
    /// Say what `up` made, and whether it is still so
    Status(declared::StatusArgs),
}

impl NetCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Bridge(command) => command.run()?,
            Self::Tap(command) => command.run()?,
            Self::Route(command) => command.run()?,
            Self::Forward(args) => args.run()?,
            Self::Port(command) => command.run()?,
            Self::Leases(args) => args.run()?,
            Self::Serve(args) => args.run()?,
            Self::Up(args) => args.run()?,
            Self::Down(args) => args.run()?,
            Self::Status(args) => args.run()?,
        }
        Ok(ExitCode::from(exit::OK))
    }
}
