//! TAP interfaces one by one, as `tunctl -t tap0` and `brctl addif br0 tap0` make them: they stay until deleted. Frames
//! are read and written by the VM that attaches, not here.

use serde::Serialize;

use super::bridge::{self, check_name};
use super::{Change, Error, Host, Kind, Link, Result};

/// A TAP interface, as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether a process is attached.
    pub attached: bool,
    /// The bridge it is plugged into.
    pub bridge: Option<String>,
    /// The number of the user who may attach without being root.
    pub owner: Option<u32>,
}

/// Makes a TAP interface, plugs it into `bridge` and switches it on, as far as that isn't so. `owner` is the number of
/// a user who may attach to it without being root.
///
/// # Errors
/// A name that can't be, or that something else has; an unknown bridge; one that is plugged in elsewhere or belongs to
/// somebody else; no permission. An interface that was made and couldn't be finished is deleted again.
pub fn add(host: &Host, name: &str, bridge: Option<&str>, owner: Option<u32>) -> Result<Change> {
    check_name(name)?;
    let bridge = bridge.map(|bridge| bridge::get(host, bridge)).transpose()?;
    let found = host.find(name)?;
    if let Some(link) = &found {
        check_found(host, link, bridge.as_ref(), owner)?;
    } else {
        ferro_sys::tap::make(name, owner)
            .map_err(|error| Error::host(format!("make the TAP interface {name}"), error))?;
    }
    match finish(host, name, bridge.as_ref()) {
        Ok(Change::Already) if found.is_some() => Ok(Change::Already),
        Ok(_) => Ok(Change::Done),
        Err(error) => {
            if found.is_none() {
                // The first error is the one to tell.
                let _ = ferro_sys::tap::delete(name);
            }
            Err(error)
        }
    }
}

fn check_found(host: &Host, link: &Link, bridge: Option<&Link>, owner: Option<u32>) -> Result<()> {
    expect_tap(link)?;
    if let Some(wanted) = owner
        && link.owner != Some(wanted)
    {
        let found = link.owner.map_or_else(|| "nobody in particular".to_owned(), |owner| owner.to_string());
        return Err(Error::AnotherOwner { name: link.name.clone(), found, wanted });
    }
    match (link.controller, bridge) {
        (Some(there), Some(bridge)) if there != bridge.index => {
            let links = host.links()?;
            let there = links.iter().find(|link| link.index == there).map_or("another bridge", |link| &link.name);
            Err(Error::AnotherBridge { name: link.name.clone(), bridge: there.to_owned() })
        }
        _ => Ok(()),
    }
}

fn finish(host: &Host, name: &str, bridge: Option<&Link>) -> Result<Change> {
    let link = host.find(name)?.ok_or_else(|| Error::Unknown(name.to_owned()))?;
    let mut change = Change::Already;
    if let Some(bridge) = bridge
        && link.controller != Some(bridge.index)
    {
        host.plug(&link, bridge)?;
        change = Change::Done;
    }
    if !link.up {
        host.switch_on(&link)?;
        change = Change::Done;
    }
    Ok(change)
}

/// Deletes a TAP interface.
///
/// # Errors
/// Something that isn't one, no permission.
pub fn delete(host: &Host, name: &str) -> Result<Change> {
    check_name(name)?;
    let Some(link) = host.find(name)? else { return Ok(Change::Already) };
    expect_tap(&link)?;
    host.delete_link(&link)?;
    Ok(Change::Done)
}

/// All TAP interfaces of the host, whoever made them.
///
/// # Errors
/// What the kernel refused.
pub fn list(host: &Host) -> Result<Vec<Tap>> {
    let links = host.links()?;
    let tap = |link: &Link| Tap {
        name: link.name.clone(),
        up: link.up,
        attached: link.carrier,
        bridge: link
            .controller
            .and_then(|index| links.iter().find(|link| link.index == index))
            .map(|link| link.name.clone()),
        owner: link.owner,
    };
    Ok(links.iter().filter(|link| link.kind == Kind::Tap).map(tap).collect())
}

/// The number of a user, given by name or number.
///
/// # Errors
/// Nobody has that name in /etc/passwd.
pub fn user(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(|error| Error::host("read /etc/passwd", error))?;
    let number = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    users.lines().find_map(number).ok_or_else(|| Error::User(name.to_owned()))
}

fn expect_tap(link: &Link) -> Result<()> {
    if link.kind == Kind::Tap {
        return Ok(());
    }
    Err(Error::AnotherKind { name: link.name.clone(), found: link.kind.to_string(), wanted: "a TAP interface" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user("root").unwrap(), 0);
        assert_eq!(user("1234").unwrap(), 1234);
        assert!(user("nobody-of-that-name").unwrap_err().to_string().contains("nobody-of-that-name"));
    }
}
