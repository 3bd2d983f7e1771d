//! Network cards and their addresses.

use std::str::FromStr;

use super::user_net::{UserNet, UserOptions};
use super::{DescriptionError, refuse, split_options, switch};

pub use ferro_net::{MacAddress, stable_mac};

/// How fast packets may go, in bits a second, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = DescriptionError;

    /// A number, with k, M or G for thousands, millions and milliards of bits a second.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 1_000),
            Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
            Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
            _ => (text, 1),
        };
        match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
            Some(bits) if bits > 0 => Ok(Self(bits)),
            _ => refuse(text, "a rate is in bits a second, such as 10M or 500k"),
        }
    }
}

/// What a card can do and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOptions {
    /// Pairs of queues, 1 to [`ferro_devices::virtio::MAX_PAIRS`].
    pub queues: u16,
    /// Checksums and segmentation are left to the host where it can do them.
    pub offload: bool,
    /// How fast packets go to the guest; as fast as they can without.
    pub rate_in: Option<Rate>,
    /// How fast the guest's packets go out.
    pub rate_out: Option<Rate>,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self { queues: 1, offload: true, rate_in: None, rate_out: None }
    }
}

impl NetOptions {
    /// Sets the option; whether there is one of this name.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, DescriptionError> {
        match key {
            "queues" => {
                let most = ferro_devices::virtio::MAX_PAIRS;
                match value.parse() {
                    Ok(queues) if (1..=most).contains(&queues) => self.queues = queues,
                    _ => return refuse(value, "a network card has 1 to 8 pairs of queues"),
                }
            }
            "offload" => self.offload = switch(value)?,
            "rate" => {
                let rate = Some(value.parse()?);
                (self.rate_in, self.rate_out) = (rate, rate);
            }
            "rate-in" => self.rate_in = Some(value.parse()?),
            "rate-out" => self.rate_out = Some(value.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What isn't a card's address.
fn no_mac(error: ferro_net::MacError) -> DescriptionError {
    DescriptionError { value: error.text, problem: error.problem.into() }
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetBackend {
    /// A TAP interface of the host, by name.
    Tap(String),
    /// A segment of the host's (`ferro net up`).
    Segment {
        /// Its name.
        name: String,
        /// The TAP interface that was made for the card and goes with it; who runs the VM has to make it before.
        interface: Option<String>,
    },
    /// A network of the VM's process alone, with NAT; needs no privileges.
    User(Box<UserNet>),
}

impl std::fmt::Display for NetBackend {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tap(name) => write!(out, "tap: ifname={name}"),
            Self::Segment { name, interface } => {
                write!(out, "segment: name={name},ifname={}", interface.as_deref().unwrap_or_default())
            }
            Self::User(user) => {
                write!(
                    out,
                    "user: net={},restrict={}",
                    user.config.network,
                    if user.config.restrict { "on" } else { "off" }
                )
            }
        }
    }
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDescription {
    /// What it is plugged into.
    pub backend: NetBackend,
    /// Its address; one is made up if not given.
    pub mac: Option<MacAddress>,
    /// What it can do and how fast.
    pub options: NetOptions,
}

impl FromStr for NetDescription {
    type Err = DescriptionError;

    /// `tap=NAME`, `segment=NAME` or `user[,hostfwd=…][,net=…]…`, then
    /// `[,mac=A][,model=virtio][,queues=N][,offload=on|off][,rate=R][,rate-in=R][,rate-out=R]`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut backend, mut user, mut mac) = (None, None, None);
        let mut options = NetOptions::default();
        for part in split_options(text) {
            match part.split_once('=') {
                // As long as the kernel takes.
                Some(("tap", name)) if (1..=15).contains(&name.len()) && !name.contains('/') => {
                    backend = Some(NetBackend::Tap(name.to_owned()));
                }
                Some(("tap", name)) => return refuse(name, "an interface's name has 1 to 15 bytes without a slash"),
                Some(("segment", name)) if !name.is_empty() => {
                    backend = Some(NetBackend::Segment { name: name.to_owned(), interface: None });
                }
                Some(("mac", address)) => mac = Some(address.parse().map_err(no_mac)?),
                Some(("model", "virtio")) => {}
                Some(("model", model)) => return refuse(model, "a network card's model is virtio"),
                None if part == "user" => user = Some(UserOptions::default()),
                Some((key, value)) if options.set(key, value)? => {}
                Some((key, value)) if user.is_some() => user.get_or_insert_default().set(key, value)?,
                _ => {
                    return refuse(
                        &part,
                        "a network card is tap=NAME or user, then [,mac=…][,model=virtio][,queues=…][,offload=…][,rate=…]",
                    );
                }
            }
        }
        match (backend, user) {
            (Some(backend), None) => Ok(Self { backend, mac, options }),
            (None, Some(user)) => Ok(Self { backend: NetBackend::User(Box::new(user.network()?)), mac, options }),
            (Some(_), Some(_)) => refuse(text, "a network card is plugged into one thing: tap=NAME or user"),
            (None, None) => refuse(text, "a network card needs something to be plugged into: tap=NAME or user"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_queues_and_offloads_are_read() {
        let card: NetDescription = "tap=t,queues=4,offload=off,rate=10M,rate-in=2500k".parse().unwrap();
        let (rate_in, rate_out) = (Some(Rate(2_500_000)), Some(Rate(10_000_000)));
        assert_eq!(card.options, NetOptions { queues: 4, offload: false, rate_in, rate_out });
        for wrong in ["queues=0", "queues=9", "offload=maybe", "rate=0", "rate=fast", "rate=99999999999G", "colour=red"]
        {
            assert!(format!("tap=t,{wrong}").parse::<NetDescription>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn made_up_addresses_differ_by_vm_and_card_and_stay() {
        assert_eq!(stable_mac("web", 0), stable_mac("web", 0));
        assert_ne!(stable_mac("web", 0), stable_mac("web", 1));
        assert_ne!(stable_mac("web", 0), stable_mac("mail", 0));
        assert_eq!(stable_mac("web", 0).0[..3], [0x52, 0x54, 0]);
    }
}
