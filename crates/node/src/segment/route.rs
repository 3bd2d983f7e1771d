//! IPv4 routes one by one, as `route add -net 10.77.77.0/24 dev br0` makes them, in the main table.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Change, Error, Host, Result, Route};

/// Adds a route to `destination` over an interface, a gateway or both.
///
/// # Errors
/// An unknown interface, another route to the same destination, a gateway that can't be reached, no permission.
pub fn add(host: &Host, destination: Ipv4Net, device: Option<&str>, via: Option<Ipv4Addr>) -> Result<Change> {
    if device.is_none() && via.is_none() {
        return Err(Error::Nowhere(destination.to_string()));
    }
    let wanted = wanted(host, destination, device, via)?;
    if let Some(route) = host.routes()?.into_iter().find(|route| route.destination == wanted.destination) {
        if is_it(&route, &wanted) && route.gateway == wanted.gateway {
            return Ok(Change::Already);
        }
        return Err(Error::AnotherRoute { destination: destination.to_string(), found: told(host, &route)? });
    }
    host.add_route(&wanted)?;
    Ok(Change::Done)
}

/// Deletes the route to `destination`; interface and gateway, where given, must be its own.
///
/// # Errors
/// An unknown interface, no permission.
pub fn delete(host: &Host, destination: Ipv4Net, device: Option<&str>, via: Option<Ipv4Addr>) -> Result<Change> {
    let wanted = wanted(host, destination, device, via)?;
    let found =
        host.routes()?.into_iter().find(|route| route.destination == wanted.destination && is_it(route, &wanted));
    let Some(route) = found else { return Ok(Change::Already) };
    host.delete_route(&route)?;
    Ok(Change::Done)
}

fn wanted(host: &Host, destination: Ipv4Net, device: Option<&str>, via: Option<Ipv4Addr>) -> Result<Route> {
    let interface = match device {
        Some(name) => Some(host.find(name)?.ok_or_else(|| Error::Unknown(name.to_owned()))?.index),
        None => None,
    };
    Ok(Route { destination: destination.trunc(), gateway: via, interface })
}

/// Whether `route` is what is wanted, as far as that is said.
fn is_it(route: &Route, wanted: &Route) -> bool {
    (wanted.gateway.is_none() || route.gateway == wanted.gateway)
        && (wanted.interface.is_none() || route.interface == wanted.interface)
}

/// How a route goes, as `ip route` words it.
fn told(host: &Host, route: &Route) -> Result<String> {
    let mut words = vec![];
    if let Some(gateway) = route.gateway {
        words.push(format!("via {gateway}"));
    }
    if let Some(index) = route.interface {
        let name = host.links()?.into_iter().find(|link| link.index == index).map(|link| link.name);
        words.push(format!("dev {}", name.unwrap_or_else(|| index.to_string())));
    }
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_about_a_route_does_not_matter() {
        let there = Route {
            destination: "10.0.0.0/8".parse().unwrap(),
            gateway: Some(Ipv4Addr::new(192, 168, 0, 1)),
            interface: Some(3),
        };
        assert!(is_it(&there, &Route { gateway: None, interface: None, ..there.clone() }));
        assert!(is_it(&there, &Route { interface: None, ..there.clone() }));
        assert!(!is_it(&there, &Route { interface: Some(4), ..there.clone() }));
        assert!(!is_it(&there, &Route { gateway: Some(Ipv4Addr::LOCALHOST), ..there.clone() }));
    }
}
