//! One TCP connection of the guest's: the network's end of it. Its other end is a socket of the host's, which somebody else
//! holds. The connection's TCP is smoltcp's.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use super::frame::MTU;

/// Bytes that wait in each direction.
const BUFFER: usize = 128 << 10;
/// A guest that doesn't answer for so long while something is sent to it is gone.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A connection.
pub(super) struct Flow {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    /// The guest's end and the other.
    ends: (SocketAddrV4, SocketAddrV4),
    /// When it is to be driven again.
    pub(super) deadline: Option<u64>,
    seen: Seen,
    /// The host's side will send no more.
    host_finished: bool,
    broken: bool,
}

/// What the owner of the host's socket was told last.
#[derive(Default)]
struct Seen {
    readable: bool,
    writable: bool,
    finished: bool,
}

impl Flow {
    fn new(ends: (SocketAddrV4, SocketAddrV4), seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        // The one address of this end, from which everything is on the same link.
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(*ends.1.ip(), 0)));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_timeout(Some(TIMEOUT));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_congestion_control(CongestionControl::Reno);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            wire,
            ends,
            deadline: None,
            seen: Seen::default(),
            host_finished: false,
            broken: false,
        }
    }

    /// A connection that the guest opens by this packet; it is answered when the host is connected.
    pub(super) fn accept(ends: (SocketAddrV4, SocketAddrV4), seed: u64, packet: &[u8]) -> Self {
        let mut flow = Self::new(ends, seed);
        let socket = flow.socket();
        socket.pause_synack(true);
        // A fresh socket at a port that isn't zero always listens; a guest's packet to port zero makes nothing here.
        if socket.listen(IpEndpoint::from(ends.1)).is_err() {
            flow.broken = true;
        }
        flow.packet(packet);
        flow
    }

    /// A connection to the guest.
    pub(super) fn connect(ends: (SocketAddrV4, SocketAddrV4), seed: u64) -> Self {
        let mut flow = Self::new(ends, seed);
        let socket = flow.sockets.get_mut::<tcp::Socket>(flow.handle);
        let opened = socket.connect(flow.interface.context(), IpEndpoint::from(ends.0), IpEndpoint::from(ends.1));
        flow.broken |= opened.is_err();
        flow
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(super) fn ends(&self) -> (SocketAddrV4, SocketAddrV4) {
        self.ends
    }

    /// A packet of the guest's.
    pub(super) fn packet(&mut self, packet: &[u8]) {
        self.wire.incoming.push_back(packet.to_vec());
    }

    /// The host's socket is connected, or can't be.
    pub(super) fn connected(&mut self, connected: bool) {
        self.socket().pause_synack(false);
        if !connected {
            self.abort();
        }
    }

    /// Sends, receives and times out; `send` gets the packets for the guest.
    pub(super) fn drive(&mut self, now: u64, mut send: impl FnMut(&[u8])) {
        let now = instant(now);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        if self.host_finished && self.socket().send_queue() == 0 {
            self.socket().close();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
        }
        for packet in self.wire.outgoing.drain(..) {
            send(&packet);
        }
    }

    pub(super) fn next_deadline(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        // Never at once: what could be done now has been done.
        Some((at.total_micros().max(0) as u64 * 1000).max(now + 1_000_000))
    }

    pub(super) fn room(&self) -> usize {
        let socket = self.sockets.get::<tcp::Socket>(self.handle);
        if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = self.socket().send_slice(bytes).unwrap_or(0);
        self.seen.writable = self.room() > 0;
        taken
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let read = self.socket().recv_slice(buffer).unwrap_or(0);
        self.seen.readable = self.socket().can_recv();
        read
    }

    pub(super) fn finish(&mut self) {
        self.host_finished = true;
    }

    pub(super) fn abort(&mut self) {
        self.socket().abort();
        self.broken = true;
    }

    /// Whether bytes came, or room, since this was asked last.
    pub(super) fn take_ready(&mut self) -> bool {
        let (readable, writable) = (self.socket().can_recv(), self.room() > 0);
        let more = readable && !self.seen.readable || writable && !self.seen.writable;
        self.seen.readable = readable;
        self.seen.writable = writable;
        more
    }

    /// Whether the guest ended its half, and everything before that has been read; true once.
    pub(super) fn take_finished(&mut self) -> bool {
        let socket = self.sockets.get::<tcp::Socket>(self.handle);
        let half_closed =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        let finished = half_closed && !socket.can_recv();
        finished && !std::mem::replace(&mut self.seen.finished, true)
    }

    /// Whether nothing more will come or go.
    pub(super) fn is_over(&mut self) -> bool {
        let socket = self.sockets.get::<tcp::Socket>(self.handle);
        let closed = matches!(socket.state(), State::Closed | State::TimeWait);
        // What the guest sent before it closed has to be taken first.
        closed && (self.broken || !socket.can_recv()) && self.wire.outgoing.is_empty()
    }

    /// Whether it ended other than by both sides closing.
    pub(super) fn was_reset(&self) -> bool {
        !self.seen.finished || !self.host_finished
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

/// The packets of one connection on their way in and out.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        // A window's worth at a time: the guest takes it or loses it.
        (self.outgoing.len() < BUFFER / MTU + 8).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}
