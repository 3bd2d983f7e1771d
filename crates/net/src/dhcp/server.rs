//! The server: one message at a time, by the tables of RFC 2131, section 4.3.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;

use super::Config;
use super::lease::{Lease, Leases, Time};
use super::message::{Asked, answer, read};
use crate::MacAddress;

/// How long an address that was offered is kept for who asked.
const OFFERED: Time = 60_000;
/// How long an address that somebody else uses isn't given.
const CONFLICT: Time = 600_000;
/// How long a probe waits for somebody to say that the address is theirs.
const PROBE: Time = 300;
/// Probes at one time; who asks then asks again later.
const MOST_PROBES: usize = 1024;

/// What the server wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask the network who has this address (ARP, RFC 5227); [`Server::taken`] tells that somebody does.
    Probe(Ipv4Addr),
    /// Keep this lease: the messages that follow may be sent once it is durable.
    Keep(Lease),
    /// Send this message from the server's port to the client's.
    Send {
        /// The client's address; everybody's for who has none and can't be reached otherwise.
        to: Ipv4Addr,
        /// The card; everybody's likewise.
        card: [u8; 6],
        /// The message.
        message: Vec<u8>,
    },
    /// Something that an operator may want to know.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Event {
    /// An address was given, or given again.
    #[error("{mac} has {address}{}", name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default())]
    Given {
        /// The card.
        mac: MacAddress,
        /// Its address.
        address: Ipv4Addr,
        /// The name by which it is known.
        name: Option<String>,
    },
    /// An address was given back.
    #[error("{mac} gave {address} back")]
    Released {
        /// The card.
        mac: MacAddress,
        /// Its address.
        address: Ipv4Addr,
    },
    /// Somebody uses an address that wasn't given to them.
    #[error("somebody uses {address} that wasn't given to them: it isn't given to others for ten minutes")]
    Conflict {
        /// The address.
        address: Ipv4Addr,
    },
    /// Every address is given.
    #[error("no address is left for {mac}: all of the range {}-{} are given", range.0, range.1)]
    Full {
        /// The card that asked.
        mac: MacAddress,
        /// The range.
        range: (Ipv4Addr, Ipv4Addr),
    },
    /// A card asked for an address that it can't have.
    #[error("{mac} asked for {address}, which it can't have")]
    Refused {
        /// The card.
        mac: MacAddress,
        /// The address.
        address: Ipv4Addr,
    },
}

/// An offer that waits for a probe.
struct Probing {
    address: Ipv4Addr,
    until: Time,
    asked: Asked,
}

/// The DHCP server of one network.
pub struct Server {
    config: Config,
    leases: Leases,
    /// What was offered, to whom, until when.
    offers: BTreeMap<Ipv4Addr, (MacAddress, Time)>,
    /// Addresses that somebody else uses, until when that is believed.
    conflicts: BTreeMap<Ipv4Addr, Time>,
    /// By card: a second question while the first waits replaces it. Probes end in the order in which they began.
    probing: VecDeque<Probing>,
    /// Where in the range the search for a free address goes on.
    next: u32,
    outputs: VecDeque<Output>,
}

impl Server {
    /// A server for a checked configuration, with the leases that were kept.
    #[must_use]
    pub fn new(config: Config, kept: impl IntoIterator<Item = Lease>) -> Self {
        let mut leases = Leases::default();
        for lease in kept {
            if config.is_free_for_all(lease.address) || config.reserved_for(lease.mac) == Some(lease.address) {
                leases.insert(lease);
            }
        }
        Self {
            config,
            leases,
            offers: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            probing: VecDeque::new(),
            next: 0,
            outputs: VecDeque::new(),
        }
    }

    /// What it was told.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Names told to cards that have no reservation, in place of those before.
    pub fn set_names(&mut self, names: Vec<(MacAddress, String)>) {
        self.config.names = names;
    }

    /// All leases, also those that have ended, by address.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.all()
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::timer`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.probing.front().map(|probing| probing.until)
    }

    /// A message came. Times are milliseconds since 1970.
    pub fn receive(&mut self, now: u64, bytes: &[u8]) {
        let Some(asked) = read(bytes) else { return };
        match asked.kind {
            MessageType::Discover => self.discover(now, asked),
            MessageType::Request => self.request(now, &asked),
            MessageType::Decline => self.decline(now, &asked),
            MessageType::Release => self.release(now, &asked),
            MessageType::Inform => self.send(&asked, MessageType::Ack, None),
            _ => {}
        }
    }

    /// Somebody said that this address is theirs, in answer to a probe.
    pub fn taken(&mut self, now: u64, address: Ipv4Addr, by: MacAddress) {
        let Some(at) = self.probing.iter().position(|probing| probing.address == address) else { return };
        if self.probing[at].asked.mac == by {
            // The one who asks has it already.
            return;
        }
        let Some(probing) = self.probing.remove(at) else { return };
        self.conflict(now, address);
        self.discover(now, probing.asked);
    }

    /// Time has passed.
    pub fn timer(&mut self, now: u64) {
        while self.probing.front().is_some_and(|probing| probing.until <= now) {
            if let Some(probing) = self.probing.pop_front() {
                self.offer(now, &probing.asked, probing.address);
            }
        }
        self.offers.retain(|_, (_, until)| *until > now);
        self.conflicts.retain(|_, until| *until > now);
    }

    /// Whether a card may have this address now.
    fn may_have(&self, now: Time, mac: MacAddress, address: Ipv4Addr) -> bool {
        if let Some(reserved) = self.config.reserved_for(mac) {
            return reserved == address;
        }
        self.config.is_free_for_all(address) && self.is_unused(now, mac, address)
    }

    fn is_unused(&self, now: Time, mac: MacAddress, address: Ipv4Addr) -> bool {
        let leased = self.leases.of_address(address).is_some_and(|lease| lease.mac != mac && lease.holds(now));
        let offered = self.offers.get(&address).is_some_and(|(other, until)| *other != mac && *until > now);
        let conflict = self.conflicts.get(&address).is_some_and(|until| *until > now);
        !leased && !offered && !conflict
    }

    fn discover(&mut self, now: Time, asked: Asked) {
        let mac = asked.mac;
        self.probing.retain(|probing| probing.asked.mac != mac);
        let reserved = self.config.reserved_for(mac);
        let known = self.leases.of_card(mac).cloned();
        let offered = self.offers.iter().find(|(_, (other, until))| *other == mac && *until > now);
        let wish = reserved
            .or_else(|| known.as_ref().map(|lease| lease.address).filter(|address| self.may_have(now, mac, *address)))
            .or_else(|| offered.map(|(address, _)| *address).filter(|address| self.may_have(now, mac, *address)))
            .or_else(|| asked.requested.filter(|address| self.may_have(now, mac, *address)));
        let is_unused = |address| self.is_unused(now, mac, address);
        let address = wish.or_else(|| self.leases.free(&self.config, self.next, is_unused));
        let Some(address) = address else {
            self.outputs.push_back(Output::Event(Event::Full { mac, range: self.config.range }));
            return;
        };
        // What it has, or was just offered, nobody else can have taken meanwhile without having been asked.
        let has = known.is_some_and(|lease| lease.address == address && lease.holds(now));
        let was_offered = self.offers.get(&address).is_some_and(|(other, until)| *other == mac && *until > now);
        if has || was_offered {
            self.offer(now, &asked, address);
        } else if self.probing.len() < MOST_PROBES {
            if wish.is_none() {
                self.next = u32::from(address).wrapping_sub(u32::from(self.config.range.0)).wrapping_add(1);
            }
            self.offers.insert(address, (mac, now + PROBE + OFFERED));
            self.outputs.push_back(Output::Probe(address));
            self.probing.push_back(Probing { address, until: now + PROBE, asked });
        }
    }

    fn offer(&mut self, now: Time, asked: &Asked, address: Ipv4Addr) {
        self.offers.insert(address, (asked.mac, now + OFFERED));
        self.send(asked, MessageType::Offer, Some(address));
    }

    fn request(&mut self, now: Time, asked: &Asked) {
        let mac = asked.mac;
        if asked.server.is_some_and(|server| server != self.config.server) {
            // It took another server's offer.
            self.offers.retain(|_, (other, _)| *other != mac);
            return;
        }
        let ciaddr = Some(asked.message.ciaddr()).filter(|address| !address.is_unspecified());
        let Some(address) = asked.requested.or(ciaddr) else { return };
        if !self.may_have(now, mac, address) {
            self.outputs.push_back(Output::Event(Event::Refused { mac, address }));
            self.send(asked, MessageType::Nak, None);
            return;
        }
        self.offers.retain(|_, (other, _)| *other != mac);
        let lease = Lease {
            address,
            mac,
            hostname: asked.hostname.clone(),
            ends: (now / 1000).saturating_add(u64::from(self.config.lease)),
        };
        self.leases.insert(lease.clone());
        self.outputs.push_back(Output::Keep(lease));
        self.send(asked, MessageType::Ack, Some(address));
        let name = self.config.name_of(mac).map(str::to_owned).or_else(|| asked.hostname.clone());
        self.outputs.push_back(Output::Event(Event::Given { mac, address, name }));
    }

    fn decline(&mut self, now: Time, asked: &Asked) {
        let (Some(address), Some(server)) = (asked.requested, asked.server) else { return };
        let had = self.leases.of_card(asked.mac).is_some_and(|lease| lease.address == address);
        if server != self.config.server || !had {
            return;
        }
        self.end(now, asked.mac);
        self.conflict(now, address);
    }

    fn release(&mut self, now: Time, asked: &Asked) {
        let address = asked.message.ciaddr();
        let has = self.leases.of_card(asked.mac).is_some_and(|lease| lease.address == address && lease.holds(now));
        if has && asked.server.is_none_or(|server| server == self.config.server) {
            self.end(now, asked.mac);
            self.outputs.push_back(Output::Event(Event::Released { mac: asked.mac, address }));
        }
    }

    /// Ends the lease of a card.
    fn end(&mut self, now: Time, mac: MacAddress) {
        if let Some(lease) = self.leases.of_card(mac) {
            let lease = Lease { ends: now / 1000, ..lease.clone() };
            self.leases.insert(lease.clone());
            self.outputs.push_back(Output::Keep(lease));
        }
    }

    fn conflict(&mut self, now: Time, address: Ipv4Addr) {
        self.offers.remove(&address);
        self.conflicts.insert(address, now + CONFLICT);
        self.outputs.push_back(Output::Event(Event::Conflict { address }));
    }

    /// Section 4.1: where answers go.
    fn send(&mut self, asked: &Asked, kind: MessageType, address: Option<Ipv4Addr>) {
        let Some(message) = answer(&self.config, asked, kind, address) else { return };
        let ciaddr = asked.message.ciaddr();
        let everybody = (Ipv4Addr::BROADCAST, [0xff; 6]);
        let (to, card) = match address {
            _ if kind == MessageType::Nak => everybody,
            _ if !ciaddr.is_unspecified() => (ciaddr, asked.mac.0),
            Some(address) if !asked.message.flags().broadcast() => (address, asked.mac.0),
            _ => everybody,
        };
        self.outputs.push_back(Output::Send { to, card, message });
    }
}
