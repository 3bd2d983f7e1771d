//! A guest made of smoltcp's own client against the network, and what no guest should send.

use proptest::prelude::*;
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetRepr, HardwareAddress, IpCidr, Ipv4Cidr, UdpRepr};

use super::*;

const CARD: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 1, 2, 3]);
const SECOND: u64 = 1_000_000_000;

/// The guest's network card.
#[derive(Default)]
struct Card {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

struct In(Vec<u8>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(In, Out<'_>)> {
        Some((In(self.incoming.pop_front()?), Out(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest, the network, and what the network asked of the host.
struct World {
    network: Network,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    now: u64,
    asked: Vec<Output>,
}

impl World {
    fn new(config: Config) -> Self {
        let mut card = Card::default();
        let interface_config = InterfaceConfig::new(HardwareAddress::Ethernet(CARD));
        let mut interface = Interface::new(interface_config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(Ipv4Cidr::new(config.guest, 24))).unwrap());
        interface.routes_mut().add_default_ipv4_route(config.gateway).unwrap();
        let network = Network::new(config, 7);
        Self { network, card, interface, sockets: SocketSet::new(vec![]), now: SECOND, asked: vec![] }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    fn connect(&mut self, to: SocketAddrV4, from: u16) -> SocketHandle {
        let handle = self.socket();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    /// Lets frames go back and forth until there are no more.
    fn settle(&mut self) {
        loop {
            let at = Instant::from_micros((self.now / 1000) as i64);
            self.interface.poll(at, &mut self.card, &mut self.sockets);
            let mut quiet = self.card.outgoing.is_empty();
            for frame in std::mem::take(&mut self.card.outgoing) {
                self.network.frame(self.now, &frame);
            }
            while let Some(output) = self.network.poll() {
                match output {
                    Output::Frame(frame) => {
                        quiet = false;
                        self.card.incoming.push_back(frame);
                    }
                    other => self.asked.push(other),
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Time passes in which nothing comes from outside.
    fn wait(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while self.now < end {
            self.now = (self.now + SECOND / 10).min(end);
            self.network.timer(self.now);
            self.settle();
        }
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn opened(&mut self) -> (FlowId, SocketAddrV4) {
        let found = self.asked.iter().find_map(|output| match output {
            Output::Connect { id, to } => Some((*id, *to)),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("nothing was opened: {:?}", self.asked))
    }
}

fn at(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

#[test]
fn a_connection_waits_for_the_host_then_carries_bytes_and_closes_from_both_ends() {
    let mut world = World::new(Config::default());
    let client = world.connect(at("192.0.2.7:80"), 40_000);
    world.settle();
    let (id, to) = world.opened();
    assert_eq!(to, at("192.0.2.7:80"));
    assert_eq!(world.tcp(client).state(), tcp::State::SynSent, "nothing is promised before the host is connected");
    world.network.tcp_connected(world.now, id, true);
    world.settle();
    assert_eq!(world.tcp(client).state(), tcp::State::Established);

    // A megabyte each way, through buffers that are smaller.
    let (mut sent, mut heard, mut told, mut answered) = (0_u32, 0_u32, 0_u32, 0_u32);
    const TOTAL: u32 = 1 << 20;
    let mut buffer = vec![0; 7001];
    while heard < TOTAL || answered < TOTAL {
        let bytes: Vec<u8> = (sent..TOTAL.min(sent + 5000)).map(|n| (n % 251) as u8).collect();
        sent += world.tcp(client).send_slice(&bytes).unwrap() as u32;
        let bytes: Vec<u8> = (told..TOTAL.min(told + 5000)).map(|n| (n % 241) as u8).collect();
        told += world.network.tcp_write(world.now, id, &bytes) as u32;
        world.settle();
        let read = world.network.tcp_read(world.now, id, &mut buffer);
        assert!(buffer[..read].iter().all(|byte| (*byte == (heard % 251) as u8, heard += 1).0));
        let read = world.tcp(client).recv_slice(&mut buffer).unwrap();
        assert!(buffer[..read].iter().all(|byte| (*byte == (answered % 241) as u8, answered += 1).0));
        world.wait(SECOND / 100);
    }
    world.asked.clear();
    world.tcp(client).close();
    world.settle();
    assert!(world.asked.contains(&Output::Finished(id)), "{:?}", world.asked);
    // The other half is still open.
    assert_eq!(world.network.tcp_write(world.now, id, b"late"), 4);
    world.settle();
    assert_eq!(world.tcp(client).recv_slice(&mut buffer).unwrap(), 4);
    world.network.tcp_finished(world.now, id);
    world.wait(SECOND);
    assert!(world.asked.contains(&Output::Close { id, reset: false }), "{:?}", world.asked);
    assert_eq!(world.network.flows.len() + world.network.by_ends.len() + world.network.deadlines.len(), 0);
}

#[test]
fn a_refused_connection_is_reset() {
    let mut world = World::new(Config::default());
    let client = world.connect(at("10.0.2.2:81"), 40_001);
    world.settle();
    let (id, to) = world.opened();
    assert_eq!(to, at("127.0.0.1:81"), "the gateway is the host");
    world.network.tcp_connected(world.now, id, false);
    world.settle();
    assert_eq!(world.tcp(client).state(), tcp::State::Closed);
    assert!(world.asked.iter().any(|output| matches!(output, Output::Close { .. })));
    assert!(world.network.flows.is_empty());
}

#[test]
fn what_leads_nowhere_is_refused_at_once() {
    let restricted = Config { restrict: true, ..Config::default() };
    for (config, to) in [(restricted, "192.0.2.7:80"), (Config::default(), "10.0.2.3:80")] {
        let mut world = World::new(config);
        let client = world.connect(at(to), 40_002);
        world.settle();
        assert_eq!(world.tcp(client).state(), tcp::State::Closed, "{to}");
        assert!(world.asked.is_empty());
    }
}

#[test]
fn a_forwarded_port_reaches_the_guest() {
    let mut world = World::new(Config::default());
    let server = world.socket();
    world.tcp(server).listen(80).unwrap();
    let id = world.network.tcp_forward(world.now, at("0.0.0.0:80")).unwrap();
    world.settle();
    // Until the guest has sent its first frame, the network's frames are for everybody.
    assert_eq!(world.tcp(server).state(), tcp::State::Established);
    assert_eq!(world.network.tcp_write(world.now, id, b"GET /"), 5);
    world.settle();
    let mut buffer = [0; 16];
    assert_eq!(world.tcp(server).recv_slice(&mut buffer).unwrap(), 5);
    // Nobody listens at another.
    let other = world.network.tcp_forward(world.now, at("0.0.0.0:81")).unwrap();
    world.settle();
    assert!(world.asked.contains(&Output::Close { id: other, reset: true }), "{:?}", world.asked);
    // The host's client goes away.
    world.network.tcp_broken(world.now, id);
    world.settle();
    assert_eq!(world.tcp(server).state(), tcp::State::Closed);
}

#[test]
fn a_guest_that_falls_silent_is_given_up() {
    let mut world = World::new(Config::default());
    world.connect(at("192.0.2.7:80"), 40_003);
    world.settle();
    let (id, _) = world.opened();
    world.network.tcp_connected(world.now, id, true);
    world.settle();
    world.network.tcp_write(world.now, id, b"anybody there?");
    while world.network.poll().is_some() {}
    for _ in 0..3000 {
        world.now += SECOND / 10;
        world.network.timer(world.now);
        while let Some(output) = world.network.poll() {
            world.asked.push(output);
        }
    }
    assert!(world.asked.contains(&Output::Close { id, reset: true }));
    assert!(world.network.flows.is_empty() && world.network.deadline().is_none());
}

#[test]
fn thousands_of_connections_are_bounded_and_the_next_is_refused() {
    let mut world = World::new(Config::default());
    for number in 0..MAX_FLOWS as u16 {
        let frame = syn(20_000 + number);
        world.network.frame(world.now, &frame);
    }
    assert_eq!(world.network.flows.len(), MAX_FLOWS);
    while world.network.poll().is_some() {}
    world.network.frame(world.now, &syn(19_999));
    assert_eq!(world.network.flows.len(), MAX_FLOWS);
    assert!(matches!(world.network.poll(), Some(Output::Frame(_))), "a reset");
}

fn ethernet(ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr: CARD, dst_addr: GATEWAY_CARD, ethertype }.emit(&mut frame);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

/// The first segment of a connection from this port.
fn syn(port: u16) -> Vec<u8> {
    let mut card = Card::default();
    let mut interface =
        Interface::new(InterfaceConfig::new(HardwareAddress::Ip), &mut IpOnly(&mut card), Instant::ZERO);
    interface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(Ipv4Cidr::new(Config::default().guest, 0))).unwrap());
    let mut sockets = SocketSet::new(vec![]);
    let buffer = || tcp::SocketBuffer::new(vec![0; 16]);
    let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
    sockets.get_mut::<tcp::Socket>(handle).connect(interface.context(), at("192.0.2.7:80"), port).unwrap();
    interface.poll(Instant::ZERO, &mut IpOnly(&mut card), &mut sockets);
    ethernet(EthernetProtocol::Ipv4, &card.outgoing.pop_front().unwrap())
}

struct IpOnly<'a>(&'a mut Card);

impl Device for IpOnly<'_> {
    type RxToken<'a>
        = In
    where
        Self: 'a;
    type TxToken<'a>
        = Out<'a>
    where
        Self: 'a;

    fn receive(&mut self, now: Instant) -> Option<(In, Out<'_>)> {
        self.0.receive(now)
    }

    fn transmit(&mut self, now: Instant) -> Option<Out<'_>> {
        self.0.transmit(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// A datagram of the guest's in a frame.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    // The framer makes the packet; only the addresses on the frame differ.
    let frame = Framer::new().datagram(from, to, data).remove(0);
    ethernet(EthernetProtocol::Ipv4, &frame[14..])
}

fn told(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4, Vec<u8>) {
    let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    assert!(ip.verify_checksum());
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    let caps = smoltcp::phy::ChecksumCapabilities::default();
    UdpRepr::parse(&udp, &ip.src_addr().into(), &ip.dst_addr().into(), &caps).unwrap();
    let ends = (SocketAddrV4::new(ip.src_addr(), udp.src_port()), SocketAddrV4::new(ip.dst_addr(), udp.dst_port()));
    (ends.0, ends.1, udp.payload().to_vec())
}

#[test]
fn questions_to_the_name_server_go_to_the_hosts_and_answers_come_from_where_they_were_asked() {
    let config = Config { resolver: Some(at("127.0.0.53:53")), ..Config::default() };
    let mut network = Network::new(config, 1);
    let guest = at("10.0.2.15:5353");
    network.frame(0, &datagram(guest, at("10.0.2.3:53"), b"who?"));
    let Some(Output::Datagram { id, to, data }) = network.poll() else { panic!("nothing was sent") };
    assert_eq!((to, data.as_slice()), (at("127.0.0.53:53"), &b"who?"[..]));
    network.udp_received(1, id, to, b"he!");
    let Some(Output::Frame(frame)) = network.poll() else { panic!("nothing came back") };
    assert_eq!(told(&frame), (at("10.0.2.3:53"), guest, b"he!".to_vec()));
    // The same port reaches others by the same socket, and hears those it never asked.
    network.frame(2, &datagram(guest, at("192.0.2.1:99"), b"x"));
    assert!(matches!(network.poll(), Some(Output::Datagram { id: same, .. }) if same == id));
    network.udp_received(3, id, at("127.0.0.1:7"), b"y");
    let Some(Output::Frame(frame)) = network.poll() else { panic!("nothing came back") };
    assert_eq!(told(&frame).0, at("10.0.2.2:7"));
    // Idle, it is forgotten.
    let idle = network.deadline().unwrap();
    network.timer(idle);
    assert_eq!(network.poll(), Some(Output::ClosePort(id)));
    network.udp_received(idle, id, to, b"late");
    assert_eq!(network.poll(), None);
}

#[test]
fn long_datagrams_come_in_fragments() {
    let data: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
    let frames = Framer::new().datagram(at("192.0.2.1:9"), at("10.0.2.15:9"), &data);
    assert_eq!(frames.len(), 4);
    let mut whole = vec![];
    for (index, frame) in frames.iter().enumerate() {
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(ip.verify_checksum() && frame.len() <= 14 + frame::MTU);
        assert_eq!((usize::from(ip.frag_offset()), ip.more_frags()), (whole.len(), index < 3));
        whole.extend_from_slice(ip.payload());
    }
    assert_eq!(whole[8..], data);
}

#[test]
fn thousands_of_ports_are_bounded_and_the_oldest_goes() {
    let mut network = Network::new(Config::default(), 1);
    for port in 1..=3000 {
        network.frame(
            u64::from(port),
            &datagram(SocketAddrV4::new(Config::default().guest, port), at("192.0.2.1:9"), b"x"),
        );
        while network.poll().is_some() {}
    }
    network.frame(4000, &datagram(at("10.0.2.15:3001"), at("192.0.2.1:9"), b"x"));
    assert!(matches!(network.poll(), Some(Output::ClosePort(_))));
}

#[test]
fn the_gateway_answers_arp_and_echo_and_asks_the_host_for_other_echoes() {
    let mut network = Network::new(Config::default(), 1);
    let question = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: CARD,
        source_protocol_addr: Config::default().guest,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: Config::default().gateway,
    };
    let mut bytes = vec![0; question.buffer_len()];
    question.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    network.frame(0, &ethernet(EthernetProtocol::Arp, &bytes));
    let Some(Output::Frame(frame)) = network.poll() else { panic!("no answer") };
    let answer = ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap();
    assert!(matches!(answer, ArpRepr::EthernetIpv4 { source_hardware_addr: GATEWAY_CARD, .. }));
    let ping = |to: Ipv4Addr| {
        // An answer turned into a question: its type and the checksum that goes with it.
        let mut packet = echo(Config::default().guest, to, (7, 8), b"abc");
        let mut message = Icmpv4Packet::new_unchecked(&mut packet[20..]);
        message.set_msg_type(Icmpv4Message::EchoRequest);
        message.fill_checksum();
        ethernet(EthernetProtocol::Ipv4, &packet)
    };
    network.frame(0, &ping(Config::default().gateway));
    assert!(matches!(network.poll(), Some(Output::Frame(_))));
    let far = Ipv4Addr::new(192, 0, 2, 1);
    network.frame(0, &ping(far));
    assert_eq!(network.poll(), Some(Output::Echo { to: far, tag: (7, 8), data: b"abc".to_vec() }));
    network.echo_answered(far, (7, 8), b"abc");
    assert!(matches!(network.poll(), Some(Output::Frame(_))));
}

#[test]
fn dhcp_gives_the_one_address_and_refuses_others() {
    use dhcproto::v4::{Decodable, DhcpOption, Encodable, Message, MessageType, OptionCode};
    let config = Config { hostname: Some("web".into()), ..Config::default() };
    let mut network = Network::new(config.clone(), 1);
    let nothing = Ipv4Addr::UNSPECIFIED;
    let mut ask = |kind, wanted: Option<Ipv4Addr>| {
        let mut message = Message::new_with_id(77, nothing, nothing, nothing, nothing, CARD.as_bytes());
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(wanted) = wanted {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(wanted));
        }
        let data = message.to_vec().unwrap();
        network.frame(0, &datagram(at("0.0.0.0:68"), at("255.255.255.255:67"), &data));
        let Some(Output::Frame(frame)) = network.poll() else { return None };
        let (from, to, data) = told(&frame);
        assert_eq!((from, to.port()), (at("10.0.2.2:67"), 68));
        let answer = Message::from_bytes(&data).unwrap();
        assert_eq!(answer.xid(), 77);
        let Some(DhcpOption::MessageType(kind)) = answer.opts().get(OptionCode::MessageType).cloned() else {
            panic!("an answer has a type")
        };
        let name = answer.opts().get(OptionCode::Hostname).cloned();
        Some((kind, answer.yiaddr(), name))
    };
    let name = Some(DhcpOption::Hostname("web".into()));
    assert_eq!(ask(MessageType::Discover, None), Some((MessageType::Offer, config.guest, name.clone())));
    assert_eq!(ask(MessageType::Request, Some(config.guest)), Some((MessageType::Ack, config.guest, name)));
    let other = Ipv4Addr::new(192, 168, 1, 5);
    assert_eq!(ask(MessageType::Request, Some(other)), Some((MessageType::Nak, nothing, None)));
    assert_eq!(ask(MessageType::Release, None), None);
}

proptest! {
    #[test]
    fn no_frame_harms(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let mut network = Network::new(Config::default(), 3);
        for (at, frame) in frames.iter().enumerate() {
            network.frame(at as u64, frame);
            network.timer(at as u64);
            while network.poll().is_some() {}
        }
    }

    #[test]
    fn no_packet_harms(kinds in prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..120)), 0..20)) {
        // With headers that let the rest be looked at.
        let mut network = Network::new(Config::default(), 3);
        for (at, (kind, payload)) in kinds.iter().enumerate() {
            let protocol = [IpProtocol::Tcp, IpProtocol::Udp, IpProtocol::Icmp, IpProtocol::Igmp][usize::from(*kind)];
            let header = smoltcp::wire::Ipv4Repr {
                src_addr: Config::default().guest,
                dst_addr: Ipv4Addr::new(192, 0, 2, payload.first().copied().unwrap_or(1)),
                next_header: protocol,
                payload_len: payload.len(),
                hop_limit: 9,
            };
            let mut bytes = vec![0; 20 + payload.len()];
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
            header.emit(&mut packet, &smoltcp::phy::ChecksumCapabilities::default());
            packet.payload_mut().copy_from_slice(payload);
            network.frame(at as u64, &ethernet(EthernetProtocol::Ipv4, &bytes));
            network.timer(at as u64 * SECOND);
            while network.poll().is_some() {}
        }
    }
}
