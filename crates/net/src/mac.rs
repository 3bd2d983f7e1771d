//! Ethernet addresses of cards, and those that are made up for VMs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of one card (EUI-48), never a group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is no card's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}")]
pub struct MacError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The address of a card whose description gives none: the same at every start of the VM of this name, in the range
/// 52:54:00 that QEMU and libvirt use (32-bit FNV-1a over the name and the card's number, from 0).
#[must_use]
pub fn stable_mac(vm: &str, card: usize) -> MacAddress {
    let hash = vm
        .bytes()
        .chain([card as u8])
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, _] = hash.to_le_bytes();
    MacAddress([0x52, 0x54, 0x00, a, b, c])
}

impl fmt::Display for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem| Err(MacError { text: text.to_owned(), problem });
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            let Some(Ok(parsed)) = part.map(|part| u8::from_str_radix(part, 16)) else {
                return refuse("an Ethernet address is six bytes in hexadecimal, such as 52:54:00:12:34:56");
            };
            *byte = parsed;
        }
        if parts.next().is_some() {
            return refuse("an Ethernet address has six bytes, this has more");
        }
        if bytes[0] & 1 != 0 {
            return refuse("this is a multicast address: the first byte of a card's address is even");
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_addresses_stay_and_differ() {
        assert_eq!(stable_mac("web", 0), stable_mac("web", 0));
        assert_ne!(stable_mac("web", 0), stable_mac("web", 1));
        assert_ne!(stable_mac("web", 0), stable_mac("mail", 0));
        assert_eq!(stable_mac("web", 0).0[..3], [0x52, 0x54, 0]);
    }

    #[test]
    fn what_is_no_cards_address_is_refused() {
        assert_eq!("52-54-0-a-B-ff".parse(), Ok(MacAddress([0x52, 0x54, 0, 10, 11, 255])));
        for text in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:xy", "53:54:00:12:34:56", "52:54:000:1:2:3"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
