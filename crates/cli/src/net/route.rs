//! `ferro net route`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use ferro_node::segment::{Host, route};
use ipnet::Ipv4Net;
use serde::Serialize;

use super::report::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Add a route
    Add(RouteArgs),
    /// List the routes
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Delete a route
    Delete(RouteArgs),
}

/// Which route.
#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// Where to: a network such as 10.77.77.0/24, or default
    #[arg(value_parser = destination)]
    destination: Ipv4Net,
    /// The interface it leads over
    #[arg(long, value_name = "INTERFACE")]
    dev: Option<String>,
    /// The router on the way
    #[arg(long, value_name = "ADDRESS")]
    via: Option<Ipv4Addr>,
    #[command(flatten)]
    output: Output,
}

/// A route, with its interface's name.
#[derive(Debug, Serialize)]
struct Listed {
    destination: Ipv4Net,
    via: Option<Ipv4Addr>,
    dev: Option<String>,
}

impl RouteCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let host = Host::open()?;
        match self {
            Self::Add(args) => {
                let change = route::add(&host, args.destination, args.dev.as_deref(), args.via)?;
                args.output.change(&format!("route to {}", args.destination), change, "already there", "added")
            }
            Self::List { output } => {
                let routes = list(&host)?;
                output.value(&routes, || table(["DESTINATION", "VIA", "DEV"], &rows(&routes)))
            }
            Self::Delete(args) => {
                let change = route::delete(&host, args.destination, args.dev.as_deref(), args.via)?;
                args.output.change(&format!("route to {}", args.destination), change, "already gone", "deleted")
            }
        }
    }
}

/// A network, an address, or everything.
fn destination(text: &str) -> Result<Ipv4Net, String> {
    if text == "default" {
        return Ok(Ipv4Net::default());
    }
    text.parse()
        .or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| "it takes a network such as 10.77.77.0/24, an address, or default".to_owned())
}

fn list(host: &Host) -> anyhow::Result<Vec<Listed>> {
    let links = host.links()?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let listed = |route: ferro_node::segment::Route| Listed {
        destination: route.destination,
        via: route.gateway,
        dev: route.interface.and_then(name),
    };
    Ok(host.routes()?.into_iter().map(listed).collect())
}

fn rows(routes: &[Listed]) -> Vec<[String; 3]> {
    let row = |route: &Listed| {
        [
            route.destination.to_string(),
            route.via.map(|via| via.to_string()).unwrap_or_default(),
            route.dev.clone().unwrap_or_default(),
        ]
    };
    routes.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_network_an_address_or_everything() {
        assert_eq!(destination("default").unwrap().prefix_len(), 0);
        assert_eq!(destination("10.77.77.0/24").unwrap().to_string(), "10.77.77.0/24");
        assert_eq!(destination("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert!(destination("br0").is_err() && destination("10.0.0.0/33").is_err());
    }
}
