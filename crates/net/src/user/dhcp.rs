//! The DHCP server of a network with one guest (RFC 2131): it offers always the same address. No leases are kept.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{Decodable, DhcpOption, Encodable, Flags, Message, MessageType, Opcode, OptionCode};
use smoltcp::wire::EthernetAddress;

use super::Config;

pub(super) const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Seconds; QEMU's.
const LEASE: u32 = 86_400;

/// A message to the guest.
pub(super) struct Answer {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) data: Vec<u8>,
}

/// What the server says to a message of the card with this address, if anything.
pub(super) fn answer(config: &Config, message: &[u8], card: EthernetAddress) -> Option<Answer> {
    let asked = Message::from_bytes(message).ok()?;
    if asked.opcode() != Opcode::BootRequest || !asked.chaddr().starts_with(card.as_bytes()) {
        return None;
    }
    let Some(DhcpOption::MessageType(kind)) = asked.opts().get(OptionCode::MessageType) else { return None };
    let requested = match asked.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => (!asked.ciaddr().is_unspecified()).then(|| asked.ciaddr()),
    };
    let other_server = matches!(asked.opts().get(OptionCode::ServerIdentifier),
        Some(DhcpOption::ServerIdentifier(server)) if *server != config.gateway);
    let kind = match kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request if other_server => return None,
        MessageType::Request if requested.is_some_and(|address| address != config.guest) => MessageType::Nak,
        MessageType::Request | MessageType::Inform => MessageType::Ack,
        _ => return None,
    };
    Some(Answer {
        from: SocketAddrV4::new(config.gateway, SERVER_PORT),
        to: SocketAddrV4::new(destination(&asked, kind), CLIENT_PORT),
        data: told(config, &asked, kind)?,
    })
}

/// Section 4.1: a client that has an address gets the answer there; the others everybody's.
fn destination(asked: &Message, kind: MessageType) -> Ipv4Addr {
    if kind != MessageType::Nak && !asked.ciaddr().is_unspecified() { asked.ciaddr() } else { Ipv4Addr::BROADCAST }
}

fn told(config: &Config, asked: &Message, kind: MessageType) -> Option<Vec<u8>> {
    let informs =
        matches!(asked.opts().get(OptionCode::MessageType), Some(DhcpOption::MessageType(MessageType::Inform)));
    let nothing = Ipv4Addr::UNSPECIFIED;
    let given = if kind == MessageType::Nak || informs { nothing } else { config.guest };
    let mut answer = Message::new_with_id(asked.xid(), asked.ciaddr(), given, config.gateway, nothing, asked.chaddr());
    answer.set_opcode(Opcode::BootReply).set_htype(asked.htype()).set_flags(Flags::default());
    let options = answer.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(config.gateway));
    if kind != MessageType::Nak {
        if !informs {
            options.insert(DhcpOption::AddressLeaseTime(LEASE));
        }
        options.insert(DhcpOption::SubnetMask(config.mask()));
        if !config.restrict {
            options.insert(DhcpOption::Router(vec![config.gateway]));
        }
        options.insert(DhcpOption::DomainNameServer(vec![config.dns]));
        if let Some(name) = &config.hostname {
            options.insert(DhcpOption::Hostname(name.clone()));
        }
        if let Some(domain) = &config.domain {
            options.insert(DhcpOption::DomainName(domain.clone()));
        }
    }
    let mut data = answer.to_vec().ok()?;
    // Section 2: relays and old clients expect no less.
    data.resize(data.len().max(300), 0);
    Some(data)
}
