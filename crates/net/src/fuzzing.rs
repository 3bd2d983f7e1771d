//! What fuzz targets and the replay of their corpora call: each function takes any bytes and must return, in bounded time and
//! memory. Not part of the library's interface.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket,
    UdpPacket,
};

use crate::user::{Config, FlowId, Network, Output};
use crate::{MacAddress, dhcp, dns, wire};

/// A guest that sends anything, and a host whose sockets do anything. Each step is a byte that says what, one that says how
/// many bytes follow, and those.
pub fn user_network(bytes: &[u8]) {
    let mut network = Network::new(Config { resolver: "127.0.0.53:53".parse().ok(), ..Config::default() }, 1);
    let (mut rest, mut now, mut known) = (bytes, 0, vec![]);
    while let Some((&[what, len], following)) = rest.split_first_chunk::<2>() {
        let (data, after) = following.split_at(usize::from(len).min(following.len()));
        rest = after;
        now += 1_000_000;
        let id = data.first().and_then(|first| known.get(usize::from(*first) % known.len().max(1))).copied();
        let id = id.unwrap_or(FlowId::from_bits(u64::from(len)));
        match what % 12 {
            0 => network.frame(now, data),
            1 => network.frame(now, &packet(IpProtocol::Tcp, data)),
            2 => network.frame(now, &packet(IpProtocol::Udp, data)),
            3 => network.frame(now, &packet(IpProtocol::Icmp, data)),
            4 => network.tcp_connected(now, id, len & 1 == 0),
            5 => {
                network.tcp_write(now, id, data);
            }
            6 => {
                network.tcp_read(now, id, &mut [0; 4096]);
            }
            7 => network.tcp_finished(now, id),
            8 => network.tcp_broken(now, id),
            9 => known.extend(network.tcp_forward(now, std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80))),
            10 => network.udp_received(now, id, std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9), data),
            _ => {
                now += u64::from(len) * 1_000_000_000;
                network.timer(now);
            }
        }
        while let Some(output) = network.poll() {
            if let Output::Connect { id, .. } | Output::Datagram { id, .. } = output {
                known.push(id);
            }
        }
    }
}

/// A packet of the guest's whose checksums are right, so that what is in it gets looked at.
fn packet(protocol: IpProtocol, data: &[u8]) -> Vec<u8> {
    let (from, to) = (Config::default().guest, Ipv4Addr::new(192, 0, 2, 1));
    let header =
        Ipv4Repr { src_addr: from, dst_addr: to, next_header: protocol, payload_len: data.len(), hop_limit: 9 };
    let mut bytes = vec![0; 14 + 20 + data.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    let card = EthernetAddress([0x52, 0x54, 0, 1, 2, 3]);
    EthernetRepr { src_addr: card, dst_addr: EthernetAddress::BROADCAST, ethertype: EthernetProtocol::Ipv4 }
        .emit(&mut frame);
    let mut ip = Ipv4Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut ip, &ChecksumCapabilities::default());
    ip.payload_mut().copy_from_slice(data);
    let (from, to) = (from.into(), to.into());
    match protocol {
        IpProtocol::Tcp if data.len() >= 20 => TcpPacket::new_unchecked(ip.payload_mut()).fill_checksum(&from, &to),
        IpProtocol::Udp if data.len() >= 8 => {
            let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
            udp.set_len(data.len() as u16);
            udp.fill_checksum(&from, &to);
        }
        _ => {}
    }
    bytes
}

/// Frames and messages of anything that can reach a DHCP server. Each step is a byte that says what, one that says how many
/// bytes follow, in fours, and those.
pub fn dhcp_server(bytes: &[u8]) {
    let config = dhcp::Config {
        subnet: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24),
        server: Ipv4Addr::new(10, 0, 0, 1),
        range: (Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 109)),
        lease: 600,
        reservations: vec![],
        names: vec![],
        router: None,
        dns: vec![],
        domain: Some("example.it".into()),
        ntp: vec![],
        routes: vec![],
    };
    let mut server = dhcp::Server::new(config, []);
    let (mut rest, mut now) = (bytes, 1_000_000_000_000);
    while let Some((&[what, len], following)) = rest.split_first_chunk::<2>() {
        let (data, after) = following.split_at((usize::from(len) * 4).min(following.len()));
        rest = after;
        now += 1000;
        match what % 4 {
            0 => server.receive(now, data),
            1 => {
                let _ = dhcp::offering_server(data, None);
                if let Some(wire::Seen::Client(_, message)) = wire::read(data) {
                    server.receive(now, message);
                }
            }
            2 => server.taken(now, Ipv4Addr::new(10, 0, 0, len), MacAddress([2, 0, 0, 0, 0, len])),
            _ => {
                now += u64::from(len) * 10_000;
                server.timer(now);
            }
        }
        while server.poll().is_some() {}
        assert!(server.leases().count() <= 10);
    }
}

/// Questions and answers of anything that can reach a DNS server. Each step is a byte that says what, one that says how many
/// bytes follow, in fours, and those.
pub fn dns_server(bytes: &[u8]) {
    let segment = dns::Segment {
        domain: Some("example.it".into()),
        subnet: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        sees: vec![],
        forwards: true,
    };
    let upstreams = vec![std::net::SocketAddr::from(([192, 0, 2, 1], 53))];
    let config = dns::Config { segments: vec![segment], upstreams };
    let Ok(mut server) = dns::Server::new(config, Box::new(|| 7)) else { return };
    server.set_host(0, "web", Ipv4Addr::new(10, 0, 0, 7), false);
    let (mut rest, mut now, mut number) = (bytes, 0, 0);
    while let Some((&[what, len], following)) = rest.split_first_chunk::<2>() {
        let (data, after) = following.split_at((usize::from(len) * 4).min(following.len()));
        rest = after;
        now += 100;
        let reply = if len & 1 == 0 { dns::Reply::Tcp(1) } else { dns::Reply::Udp(([10, 0, 0, 9], 99).into()) };
        match what % 3 {
            0 => {
                if let Some(answer) = server.query(now, dns::Client { segment: 0, reply }, data) {
                    assert!(answer.len() <= 65_535 && answer[2] & 0x80 != 0);
                }
            }
            1 => server.answered(now, number, data),
            _ => {
                now += u64::from(len) * 1000;
                server.timer(now);
            }
        }
        while let Some(output) = server.poll() {
            if let dns::Output::Ask { number: asked, .. } = output {
                number = asked;
            }
        }
    }
}
