//! Which card has which address, until when. What messages say of it isn't known here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::Config;
use crate::MacAddress;

/// Times are milliseconds since 1970, so that leases outlive a restart.
pub(super) type Time = u64;

/// An address given to a card. What has ended is remembered, so that the card gets it again if it can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The card.
    pub mac: MacAddress,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// When it ends, or ended: seconds since 1970.
    pub ends: u64,
}

impl Lease {
    /// Whether it holds at this time, in milliseconds since 1970.
    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        self.ends.saturating_mul(1000) > now
    }
}

/// Leases by address, and which address a card had last.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_address: BTreeMap<Ipv4Addr, Lease>,
    by_card: BTreeMap<MacAddress, Ipv4Addr>,
}

impl Leases {
    pub(super) fn insert(&mut self, lease: Lease) {
        if let Some(former) = self.by_address.get(&lease.address)
            && former.mac != lease.mac
        {
            self.by_card.remove(&former.mac);
        }
        if let Some(former) = self.by_card.insert(lease.mac, lease.address)
            && former != lease.address
        {
            self.by_address.remove(&former);
        }
        self.by_address.insert(lease.address, lease);
    }

    pub(super) fn of_card(&self, mac: MacAddress) -> Option<&Lease> {
        self.by_address.get(self.by_card.get(&mac)?)
    }

    pub(super) fn of_address(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.by_address.get(&address)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.by_address.values()
    }

    /// An address that `is_free` lets pass: one that nobody had, looked for from the `start`-th of the range on, or else the
    /// one whose lease ended first.
    pub(super) fn free(&self, config: &Config, start: u32, is_free: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let (first, last) = (u32::from(config.range.0), u32::from(config.range.1));
        let len = last - first + 1;
        let may_go = |address: &Ipv4Addr| config.is_free_for_all(*address) && is_free(*address);
        let all = (0..len).map(|step| Ipv4Addr::from(first + (start % len + step) % len));
        let never = all.filter(|address| !self.by_address.contains_key(address)).find(may_go);
        let ended = || self.by_address.values().filter(|lease| may_go(&lease.address)).min_by_key(|lease| lease.ends);
        never.or_else(|| ended().map(|lease| lease.address))
    }
}
