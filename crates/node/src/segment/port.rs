//! Ports of segments: TAP interfaces that VMs' cards are plugged into, each with what it may send. They are remembered in the
//! directory of what was made; a port that was made for a VM goes with it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::SystemTime;

use ferro_net::{MacAddress, dns, stable_mac};
use serde::{Deserialize, Serialize};

use super::plan::Thing;
use super::state::recall;
use super::{Change, Error, Host, Result, filter, nft, service, tap};

const FILE: &str = "ports.json";
const LOCK: &str = "ports.lock";

/// What holds for all ports of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The segment.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// The host's address in it, which no port has.
    pub gateway: Ipv4Addr,
    /// Addresses are given by DHCP: no port has others.
    pub gives: bool,
    /// Ports reach the host, but not each other.
    pub isolated: bool,
    /// Addresses of certain cards.
    pub reserved: Vec<(MacAddress, Ipv4Addr)>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The TAP interface.
    pub interface: String,
    /// The segment.
    pub segment: String,
    /// The VM that it is for.
    pub vm: String,
    /// The number of the VM's card, from 0.
    pub card: usize,
    /// The card's address.
    pub mac: MacAddress,
    /// The host's address, where it isn't given by DHCP.
    pub address: Option<Ipv4Addr>,
    /// Frames may have any addresses.
    pub spoofing: bool,
    /// It goes with the VM.
    pub passing: bool,
}

impl Port {
    /// The VM's name as a host's.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let label = self.vm.to_ascii_lowercase().replace(['_', '.'], "-");
        dns::is_label(&label).then_some(label)
    }
}

/// What is wished of a port.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The segment.
    pub segment: String,
    /// The VM.
    pub vm: String,
    /// The number of the VM's card, from 0.
    pub card: usize,
    /// The card's address; the one that a VM's card has if nothing else is said.
    pub mac: Option<MacAddress>,
    /// The host's address, where it isn't given by DHCP.
    pub address: Option<Ipv4Addr>,
    /// Frames may have any addresses.
    pub spoofing: bool,
    /// The number of a user who may attach without being root.
    pub owner: Option<u32>,
    /// The port goes with the VM.
    pub passing: bool,
}

/// The interface of a VM's card: the kernel's names are short, a VM's may be long.
#[must_use]
pub fn interface(vm: &str, card: usize) -> String {
    let plain = format!("fv-{vm}-{card}");
    if plain.len() <= 15
        && !plain.contains(|character: char| !character.is_ascii_graphic() || "/:%\"".contains(character))
    {
        return plain;
    }
    let hash = vm.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    format!("fv-{hash:08x}-{card}")
}

/// Makes a port, as far as it isn't there.
///
/// # Errors
/// No such segment, an interface of another's, no permission; nothing is half done then.
pub fn plug(host: &Host, state: &Path, wish: &Wish) -> Result<(Port, Change)> {
    let policies = policies(state)?;
    let policy = policies.iter().find(|policy| policy.name == wish.segment).ok_or_else(|| Error::NoSegment {
        name: wish.segment.clone(),
        known: policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    let mac = wish.mac.unwrap_or_else(|| stable_mac(&wish.vm, wish.card));
    let port = Port {
        interface: interface(&wish.vm, wish.card),
        segment: wish.segment.clone(),
        vm: wish.vm.clone(),
        card: wish.card,
        mac,
        address: wish.address,
        spoofing: wish.spoofing,
        passing: wish.passing,
    };
    let before = list(state)?;
    if before.iter().any(|other| {
        other.mac == mac && other.segment == port.segment && other.interface != port.interface && exists(host, other)
    }) {
        return Err(Error::SameCard { mac: mac.to_string(), segment: port.segment });
    }
    // What was made before for the VM is used as it is.
    let fits = |mine: &&Port| {
        let same = mine.interface == port.interface && mine.segment == port.segment && mine.mac == port.mac;
        same && (wish.passing && !mine.passing || **mine == port)
    };
    if let Some(mine) = before.iter().find(fits).filter(|mine| exists(host, mine)) {
        return Ok((mine.clone(), Change::Already));
    }
    let (_held, mut ports) = hold(host, state)?;
    let change = tap::add(host, &port.interface, Some(&policy.bridge), wish.owner)?;
    ports.retain(|other| other.interface != port.interface);
    ports.push(port.clone());
    let done = isolate(&port.interface, policy.isolated).and_then(|()| load(state, &policies, &ports));
    if let Err(error) = done.and_then(|()| save(state, &ports)) {
        if change == Change::Done {
            // The first error is the one to tell.
            let _ = tap::delete(host, &port.interface);
        }
        return Err(error);
    }
    Ok((port, Change::Done))
}

/// Takes a port away.
///
/// # Errors
/// An interface that isn't a port, no permission.
pub fn unplug(host: &Host, state: &Path, interface: &str) -> Result<Change> {
    let (_held, mut ports) = hold(host, state)?;
    let known = ports.iter().any(|port| port.interface == interface);
    if !known {
        return match host.find(interface)? {
            None => Ok(Change::Already),
            Some(_) => Err(Error::NoPort(interface.to_owned())),
        };
    }
    tap::delete(host, interface)?;
    ports.retain(|port| port.interface != interface);
    save(state, &ports)?;
    load(state, &policies(state)?, &ports)?;
    Ok(Change::Done)
}

/// All ports that were made and not taken away; those that went with their VMs may still be among them.
///
/// # Errors
/// A file that can't be read.
pub fn list(state: &Path) -> Result<Vec<Port>> {
    let path = state.join(FILE);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| Error::Memory { path, source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(Error::host(format!("read {}", path.display()), error)),
    }
}

/// The names of a segment's VMs, by their cards.
pub(super) fn names(ports: &[Port], segment: &str) -> Vec<(MacAddress, String)> {
    ports.iter().filter(|port| port.segment == segment).filter_map(|port| Some((port.mac, port.label()?))).collect()
}

/// When ports were last made or taken away.
pub(super) fn changed(state: &Path) -> Option<SystemTime> {
    std::fs::metadata(state.join(FILE)).ok()?.modified().ok()
}

/// Lets the addresses that cards of a segment have by their leases pass; nothing is done where the segment has no port.
pub(super) fn refresh(state: &Path, segment: &str) -> Result<()> {
    if !list(state)?.iter().any(|port| port.segment == segment) {
        return Ok(());
    }
    let _held = lock(state)?;
    load(state, &policies(state)?, &list(state)?)
}

/// Loads the checks of what ports there are; with no policies, takes them away.
pub(super) fn check(host: &Host, state: &Path, policies: &[Policy]) -> Result<()> {
    let (_held, ports) = hold(host, state)?;
    if policies.is_empty() {
        save(state, &[])?;
        return nft::load(&filter::clear());
    }
    for policy in policies {
        for port in ports.iter().filter(|port| port.segment == policy.name) {
            isolate(&port.interface, policy.isolated)?;
        }
    }
    load(state, policies, &ports)
}

fn policies(state: &Path) -> Result<Vec<Policy>> {
    let made = recall(state)?.into_iter().find_map(|made| match made.thing {
        Thing::Checks { segments } => Some(segments),
        _ => None,
    });
    Ok(made.unwrap_or_default())
}

fn load(state: &Path, policies: &[Policy], ports: &[Port]) -> Result<()> {
    let now = service::now();
    let mut known = vec![];
    for policy in policies {
        let of = |mac: MacAddress| ports.iter().find(|port| port.segment == policy.name && port.mac == mac);
        for (mac, address) in &policy.reserved {
            known.extend(of(*mac).map(|port| (port.interface.clone(), *address)));
        }
        if policy.gives && ports.iter().any(|port| port.segment == policy.name) {
            for lease in service::kept(state, &policy.name)?.into_iter().filter(|lease| lease.holds(now)) {
                known.extend(of(lease.mac).map(|port| (port.interface.clone(), lease.address)));
            }
        }
    }
    nft::load(&filter::script(policies, ports, &known))
}

/// The bridge keeps isolated ports from each other (bridge(8)).
fn isolate(interface: &str, isolated: bool) -> Result<()> {
    let path = format!("/sys/class/net/{interface}/brport/isolated");
    match std::fs::write(path, if isolated { "1" } else { "0" }) {
        Err(error) if isolated => Err(Error::host(format!("isolate the port {interface}"), error)),
        _ => Ok(()),
    }
}

fn exists(host: &Host, port: &Port) -> bool {
    host.find(&port.interface).is_ok_and(|found| found.is_some())
}

fn lock(state: &Path) -> Result<File> {
    let fail = |error| Error::host(format!("use the state directory {}", state.display()), error);
    std::fs::create_dir_all(state).map_err(fail)?;
    let file = File::options().create(true).truncate(false).write(true).open(state.join(LOCK)).map_err(fail)?;
    // The others are done soon.
    file.lock().map_err(fail)?;
    Ok(file)
}

/// Keeps others from changing ports, and forgets those that went with their VMs.
fn hold(host: &Host, state: &Path) -> Result<(File, Vec<Port>)> {
    let held = lock(state)?;
    let links = host.links()?;
    let mut ports = list(state)?;
    ports.retain(|port| !port.passing || links.iter().any(|link| link.name == port.interface));
    Ok((held, ports))
}

fn save(state: &Path, ports: &[Port]) -> Result<()> {
    let fail = |error: std::io::Error| Error::host(format!("write {}", state.join(FILE).display()), error);
    let mut file = tempfile::NamedTempFile::new_in(state).map_err(fail)?;
    serde_json::to_writer_pretty(&mut file, ports).map_err(|error| fail(error.into()))?;
    // Users who attach to their own ports read it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(fail)?;
    file.persist(state.join(FILE)).map_err(|error| fail(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::interface;

    #[test]
    fn interfaces_have_short_names_that_differ() {
        assert_eq!(interface("web", 0), "fv-web-0");
        let (a, b) = (interface("a-machine-with-a-long-name", 0), interface("a-machine-with-a-long-nam", 0));
        assert!(a.len() <= 15 && a != b);
        assert!(interface("a b", 0).starts_with("fv-"));
        assert!(!interface("a b", 0).contains(' '));
    }
}
