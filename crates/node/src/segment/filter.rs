//! What frames a segment's ports may send, written in nft's language: one table, `bridge ferro`. A port's frames have its
//! own addresses; nobody behind a port answers DHCP or says that it is a router. Text only: loading it is [`super::nft`]'s.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::port::{Policy, Port};

/// The transaction that deletes the table; declared first, so that a missing one doesn't matter.
pub(super) fn clear() -> String {
    "table bridge ferro\ndelete table bridge ferro\n".to_owned()
}

/// The transaction that replaces the table. `known` are addresses that ports have beside their own: interface and address.
pub(super) fn script(policies: &[Policy], ports: &[Port], known: &[(String, Ipv4Addr)]) -> String {
    let policy = |port: &Port| policies.iter().find(|policy| policy.name == port.segment);
    let checked: Vec<&Port> = ports.iter().filter(|port| !port.spoofing && policy(port).is_some()).collect();
    let bound = |port: &&&Port| port.address.is_some() || policy(port).is_some_and(|policy| policy.gives);
    let name = |port: &&Port| format!("\"{}\"", port.interface);
    let names: Vec<String> = checked.iter().map(name).collect();
    let strict: Vec<String> = checked.iter().filter(bound).map(name).collect();
    let macs: Vec<String> = checked.iter().map(|port| format!("\"{}\" . {}", port.interface, port.mac)).collect();
    let own = checked.iter().filter_map(|port| Some((port.interface.clone(), port.address?)));
    let mut addresses: Vec<String> =
        own.chain(known.iter().cloned()).map(|(port, address)| format!("\"{port}\" . {address}")).collect();
    addresses.sort();
    addresses.dedup();
    let gateways: Vec<String> = policies.iter().map(|policy| policy.gateway.to_string()).collect();

    let mut text = clear();
    text.push_str("table bridge ferro {\n");
    set(&mut text, "ports", "ifname", &names);
    set(&mut text, "strict", "ifname", &strict);
    set(&mut text, "cards", "ifname . ether_addr", &macs);
    set(&mut text, "addresses", "ifname . ipv4_addr", &addresses);
    set(&mut text, "gateways", "ipv4_addr", &gateways);
    text.push_str(RULES);
    text
}

fn set(text: &mut String, name: &str, kind: &str, elements: &[String]) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "  set {name} {{\n    type {kind}");
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
    }
    text.push_str("  }\n");
}

const RULES: &str = r"  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname @ports jump port
  }
  chain port {
    iifname . ether saddr != @cards counter drop
    ether type { 8021q, 8021ad } counter drop
    ether type arp jump from_arp
    ether type ip jump from_ip
    ether type ip6 icmpv6 type nd-router-advert counter drop
    ether type ip6 udp sport 547 counter drop
  }
  chain from_arp {
    iifname . arp saddr ether != @cards counter drop
    arp saddr ip 0.0.0.0 return
    arp saddr ip @gateways counter drop
    iifname @strict iifname . arp saddr ip != @addresses counter drop
  }
  chain from_ip {
    udp sport 67 counter drop
    ip saddr 0.0.0.0 udp sport 68 udp dport 67 return
    ip saddr @gateways counter drop
    iifname @strict iifname . ip saddr != @addresses counter drop
  }
}
";

#[cfg(test)]
mod tests {
    use ferro_net::MacAddress;

    use super::*;

    #[test]
    fn ports_have_their_cards_and_addresses_and_nothing_else() {
        let policy = |name: &str, gives| Policy {
            name: name.into(),
            bridge: format!("ferro-{name}"),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            gives,
            isolated: false,
            reserved: vec![],
        };
        let port = |vm: &str, segment: &str, address, spoofing| Port {
            interface: format!("fv-{vm}-0"),
            segment: segment.into(),
            vm: vm.into(),
            card: 0,
            mac: MacAddress([2, 0, 0, 0, 0, 7]),
            address,
            spoofing,
            passing: true,
        };
        let ports = [
            port("web", "dmz", None, false),
            port("own", "lan", None, false),
            port("fix", "lan", Some(Ipv4Addr::new(10, 1, 0, 9)), false),
            port("free", "lan", None, true),
        ];
        let known = [("fv-web-0".to_owned(), Ipv4Addr::new(10, 0, 0, 100))];
        let text = script(&[policy("dmz", true), policy("lan", false)], &ports, &known);
        for part in [
            "elements = { \"fv-web-0\", \"fv-own-0\", \"fv-fix-0\" }",
            "elements = { \"fv-web-0\", \"fv-fix-0\" }",
            "\"fv-web-0\" . 02:00:00:00:00:07",
            "elements = { \"fv-fix-0\" . 10.1.0.9, \"fv-web-0\" . 10.0.0.100 }",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains("fv-free"), "{text}");
    }
}
