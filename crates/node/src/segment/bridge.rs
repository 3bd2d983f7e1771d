//! Bridges one by one, as `brctl addbr` and `ifconfig br0 10.77.77.1 up` make them. Which bridges there should be isn't
//! known here.

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Change, Error, Host, Kind, Link, Result};

/// A bridge, as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Net>,
    /// The interfaces that are plugged in.
    pub ports: Vec<String>,
}

/// Makes a bridge, switches it on and gives it `address`, as far as that isn't so.
///
/// # Errors
/// A name that can't be, or that something else has; no permission. A bridge that was made and couldn't be finished is
/// deleted again.
pub fn add(host: &Host, name: &str, address: Option<Ipv4Net>) -> Result<Change> {
    check_name(name)?;
    let found = host.find(name)?;
    if let Some(link) = &found {
        expect_bridge(link)?;
    }
    let existed = found.is_some();
    if !existed {
        host.make_bridge(name)?;
    }
    match finish(host, name, address) {
        Ok(Change::Already) if existed => Ok(Change::Already),
        Ok(_) => Ok(Change::Done),
        Err(error) => {
            if !existed && let Ok(Some(link)) = host.find(name) {
                // The first error is the one to tell.
                let _ = host.delete_link(&link);
            }
            Err(error)
        }
    }
}

fn finish(host: &Host, name: &str, address: Option<Ipv4Net>) -> Result<Change> {
    let link = get(host, name)?;
    let mut change = Change::Already;
    if let Some(address) = address
        && !host.addresses()?.contains(&(link.index, address))
    {
        host.add_address(&link, address)?;
        change = Change::Done;
    }
    if !link.up {
        host.switch_on(&link)?;
        change = Change::Done;
    }
    Ok(change)
}

/// Deletes a bridge.
///
/// # Errors
/// Something that isn't a bridge, a bridge with interfaces plugged in, no permission.
pub fn delete(host: &Host, name: &str) -> Result<Change> {
    check_name(name)?;
    let Some(link) = host.find(name)? else { return Ok(Change::Already) };
    expect_bridge(&link)?;
    let ports = ports(&host.links()?, &link);
    if !ports.is_empty() {
        return Err(Error::InUse { bridge: name.to_owned(), ports: ports.join(", ") });
    }
    host.delete_link(&link)?;
    Ok(Change::Done)
}

/// All bridges of the host, whoever made them.
///
/// # Errors
/// What the kernel refused.
pub fn list(host: &Host) -> Result<Vec<Bridge>> {
    let links = host.links()?;
    let addresses = host.addresses()?;
    let bridge = |link: &Link| Bridge {
        name: link.name.clone(),
        up: link.up,
        addresses: addresses.iter().filter(|(index, _)| *index == link.index).map(|(_, address)| *address).collect(),
        ports: ports(&links, link),
    };
    Ok(links.iter().filter(|link| link.kind == Kind::Bridge).map(bridge).collect())
}

/// The bridge of this name.
///
/// # Errors
/// Nothing has the name, or something else.
pub(super) fn get(host: &Host, name: &str) -> Result<Link> {
    let link = host.find(name)?.ok_or_else(|| Error::Unknown(name.to_owned()))?;
    expect_bridge(&link)?;
    Ok(link)
}

fn expect_bridge(link: &Link) -> Result<()> {
    if link.kind == Kind::Bridge {
        return Ok(());
    }
    Err(Error::AnotherKind { name: link.name.clone(), found: link.kind.to_string(), wanted: "a bridge" })
}

fn ports(links: &[Link], bridge: &Link) -> Vec<String> {
    links.iter().filter(|link| link.controller == Some(bridge.index)).map(|link| link.name.clone()).collect()
}

/// Whether Linux takes this name for an interface.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|character: char| {
            matches!(character, '/' | ':' | '%' | '"') || character.is_whitespace() || character.is_control()
        });
    if fits { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_linux_refuses_are_refused_before() {
        for name in ["br0", "a", "fifteen-letters", "v.10"] {
            check_name(name).unwrap();
        }
        for name in ["", ".", "..", "a/b", "a b", "sixteen--letters", "a:1", "tap%d", "a\n"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
