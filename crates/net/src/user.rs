//! The network of a VM that has none of the host's: its gateway, DHCP server and name server, and NAT from the guest's
//! connections to sockets of this process (what QEMU calls user networking). IPv4. Whoever drives it owns the sockets:
//! [`Network::poll`] says what to do with them, and what they give comes back by the other methods.

mod config;
mod dhcp;
mod frame;
mod tcp;
mod udp;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};

pub use config::{Config, ConfigError};

use frame::{Framer, echo};
use tcp::Flow;
use udp::Ports;

/// A connection or a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

impl FlowId {
    /// As a number below 2^56.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// What [`FlowId::to_bits`] made a number of.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// What an engine wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Give this Ethernet frame to the guest.
    Frame(Vec<u8>),
    /// Connect a TCP socket; the result goes to [`Network::tcp_connected`].
    Connect {
        /// The connection.
        id: FlowId,
        /// Where to.
        to: SocketAddrV4,
    },
    /// The guest's bytes wait in [`Network::tcp_read`], or there is room again for the host's in [`Network::tcp_write`].
    Ready(FlowId),
    /// The guest will send no more: shut the socket down for writing.
    Finished(FlowId),
    /// Close the connection's socket; `reset` says that the guest broke it off. Its number isn't used again.
    Close {
        /// The connection.
        id: FlowId,
        /// The guest broke it off.
        reset: bool,
    },
    /// Send a datagram from the socket of this port of the guest's, made now if there is none. Answers go to
    /// [`Network::udp_received`].
    Datagram {
        /// The guest's port.
        id: FlowId,
        /// Where to.
        to: SocketAddrV4,
        /// Its content.
        data: Vec<u8>,
    },
    /// Close that socket.
    ClosePort(FlowId),
    /// Send an ICMP echo request; the answer goes to [`Network::echo_answered`].
    Echo {
        /// Whom to ask.
        to: Ipv4Addr,
        /// The guest's identifier and sequence number, to be given back.
        tag: (u16, u16),
        /// Its content.
        data: Vec<u8>,
    },
}

/// The guest's frames that may wait for it; beyond that they are lost, as on a real network.
const MAX_FRAMES: usize = 1024;
/// Connections at one time.
const MAX_FLOWS: usize = 4096;

/// One network with one guest in it.
pub struct Network {
    config: Config,
    framer: Framer,
    outputs: VecDeque<Output>,
    frames: usize,
    flows: HashMap<FlowId, Flow>,
    /// By the guest's end and the other.
    by_ends: HashMap<(SocketAddrV4, SocketAddrV4), FlowId>,
    deadlines: BTreeMap<(u64, FlowId), ()>,
    ports: Ports,
    next: u64,
    next_port: u16,
    random: u64,
}

impl Network {
    /// A network; `seed` makes the connections' initial sequence numbers hard to guess.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            framer: Framer::new(),
            outputs: VecDeque::new(),
            frames: 0,
            flows: HashMap::new(),
            by_ends: HashMap::new(),
            deadlines: BTreeMap::new(),
            ports: Ports::default(),
            next: 0,
            next_port: 49_152,
            random: seed,
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        self.frames -= usize::from(matches!(output, Output::Frame(_)));
        Some(output)
    }

    /// When [`Network::timer`] is to be called, in nanoseconds on the clock that the calls are given.
    pub fn deadline(&self) -> Option<u64> {
        let flow = self.deadlines.keys().next().map(|(at, _)| *at);
        flow.into_iter().chain(self.ports.deadline()).min()
    }

    /// Time has passed: retransmits, and forgets what is long idle.
    pub fn timer(&mut self, now: u64) {
        while let Some((&(at, id), ())) = self.deadlines.first_key_value() {
            if at > now {
                break;
            }
            self.deadlines.remove(&(at, id));
            self.drive(now, id);
        }
        for id in self.ports.expire(now) {
            self.outputs.push_back(Output::ClosePort(id));
        }
    }

    /// An Ethernet frame of the guest's. What is malformed or unknown is dropped.
    pub fn frame(&mut self, now: u64, bytes: &[u8]) {
        let Ok(ethernet) = EthernetFrame::new_checked(bytes) else { return };
        let source = ethernet.src_addr();
        if !source.is_unicast() {
            return;
        }
        self.framer.learn(source);
        match ethernet.ethertype() {
            EthernetProtocol::Arp => self.arp(ethernet.payload()),
            EthernetProtocol::Ipv4 => self.ipv4(now, ethernet.payload()),
            _ => {}
        }
    }

    fn send(&mut self, frame: Vec<u8>) {
        if self.frames < MAX_FRAMES {
            self.frames += 1;
            self.outputs.push_back(Output::Frame(frame));
        }
    }

    fn send_datagram(&mut self, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) {
        for frame in self.framer.datagram(from, to, data) {
            self.send(frame);
        }
    }

    /// The network's own addresses are all at the gateway's card.
    fn arp(&mut self, bytes: &[u8]) {
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpPacket::new_checked(bytes).and_then(|packet| ArpRepr::parse(&packet))
        else {
            return;
        };
        if operation == ArpOperation::Request && self.config.is_own(target_protocol_addr) {
            let answer = self.framer.arp(target_protocol_addr, source_hardware_addr, source_protocol_addr);
            self.send(answer);
        }
    }

    fn ipv4(&mut self, now: u64, bytes: &[u8]) {
        let Ok(packet) = Ipv4Packet::new_checked(bytes) else { return };
        // Fragments are dropped: senders find the size that passes.
        if packet.version() != 4 || !packet.verify_checksum() || packet.more_frags() || packet.frag_offset() != 0 {
            return;
        }
        let bytes = &bytes[..usize::from(packet.total_len())];
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        match packet.next_header() {
            IpProtocol::Tcp if self.config.is_guest(from) => self.tcp(now, from, to, packet.payload(), bytes),
            IpProtocol::Udp => self.udp(now, from, to, packet.payload()),
            IpProtocol::Icmp if self.config.is_guest(from) => self.icmp(from, to, packet.payload()),
            _ => {}
        }
    }

    fn tcp(&mut self, now: u64, from: Ipv4Addr, to: Ipv4Addr, segment: &[u8], packet: &[u8]) {
        let Ok(header) = TcpPacket::new_checked(segment) else { return };
        let ends = (SocketAddrV4::new(from, header.src_port()), SocketAddrV4::new(to, header.dst_port()));
        if let Some(&id) = self.by_ends.get(&ends) {
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.packet(packet);
            }
            return self.drive(now, id);
        }
        let opens = header.syn() && !header.ack() && !header.rst();
        let host = self.config.to_host(ends.1);
        let Some(host) = host.filter(|_| opens && self.flows.len() < MAX_FLOWS) else {
            if !header.rst() {
                self.refuse(from, to, &header);
            }
            return;
        };
        let id = self.number();
        let flow = Flow::accept(ends, self.random(), packet);
        self.flows.insert(id, flow);
        self.by_ends.insert(ends, id);
        self.outputs.push_back(Output::Connect { id, to: host });
        self.drive(now, id);
    }

    /// A segment of no connection is answered by a reset (RFC 9293, section 3.10.7.1).
    fn refuse(&mut self, from: Ipv4Addr, to: Ipv4Addr, header: &TcpPacket<&[u8]>) {
        let packet = frame::reset(from, to, header);
        let frame = self.framer.ip(&packet);
        self.send(frame);
    }

    fn udp(&mut self, now: u64, from: Ipv4Addr, to: Ipv4Addr, datagram: &[u8]) {
        let Ok(header) = UdpPacket::new_checked(datagram) else { return };
        if !header.verify_checksum(&from.into(), &to.into()) {
            return;
        }
        let ends = (SocketAddrV4::new(from, header.src_port()), SocketAddrV4::new(to, header.dst_port()));
        if ends.1.port() == dhcp::SERVER_PORT {
            if let Some(answer) = dhcp::answer(&self.config, header.payload(), self.framer.guest()) {
                self.send_datagram(answer.from, answer.to, &answer.data);
            }
            return;
        }
        if !self.config.is_guest(from) {
            return;
        }
        let Some(host) = self.config.to_host(ends.1) else { return };
        let next = self.next;
        let (id, closed) = self.ports.sent(now, ends, host, || FlowId(next));
        self.next += u64::from(id.0 == next);
        if let Some(closed) = closed {
            self.outputs.push_back(Output::ClosePort(closed));
        }
        if self.outputs.len() < MAX_FRAMES {
            self.outputs.push_back(Output::Datagram { id, to: host, data: header.payload().to_vec() });
        }
    }

    fn icmp(&mut self, from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) {
        let Ok(packet) = Icmpv4Packet::new_checked(message) else { return };
        if packet.msg_type() != Icmpv4Message::EchoRequest || !packet.verify_checksum() {
            return;
        }
        let tag = (packet.echo_ident(), packet.echo_seq_no());
        if self.config.is_own(to) {
            let frame = self.framer.ip(&echo(to, from, tag, packet.data()));
            self.send(frame);
        } else if self.config.to_host(SocketAddrV4::new(to, 0)).is_some() && self.outputs.len() < MAX_FRAMES {
            self.outputs.push_back(Output::Echo { to, tag, data: packet.data().to_vec() });
        }
    }

    /// The answer to an echo request came.
    pub fn echo_answered(&mut self, from: Ipv4Addr, tag: (u16, u16), data: &[u8]) {
        let frame = self.framer.ip(&echo(from, self.config.guest, tag, data));
        self.send(frame);
    }

    /// The outcome of [`Output::Connect`]: connected, or refused.
    pub fn tcp_connected(&mut self, now: u64, id: FlowId, connected: bool) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.connected(connected);
        }
        self.drive(now, id);
    }

    /// Somebody connected to a forwarded port of the host: connects on to this port of the guest's. `None` where there
    /// are too many connections already.
    pub fn tcp_forward(&mut self, now: u64, to: SocketAddrV4) -> Option<FlowId> {
        if self.flows.len() >= MAX_FLOWS {
            return None;
        }
        let to = if to.ip().is_unspecified() { SocketAddrV4::new(self.config.guest, to.port()) } else { to };
        let from = (0..16_384).find_map(|_| {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(49_152);
            let from = SocketAddrV4::new(self.config.gateway, port);
            (!self.by_ends.contains_key(&(to, from))).then_some(from)
        })?;
        let id = self.number();
        let flow = Flow::connect((to, from), self.random());
        self.flows.insert(id, flow);
        self.by_ends.insert((to, from), id);
        self.drive(now, id);
        Some(id)
    }

    /// Takes bytes that the guest sent on a connection.
    pub fn tcp_read(&mut self, now: u64, id: FlowId, buffer: &mut [u8]) -> usize {
        let Some(flow) = self.flows.get_mut(&id) else { return 0 };
        let read = flow.read(buffer);
        self.drive(now, id);
        read
    }

    /// How many bytes for the guest [`Network::tcp_write`] takes now.
    pub fn tcp_room(&self, id: FlowId) -> usize {
        self.flows.get(&id).map_or(0, Flow::room)
    }

    /// Bytes from the host for the guest; returns how many were taken.
    pub fn tcp_write(&mut self, now: u64, id: FlowId, bytes: &[u8]) -> usize {
        let Some(flow) = self.flows.get_mut(&id) else { return 0 };
        let taken = flow.write(bytes);
        self.drive(now, id);
        taken
    }

    /// The host's side will send no more.
    pub fn tcp_finished(&mut self, now: u64, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.finish();
        }
        self.drive(now, id);
    }

    /// The host's side broke the connection off.
    pub fn tcp_broken(&mut self, now: u64, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.abort();
        }
        self.drive(now, id);
    }

    /// A datagram came to the socket of a port of the guest's.
    pub fn udp_received(&mut self, now: u64, id: FlowId, from: SocketAddrV4, data: &[u8]) {
        let Some((to, seen)) = self.ports.received(now, id, from, self.config.gateway) else { return };
        self.send_datagram(seen, to, data);
    }

    /// Somebody sent to a forwarded UDP port of the host: the guest sees it from a port of the gateway's; its answers come
    /// out as [`Output::Datagram`] of the port returned, for `from`.
    pub fn udp_forward(&mut self, now: u64, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> FlowId {
        let to = if to.ip().is_unspecified() { SocketAddrV4::new(self.config.guest, to.port()) } else { to };
        let next = self.next;
        let (id, seen, closed) = self.ports.forwarded(now, from, to, self.config.gateway, || FlowId(next));
        self.next += u64::from(id.0 == next);
        if let Some(closed) = closed {
            self.outputs.push_back(Output::ClosePort(closed));
        }
        self.send_datagram(seen, to, data);
        id
    }

    /// Lets a connection send, receive and time out, and tells what came of it.
    fn drive(&mut self, now: u64, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(at) = flow.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        let framer = &self.framer;
        let (outputs, frames) = (&mut self.outputs, &mut self.frames);
        flow.drive(now, |packet| {
            if *frames < MAX_FRAMES {
                *frames += 1;
                outputs.push_back(Output::Frame(framer.ip(packet)));
            }
        });
        if flow.take_ready() {
            self.outputs.push_back(Output::Ready(id));
        }
        if flow.take_finished() {
            self.outputs.push_back(Output::Finished(id));
        }
        if flow.is_over() {
            self.by_ends.remove(&flow.ends());
            let reset = flow.was_reset();
            self.flows.remove(&id);
            self.outputs.push_back(Output::Close { id, reset });
        } else if let Some(at) = flow.next_deadline(now) {
            flow.deadline = Some(at);
            self.deadlines.insert((at, id), ());
        }
    }

    fn number(&mut self) -> FlowId {
        self.next += 1;
        FlowId(self.next - 1)
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The gateway's own card.
const GATEWAY_CARD: EthernetAddress = EthernetAddress([0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]);

#[cfg(test)]
mod tests;
