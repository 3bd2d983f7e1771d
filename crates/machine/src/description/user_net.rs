//! A network of a VM's process alone, as `-net user` of QEMU describes it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use ferro_net::user::Config;

use super::{DescriptionError, refuse, switch};

/// What a forwarded port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP connections.
    Tcp,
    /// UDP datagrams.
    Udp,
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// What it carries.
    pub transport: Transport,
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// Where it leads; an unspecified address stands for the guest's.
    pub guest: SocketAddrV4,
}

impl std::fmt::Display for Forward {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = if self.transport == Transport::Tcp { "tcp" } else { "udp" };
        write!(out, "{transport}:{} to the guest's port {}", self.host, self.guest.port())
    }
}

impl FromStr for Forward {
    type Err = DescriptionError;

    /// `[tcp|udp]:[HOST]:PORT-[GUEST]:PORT`; without a host address it is the loopback.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a forwarded port is tcp:[HOST]:PORT-[GUEST]:PORT, such as tcp:127.0.0.1:8080-:80";
        let parts = || {
            let (transport, rest) = text.split_once(':')?;
            let (host, guest) = rest.split_once('-')?;
            Some((transport, host.rsplit_once(':')?, guest.rsplit_once(':')?))
        };
        let Some((transport, host, guest)) = parts() else { return refuse(text, WANTED) };
        let transport = match transport {
            "tcp" | "" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return refuse(text, WANTED),
        };
        let end = |(address, port): (&str, &str), without: Ipv4Addr| {
            let address = if address.is_empty() { Some(without) } else { address.parse().ok() };
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            Some(SocketAddrV4::new(address?, port?))
        };
        match (end(host, Ipv4Addr::LOCALHOST), end(guest, Ipv4Addr::UNSPECIFIED)) {
            (Some(host), Some(guest)) => Ok(Self { transport, host, guest }),
            _ => refuse(text, WANTED),
        }
    }
}

/// A network of the VM's process alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNet {
    /// Its addresses.
    pub config: Config,
    /// Ports of the host that lead into it.
    pub forwards: Vec<Forward>,
}

/// The options as far as they were read.
#[derive(Default)]
pub(super) struct UserOptions {
    net: Option<Config>,
    host: Option<Ipv4Addr>,
    dns: Option<Ipv4Addr>,
    guest: Option<Ipv4Addr>,
    hostname: Option<String>,
    domain: Option<String>,
    restrict: bool,
    forwards: Vec<Forward>,
}

impl UserOptions {
    /// Takes one of QEMU's options.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), DescriptionError> {
        let address = || match value.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Some(address)),
            Err(_) => refuse(value, "this is no IPv4 address"),
        };
        match key {
            "hostfwd" => self.forwards.push(value.parse()?),
            "net" => self.net = Some(subnet(value)?),
            "host" => self.host = address()?,
            "dns" => self.dns = address()?,
            "dhcpstart" => self.guest = address()?,
            "hostname" => self.hostname = Some(value.to_owned()),
            "domainname" => self.domain = Some(value.to_owned()),
            "restrict" => self.restrict = switch(value)?,
            // What there is anyway, said out loud.
            "ipv4" if switch(value)? => {}
            "ipv6" if !switch(value)? => {}
            "ipv6" => return refuse(key, "user networking has IPv4 only: plug the card into a TAP interface"),
            _ => {
                return refuse(
                    key,
                    "user networking has net, host, dns, dhcpstart, hostname, domainname, restrict and hostfwd",
                );
            }
        }
        Ok(())
    }

    /// The network that they describe.
    pub(super) fn network(self) -> Result<UserNet, DescriptionError> {
        let mut config = self.net.unwrap_or_default();
        config.gateway = self.host.unwrap_or(config.gateway);
        config.dns = self.dns.unwrap_or(config.dns);
        config.guest = self.guest.unwrap_or(config.guest);
        config.hostname = self.hostname;
        config.domain = self.domain;
        config.restrict = self.restrict;
        match config.check() {
            Ok(()) => Ok(UserNet { config, forwards: self.forwards }),
            Err(error) => refuse("user", error.to_string()),
        }
    }
}

/// `ADDRESS[/PREFIX]`
fn subnet(value: &str) -> Result<Config, DescriptionError> {
    let (address, prefix) = value.split_once('/').unwrap_or((value, "24"));
    let (Ok(address), Ok(prefix)) = (address.parse(), prefix.parse()) else {
        return refuse(value, "a subnet is ADDRESS/PREFIX, such as 10.0.2.0/24");
    };
    Config::in_subnet(address, prefix).or_else(|error| refuse(value, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::{NetBackend, NetDescription};
    use super::*;

    fn user(text: &str) -> Result<UserNet, DescriptionError> {
        match text.parse::<NetDescription>()?.backend {
            NetBackend::User(user) => Ok(*user),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn qemus_options_are_understood() {
        let net =
            user("user,hostfwd=tcp::2222-:22,hostfwd=udp:0.0.0.0:53-10.0.2.15:53,hostname=web,restrict=on").unwrap();
        assert_eq!(net.forwards[0].host, "127.0.0.1:2222".parse().unwrap());
        assert_eq!((net.forwards[1].transport, net.forwards[1].guest.ip().octets()), (Transport::Udp, [10, 0, 2, 15]));
        assert!(net.config.restrict && net.config.hostname.as_deref() == Some("web"));
        let net = user("user,net=192.168.76.0/24,dhcpstart=192.168.76.9,mac=52:54:00:00:00:01").unwrap();
        assert_eq!(net.config.gateway, Ipv4Addr::new(192, 168, 76, 2));
        assert_eq!(net.config.guest, Ipv4Addr::new(192, 168, 76, 9));
    }

    #[test]
    fn wrong_options_are_named() {
        for (text, told) in [
            ("user,hostfwd=tcp::0-:22", "tcp:[HOST]:PORT-[GUEST]:PORT"),
            ("user,hostfwd=sctp::1-:22", "tcp:[HOST]:PORT-[GUEST]:PORT"),
            ("user,net=10.0.2.0/x", "ADDRESS/PREFIX"),
            ("user,net=10.0.2.0/30", "8 to 30"),
            ("user,dhcpstart=10.9.9.9", "10.9.9.9"),
            ("user,tftp=/srv", "hostfwd"),
            ("user,ipv6=on", "IPv4 only"),
            ("user,tap=t0", "one thing"),
            ("hostfwd=tcp::1-:2", "tap=NAME or user"),
        ] {
            let error = user(text).map(drop).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
