//! Rules between segments: `lan, internet -> dmz tcp 25,80,443`. Reading and writing them; the firewall made of them is
//! [`super::firewall`]'s.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// One end of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// This host itself.
    Host,
    /// Every network that isn't a segment.
    Internet,
    /// A segment, by name.
    Segment(String),
}

impl Endpoint {
    /// Whether no segment can have this name.
    pub(super) fn is_reserved(name: &str) -> bool {
        matches!(name, "host" | "internet" | "any")
    }
}

/// What may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Everything.
    Any,
    /// ICMP.
    Icmp,
    /// TCP to certain ports, or to all if none is named.
    Tcp,
    /// UDP, as for TCP.
    Udp,
}

/// What may pass from each of some networks to each of others; answers may always pass.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule {
    /// Where it comes from.
    pub from: Vec<Endpoint>,
    /// Where it goes to.
    pub to: Vec<Endpoint>,
    /// What it is.
    pub protocol: Protocol,
    /// Ports, first and last.
    pub ports: Vec<(u16, u16)>,
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no rule: {problem}; a rule is as in \"lan, internet -> dmz tcp 25,80,443\"")]
pub struct RuleError {
    text: String,
    problem: String,
}

impl Rule {
    /// The segments it names.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.from.iter().chain(&self.to).filter_map(|endpoint| match endpoint {
            Endpoint::Segment(name) => Some(name.as_str()),
            Endpoint::Host | Endpoint::Internet => None,
        })
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse(text).map_err(|problem| RuleError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Rule, String> {
    let (from, rest) = text.split_once("->").ok_or("it has no ->")?;
    let rest = rest.trim();
    // The names on the right end where no comma follows.
    let words: Vec<&str> = rest.split_whitespace().collect();
    let names = words.iter().take_while(|word| word.ends_with(',')).count() + 1;
    let (to, what) = words.split_at_checked(names).ok_or("nothing stands on the right of ->")?;
    let protocol = match what.first() {
        Some(&"any") => Protocol::Any,
        Some(&"icmp") => Protocol::Icmp,
        Some(&"tcp") => Protocol::Tcp,
        Some(&"udp") => Protocol::Udp,
        Some(word) => return Err(format!("{word:?} is none of any, icmp, tcp, udp")),
        None => return Err("it doesn't say what may pass: any, icmp, tcp or udp".into()),
    };
    let list = what[1..].concat();
    if !list.is_empty() && matches!(protocol, Protocol::Any | Protocol::Icmp) {
        return Err("only tcp and udp have ports".into());
    }
    let ports = list.split(',').filter(|_| !list.is_empty()).map(port).collect::<Result<_, _>>()?;
    Ok(Rule { from: endpoints(from)?, to: endpoints(&to.concat())?, protocol, ports })
}

fn endpoints(list: &str) -> Result<Vec<Endpoint>, String> {
    let endpoint = |name: &str| match name.trim() {
        "host" => Ok(Endpoint::Host),
        "internet" => Ok(Endpoint::Internet),
        "" => Err("a name is missing".to_owned()),
        name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {
            Ok(Endpoint::Segment(name.to_owned()))
        }
        name => Err(format!("{name:?} is no segment's name")),
    };
    list.split(',').map(endpoint).collect()
}

fn port(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no port, nor ports such as 8000-8080");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range: (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if range.0 == 0 || range.0 > range.1 { Err(wrong()) } else { Ok(range) }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Internet => f.write_str("internet"),
            Self::Segment(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: &[Endpoint]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let protocol = match self.protocol {
            Protocol::Any => "any",
            Protocol::Icmp => "icmp",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{} -> {} {protocol}", names(&self.from), names(&self.to))?;
        if self.ports.is_empty() { Ok(()) } else { write!(f, " {}", ports(&self.ports)) }
    }
}

/// Ports as rules and nft write them.
pub(super) fn ports(ports: &[(u16, u16)]) -> String {
    let range = |&(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ports.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for text in [
            "lan -> site any",
            "lan, internet -> dmz tcp 25,80,443,993",
            "dmz -> host udp 53",
            "a -> b, c tcp 8000-8080",
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        let rule: Rule = "lan,vpn->dmz  tcp 25, 80".parse().unwrap();
        assert_eq!(rule.to_string(), "lan, vpn -> dmz tcp 25,80");
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (text, words) in [
            ("lan dmz any", "no ->"),
            ("lan -> ", "right of ->"),
            ("lan -> dmz", "what may pass"),
            ("lan -> dmz gre", "none of any"),
            ("lan -> dmz any 80", "only tcp and udp"),
            ("lan -> dmz tcp 0", "no port"),
            ("lan -> dmz tcp 80,", "no port"),
            ("lan -> dmz tcp 90-80", "no port"),
            (" -> dmz any", "name is missing"),
            ("la;n -> dmz any", "no segment's name"),
        ] {
            let complaint = text.parse::<Rule>().unwrap_err().to_string();
            assert!(complaint.contains(words), "{text}: {complaint}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic_and_what_is_read_is_written_again(text in "[a-z ,>0-9-]{0,40}(-> [a-z]{1,4} (tcp|any) ?[0-9,-]{0,9})?") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
            }
        }
    }
}
