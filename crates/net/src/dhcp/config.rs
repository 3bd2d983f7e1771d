//! What a DHCP server is told about its network.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::MacAddress;

/// A card that always gets the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The card.
    pub mac: MacAddress,
    /// Its address.
    pub address: Ipv4Addr,
    /// The name it is told.
    pub name: Option<String>,
}

/// A network and what its clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The network.
    pub subnet: Ipv4Net,
    /// The server's own address in it.
    pub server: Ipv4Addr,
    /// First and last address given to cards without reservation.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// For how many seconds an address is leased.
    pub lease: u32,
    /// Cards with addresses of their own.
    pub reservations: Vec<Reservation>,
    /// Names told to cards that have no reservation.
    pub names: Vec<(MacAddress, String)>,
    /// Where everything else is (option 3).
    pub router: Option<Ipv4Addr>,
    /// Name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// The domain of names (option 15).
    pub domain: Option<String>,
    /// Time servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// Further routes (option 121).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// What can't be in a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The range isn't one, or isn't in the network.
    #[error("the DHCP range {}-{} is not within {subnet}", range.0, range.1)]
    Range {
        /// It.
        range: (Ipv4Addr, Ipv4Addr),
        /// The network.
        subnet: Ipv4Net,
    },
    /// The range is longer than 65,536 addresses.
    #[error("a DHCP range has 65536 addresses at most")]
    TooLong,
    /// A reserved address isn't a host's in the network, or is the server's.
    #[error("the reserved address {address} can't be given: {why}")]
    Reserved {
        /// It.
        address: Ipv4Addr,
        /// Why not.
        why: &'static str,
    },
    /// Two cards have one address, or one card two.
    #[error("{0} is reserved twice")]
    Twice(String),
    /// The time is too short to be renewed.
    #[error("a lease lasts 60 seconds or more")]
    Lease,
}

impl Config {
    /// Holds its parts against each other.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let (first, last) = self.range;
        let is_host = |address: &Ipv4Addr| {
            self.subnet.contains(address) && *address != self.subnet.network() && *address != self.subnet.broadcast()
        };
        if first > last || !is_host(&first) || !is_host(&last) {
            return Err(ConfigError::Range { range: self.range, subnet: self.subnet });
        }
        if u32::from(last) - u32::from(first) >= 65_536 {
            return Err(ConfigError::TooLong);
        }
        if self.lease < 60 {
            return Err(ConfigError::Lease);
        }
        for (at, reserved) in self.reservations.iter().enumerate() {
            let wrong = |why| Err(ConfigError::Reserved { address: reserved.address, why });
            if !is_host(&reserved.address) {
                return wrong("it is no host's address in the subnet");
            }
            if reserved.address == self.server {
                return wrong("it is the gateway's");
            }
            for other in &self.reservations[..at] {
                if other.address == reserved.address {
                    return Err(ConfigError::Twice(reserved.address.to_string()));
                }
                if other.mac == reserved.mac {
                    return Err(ConfigError::Twice(reserved.mac.to_string()));
                }
            }
        }
        Ok(())
    }

    pub(super) fn reserved_for(&self, mac: MacAddress) -> Option<Ipv4Addr> {
        self.reservations.iter().find(|reserved| reserved.mac == mac).map(|reserved| reserved.address)
    }

    /// Whether an address may go to any card.
    pub(super) fn is_free_for_all(&self, address: Ipv4Addr) -> bool {
        (self.range.0..=self.range.1).contains(&address)
            && address != self.server
            && !self.reservations.iter().any(|reserved| reserved.address == address)
    }

    /// The name by which a card is known here, whatever it calls itself.
    #[must_use]
    pub fn name_of(&self, mac: MacAddress) -> Option<&str> {
        let reserved = self.reservations.iter().find(|reserved| reserved.mac == mac);
        let known = || self.names.iter().find(|(other, _)| *other == mac).map(|(_, name)| name.as_str());
        reserved.and_then(|reserved| reserved.name.as_deref()).or_else(known)
    }
}
