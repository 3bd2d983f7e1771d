//! The firewall of declared segments, written in nft's language: one table, `inet ferro`. Text only: loading it is
//! [`super::nft`]'s. Packets that touch no segment pass untouched; frames inside a segment don't come by here.

use std::fmt::Write;

use super::config::{Declaration, Segment};
use super::rule::{Endpoint, Protocol, Rule, ports};

/// Everything nft has to load, as one transaction: the table is replaced, or nothing is.
pub(super) fn script(declaration: &Declaration) -> String {
    let mut text = clear();
    if declaration.segments.is_empty() {
        return text;
    }
    between(&mut text, declaration);
    text
}

/// The transaction that deletes the table; declared first, so that a missing one doesn't matter.
pub(super) fn clear() -> String {
    "table inet ferro\ndelete table inet ferro\n".to_owned()
}

/// `write!` to a `String` can't fail: this says so once.
fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{words}");
}

fn between(text: &mut String, declaration: &Declaration) {
    let bridges: Vec<String> = declaration.segments.iter().map(|segment| quoted(&segment.bridge())).collect();
    let bridges = bridges.join(", ");
    line(text, format_args!("table inet ferro {{"));
    line(text, format_args!("  chain forward {{\n    type filter hook forward priority filter; policy accept;"));
    line(
        text,
        format_args!("    iifname {{ {bridges} }} goto segments\n    oifname {{ {bridges} }} goto segments\n  }}"),
    );
    line(text, format_args!("  chain segments {{\n    ct state invalid drop"));
    for segment in &declaration.segments {
        line(text, format_args!("    iifname {} ip saddr != {} drop", quoted(&segment.bridge()), segment.subnet));
    }
    line(text, format_args!("    ct state established,related accept"));
    for segment in &declaration.segments {
        let bridge = quoted(&segment.bridge());
        // What comes back out of the bridge it came from stays in its segment.
        line(text, format_args!("    iifname {bridge} oifname {bridge} accept"));
        if segment.nat {
            line(text, format_args!("    iifname {bridge} oifname != {{ {bridges} }} accept"));
        }
    }
    for rule in &declaration.rules {
        passes(text, declaration, rule, &bridges, false);
    }
    line(text, format_args!("    drop\n  }}"));
    line(text, format_args!("  chain input {{\n    type filter hook input priority filter; policy accept;"));
    line(text, format_args!("    iifname {{ {bridges} }} goto host\n  }}\n  chain host {{\n    ct state invalid drop"));
    // Asking for an address comes from none.
    line(text, format_args!("    udp sport 68 udp dport 67 accept"));
    for segment in &declaration.segments {
        line(text, format_args!("    iifname {} ip saddr != {} drop", quoted(&segment.bridge()), segment.subnet));
    }
    line(text, format_args!("    ct state established,related accept"));
    for segment in &declaration.segments {
        let (bridge, gateway) = (quoted(&segment.bridge()), segment.gateway());
        line(
            text,
            format_args!("    iifname {bridge} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept"),
        );
        line(text, format_args!("    iifname {bridge} ip daddr {gateway} icmp type echo-request accept"));
    }
    for rule in &declaration.rules {
        passes(text, declaration, rule, &bridges, true);
    }
    line(text, format_args!("    drop\n  }}"));
    let nat: Vec<&Segment> = declaration.segments.iter().filter(|segment| segment.nat).collect();
    if !nat.is_empty() {
        line(
            text,
            format_args!("  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;"),
        );
        for segment in nat {
            line(text, format_args!("    ip saddr {} oifname != {{ {bridges} }} masquerade", segment.subnet));
        }
        line(text, format_args!("  }}"));
    }
    line(text, format_args!("}}"));
}

/// The lines by which a rule lets packets pass: those to the host itself, or those that go through it.
fn passes(text: &mut String, declaration: &Declaration, rule: &Rule, bridges: &str, to_host: bool) {
    let what = match (rule.protocol, rule.ports.as_slice()) {
        (Protocol::Any, _) => String::new(),
        (Protocol::Icmp, _) => "meta l4proto icmp ".into(),
        (Protocol::Tcp, []) => "meta l4proto tcp ".into(),
        (Protocol::Udp, []) => "meta l4proto udp ".into(),
        (Protocol::Tcp, list) => format!("tcp dport {{ {} }} ", ports(list)),
        (Protocol::Udp, list) => format!("udp dport {{ {} }} ", ports(list)),
    };
    let interface = |direction: &str, endpoint: &Endpoint| match endpoint {
        Endpoint::Host => None,
        Endpoint::Internet => Some(format!("{direction} != {{ {bridges} }} ")),
        Endpoint::Segment(name) => {
            let segment = declaration.segments.iter().find(|segment| segment.name == *name)?;
            Some(format!("{direction} {} ", quoted(&segment.bridge())))
        }
    };
    for from in rule.from.iter().filter_map(|from| interface("iifname", from)) {
        for to in &rule.to {
            match (to, to_host) {
                (Endpoint::Host, true) => line(text, format_args!("    {from}{what}accept")),
                (to, false) => {
                    if let Some(to) = interface("oifname", to) {
                        line(text, format_args!("    {from}{to}{what}accept"));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Names were checked: none has a quote.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let declaration: Declaration = toml::from_str(text).unwrap();
        declaration.check().unwrap();
        script(&declaration)
    }

    const THREE: &str = r#"
        rules = ["lan -> site any", "lan, internet -> dmz tcp 25,80", "lan -> host tcp 22"]
        [[segment]]
        name = "dmz"
        subnet = "10.1.0.0/24"
        [[segment]]
        name = "site"
        subnet = "10.2.0.0/24"
        [[segment]]
        name = "lan"
        subnet = "10.3.0.0/24"
        nat = true
    "#;

    #[test]
    fn rules_become_lines_and_what_no_rule_names_is_dropped() {
        let text = written(THREE);
        for expected in [
            "iifname \"ferro-lan\" oifname \"ferro-site\" accept",
            "iifname \"ferro-lan\" oifname \"ferro-dmz\" tcp dport { 25,80 } accept",
            "oifname \"ferro-dmz\" tcp dport { 25,80 } accept",
            "iifname \"ferro-lan\" tcp dport { 22 } accept",
            "iifname \"ferro-dmz\" ip saddr != 10.1.0.0/24 drop",
            "ip saddr 10.3.0.0/24 oifname != { \"ferro-dmz\", \"ferro-site\", \"ferro-lan\" } masquerade",
        ] {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
        assert!(!text.contains("iifname \"ferro-dmz\" oifname \"ferro-site\""), "{text}");
        assert_eq!(text.matches("\n    drop\n  }").count(), 2, "{text}");
        assert_eq!(text.matches("masquerade").count(), 1, "{text}");
    }

    #[test]
    fn without_segments_only_our_own_table_goes() {
        assert_eq!(written(""), clear());
        assert_eq!(clear().lines().count(), 2);
    }
}
