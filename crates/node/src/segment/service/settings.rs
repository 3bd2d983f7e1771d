//! What the process that answers DHCP and DNS has to know, made of a declaration; and the parts of a declaration that say it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ferro_net::{MacAddress, dhcp, dns, stable_mac};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::segment::config::{Declaration, Segment};
use crate::segment::rule::Endpoint;

/// Seconds for which an address is given if nothing else is said.
const LEASE: u32 = 3600;

/// First and last address, written `10.0.0.100-10.0.0.199`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

/// A route that clients are told, written `10.88.0.0/16 via 10.0.0.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteTo {
    /// Where to.
    pub destination: Ipv4Net,
    /// The router.
    pub via: Ipv4Addr,
}

/// Why a text is neither.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {wanted}")]
pub struct TextError {
    text: String,
    wanted: &'static str,
}

macro_rules! as_text {
    ($kind:ty) => {
        impl TryFrom<String> for $kind {
            type Error = TextError;

            fn try_from(text: String) -> Result<Self, TextError> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(value: $kind) -> Self {
                value.to_string()
            }
        }
    };
}

as_text!(AddressRange);
as_text!(RouteTo);

impl FromStr for AddressRange {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let read = || {
            let (first, last) = text.split_once('-')?;
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        };
        read()
            .ok_or_else(|| TextError { text: text.into(), wanted: "range of addresses such as 10.0.0.100-10.0.0.199" })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for RouteTo {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let read = || {
            let (destination, via) = text.split_once(" via ")?;
            let destination: Ipv4Net = destination.trim().parse().ok()?;
            Some(Self { destination: destination.trunc(), via: via.trim().parse().ok()? })
        };
        read().ok_or_else(|| TextError { text: text.into(), wanted: "route such as 10.88.0.0/16 via 10.0.0.2" })
    }
}

impl fmt::Display for RouteTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {}", self.destination, self.via)
    }
}

/// A host that always gets the same address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// A VM, by name.
    pub vm: Option<String>,
    /// The number of the VM's card, from 0.
    #[serde(default)]
    pub card: usize,
    /// Any card, by its address.
    pub mac: Option<MacAddress>,
    /// The host's address.
    pub address: Ipv4Addr,
    /// The host's name; the VM's if not given.
    pub name: Option<String>,
}

impl Reservation {
    /// The card it is for.
    #[must_use]
    pub fn card(&self) -> Option<MacAddress> {
        match (&self.vm, self.mac) {
            (Some(vm), None) => Some(stable_mac(vm, self.card)),
            (None, Some(mac)) => Some(mac),
            // A VM whose card was given an address of its own.
            (Some(_), mac) => mac,
            (None, None) => None,
        }
    }

    /// The name it is known by.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        self.name.clone().or_else(|| self.vm.clone()).map(|name| name.to_ascii_lowercase())
    }
}

/// One segment as its services see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The host's address in it.
    pub gateway: Ipv4Addr,
    /// The domain of its hosts.
    pub domain: Option<String>,
    /// Addresses that are given.
    pub dhcp: Option<AddressRange>,
    /// For how many seconds.
    pub lease: u32,
    /// Name servers that are told.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers that are told.
    pub ntp: Vec<Ipv4Addr>,
    /// Routes that are told.
    pub routes: Vec<RouteTo>,
    /// Hosts that always get the same address.
    pub reservations: Vec<Reservation>,
    /// Segments whose hosts' names its own may know.
    pub sees: Vec<usize>,
    /// Whether others are asked for what isn't known here.
    pub forwards: bool,
    /// Its way outside, where another DHCP server may be.
    pub outside: Option<String>,
}

/// All services of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// DNS servers that are asked; the host's own if there are none.
    pub upstreams: Vec<IpAddr>,
    /// The segments that have services.
    pub segments: Vec<Served>,
}

impl Services {
    /// What a declaration wants.
    #[must_use]
    pub fn of(declaration: &Declaration) -> Self {
        let wants =
            |segment: &&Segment| segment.dhcp.is_some() || segment.domain.is_some() || !segment.reservations.is_empty();
        let segments: Vec<&Segment> = declaration.segments.iter().filter(wants).collect();
        let passes = |from: &str, to: &Endpoint| {
            let from = Endpoint::Segment(from.to_owned());
            declaration.rules.iter().any(|rule| rule.from.contains(&from) && rule.to.contains(to))
        };
        let served = |segment: &&Segment| Served {
            name: segment.name.clone(),
            bridge: segment.bridge(),
            subnet: segment.subnet,
            gateway: segment.gateway(),
            domain: segment.domain.clone(),
            dhcp: segment.dhcp,
            lease: segment.lease.map_or(LEASE, |lease| u32::try_from(lease.0.as_secs()).unwrap_or(u32::MAX - 1)),
            dns: segment.dns.clone(),
            ntp: segment.ntp.clone(),
            routes: segment.routes.clone(),
            reservations: segment.reservations.clone(),
            sees: (0..segments.len())
                .filter(|at| passes(&segment.name, &Endpoint::Segment(segments[*at].name.clone())))
                .collect(),
            forwards: segment.nat || passes(&segment.name, &Endpoint::Internet),
            outside: segment.outside(),
        };
        Self { upstreams: declaration.upstreams.clone(), segments: segments.iter().map(served).collect() }
    }

    /// Holds its parts against each other; what is wrong, and with which segment.
    ///
    /// # Errors
    /// Ranges and reservations outside the subnet, names that are none.
    pub fn check(&self) -> Result<(), (String, String)> {
        for segment in &self.segments {
            segment.check().map_err(|problem| (segment.name.clone(), problem))?;
        }
        dns::Server::new(self.dns(&[]), Box::new(|| 0)).map(drop).map_err(|error| {
            let is_wrong =
                |segment: &&Served| segment.domain.as_ref().is_some_and(|domain| error.to_string().contains(domain));
            let segment = self.segments.iter().find(is_wrong).map(|segment| segment.name.clone());
            (segment.unwrap_or_default(), error.to_string())
        })
    }

    /// What the DNS server is told; `own` are the host's name servers, for want of others.
    #[must_use]
    pub fn dns(&self, own: &[IpAddr]) -> dns::Config {
        let segment = |served: &Served| dns::Segment {
            domain: served.domain.clone(),
            subnet: served.subnet,
            gateway: served.gateway,
            sees: served.sees.clone(),
            forwards: served.forwards,
        };
        let upstreams = if self.upstreams.is_empty() { own } else { &self.upstreams };
        // Asking ourselves would go on for ever.
        let is_ours = |address: &IpAddr| self.segments.iter().any(|served| IpAddr::V4(served.gateway) == *address);
        dns::Config {
            segments: self.segments.iter().map(segment).collect(),
            upstreams: upstreams
                .iter()
                .filter(|address| !is_ours(address))
                .map(|at| SocketAddr::new(*at, 53))
                .collect(),
        }
    }
}

impl Served {
    fn check(&self) -> Result<(), String> {
        for reservation in &self.reservations {
            if reservation.card().is_none() {
                return Err(format!("the reservation of {} needs either vm or mac", reservation.address));
            }
            if let Some(label) = reservation.label()
                && !dns::is_label(&label)
            {
                return Err(format!("{label:?} can't be a host's name: letters, digits and '-'"));
            }
        }
        self.dhcp(vec![]).check().map_err(|error| error.to_string())
    }

    /// What the DHCP server is told; without addresses to give it still knows the reservations.
    #[must_use]
    pub fn dhcp(&self, names: Vec<(MacAddress, String)>) -> dhcp::Config {
        // A range that nobody gets anything of, where none is declared.
        let range = self.dhcp.map_or((self.gateway, self.gateway), |range| (range.first, range.last));
        let reservation =
            |one: &Reservation| Some(dhcp::Reservation { mac: one.card()?, address: one.address, name: one.label() });
        dhcp::Config {
            subnet: self.subnet,
            server: self.gateway,
            range,
            lease: self.lease,
            reservations: self.reservations.iter().filter_map(reservation).collect(),
            names,
            router: Some(self.gateway),
            dns: if self.dns.is_empty() { vec![self.gateway] } else { self.dns.clone() },
            domain: self.domain.clone(),
            ntp: self.ntp.clone(),
            routes: self.routes.iter().map(|route| (route.destination, route.via)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_who_knows_whom() {
        let declaration: Declaration = toml::from_str(
            r#"
            rules = ["lan -> dmz tcp 80", "lan -> internet any"]
            [[segment]]
            name = "plain"
            subnet = "10.9.0.0/24"
            [[segment]]
            name = "dmz"
            subnet = "10.1.0.0/24"
            domain = "dmz.example.it"
            dhcp = "10.1.0.100-10.1.0.199"
            [[segment.reservation]]
            vm = "web"
            address = "10.1.0.10"
            [[segment]]
            name = "lan"
            subnet = "10.2.0.0/24"
            domain = "lan.example.it"
            lease = "10m"
            routes = ["10.88.0.0/16 via 10.2.0.9"]
            "#,
        )
        .unwrap();
        declaration.check().unwrap();
        let services = Services::of(&declaration);
        let seen: Vec<_> =
            services.segments.iter().map(|one| (one.name.as_str(), one.sees.clone(), one.forwards)).collect();
        assert_eq!(seen, [("dmz", vec![], false), ("lan", vec![0], true)]);
        let dhcp = services.segments[0].dhcp(vec![]);
        assert_eq!(dhcp.name_of(stable_mac("web", 0)), Some("web"));
        assert_eq!((dhcp.router, dhcp.dns[0]), (Some(Ipv4Addr::new(10, 1, 0, 1)), Ipv4Addr::new(10, 1, 0, 1)));
        assert_eq!(services.segments[1].lease, 600);
        let text = serde_json::to_string(&services).unwrap();
        assert_eq!(serde_json::from_str::<Services>(&text).unwrap(), services);
        let own = [IpAddr::from([10, 1, 0, 1]), IpAddr::from([192, 0, 2, 1])];
        assert_eq!(services.dns(&own).upstreams, [SocketAddr::from(([192, 0, 2, 1], 53))]);
    }
}
