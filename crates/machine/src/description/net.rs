//! Network cards and their addresses.

use std::str::FromStr;

use super::user_net::{UserNet, UserOptions};
use super::{DescriptionError, refuse, split_options};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl std::fmt::Display for MacAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = value.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            let Some(Ok(parsed)) = part.map(|part| u8::from_str_radix(part, 16)) else {
                return refuse(value, "an Ethernet address is six bytes in hexadecimal, such as 52:54:00:12:34:56");
            };
            *byte = parsed;
        }
        if parts.next().is_some() {
            return refuse(value, "an Ethernet address has six bytes, this has more");
        }
        if bytes[0] & 1 != 0 {
            return refuse(value, "this is a multicast address: the first byte of a card's address is even");
        }
        Ok(Self(bytes))
    }
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetBackend {
    /// A TAP interface of the host, by name.
    Tap(String),
    /// A network of the VM's process alone, with NAT; needs no privileges.
    User(Box<UserNet>),
}

impl std::fmt::Display for NetBackend {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tap(name) => write!(out, "tap: ifname={name}"),
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
}

impl FromStr for NetDescription {
    type Err = DescriptionError;

    /// `tap=NAME[,mac=A][,model=virtio]` or `user[,hostfwd=…][,net=…]…[,mac=A][,model=virtio]`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut backend, mut user, mut mac) = (None, None, None);
        for part in split_options(text) {
            match part.split_once('=') {
                // As long as the kernel takes.
                Some(("tap", name)) if (1..=15).contains(&name.len()) && !name.contains('/') => {
                    backend = Some(NetBackend::Tap(name.to_owned()));
                }
                Some(("tap", name)) => return refuse(name, "an interface's name has 1 to 15 bytes without a slash"),
                Some(("mac", address)) => mac = Some(address.parse()?),
                Some(("model", "virtio")) => {}
                Some(("model", model)) => return refuse(model, "a network card's model is virtio"),
                None if part == "user" => user = Some(UserOptions::default()),
                Some((key, value)) if user.is_some() => user.get_or_insert_default().set(key, value)?,
                _ => return refuse(&part, "a network card is tap=NAME or user, then [,mac=…][,model=virtio]"),
            }
        }
        match (backend, user) {
            (Some(backend), None) => Ok(Self { backend, mac }),
            (None, Some(user)) => Ok(Self { backend: NetBackend::User(Box::new(user.network()?)), mac }),
            (Some(_), Some(_)) => refuse(text, "a network card is plugged into one thing: tap=NAME or user"),
            (None, None) => refuse(text, "a network card needs something to be plugged into: tap=NAME or user"),
        }
    }
}
