//! What a user-mode network looks like, and where the guest's addresses lead on the host.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The addresses of a network; by default QEMU's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The subnet's first address.
    pub network: Ipv4Addr,
    /// Bits of its prefix, 8 to 30.
    pub prefix: u8,
    /// The gateway; connections to it reach the host's loopback.
    pub gateway: Ipv4Addr,
    /// The name server that the guest is told of.
    pub dns: Ipv4Addr,
    /// The address that the guest is given.
    pub guest: Ipv4Addr,
    /// The name that it is given.
    pub hostname: Option<String>,
    /// The DNS domain that it is given.
    pub domain: Option<String>,
    /// Where its questions to the name server really go; nowhere if not known.
    pub resolver: Option<SocketAddrV4>,
    /// The guest reaches nothing outside; ports forwarded to it still work.
    pub restrict: bool,
}

/// Addresses that don't make a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The prefix is too short or too long.
    #[error("a network's prefix has 8 to 30 bits, not {0}")]
    Prefix(u8),
    /// An address isn't in the subnet.
    #[error("{0} is not a host's address in {1}/{2}")]
    Outside(Ipv4Addr, Ipv4Addr, u8),
    /// Two of them are the same.
    #[error("gateway, name server and guest need three different addresses")]
    Same,
}

const QEMU: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);

impl Default for Config {
    fn default() -> Self {
        Self::in_subnet(QEMU, 24).expect("a /24 has room")
    }
}

impl Config {
    /// QEMU's layout in another subnet: the gateway is its second host, the name server its third, the guest its
    /// fifteenth where there are so many, else its fourth.
    ///
    /// # Errors
    /// A prefix outside 8 to 29.
    pub fn in_subnet(address: Ipv4Addr, prefix: u8) -> Result<Self, ConfigError> {
        if !(8..=29).contains(&prefix) {
            return Err(ConfigError::Prefix(prefix));
        }
        let network = address.to_bits() & mask(prefix);
        let host = |number: u32| Ipv4Addr::from_bits(network + number);
        Ok(Self {
            network: host(0),
            prefix,
            gateway: host(2),
            dns: host(3),
            guest: host(if prefix <= 27 { 15 } else { 4 }),
            hostname: None,
            domain: None,
            resolver: None,
            restrict: false,
        })
    }

    /// Refuses addresses that contradict each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(8..=30).contains(&self.prefix) {
            return Err(ConfigError::Prefix(self.prefix));
        }
        for address in [self.gateway, self.dns, self.guest] {
            let number = address.to_bits() & !mask(self.prefix);
            if !self.is_inside(address) || number == 0 || number == !mask(self.prefix) {
                return Err(ConfigError::Outside(address, self.network, self.prefix));
            }
        }
        if self.gateway == self.dns || self.gateway == self.guest || self.dns == self.guest {
            return Err(ConfigError::Same);
        }
        Ok(())
    }

    /// The netmask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    fn is_inside(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits() & mask(self.prefix)
    }

    /// Whether an address is the gateway's or the name server's.
    pub(super) fn is_own(&self, address: Ipv4Addr) -> bool {
        [self.gateway, self.dns].contains(&address)
    }

    /// Whether a guest may send from this address.
    pub(super) fn is_guest(&self, address: Ipv4Addr) -> bool {
        self.is_inside(address) && !self.is_own(address)
    }

    /// Where the host connects for what the guest takes for this address; `None` for nowhere.
    pub(super) fn to_host(&self, to: SocketAddrV4) -> Option<SocketAddrV4> {
        let address = *to.ip();
        if address == self.dns {
            return (to.port() == 53).then_some(self.resolver).flatten();
        }
        if self.restrict {
            return None;
        }
        if address == self.gateway {
            return Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()));
        }
        // Through the gateway the guest reaches the host's loopback by intent, by its address never.
        let usable = !self.is_inside(address)
            && !address.is_loopback()
            && !address.is_broadcast()
            && !address.is_multicast()
            && !address.is_unspecified();
        usable.then_some(to)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_qemus_network() {
        let config = Config::default();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.guest, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(config.mask(), Ipv4Addr::new(255, 255, 255, 0));
        let at = |text: &str| text.parse::<SocketAddrV4>().unwrap();
        assert_eq!(config.to_host(at("10.0.2.2:80")), Some(at("127.0.0.1:80")));
        assert_eq!(config.to_host(at("10.0.2.3:53")), None, "no resolver is known");
        assert_eq!(config.to_host(at("192.0.2.1:80")), Some(at("192.0.2.1:80")));
        for nowhere in ["127.0.0.1:22", "10.0.2.77:80", "255.255.255.255:9", "224.0.0.251:5353", "0.0.0.0:1"] {
            assert_eq!(config.to_host(at(nowhere)), None, "{nowhere}");
        }
    }

    #[test]
    fn contradictions_are_found() {
        assert_eq!(Config::in_subnet(QEMU, 30), Err(ConfigError::Prefix(30)));
        assert_eq!(Config::in_subnet(Ipv4Addr::new(192, 168, 7, 200), 29).unwrap().check(), Ok(()));
        let outside = Config { guest: Ipv4Addr::new(10, 0, 3, 15), ..Config::default() };
        assert!(matches!(outside.check(), Err(ConfigError::Outside(..))));
        let broadcast = Config { guest: Ipv4Addr::new(10, 0, 2, 255), ..Config::default() };
        assert!(matches!(broadcast.check(), Err(ConfigError::Outside(..))));
        let same = Config { guest: Ipv4Addr::new(10, 0, 2, 2), ..Config::default() };
        assert_eq!(same.check(), Err(ConfigError::Same));
    }
}
