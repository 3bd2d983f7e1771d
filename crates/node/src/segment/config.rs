//! Declared segments, as `segments.toml` writes them: read, and checked as a whole before anything is done. How they are
//! brought about isn't known here.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::bridge::check_name;
use super::rule::{Endpoint, Rule};
use super::service::settings::{AddressRange, Reservation, RouteTo, Services};
use crate::cluster::Span;

/// Why a declaration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// It isn't TOML, or has other fields than segments have.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// What it says can't be.
    #[error("segment {segment}: {problem}")]
    Segment {
        /// Which one.
        segment: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A rule names a segment that isn't there.
    #[error("the rule {rule:?} names {name:?}, which is no segment of this file, nor host or internet")]
    Rule {
        /// The rule.
        rule: String,
        /// The name.
        name: String,
    },
}

/// All segments of a host, and what may pass between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The segments.
    #[serde(default, rename = "segment")]
    pub segments: Vec<Segment>,
    /// What may pass: everything else between segments may not.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// DNS servers that are asked what isn't known here; the host's own (`/etc/resolv.conf`) if not given.
    #[serde(default)]
    pub upstreams: Vec<std::net::IpAddr>,
}

/// A virtual network: a bridge with a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Its name, by which rules and VMs call it.
    pub name: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The host's address in it; the subnet's first if not given.
    gateway: Option<Ipv4Addr>,
    /// The bridge; `ferro-` and the name if not given.
    bridge: Option<String>,
    /// Whether what leaves to networks that aren't segments takes the host's address, and may leave.
    #[serde(default)]
    pub nat: bool,
    /// Addresses that are given by DHCP; nobody answers DHCP without.
    pub dhcp: Option<AddressRange>,
    /// For how long an address is given; 1 h if not said.
    pub lease: Option<Span>,
    /// The domain of its hosts' names.
    pub domain: Option<String>,
    /// Name servers that DHCP tells of; the gateway if not given.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Time servers that DHCP tells of.
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// Routes that DHCP tells of.
    #[serde(default)]
    pub routes: Vec<RouteTo>,
    /// Hosts that always get the same address.
    #[serde(default, rename = "reservation")]
    pub reservations: Vec<Reservation>,
    /// Whether its hosts reach the host and other networks, but not each other.
    #[serde(default)]
    pub isolated: bool,
    /// An interface of the host by which the segment goes on outside.
    pub uplink: Option<String>,
    /// The tag of its frames there (IEEE 802.1Q), 1 to 4094; none if not given.
    pub vlan: Option<u16>,
}

impl Segment {
    /// The host's address in the segment.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.or_else(|| self.subnet.hosts().next()).unwrap_or_else(|| self.subnet.addr())
    }

    /// The name of its bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        self.bridge.clone().unwrap_or_else(|| format!("ferro-{}", self.name))
    }

    /// The interface that is plugged into the bridge for the outside: the uplink, or its VLAN.
    #[must_use]
    pub fn outside(&self) -> Option<String> {
        let uplink = self.uplink.as_ref()?;
        Some(self.vlan.map_or_else(|| uplink.clone(), |id| format!("{uplink}.{id}")))
    }

    fn check_uplink(&self) -> Result<(), String> {
        match (&self.uplink, self.vlan) {
            (None, Some(_)) => return Err("vlan needs an uplink".into()),
            (_, Some(id)) if !(1..=4094).contains(&id) => return Err(format!("the vlan {id} is not in 1 to 4094")),
            _ => {}
        }
        self.outside().map_or(Ok(()), |name| check_name(&name).map_err(|error| error.to_string()))
    }

    fn check(&self) -> Result<(), String> {
        let named = !self.name.is_empty()
            && self.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !named {
            return Err("a name has small letters, digits and '-'".into());
        }
        if Endpoint::is_reserved(&self.name) {
            return Err("the names host, internet and any have a meaning of their own in rules".into());
        }
        let bridge = self.bridge();
        check_name(&bridge).map_err(|error| format!("{error}; set bridge = \"…\""))?;
        if !bridge.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(format!("the bridge's name {bridge:?} may have letters, digits, '-', '_' and '.'"));
        }
        if self.subnet != self.subnet.trunc() {
            return Err(format!("{} is an address in a network: write {}", self.subnet, self.subnet.trunc()));
        }
        if !(8..=30).contains(&self.subnet.prefix_len()) {
            return Err(format!("the subnet {} has to be between /8 and /30", self.subnet));
        }
        let gateway = self.gateway();
        if !self.subnet.contains(&gateway) || gateway == self.subnet.network() || gateway == self.subnet.broadcast() {
            return Err(format!("the gateway {gateway} is no host's address in {}", self.subnet));
        }
        self.check_uplink()
    }
}

impl Declaration {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let declaration: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        declaration.check()?;
        Ok(declaration)
    }

    /// Holds its parts against each other.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        for (at, segment) in self.segments.iter().enumerate() {
            let wrong = |problem| ConfigError::Segment { segment: segment.name.clone(), problem };
            segment.check().map_err(wrong)?;
            for other in &self.segments[..at] {
                if other.name == segment.name {
                    return Err(wrong("is declared twice".into()));
                }
                if other.bridge() == segment.bridge() {
                    return Err(wrong(format!("has the bridge {} of segment {}", segment.bridge(), other.name)));
                }
                if other.domain.is_some() && other.domain == segment.domain {
                    return Err(wrong(format!("has the domain of segment {}", other.name)));
                }
                if other.outside().is_some() && other.outside() == segment.outside() {
                    return Err(wrong(format!("has the uplink of segment {}: give one of them a vlan", other.name)));
                }
                if other.subnet.contains(&segment.subnet) || segment.subnet.contains(&other.subnet) {
                    let overlap = format!("the subnet {} overlaps {} of {}", segment.subnet, other.subnet, other.name);
                    return Err(wrong(overlap));
                }
            }
        }
        for rule in &self.rules {
            for name in rule.segments() {
                if !self.segments.iter().any(|segment| segment.name == name) {
                    return Err(ConfigError::Rule { rule: rule.to_string(), name: name.to_owned() });
                }
            }
        }
        Services::of(self).check().map_err(|(segment, problem)| ConfigError::Segment { segment, problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Declaration, String> {
        let declaration: Declaration = toml::from_str(text).map_err(|error| error.to_string())?;
        declaration.check().map_err(|error| error.to_string())?;
        Ok(declaration)
    }

    #[test]
    fn what_is_not_said_has_its_usual_value() {
        let declaration = read("[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.0/24\"").unwrap();
        let dmz = &declaration.segments[0];
        assert_eq!((dmz.gateway(), dmz.bridge()), (Ipv4Addr::new(10, 1, 0, 1), "ferro-dmz".to_owned()));
        assert!(!dmz.nat);
    }

    #[test]
    fn declarations_that_cannot_be_are_refused_with_the_reason() {
        let dmz = "[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.0/24\"\n";
        for (text, words) in [
            ("[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.5/24\"", "write 10.1.0.0/24"),
            ("[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.0/31\"", "between /8 and /30"),
            ("[[segment]]\nname = \"d m\"\nsubnet = \"10.1.0.0/24\"", "small letters"),
            ("[[segment]]\nname = \"host\"\nsubnet = \"10.1.0.0/24\"", "meaning of their own"),
            ("[[segment]]\nname = \"a-very-long-name\"\nsubnet = \"10.1.0.0/24\"", "1 to 15 bytes"),
            ("[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.0/24\"\nbridge = \"a{b\"", "bridge's name"),
            ("[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.0/24\"\ngateway = \"10.2.0.1\"", "no host's address"),
            ("[[segment]]\nname = \"dmz\"\nsubnet = \"10.1.0.0/24\"\ncolour = 1", "unknown field"),
            (&format!("{dmz}{dmz}"), "declared twice"),
            (&format!("{dmz}[[segment]]\nname = \"lan\"\nsubnet = \"10.0.0.0/8\""), "overlaps"),
            (&format!("{dmz}dhcp = \"10.1.0.9\""), "no range"),
            (&format!("{dmz}dhcp = \"10.1.0.9-10.1.1.9\""), "not within 10.1.0.0/24"),
            (&format!("{dmz}vlan = 7"), "needs an uplink"),
            (&format!("{dmz}domain = \"a..b\""), "is no domain"),
            (&format!("{dmz}[[segment.reservation]]\naddress = \"10.1.0.9\""), "either vm or mac"),
            (&format!("{dmz}dhcp = \"10.1.0.9-10.1.0.20\"\nlease = \"1s\""), "60 seconds"),
            (
                &format!("{dmz}[[segment.reservation]]\nvm = \"web\"\naddress = \"10.2.0.9\""),
                "no host's address in the subnet",
            ),
            (&format!("rules = [\"lan -> dmz any\"]\n{dmz}"), "no segment of this file"),
        ] {
            let complaint = read(text).unwrap_err();
            assert!(complaint.contains(words), "{text}: {complaint}");
        }
    }
}
