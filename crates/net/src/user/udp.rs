//! The guest's UDP ports: which socket of the host's stands for each, and as whom the guest knows those who answer.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::FlowId;

/// Ports at one time; the one idle for longest goes for a new one.
const MAX_PORTS: usize = 1024;
/// Peers that one port keeps apart by another address than their own.
const MAX_PEERS: usize = 32;
/// Nanoseconds after which an idle port is forgotten (RFC 4787 asks for two minutes at least).
const IDLE: u64 = 120_000_000_000;

#[derive(Default)]
pub(super) struct Ports {
    by_guest: HashMap<SocketAddrV4, FlowId>,
    ports: HashMap<FlowId, Port>,
    /// By the time of their last use.
    used: BTreeMap<(u64, FlowId), ()>,
}

struct Port {
    guest: SocketAddrV4,
    used: u64,
    /// Whom the guest knows by another address: the host's, then the guest's notion.
    peers: Vec<(SocketAddrV4, SocketAddrV4)>,
}

impl Port {
    fn meet(&mut self, host: SocketAddrV4, seen: SocketAddrV4) {
        if host == seen || self.peers.contains(&(host, seen)) {
            return;
        }
        self.peers.retain(|(other, _)| *other != host);
        if self.peers.len() == MAX_PEERS {
            self.peers.remove(0);
        }
        self.peers.push((host, seen));
    }
}

impl Ports {
    pub(super) fn deadline(&self) -> Option<u64> {
        self.used.keys().next().map(|(used, _)| used + IDLE)
    }

    /// Forgets the ports that are idle for too long.
    pub(super) fn expire(&mut self, now: u64) -> Vec<FlowId> {
        let mut expired = vec![];
        while let Some((&(used, id), ())) = self.used.first_key_value() {
            if used + IDLE > now {
                break;
            }
            self.forget(id);
            expired.push(id);
        }
        expired
    }

    fn forget(&mut self, id: FlowId) {
        if let Some(port) = self.ports.remove(&id) {
            self.by_guest.remove(&port.guest);
            self.used.remove(&(port.used, id));
        }
    }

    /// The port at this end of the guest's, made if there is none, and the one that had to go for it.
    fn at(&mut self, now: u64, guest: SocketAddrV4, new: impl FnOnce() -> FlowId) -> (FlowId, Option<FlowId>) {
        if let Some(&id) = self.by_guest.get(&guest) {
            self.touch(now, id);
            return (id, None);
        }
        let mut closed = None;
        if self.ports.len() >= MAX_PORTS {
            closed = self.used.keys().next().map(|(_, id)| *id);
            closed.into_iter().for_each(|id| self.forget(id));
        }
        let id = new();
        self.by_guest.insert(guest, id);
        self.ports.insert(id, Port { guest, used: now, peers: vec![] });
        self.used.insert((now, id), ());
        (id, closed)
    }

    fn touch(&mut self, now: u64, id: FlowId) {
        if let Some(port) = self.ports.get_mut(&id) {
            self.used.remove(&(port.used, id));
            port.used = now;
            self.used.insert((now, id), ());
        }
    }

    /// The guest sent something from one end to the other, which is `host` on the host.
    pub(super) fn sent(
        &mut self,
        now: u64,
        (guest, seen): (SocketAddrV4, SocketAddrV4),
        host: SocketAddrV4,
        new: impl FnOnce() -> FlowId,
    ) -> (FlowId, Option<FlowId>) {
        let (id, closed) = self.at(now, guest, new);
        if let Some(port) = self.ports.get_mut(&id) {
            port.meet(host, seen);
        }
        (id, closed)
    }

    /// Something came for a port: the guest's end, and from whom the guest sees it.
    pub(super) fn received(
        &mut self,
        now: u64,
        id: FlowId,
        from: SocketAddrV4,
        gateway: Ipv4Addr,
    ) -> Option<(SocketAddrV4, SocketAddrV4)> {
        self.touch(now, id);
        let port = self.ports.get(&id)?;
        let known = port.peers.iter().find(|(host, _)| *host == from).map(|(_, seen)| *seen);
        let own = if from.ip().is_loopback() { SocketAddrV4::new(gateway, from.port()) } else { from };
        Some((port.guest, known.unwrap_or(own)))
    }

    /// Somebody sent to a forwarded port, which leads to `to`: the port's number, and as whom the guest sees the sender.
    pub(super) fn forwarded(
        &mut self,
        now: u64,
        from: SocketAddrV4,
        to: SocketAddrV4,
        gateway: Ipv4Addr,
        new: impl FnOnce() -> FlowId,
    ) -> (FlowId, SocketAddrV4, Option<FlowId>) {
        let (id, closed) = self.at(now, to, new);
        let seen = SocketAddrV4::new(gateway, from.port());
        if let Some(port) = self.ports.get_mut(&id) {
            port.meet(from, seen);
        }
        (id, seen, closed)
    }
}
