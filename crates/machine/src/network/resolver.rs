//! The name server that the host itself asks, from its `resolv.conf`.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The first name server with an IPv4 address.
pub(super) fn of_host() -> Option<SocketAddrV4> {
    parse(&std::fs::read_to_string("/etc/resolv.conf").ok()?)
}

fn parse(text: &str) -> Option<SocketAddrV4> {
    let mut servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let address = servers.find_map(|rest| rest.trim().parse::<Ipv4Addr>().ok())?;
    Some(SocketAddrV4::new(address, 53))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ipv4_server_counts() {
        let text = "# made by hand\nsearch example.it\nnameserver ::1\nnameserver\t192.0.2.53\nnameserver 192.0.2.54\n";
        assert_eq!(parse(text), Some("192.0.2.53:53".parse().unwrap()));
        assert_eq!(parse("options edns0\n"), None);
    }
}
