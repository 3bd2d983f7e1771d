//! Messages of DHCP as bytes: what is asked, and what is told.

use std::net::Ipv4Addr;

use dhcproto::v4::{Decodable, DhcpOption, Encodable, Flags, Message, MessageType, Opcode, OptionCode};

use super::Config;
use crate::MacAddress;

/// The UDP port of servers.
pub const SERVER_PORT: u16 = 67;
/// The UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

/// Messages longer than this come from nobody who means well.
const LONGEST: usize = 1500;

/// What a client asks.
pub(super) struct Asked {
    pub(super) message: Message,
    pub(super) kind: MessageType,
    pub(super) mac: MacAddress,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Option 12.
    pub(super) hostname: Option<String>,
}

/// Reads a client's message; none if it is something else, or came through a relay.
pub(super) fn read(bytes: &[u8]) -> Option<Asked> {
    let message = (bytes.len() <= LONGEST).then(|| Message::from_bytes(bytes).ok()).flatten()?;
    if message.opcode() != Opcode::BootRequest || message.hlen() != 6 || !message.giaddr().is_unspecified() {
        return None;
    }
    let mac = MacAddress(message.chaddr().get(..6)?.try_into().ok()?);
    if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
        return None;
    }
    let Some(DhcpOption::MessageType(kind)) = message.opts().get(OptionCode::MessageType) else { return None };
    let kind = *kind;
    let requested = match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    };
    let server = match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
        _ => None,
    };
    let hostname = match message.opts().get(OptionCode::Hostname) {
        Some(DhcpOption::Hostname(name)) => host_label(name),
        _ => None,
    };
    Some(Asked { message, kind, mac, requested, server, hostname })
}

/// The first label of a name if it can be a host's (RFC 1123), in small letters.
fn host_label(name: &str) -> Option<String> {
    let label = name.split('.').next()?.to_ascii_lowercase();
    let fits = (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-');
    fits.then_some(label)
}

/// The bytes of an answer that gives `address`, if one is given.
pub(super) fn answer(config: &Config, asked: &Asked, kind: MessageType, address: Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let nothing = Ipv4Addr::UNSPECIFIED;
    let question = &asked.message;
    let ciaddr = if kind == MessageType::Ack { question.ciaddr() } else { nothing };
    let given = address.unwrap_or(nothing);
    let mut answer = Message::new_with_id(question.xid(), ciaddr, given, nothing, question.giaddr(), question.chaddr());
    let flags = if question.flags().broadcast() { Flags::default().set_broadcast() } else { Flags::default() };
    answer.set_opcode(Opcode::BootReply).set_htype(question.htype()).set_flags(flags);
    let options = answer.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(config.server));
    // RFC 6842: a client's identifier goes back to it.
    if let Some(identifier @ DhcpOption::ClientIdentifier(_)) = question.opts().get(OptionCode::ClientIdentifier) {
        options.insert(identifier.clone());
    }
    if kind != MessageType::Nak {
        if address.is_some() {
            options.insert(DhcpOption::AddressLeaseTime(config.lease));
            options.insert(DhcpOption::Renewal(config.lease / 2));
            options.insert(DhcpOption::Rebinding(config.lease / 8 * 7));
        }
        tell(config, asked, options);
    }
    let mut bytes = answer.to_vec().ok()?;
    // RFC 1542, section 2.1: no message is shorter.
    bytes.resize(bytes.len().max(300), 0);
    Some(bytes)
}

/// What a client is told of its network. Time servers and further routes it has to ask for.
fn tell(config: &Config, asked: &Asked, options: &mut dhcproto::v4::DhcpOptions) {
    let wants = |code| {
        matches!(asked.message.opts().get(OptionCode::ParameterRequestList),
            Some(DhcpOption::ParameterRequestList(codes)) if codes.contains(&code))
    };
    options.insert(DhcpOption::SubnetMask(config.subnet.netmask()));
    options.insert(DhcpOption::BroadcastAddr(config.subnet.broadcast()));
    if let Some(router) = config.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !config.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(config.dns.clone()));
    }
    if let Some(name) = config.name_of(asked.mac).or(asked.hostname.as_deref()) {
        options.insert(DhcpOption::Hostname(name.to_owned()));
    }
    if let Some(domain) = &config.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
    if wants(OptionCode::NtpServers) && !config.ntp.is_empty() {
        options.insert(DhcpOption::NtpServers(config.ntp.clone()));
    }
    if wants(OptionCode::ClasslessStaticRoute) && !config.routes.is_empty() {
        // RFC 3442: who asks for these looks at no router, so the default route is among them.
        let default = config.router.map(|router| (ipnet::Ipv4Net::default(), router));
        options.insert(DhcpOption::ClasslessStaticRoute(config.routes.iter().copied().chain(default).collect()));
    }
}

/// The message by which somebody finds the servers of a network; they answer to everybody.
#[must_use]
pub fn discover(mac: MacAddress, id: u32) -> Vec<u8> {
    let nothing = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(id, nothing, nothing, nothing, nothing, &mac.0);
    message.set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    let mut bytes = message.to_vec().unwrap_or_default();
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// Whether a message is one that a server says.
#[must_use]
pub fn is_from_server(bytes: &[u8]) -> bool {
    bytes.first() == Some(&2)
}

/// The server that offers or acknowledges an address in this message; with `id`, only in an answer to that message.
#[must_use]
pub fn offering_server(bytes: &[u8], id: Option<u32>) -> Option<Ipv4Addr> {
    let message =
        (is_from_server(bytes) && bytes.len() <= LONGEST).then(|| Message::from_bytes(bytes).ok()).flatten()?;
    let offers = matches!(
        message.opts().get(OptionCode::MessageType),
        Some(DhcpOption::MessageType(MessageType::Offer | MessageType::Ack))
    );
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) if offers && id.is_none_or(|id| id == message.xid()) => {
            Some(*server)
        }
        _ => None,
    }
}
