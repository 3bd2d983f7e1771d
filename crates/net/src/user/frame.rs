//! The frames that the network sends to its guest.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
    Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use super::GATEWAY_CARD;

/// Datagrams longer than this would need fragments.
pub(super) const MTU: usize = 1500;
const HOP_LIMIT: u8 = 64;
const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// Puts packets into frames for the guest's card.
pub(super) struct Framer {
    guest: EthernetAddress,
}

impl Framer {
    /// Until the guest has sent something, everything is broadcast.
    pub(super) fn new() -> Self {
        Self { guest: EthernetAddress::BROADCAST }
    }

    /// The guest's card has this address.
    pub(super) fn learn(&mut self, address: EthernetAddress) {
        self.guest = address;
    }

    pub(super) fn guest(&self) -> EthernetAddress {
        self.guest
    }

    fn frame(&self, ethertype: EthernetProtocol, len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET + len];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        EthernetRepr { src_addr: GATEWAY_CARD, dst_addr: self.guest, ethertype }.emit(&mut frame);
        fill(frame.payload_mut());
        bytes
    }

    /// An IPv4 packet in a frame.
    pub(super) fn ip(&self, packet: &[u8]) -> Vec<u8> {
        self.frame(EthernetProtocol::Ipv4, packet.len(), |payload| payload.copy_from_slice(packet))
    }

    /// The answer that an address is at the gateway's card.
    pub(super) fn arp(&self, address: Ipv4Addr, asker: EthernetAddress, asker_address: Ipv4Addr) -> Vec<u8> {
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: GATEWAY_CARD,
            source_protocol_addr: address,
            target_hardware_addr: asker,
            target_protocol_addr: asker_address,
        };
        self.frame(EthernetProtocol::Arp, answer.buffer_len(), |payload| {
            answer.emit(&mut ArpPacket::new_unchecked(payload));
        })
    }

    /// A UDP datagram in frames: in several where it is longer than the network's packets.
    pub(super) fn datagram(&self, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<Vec<u8>> {
        let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
        let len = udp.header_len() + data.len();
        if len > usize::from(u16::MAX) - IPV4 {
            return vec![];
        }
        let packet = ip(*from.ip(), *to.ip(), IpProtocol::Udp, len, |payload| {
            let (from, to) = ((*from.ip()).into(), (*to.ip()).into());
            let fill = |bytes: &mut [u8]| bytes.copy_from_slice(data);
            udp.emit(&mut UdpPacket::new_unchecked(payload), &from, &to, data.len(), fill, &checksums());
        });
        if packet.len() <= MTU {
            return vec![self.ip(&packet)];
        }
        // RFC 791, section 3.2: offsets count eight bytes.
        const PIECE: usize = (MTU - IPV4) / 8 * 8;
        let ident = udp.src_port ^ data.len() as u16;
        let pieces = packet[IPV4..].chunks(PIECE).enumerate();
        let fragment = |(index, piece): (usize, &[u8])| {
            let mut bytes =
                ip(*from.ip(), *to.ip(), IpProtocol::Udp, piece.len(), |payload| payload.copy_from_slice(piece));
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
            packet.set_dont_frag(false);
            packet.set_ident(ident);
            packet.set_frag_offset((index * PIECE) as u16);
            packet.set_more_frags(index * PIECE + piece.len() < len);
            packet.fill_checksum();
            self.ip(&bytes)
        };
        pieces.map(fragment).collect()
    }
}

fn checksums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

fn ip(from: Ipv4Addr, to: Ipv4Addr, next: IpProtocol, len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let header = Ipv4Repr { src_addr: from, dst_addr: to, next_header: next, payload_len: len, hop_limit: HOP_LIMIT };
    let mut bytes = vec![0; IPV4 + len];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    header.emit(&mut packet, &checksums());
    fill(packet.payload_mut());
    bytes
}

/// The answer to an echo request.
pub(super) fn echo(from: Ipv4Addr, to: Ipv4Addr, (ident, seq_no): (u16, u16), data: &[u8]) -> Vec<u8> {
    let answer = Icmpv4Repr::EchoReply { ident, seq_no, data };
    ip(from, to, IpProtocol::Icmp, answer.buffer_len(), |payload| {
        answer.emit(&mut Icmpv4Packet::new_unchecked(payload), &checksums());
    })
}

/// The reset that answers a segment which belongs to nothing.
pub(super) fn reset(from: Ipv4Addr, to: Ipv4Addr, segment: &TcpPacket<&[u8]>) -> Vec<u8> {
    let acknowledges = segment.ack();
    let repr = TcpRepr {
        src_port: segment.dst_port(),
        dst_port: segment.src_port(),
        control: TcpControl::Rst,
        seq_number: if acknowledges { segment.ack_number() } else { TcpSeqNumber(0) },
        ack_number: (!acknowledges).then(|| segment.seq_number() + segment.segment_len()),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    ip(to, from, IpProtocol::Tcp, repr.buffer_len(), |payload| {
        repr.emit(&mut TcpPacket::new_unchecked(payload), &to.into(), &from.into(), &checksums());
    })
}
