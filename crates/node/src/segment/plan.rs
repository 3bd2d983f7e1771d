//! From what is declared, what was made before and what is seen on the host to the steps that lead there: a pure
//! function. Doing them is [`super::apply`]'s.

use std::fmt;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::config::{Declaration, Segment};
use super::firewall;
use super::port::Policy;
use super::service::settings::Services;
use super::{Error, Result};

/// Something that a declaration wants on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Thing {
    /// A bridge, switched on.
    Bridge {
        /// Its name.
        name: String,
    },
    /// An address of the host.
    Address {
        /// The bridge that has it.
        bridge: String,
        /// It, and its network.
        address: Ipv4Net,
    },
    /// The firewall's table.
    Firewall {
        /// In nft's language.
        script: String,
    },
    /// Packets are passed on between networks.
    Forwarding,
    /// A VLAN of a physical interface (IEEE 802.1Q), switched on.
    Vlan {
        /// Its name.
        name: String,
        /// The physical interface.
        uplink: String,
        /// Its tag.
        id: u16,
    },
    /// An interface by which a segment goes on outside.
    Plug {
        /// The interface.
        interface: String,
        /// The bridge it is plugged into.
        bridge: String,
    },
    /// Checks of what the segments' ports send.
    Checks {
        /// The segments.
        segments: Vec<Policy>,
    },
    /// The process that answers DHCP and DNS.
    Services {
        /// What it has to know.
        settings: Services,
    },
}

impl Thing {
    /// Whether there is one of the kind at most, so that a new one replaces the old one in place.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self, Self::Firewall { .. } | Self::Checks { .. } | Self::Services { .. })
    }

    /// Whether the two are the same, or one of a kind of which there is one at most.
    pub(super) fn is_in_place_of(&self, other: &Self) -> bool {
        self == other || (self.is_alone() && std::mem::discriminant(self) == std::mem::discriminant(other))
    }
}

/// Something that was made, and is to be unmade one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What.
    pub thing: Thing,
    /// Of the firewall: how nft lists it, by which a change made by others is seen.
    #[serde(default)]
    pub listing: String,
}

/// What of the host matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every interface's name, and whether it is a bridge that is switched on.
    pub links: Vec<(String, bool)>,
    /// Every IPv4 address, with its interface's name.
    pub addresses: Vec<(String, Ipv4Net)>,
    /// Our table as nft lists it.
    pub listing: String,
    /// Whether packets are passed on.
    pub forwarding: bool,
    /// Every interface that is plugged into a bridge, and that.
    pub plugged: Vec<(String, String)>,
    /// Whether there is a table of checks.
    pub checks: bool,
    /// Whether the process that answers DHCP and DNS runs.
    pub serving: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum Step {
    /// Make something, and write down that it was made.
    Make(Thing),
    /// Unmake something that was made before.
    Remove(Thing),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge { name } => write!(f, "bridge {name}"),
            Self::Address { bridge, address } => write!(f, "address {address} on {bridge}"),
            Self::Firewall { .. } => f.write_str("firewall table inet ferro"),
            Self::Forwarding => f.write_str("forwarding of IPv4 packets"),
            Self::Vlan { name, uplink, id } => write!(f, "VLAN {id} of {uplink}: {name}"),
            Self::Plug { interface, bridge } => write!(f, "{interface} in bridge {bridge}"),
            Self::Checks { .. } => f.write_str("checks of ports, table bridge ferro"),
            Self::Services { settings } => {
                let names: Vec<&str> = settings.segments.iter().map(|segment| segment.name.as_str()).collect();
                write!(f, "DHCP and DNS for {}", names.join(", "))
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(thing) => write!(f, "+ {thing}"),
            Self::Remove(thing) => write!(f, "- {thing}"),
        }
    }
}

/// What a declaration wants, in the order in which it is made: the firewall stands before anything can pass it.
fn wanted(declaration: &Declaration) -> Vec<Thing> {
    if declaration.segments.is_empty() {
        return vec![];
    }
    let mut things = vec![Thing::Firewall { script: firewall::script(declaration) }];
    for segment in &declaration.segments {
        let bridge = segment.bridge();
        let address = Ipv4Net::new_assert(segment.gateway(), segment.subnet.prefix_len());
        things.push(Thing::Bridge { name: bridge.clone() });
        things.push(Thing::Address { bridge, address });
    }
    let policy = |segment: &Segment| Policy {
        name: segment.name.clone(),
        bridge: segment.bridge(),
        gateway: segment.gateway(),
        gives: segment.dhcp.is_some(),
        isolated: segment.isolated,
        reserved: segment.reservations.iter().filter_map(|one| Some((one.card()?, one.address))).collect(),
    };
    things.push(Thing::Checks { segments: declaration.segments.iter().map(policy).collect() });
    for segment in &declaration.segments {
        let (Some(uplink), Some(interface)) = (&segment.uplink, segment.outside()) else { continue };
        if let Some(id) = segment.vlan {
            things.push(Thing::Vlan { name: interface.clone(), uplink: uplink.clone(), id });
        }
        things.push(Thing::Plug { interface, bridge: segment.bridge() });
    }
    things.push(Thing::Forwarding);
    let settings = Services::of(declaration);
    if !settings.segments.is_empty() {
        things.push(Thing::Services { settings });
    }
    things
}

/// Whether something that was made is still there as it was made.
pub(super) fn stands(made: &Made, observed: &Observed) -> bool {
    match &made.thing {
        Thing::Bridge { name } => observed.links.contains(&(name.clone(), true)),
        Thing::Address { bridge, address } => observed.addresses.contains(&(bridge.clone(), *address)),
        Thing::Firewall { .. } => !made.listing.is_empty() && observed.listing == made.listing,
        Thing::Forwarding => observed.forwarding,
        Thing::Vlan { name, .. } => observed.links.iter().any(|(link, _)| link == name),
        Thing::Plug { interface, bridge } => observed.plugged.contains(&(interface.clone(), bridge.clone())),
        Thing::Checks { .. } => observed.checks,
        Thing::Services { .. } => observed.serving,
    }
}

/// The steps from here to `declaration`; none if all is so. With an empty declaration everything that was made goes.
///
/// # Errors
/// Something that we didn't make is in the way.
pub fn plan(declaration: &Declaration, made: &[Made], observed: &Observed) -> Result<Vec<Step>> {
    let wanted = wanted(declaration);
    let is_wanted = |made: &Made| wanted.contains(&made.thing);
    let gone = made.iter().rev().filter(|made| !is_wanted(made)).map(|made| Step::Remove(made.thing.clone()));
    // A new firewall replaces the old one in one transaction; between them nothing would be kept apart.
    let replaced = |step: &Step| match step {
        Step::Remove(thing) => wanted.iter().any(|other| other.is_in_place_of(thing)),
        Step::Make(_) => false,
    };
    let mut steps: Vec<Step> = gone.filter(|step| !replaced(step)).collect();
    for thing in wanted {
        let known = made.iter().find(|made| made.thing == thing);
        if known.is_some_and(|made| stands(made, observed)) {
            continue;
        }
        // Forwarding that somebody else switched on stays on after us.
        if thing == Thing::Forwarding && known.is_none() && observed.forwarding {
            continue;
        }
        if known.is_none() {
            in_the_way(&thing, made, observed)?;
        }
        steps.push(Step::Make(thing));
    }
    Ok(steps)
}

fn in_the_way(thing: &Thing, made: &[Made], observed: &Observed) -> Result<()> {
    match thing {
        Thing::Bridge { name } if observed.links.iter().any(|(link, _)| link == name) => {
            Err(Error::Foreign { what: format!("an interface {name}") })
        }
        Thing::Address { bridge, address } => {
            let theirs = observed.addresses.iter().find(|(link, other)| {
                let ours =
                    made.iter().any(|made| made.thing == Thing::Address { bridge: link.clone(), address: *other });
                link != bridge && !ours && (other.contains(&address.addr()) || address.contains(&other.addr()))
            });
            theirs.map_or(Ok(()), |(link, other)| {
                Err(Error::Foreign {
                    what: format!("the network {} of {link}, which overlaps {address},", other.trunc()),
                })
            })
        }
        Thing::Vlan { name, .. } if observed.links.iter().any(|(link, _)| link == name) => {
            Err(Error::Foreign { what: format!("an interface {name}") })
        }
        Thing::Plug { interface, bridge } => {
            if let Some((_, other)) = observed.plugged.iter().find(|(link, other)| link == interface && other != bridge)
            {
                return Err(Error::AnotherBridge { name: interface.clone(), bridge: other.clone() });
            }
            if let Some((_, address)) = observed.addresses.iter().find(|(link, _)| link == interface) {
                return Err(Error::UplinkInUse { interface: interface.clone(), address: address.to_string() });
            }
            Ok(())
        }
        Thing::Firewall { .. } => {
            let ours = made.iter().any(|made| matches!(made.thing, Thing::Firewall { .. }));
            if ours || observed.listing.is_empty() {
                return Ok(());
            }
            Err(Error::Foreign { what: "a firewall table named ferro".into() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(names: &[(&str, &str)]) -> Declaration {
        let segments = names.iter().map(|(name, net)| format!("[[segment]]\nname = \"{name}\"\nsubnet = \"{net}\"\n"));
        toml::from_str(&segments.collect::<String>()).unwrap()
    }

    /// What the host is after the steps, if they go as they should.
    fn after(steps: &[Step], made: &[Made], observed: &Observed) -> (Vec<Made>, Observed) {
        let (mut made, mut observed) = (made.to_vec(), observed.clone());
        for step in steps {
            match step {
                Step::Remove(thing) => {
                    made.retain(|made| made.thing != *thing);
                    match thing {
                        Thing::Bridge { name } => observed.links.retain(|(link, _)| link != name),
                        Thing::Address { address, .. } => observed.addresses.retain(|(_, other)| other != address),
                        Thing::Firewall { .. } => observed.listing.clear(),
                        Thing::Forwarding => observed.forwarding = false,
                        Thing::Checks { .. } => observed.checks = false,
                        Thing::Services { .. } => observed.serving = false,
                        Thing::Plug { interface, .. } => observed.plugged.retain(|(link, _)| link != interface),
                        Thing::Vlan { name, .. } => observed.links.retain(|(link, _)| link != name),
                    }
                }
                Step::Make(thing) => {
                    let mut listing = String::new();
                    match thing {
                        Thing::Bridge { name } => observed.links.push((name.clone(), true)),
                        Thing::Address { bridge, address } => observed.addresses.push((bridge.clone(), *address)),
                        Thing::Checks { .. } => observed.checks = true,
                        Thing::Services { .. } => observed.serving = true,
                        Thing::Plug { interface, bridge } => observed.plugged.push((interface.clone(), bridge.clone())),
                        Thing::Vlan { name, .. } => observed.links.push((name.clone(), true)),
                        Thing::Firewall { script } => {
                            observed.listing.clone_from(script);
                            listing.clone_from(script);
                        }
                        Thing::Forwarding => observed.forwarding = true,
                    }
                    made.retain(|made| !thing.is_in_place_of(&made.thing));
                    made.push(Made { thing: thing.clone(), listing });
                }
            }
        }
        (made, observed)
    }

    #[test]
    fn the_second_time_nothing_changes_and_down_leads_back() {
        let bare = Observed { links: vec![("lo".into(), false)], ..Observed::default() };
        let declaration = declared(&[("dmz", "10.1.0.0/24"), ("lan", "10.2.0.0/24")]);
        let steps = plan(&declaration, &[], &bare).unwrap();
        assert!(matches!(&steps[0], Step::Make(Thing::Firewall { .. })), "the firewall stands first");
        let (made, observed) = after(&steps, &[], &bare);
        assert_eq!(plan(&declaration, &made, &observed).unwrap(), []);
        let steps = plan(&declared(&[]), &made, &observed).unwrap();
        assert!(matches!(steps.last(), Some(Step::Remove(Thing::Firewall { .. }))), "the firewall goes last");
        assert_eq!(after(&steps, &made, &observed), (vec![], bare));
    }

    #[test]
    fn what_is_no_longer_declared_goes_and_the_rest_stays() {
        let declaration = declared(&[("dmz", "10.1.0.0/24"), ("lan", "10.2.0.0/24")]);
        let (made, observed) =
            after(&plan(&declaration, &[], &Observed::default()).unwrap(), &[], &Observed::default());
        let steps = plan(&declared(&[("dmz", "10.1.0.0/24")]), &made, &observed).unwrap();
        let told: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "- address 10.2.0.1/24 on ferro-lan",
                "- bridge ferro-lan",
                "+ firewall table inet ferro",
                "+ checks of ports, table bridge ferro"
            ]
        );
    }

    #[test]
    fn services_start_last_and_an_uplink_comes_after_its_vlan() {
        let text = r#"
            [[segment]]
            name = "lan"
            subnet = "10.2.0.0/24"
            dhcp = "10.2.0.100-10.2.0.199"
            uplink = "eth1"
            vlan = 7
        "#;
        let declaration: Declaration = toml::from_str(text).unwrap();
        let steps = plan(&declaration, &[], &Observed::default()).unwrap();
        let told: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let last = [
            "+ VLAN 7 of eth1: eth1.7",
            "+ eth1.7 in bridge ferro-lan",
            "+ forwarding of IPv4 packets",
            "+ DHCP and DNS for lan",
        ];
        assert_eq!(told[told.len() - 4..], last);
        let (made, observed) = after(&steps, &[], &Observed::default());
        assert_eq!(plan(&declaration, &made, &observed).unwrap(), []);
        let plain: Declaration = toml::from_str(&text.replace("vlan = 7", "")).unwrap();
        for observed in [
            Observed { plugged: vec![("eth1".into(), "br9".into())], ..Observed::default() },
            Observed { addresses: vec![("eth1".into(), "192.168.1.2/24".parse().unwrap())], ..Observed::default() },
        ] {
            assert!(plan(&plain, &[], &observed).is_err());
        }
    }

    #[test]
    fn what_somebody_took_away_or_changed_is_made_again() {
        let declaration = declared(&[("dmz", "10.1.0.0/24")]);
        let (made, mut observed) =
            after(&plan(&declaration, &[], &Observed::default()).unwrap(), &[], &Observed::default());
        observed.addresses.clear();
        observed.listing.push_str("tampered");
        let told: Vec<String> = plan(&declaration, &made, &observed).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["+ firewall table inet ferro", "+ address 10.1.0.1/24 on ferro-dmz"]);
    }

    #[test]
    fn what_others_made_is_never_taken_over() {
        let declaration = declared(&[("dmz", "10.1.0.0/24")]);
        let theirs = [
            Observed { links: vec![("ferro-dmz".into(), true)], ..Observed::default() },
            Observed { addresses: vec![("eth0".into(), "10.1.0.7/16".parse().unwrap())], ..Observed::default() },
            Observed { listing: "table inet ferro {}".into(), ..Observed::default() },
        ];
        for observed in theirs {
            let complaint = plan(&declaration, &[], &observed).unwrap_err().to_string();
            assert!(complaint.contains("in the way"), "{complaint}");
        }
        let forwarding = Observed { forwarding: true, ..Observed::default() };
        let steps = plan(&declaration, &[], &forwarding).unwrap();
        assert!(!steps.contains(&Step::Make(Thing::Forwarding)), "it stays on when we go");
    }
}
