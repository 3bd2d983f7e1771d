//! The host's interfaces, addresses and routes as netlink tells and takes them: one request each, no policy. The caller
//! blocks; the connection belongs to the network namespace of the thread that opened it.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVlan, RouteMessageBuilder};
use serde::Serialize;

use super::{Error, Result};

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A bridge.
    Bridge,
    /// A TAP interface, which carries Ethernet frames of a process.
    Tap,
    /// Anything else: the kernel's word for it, or `physical`.
    Other(String),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bridge => f.write_str("a bridge"),
            Self::Tap => f.write_str("a TAP interface"),
            Self::Other(kind) => write!(f, "a {kind} interface"),
        }
    }
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The number of the bridge it is plugged into.
    pub controller: Option<u32>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether something is at the other end: of a TAP interface, a process.
    pub carrier: bool,
    /// The user who may attach to a TAP interface without being root.
    pub owner: Option<u32>,
}

/// One IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where to; 0.0.0.0/0 is everywhere.
    pub destination: Ipv4Net,
    /// The router on the way.
    pub gateway: Option<Ipv4Addr>,
    /// The number of the interface.
    pub interface: Option<u32>,
}

/// The connection to the kernel.
#[derive(Debug)]
pub struct Host {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

impl Host {
    /// Connects to the kernel, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No netlink here.
    pub fn open() -> Result<Self> {
        let action = "talk to the kernel about its networks";
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|error| Error::host(action, error))?;
        let guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| Error::host(action, error))?;
        drop(guard);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    fn ask<T>(
        &self,
        action: impl Into<String>,
        work: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
    ) -> Result<T> {
        self.runtime.block_on(work).map_err(|error| Error::netlink(action, &error))
    }

    /// All interfaces, in the order of their numbers.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.ask("list the interfaces", self.handle.link().get().execute().try_collect())?;
        let mut links: Vec<Link> = messages.iter().map(link).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// What the kernel refused; that there is none is no error.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// IPv4 addresses, each with its interface's number.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>> {
        let messages: Vec<_> = self.ask("list the addresses", self.handle.address().get().execute().try_collect())?;
        Ok(messages.iter().filter_map(address).collect())
    }

    /// The unicast IPv4 routes of the main table.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> =
            self.ask("list the routes", self.handle.route().get(all).execute().try_collect())?;
        Ok(messages.iter().filter_map(route).collect())
    }

    pub(super) fn make_bridge(&self, name: &str) -> Result<()> {
        let message = LinkBridge::new(name).build();
        self.ask(format!("make the bridge {name}"), self.handle.link().add(message).execute())
    }

    pub(super) fn delete_link(&self, link: &Link) -> Result<()> {
        self.ask(format!("delete {}", link.name), self.handle.link().del(link.index).execute())
    }

    pub(super) fn switch_on(&self, link: &Link) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.ask(format!("switch {} on", link.name), self.handle.link().set(message).execute())
    }

    /// Makes a VLAN of a physical interface and switches both on.
    pub(super) fn make_vlan(&self, name: &str, uplink: &str, id: u16) -> Result<()> {
        let parent = self.find(uplink)?.ok_or_else(|| Error::Unknown(uplink.to_owned()))?;
        let message = LinkVlan::new(name, parent.index, id).up().build();
        match self.ask(format!("make VLAN {id} of {uplink}"), self.handle.link().add(message).execute()) {
            Err(Error::Host { source, .. })
                if source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) =>
            {
                return Err(Error::NoVlan(name.to_owned()));
            }
            other => other?,
        }
        self.switch_on(&parent)
    }

    pub(super) fn unplug(&self, port: &Link) -> Result<()> {
        let message = LinkUnspec::new_with_index(port.index).nocontroller().build();
        self.ask(format!("take {} out of its bridge", port.name), self.handle.link().set(message).execute())
    }

    pub(super) fn plug(&self, port: &Link, bridge: &Link) -> Result<()> {
        let message = LinkUnspec::new_with_index(port.index).controller(bridge.index).build();
        self.ask(format!("plug {} into {}", port.name, bridge.name), self.handle.link().set(message).execute())
    }

    pub(super) fn add_address(&self, link: &Link, address: Ipv4Net) -> Result<()> {
        let request = self.handle.address().add(link.index, address.addr().into(), address.prefix_len());
        self.ask(format!("give {} the address {address}", link.name), request.execute())
    }

    /// That the address isn't there is no error.
    pub(super) fn delete_address(&self, link: &Link, address: Ipv4Net) -> Result<()> {
        self.take_address(link, address.into())
    }

    /// Puts an address on an interface, IPv4 or IPv6; that it is there already is no error. IPv6 addresses can be used at
    /// once: nobody else may have a floating address.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn put_address(&self, link: &Link, address: IpNet) -> Result<()> {
        let mut request = self.handle.address().add(link.index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            request.message_mut().header.flags.insert(AddressHeaderFlags::Nodad);
        }
        self.ask(format!("give {} the address {address}", link.name), request.execute())
    }

    /// Takes an address from an interface; that it isn't there is no error.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn take_address(&self, link: &Link, address: IpNet) -> Result<()> {
        let Some(message) = self.address_message(link, address)? else { return Ok(()) };
        let action = format!("take the address {address} from {}", link.name);
        self.ask(action, self.handle.address().del(message).execute())
    }

    /// Whether an interface has an address.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn has_address(&self, link: &Link, address: IpNet) -> Result<bool> {
        Ok(self.address_message(link, address)?.is_some())
    }

    fn address_message(&self, link: &Link, address: IpNet) -> Result<Option<AddressMessage>> {
        let messages: Vec<AddressMessage> =
            self.ask("list the addresses", self.handle.address().get().execute().try_collect())?;
        let ours = |message: &AddressMessage| {
            let there = message.attributes.iter().any(|attribute| match attribute {
                AddressAttribute::Local(found) => *found == address.addr(),
                AddressAttribute::Address(found) => *found == address.addr() && address.addr().is_ipv6(),
                _ => false,
            });
            there && message.header.index == link.index && message.header.prefix_len == address.prefix_len()
        };
        Ok(messages.into_iter().find(ours))
    }

    pub(super) fn add_route(&self, route: &Route) -> Result<()> {
        let request = self.handle.route().add(route_message(route));
        self.ask(format!("add the route to {}", route.destination), request.execute())
    }

    pub(super) fn delete_route(&self, route: &Route) -> Result<()> {
        let request = self.handle.route().del(route_message(route));
        self.ask(format!("delete the route to {}", route.destination), request.execute())
    }
}

fn address(message: &AddressMessage) -> Option<(u32, Ipv4Net)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some((message.header.index, Ipv4Net::new(local, message.header.prefix_len).ok()?))
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: Kind::Other("physical".into()),
        controller: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        owner: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| take_info(&mut link, info)),
            _ => {}
        }
    }
    link
}

fn take_info(link: &mut Link, info: &LinkInfo) {
    /// `IFLA_TUN_OWNER` and `IFLA_TUN_TYPE` of Linux's if_link.h, and the type's value for TAP.
    const OWNER: u16 = 1;
    const TYPE: u16 = 3;
    const TAP: u8 = 2;
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
        LinkInfo::Kind(kind) => link.kind = Kind::Other(kind.to_string()),
        LinkInfo::Data(InfoData::Tun(values)) => {
            for value in values {
                let mut bytes = vec![0; value.value_len()];
                value.emit_value(&mut bytes);
                match (value.kind(), bytes.as_slice()) {
                    (TYPE, [TAP]) => link.kind = Kind::Tap,
                    (OWNER, &[a, b, c, d]) => link.owner = Some(u32::from_ne_bytes([a, b, c, d])),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route { destination: Ipv4Net::default(), gateway: None, interface: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.destination = Ipv4Net::new(*address, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            _ => {}
        }
    }
    Some(route)
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix_len());
    if let Some(gateway) = route.gateway {
        message = message.gateway(gateway);
    } else {
        message = message.scope(rtnetlink::packet_route::route::RouteScope::Link);
    }
    if let Some(interface) = route.interface {
        message = message.output_interface(interface);
    }
    message.build()
}
