//! Heartbeats: packets by which two nodes know of each other that they are alive, over one or more links. What a node
//! wants the other to know of its groups travels in them. Sending, receiving and waiting are the caller's.
//!
//! A packet says which of the other's packets its sender has received. Only packets that confirm a recent one of ours count
//! as a sign of life, so that a cable which works one way is a broken cable at both ends, and a recorded packet is worth
//! nothing: it confirms what an earlier start of ours sent. `counted` in a packet is more than a receipt: it is the promise
//! not to take the sender for dead until [`Timing::deadtime`] after that packet ([`Heartbeat::trusted_until`]).

mod packet;

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::Event;
use crate::group::Report;
use crate::seal::Key;
use crate::time::{NodeId, Time};
use packet::{Packet, Receipt};

/// Longest packet in bytes.
pub const MAX_PACKET: usize = packet::MAX;
/// Links there may be.
pub const MAX_LINKS: usize = 8;
/// Packets of ours that are remembered, to know when a confirmed one was sent.
const REMEMBERED: usize = 4096;

/// The times of Heartbeat's `ha.cf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two packets.
    pub keepalive: Duration,
    /// Silence after which a warning is due.
    pub warntime: Duration,
    /// Silence after which the peer is dead.
    pub deadtime: Duration,
    /// How long after the start a peer that was never heard counts as dead.
    pub initdead: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_millis(200),
            warntime: Duration::from_millis(600),
            deadtime: Duration::from_secs(2),
            initdead: Duration::from_secs(30),
        }
    }
}

/// Times that can't work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// No time between two packets.
    #[error("keepalive has to be at least 1 ms")]
    Keepalive,
    /// One lost packet would be a death.
    #[error("deadtime ({0:?}) has to be at least twice keepalive ({1:?})")]
    Deadtime(Duration, Duration),
    /// A warning that comes too late.
    #[error("warntime ({0:?}) has to lie between keepalive and deadtime ({1:?})")]
    Warntime(Duration, Duration),
    /// A node that has just started would take a living peer for dead.
    #[error("initdead ({0:?}) has to be at least deadtime ({1:?})")]
    Initdead(Duration, Duration),
    /// Too long to be told to the peer.
    #[error("deadtime ({0:?}) has to be at most an hour")]
    Long(Duration),
}

impl Timing {
    /// Whether these times can work together.
    ///
    /// # Errors
    /// Those that can't.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.keepalive < Duration::from_millis(1) {
            return Err(TimingError::Keepalive);
        }
        if self.deadtime < self.keepalive * 2 {
            return Err(TimingError::Deadtime(self.deadtime, self.keepalive));
        }
        if self.warntime < self.keepalive || self.warntime > self.deadtime {
            return Err(TimingError::Warntime(self.warntime, self.deadtime));
        }
        if self.initdead < self.deadtime {
            return Err(TimingError::Initdead(self.initdead, self.deadtime));
        }
        if self.deadtime > Duration::from_hours(1) {
            return Err(TimingError::Long(self.deadtime));
        }
        Ok(())
    }
}

/// Who sends and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The pair's name.
    pub cluster: String,
    /// What authenticates packets.
    pub key: Key,
    /// How many links there are, 1 to [`MAX_LINKS`].
    pub links: usize,
    /// When.
    pub timing: Timing,
    /// A number that no earlier start of this node had.
    pub incarnation: u64,
}

/// How the peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Not heard since the start, and that isn't long ago.
    Unknown,
    /// Heard, and it hears us.
    Alive,
    /// Alive, but silent for longer than [`Timing::warntime`].
    Late,
    /// Silent for longer than [`Timing::deadtime`].
    Dead,
}

/// How one link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Packets come, and ours arrive at the peer by some link.
    Up,
    /// They don't.
    Down,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Its code is wrong: another secret, or damage.
    #[error("the packet isn't sealed with this cluster's secret")]
    Seal,
    /// Sealed, but no packet of this version of the protocol.
    #[error("the packet is of another version, or malformed")]
    Malformed,
    /// Of another cluster, or by this node itself.
    #[error("the packet is of another cluster, or this node's own")]
    Foreign,
    /// Seen before, or by another link earlier.
    #[error("the packet is no newer than those seen before")]
    Old,
}

#[derive(Debug, Default)]
struct Link {
    heard: Option<Time>,
    seen: u64,
    up: bool,
}

#[derive(Debug)]
struct Peer {
    incarnation: u64,
    received: u64,
    counted: u64,
    reports: Vec<Report>,
}

/// One node's side of the heartbeats.
#[derive(Debug)]
pub struct Heartbeat {
    config: Config,
    started: Time,
    expected: Time,
    next: Time,
    sequence: u64,
    sent: VecDeque<(u64, Time)>,
    links: Vec<Link>,
    peer: Option<Peer>,
    /// A start of the peer's that has not confirmed anything of ours yet.
    candidate: Option<(Receipt, Time)>,
    heard: Option<Time>,
    trusted: Option<Time>,
    state: PeerState,
    reports: Vec<Report>,
    packets: Vec<(usize, Vec<u8>)>,
    events: Vec<Event>,
}

impl Heartbeat {
    /// Starts at `now`; the first packets are due at once.
    #[must_use]
    pub fn new(now: Time, config: Config) -> Self {
        let links = (0..config.links.min(MAX_LINKS)).map(|_| Link::default()).collect();
        Self {
            config,
            started: now,
            expected: now,
            next: now,
            sequence: 0,
            sent: VecDeque::new(),
            links,
            peer: None,
            candidate: None,
            heard: None,
            trusted: None,
            state: PeerState::Unknown,
            reports: Vec::new(),
            packets: Vec::new(),
            events: Vec::new(),
        }
    }

    /// How the peer stands.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.state
    }

    /// Whether the peer is there.
    #[must_use]
    pub fn peer_is_alive(&self) -> bool {
        matches!(self.state, PeerState::Alive | PeerState::Late)
    }

    /// How the links stand.
    #[must_use]
    pub fn links(&self) -> Vec<LinkState> {
        self.links.iter().map(|link| if link.up { LinkState::Up } else { LinkState::Down }).collect()
    }

    /// What the peer last said of its groups.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        self.peer.as_ref().map_or(&[], |peer| &peer.reports)
    }

    /// Until when the peer has promised not to take this node for dead.
    #[must_use]
    pub fn trusted_until(&self) -> Option<Time> {
        self.trusted
    }

    /// What the peer is to know; sent at once if it is something new.
    pub fn report(&mut self, now: Time, reports: Vec<Report>) {
        if reports != self.reports {
            self.reports = reports;
            self.send(now);
        }
    }

    /// When [`Heartbeat::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let timing = &self.config.timing;
        let silence = match (self.state, self.heard) {
            (PeerState::Unknown, _) => Some(self.started.after(timing.initdead)),
            (PeerState::Alive, Some(heard)) => Some(heard.after(timing.warntime)),
            (PeerState::Late, Some(heard)) => Some(heard.after(timing.deadtime)),
            _ => None,
        };
        silence.map_or(self.next, |silence| silence.min(self.next))
    }

    /// A packet to send, with the number of its link.
    pub fn packet(&mut self) -> Option<(usize, Vec<u8>)> {
        self.packets.pop()
    }

    /// What happened.
    pub fn event(&mut self) -> Option<Event> {
        (!self.events.is_empty()).then(|| self.events.remove(0))
    }

    /// The time has come to send, or to notice silence.
    pub fn tick(&mut self, now: Time) {
        let timing = self.config.timing;
        // Somebody kept this process from running: the peer's packets wait to be read, and are no silence.
        if now > self.expected.after(timing.keepalive)
            && let Some(heard) = &mut self.heard
        {
            *heard = (*heard).max(now.before(timing.deadtime.saturating_sub(timing.keepalive * 2)));
        }
        if now >= self.next {
            self.send(now);
        }
        self.notice_silence(now);
        self.expected = self.deadline();
    }

    fn send(&mut self, now: Time) {
        self.next = now.after(self.config.timing.keepalive);
        self.sequence += 1;
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        let received = |peer: &Peer| Receipt { incarnation: peer.incarnation, sequence: peer.received };
        let packet = Packet {
            cluster: crate::seal::number(&self.config.cluster),
            from: self.config.node,
            own: Receipt { incarnation: self.config.incarnation, sequence: self.sequence },
            deadtime: self.config.timing.deadtime,
            received: self.peer.as_ref().map(received).unwrap_or_default(),
            counted: self.peer.as_ref().map(|peer| peer.counted).unwrap_or_default(),
            candidate: self.candidate.map(|(receipt, _)| receipt).unwrap_or_default(),
            reports: self.reports.clone(),
        };
        let body = packet.encode();
        for link in 0..self.links.len() {
            self.packets.push((link, self.config.key.seal(body.clone())));
        }
    }

    fn notice_silence(&mut self, now: Time) {
        let timing = self.config.timing;
        for (index, link) in self.links.iter_mut().enumerate() {
            if link.up && link.heard.is_none_or(|heard| now.since(heard) >= timing.deadtime) {
                link.up = false;
                self.events.push(Event::LinkDown { link: index });
            }
        }
        if self.candidate.is_some_and(|(_, at)| now.since(at) >= timing.deadtime) {
            self.candidate = None;
        }
        let silence = now.since(self.heard.unwrap_or(self.started));
        let missed = silence.as_nanos() / timing.keepalive.as_nanos().max(1);
        let missed = u64::try_from(missed).unwrap_or(u64::MAX);
        match self.state {
            PeerState::Unknown if silence >= timing.initdead => {
                self.state = PeerState::Dead;
                self.events.push(Event::PeerNeverHeard { after: timing.initdead });
            }
            PeerState::Alive | PeerState::Late if silence >= timing.deadtime => {
                self.state = PeerState::Dead;
                self.events.push(Event::PeerDead { missed, silence });
            }
            PeerState::Alive if silence >= timing.warntime => {
                self.state = PeerState::Late;
                self.events.push(Event::PeerLate { missed });
            }
            _ => {}
        }
    }

    /// Takes a packet that came by a link.
    ///
    /// # Errors
    /// Why it counts for nothing.
    pub fn receive(&mut self, now: Time, link: usize, bytes: &[u8]) -> Result<(), Rejected> {
        let body = self.config.key.open(bytes).ok_or(Rejected::Seal)?;
        let packet = Packet::decode(body).ok_or(Rejected::Malformed)?;
        let foreign = packet.cluster != crate::seal::number(&self.config.cluster);
        if foreign || packet.from != self.config.node.peer() || link >= self.links.len() {
            return Err(Rejected::Foreign);
        }
        let confirmed = self.confirms(now, packet.received) || self.confirms(now, packet.candidate);
        match &mut self.peer {
            Some(peer) if peer.incarnation == packet.own.incarnation => {
                if packet.own.sequence <= self.links[link].seen {
                    return Err(Rejected::Old);
                }
                peer.received = peer.received.max(packet.own.sequence);
            }
            _ if confirmed => self.meet(packet.own),
            _ => {
                let newer = |(old, _): (Receipt, Time)| {
                    old.incarnation != packet.own.incarnation || old.sequence < packet.own.sequence
                };
                if self.candidate.is_none_or(newer) {
                    self.candidate = Some((packet.own, now));
                }
                // The peer waits to be confirmed.
                self.next = self.next.min(now);
                return Ok(());
            }
        }
        self.links[link].seen = packet.own.sequence;
        if confirmed {
            self.count(now, link, packet);
        }
        Ok(())
    }

    /// Whether the peer has received something that this start of ours sent a short time ago.
    fn confirms(&self, now: Time, receipt: Receipt) -> bool {
        receipt.incarnation == self.config.incarnation
            && self.sent_at(receipt.sequence).is_some_and(|at| now.since(at) < self.config.timing.deadtime)
    }

    fn sent_at(&self, sequence: u64) -> Option<Time> {
        let first = self.sent.front()?.0;
        let index = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.sent.get(index).map(|(_, at)| *at)
    }

    /// A start of the peer's that we hadn't met.
    fn meet(&mut self, own: Receipt) {
        let again = self.peer.is_some();
        self.peer =
            Some(Peer { incarnation: own.incarnation, received: own.sequence, counted: 0, reports: Vec::new() });
        self.links.iter_mut().for_each(|link| link.seen = 0);
        // What an earlier start promised, this one keeps: it waits for initdead, which is no shorter than deadtime.
        self.candidate = None;
        if again {
            self.events.push(Event::PeerRestarted);
        }
    }

    /// A sign of life.
    fn count(&mut self, now: Time, link: usize, packet: Packet) {
        let trusted = packet.counted_time(self.config.incarnation, |sequence| self.sent_at(sequence));
        self.trusted = self.trusted.max(trusted);
        if let Some(peer) = &mut self.peer
            && packet.own.sequence > peer.counted
        {
            peer.counted = packet.own.sequence;
            peer.reports = packet.reports;
        }
        self.heard = Some(now);
        let state = &mut self.links[link];
        state.heard = Some(now);
        if !state.up {
            state.up = true;
            self.events.push(Event::LinkUp { link });
        }
        match self.state {
            PeerState::Unknown | PeerState::Dead => self.events.push(Event::PeerAlive),
            PeerState::Late | PeerState::Alive => {}
        }
        self.state = PeerState::Alive;
    }
}

#[cfg(test)]
mod tests;
