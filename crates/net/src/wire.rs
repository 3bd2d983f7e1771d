//! Frames of a network's own services: what is in those that are looked at, and those that are sent where no socket can,
//! because who is to get them has no address yet.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol,
    Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use crate::MacAddress;
use crate::dhcp::{CLIENT_PORT, SERVER_PORT};

const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// What a frame has to do with DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A client's message to servers, from this card.
    Client(MacAddress, &'a [u8]),
    /// A server's message to clients, from this card.
    Server(MacAddress, &'a [u8]),
    /// Somebody says that this address is at this card (ARP).
    Claim(Ipv4Addr, MacAddress),
}

/// Reads a frame. Checksums of UDP aren't looked at: a guest on this host may have left them to a card that isn't there.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Seen<'_>> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let card = MacAddress(frame.src_addr().0);
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let packet = ArpPacket::new_checked(frame.payload()).ok()?;
            let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, .. } =
                ArpRepr::parse(&packet).ok()?
            else {
                return None;
            };
            let claims = !source_protocol_addr.is_unspecified();
            claims.then_some(Seen::Claim(source_protocol_addr, MacAddress(source_hardware_addr.0)))
        }
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            if packet.next_header() != IpProtocol::Udp || packet.more_frags() || packet.frag_offset() != 0 {
                return None;
            }
            let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
            match (datagram.src_port(), datagram.dst_port()) {
                (_, SERVER_PORT) => Some(Seen::Client(card, datagram.payload())),
                (SERVER_PORT, CLIENT_PORT) => Some(Seen::Server(card, datagram.payload())),
                _ => None,
            }
        }
        _ => None,
    }
}

fn frame(
    from: MacAddress,
    to: [u8; 6],
    ethertype: EthernetProtocol,
    payload: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET + payload];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr: EthernetAddress(from.0), dst_addr: EthernetAddress(to), ethertype }.emit(&mut frame);
    fill(frame.payload_mut());
    bytes
}

/// A UDP datagram in a frame; it has to fit one packet.
#[must_use]
pub fn datagram(from: (MacAddress, SocketAddrV4), to: ([u8; 6], SocketAddrV4), data: &[u8]) -> Vec<u8> {
    let (source, target) = (from.1, to.1);
    let udp = UdpRepr { src_port: source.port(), dst_port: target.port() };
    let len = udp.header_len() + data.len();
    let checks = ChecksumCapabilities::default();
    let header = Ipv4Repr {
        src_addr: *source.ip(),
        dst_addr: *target.ip(),
        next_header: IpProtocol::Udp,
        payload_len: len,
        hop_limit: 64,
    };
    frame(from.0, to.0, EthernetProtocol::Ipv4, IPV4 + len, |payload| {
        let mut packet = Ipv4Packet::new_unchecked(payload);
        header.emit(&mut packet, &checks);
        let (from, to) = ((*source.ip()).into(), (*target.ip()).into());
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(data);
        udp.emit(&mut UdpPacket::new_unchecked(packet.payload_mut()), &from, &to, data.len(), fill, &checks);
    })
}

/// The question who has an address, from somebody who has none yet (RFC 5227).
#[must_use]
pub fn probe(from: MacAddress, address: Ipv4Addr) -> Vec<u8> {
    let question = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(from.0),
        source_protocol_addr: Ipv4Addr::UNSPECIFIED,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    frame(from, [0xff; 6], EthernetProtocol::Arp, question.buffer_len(), |payload| {
        question.emit(&mut ArpPacket::new_unchecked(payload));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: MacAddress = MacAddress([0x52, 0x54, 0, 1, 2, 3]);

    #[test]
    fn what_is_sent_is_read_again() {
        let (client, server) = ("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap());
        let sent = datagram((CARD, client), ([0xff; 6], server), b"hello");
        assert_eq!(read(&sent), Some(Seen::Client(CARD, b"hello")));
        let sent = datagram((CARD, "10.0.0.1:67".parse().unwrap()), ([0xff; 6], "10.0.0.2:68".parse().unwrap()), b"x");
        assert_eq!(read(&sent), Some(Seen::Server(CARD, b"x")));
        assert_eq!(read(&probe(CARD, Ipv4Addr::new(10, 0, 0, 7))), None, "who asks claims nothing");
    }
}
