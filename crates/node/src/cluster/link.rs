//! The UDP sockets of heartbeats: one for each link, with a thread that reads.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use ferro_cluster::heartbeat::MAX_PACKET;
use socket2::{Domain, Protocol, Socket, Type};

use super::config::LinkConfig;

/// A socket and where its packets go.
#[derive(Clone, Debug)]
pub(super) struct Link {
    socket: Arc<UdpSocket>,
    destination: SocketAddr,
}

impl Link {
    /// Opens the socket of a link.
    pub(super) fn open(config: &LinkConfig, destination: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(config.listen), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        if let Some(interface) = &config.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        if config.broadcast.is_some() {
            socket.set_broadcast(true)?;
        }
        // Packets for a group don't come to an address of one's own.
        let bound = match destination.ip() {
            IpAddr::V4(group) if group.is_multicast() => {
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.listen.port())
            }
            _ if config.broadcast.is_some() && config.listen.is_ipv4() => {
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.listen.port())
            }
            _ => config.listen,
        };
        socket.bind(&bound.into())?;
        match (destination.ip(), config.listen.ip()) {
            (IpAddr::V4(group), IpAddr::V4(own)) if group.is_multicast() => {
                socket.join_multicast_v4(&group, &own)?;
                socket.set_multicast_if_v4(&own)?;
                socket.set_multicast_loop_v4(true)?;
            }
            (IpAddr::V6(group), _) if group.is_multicast() => socket.join_multicast_v6(&group, 0)?,
            _ => {}
        }
        // Heartbeats go before bulk data: DSCP CS6. A network that doesn't know it takes them all the same.
        let _ = socket.set_tos_v4(0xc0);
        Ok(Self { socket: Arc::new(socket.into()), destination })
    }

    /// Sends a packet. A cable that is pulled out is no error of the sender's: silence tells of it.
    pub(super) fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.socket.send_to(bytes, self.destination) {
            tracing::debug!("heartbeat to {}: {error}", self.destination);
        }
    }

    /// Hands packets to `take` for good, until that says no.
    pub(super) fn read(&self, mut take: impl FnMut(Vec<u8>) -> bool) {
        let mut buffer = [0; MAX_PACKET + 1];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, _)) if length <= MAX_PACKET => {
                    if !take(buffer[..length].to_vec()) {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    // Such as a port that nobody listens at, told by ICMP.
                    tracing::debug!("heartbeat socket: {error}");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
    }
}
