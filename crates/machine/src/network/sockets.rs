//! The host's sockets of a user-mode network: TCP connections, UDP ports, forwarded ports and echo requests. What they
//! do with the network's own wishes and the host's answers; no thread and no card are here.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ferro_net::user::{FlowId, Network, Output};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use tracing::debug;

use crate::description::{Forward, Transport};

/// What an event is about, in the top byte of its number.
const BELL: u64 = 0;
const LISTENER: u64 = 1;
const TCP: u64 = 2;
const UDP: u64 = 3;
const ECHO: u64 = 4;
const KIND: u32 = 56;

/// Bytes moved at one time.
const CHUNK: usize = 64 << 10;
/// Datagrams taken from one socket before others have their turn.
const DATAGRAMS: usize = 64;
/// Peers of forwarded UDP ports, and unanswered echo requests, that are remembered.
const REMEMBERED: usize = 4096;

/// The host's end of a connection.
struct Connection {
    socket: TcpStream,
    connecting: bool,
    /// The guest's bytes that the host didn't take yet.
    pending: Vec<u8>,
    /// The guest will send no more than these.
    finishing: bool,
    /// Close when they are gone.
    closing: bool,
    /// The host will send no more.
    ended: bool,
    interest: EventFlags,
}

enum Listener {
    Tcp(TcpListener, SocketAddrV4),
    Udp(UdpSocket, SocketAddrV4),
}

/// All sockets of one network.
pub(super) struct Sockets {
    pub(super) epoll: OwnedFd,
    listeners: Vec<Listener>,
    connections: HashMap<FlowId, Connection>,
    ports: HashMap<FlowId, UdpSocket>,
    /// By which forwarded port a peer of the host's is answered.
    peers: HashMap<(FlowId, SocketAddrV4), usize>,
    echo: Option<OwnedFd>,
    /// The guest's identifiers by whom it asked and the sequence number.
    echoes: HashMap<(Ipv4Addr, u16), u16>,
    buffer: Vec<u8>,
}

impl Sockets {
    /// None yet; events say when `bell` rings.
    ///
    /// # Errors
    /// The host's refusal.
    pub(super) fn new(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, EventData::new_u64(BELL << KIND), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listeners: vec![],
            connections: HashMap::new(),
            ports: HashMap::new(),
            peers: HashMap::new(),
            echo: None,
            echoes: HashMap::new(),
            buffer: vec![0; CHUNK],
        })
    }

    /// Listens at a forwarded port.
    ///
    /// # Errors
    /// A port that is taken or not allowed.
    pub(super) fn listen(&mut self, forward: &Forward) -> io::Result<()> {
        let data = EventData::new_u64(LISTENER << KIND | self.listeners.len() as u64);
        let listener = match forward.transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(forward.host)?;
                listener.set_nonblocking(true)?;
                epoll::add(&self.epoll, &listener, data, EventFlags::IN)?;
                Listener::Tcp(listener, forward.guest)
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(forward.host)?;
                socket.set_nonblocking(true)?;
                epoll::add(&self.epoll, &socket, data, EventFlags::IN)?;
                Listener::Udp(socket, forward.guest)
            }
        };
        self.listeners.push(listener);
        Ok(())
    }

    /// Something happened at the socket of this number.
    pub(super) fn act(&mut self, network: &mut Network, now: u64, number: u64, flags: EventFlags) {
        let id = FlowId::from_bits(number & ((1 << KIND) - 1));
        match number >> KIND {
            LISTENER => self.at_listener(network, now, (number & 0xffff) as usize),
            TCP => self.at_connection(network, now, id, flags),
            UDP => self.at_port(network, now, id),
            ECHO => self.at_echo(network),
            _ => {}
        }
    }

    /// Does what the network wants of its sockets.
    pub(super) fn obey(&mut self, network: &mut Network, now: u64, output: Output) {
        match output {
            Output::Frame(_) => {}
            Output::Connect { id, to } => {
                if let Err(error) = self.connect(id, to) {
                    debug!("cannot connect to {to}: {error}");
                    network.tcp_connected(now, id, false);
                }
            }
            Output::Ready(id) => self.pump(network, now, id),
            Output::Finished(id) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.finishing = true;
                }
                self.pump(network, now, id);
            }
            Output::Close { id, reset } => self.close(id, reset),
            Output::Datagram { id, to, data } => self.send(id, to, &data),
            Output::ClosePort(id) => {
                self.ports.remove(&id);
                self.peers.retain(|(port, _), _| *port != id);
            }
            Output::Echo { to, tag, data } => {
                if let Err(error) = self.ask(to, tag, &data) {
                    debug!("cannot send an echo request to {to}: {error}");
                }
            }
        }
    }

    fn connect(&mut self, id: FlowId, to: SocketAddrV4) -> io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.add(id, socket.into(), true)
    }

    fn add(&mut self, id: FlowId, socket: TcpStream, connecting: bool) -> io::Result<()> {
        // What the guest sends goes on at once; its own TCP has decided.
        socket.set_nodelay(true)?;
        let interest = if connecting { EventFlags::OUT } else { EventFlags::IN };
        epoll::add(&self.epoll, &socket, EventData::new_u64(TCP << KIND | id.to_bits()), interest)?;
        let connection = Connection {
            socket,
            connecting,
            pending: vec![],
            finishing: false,
            closing: false,
            ended: false,
            interest,
        };
        self.connections.insert(id, connection);
        Ok(())
    }

    fn close(&mut self, id: FlowId, reset: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !reset && !connection.pending.is_empty() {
            connection.closing = true;
            return;
        }
        if reset {
            // The host's peer is to see that it was broken off; where that can't be said, it sees an end.
            let _ = sockopt::set_socket_linger(&connection.socket, Some(std::time::Duration::ZERO));
        }
        self.connections.remove(&id);
    }

    fn at_listener(&mut self, network: &mut Network, now: u64, index: usize) {
        match self.listeners.get(index) {
            Some(Listener::Tcp(listener, guest)) => {
                let guest = *guest;
                let Ok((socket, _)) = listener.accept() else { return };
                if socket.set_nonblocking(true).is_err() {
                    return;
                }
                // Refused by being closed where there are too many.
                let Some(id) = network.tcp_forward(now, guest) else { return };
                if let Err(error) = self.add(id, socket, false) {
                    debug!("cannot forward a connection: {error}");
                    network.tcp_broken(now, id);
                }
                self.pump(network, now, id);
            }
            Some(Listener::Udp(socket, guest)) => {
                for _ in 0..DATAGRAMS {
                    let Ok((len, SocketAddr::V4(from))) = socket.recv_from(&mut self.buffer) else { return };
                    let id = network.udp_forward(now, from, *guest, &self.buffer[..len]);
                    if self.peers.len() >= REMEMBERED {
                        self.peers.clear();
                    }
                    self.peers.insert((id, from), index);
                }
            }
            None => {}
        }
    }

    fn at_connection(&mut self, network: &mut Network, now: u64, id: FlowId, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.connecting && flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
            connection.connecting = false;
            let connected = matches!(connection.socket.take_error(), Ok(None));
            network.tcp_connected(now, id, connected);
        }
        self.pump(network, now, id);
    }

    /// Moves bytes both ways as far as they go, and asks for the events that let it go on.
    fn pump(&mut self, network: &mut Network, now: u64, id: FlowId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.connecting {
            return;
        }
        let moved = connection.feed_host(network, now, id, &mut self.buffer);
        let moved = moved.and_then(|()| connection.feed_guest(network, now, id, &mut self.buffer));
        if let Err(error) = moved {
            debug!("a connection broke: {error}");
            network.tcp_broken(now, id);
            self.connections.remove(&id);
            return;
        }
        if connection.closing && connection.pending.is_empty() {
            self.connections.remove(&id);
            return;
        }
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::OUT, !connection.pending.is_empty());
        interest.set(EventFlags::IN, !connection.ended && network.tcp_room(id) > 0);
        if interest != connection.interest {
            connection.interest = interest;
            let data = EventData::new_u64(TCP << KIND | id.to_bits());
            // A descriptor that was added can be modified.
            let _ = epoll::modify(&self.epoll, &connection.socket, data, interest);
        }
    }

    fn at_port(&mut self, network: &mut Network, now: u64, id: FlowId) {
        let Some(socket) = self.ports.get(&id) else { return };
        for _ in 0..DATAGRAMS {
            match socket.recv_from(&mut self.buffer) {
                Ok((len, SocketAddr::V4(from))) => network.udp_received(now, id, from, &self.buffer[..len]),
                // An earlier datagram was refused; the next one may be an answer.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return,
            }
        }
    }

    /// A datagram that can't be sent is lost.
    fn send(&mut self, id: FlowId, to: SocketAddrV4, data: &[u8]) {
        if let Some(Listener::Udp(socket, _)) = self.peers.get(&(id, to)).and_then(|index| self.listeners.get(*index)) {
            let _ = socket.send_to(data, to);
            return;
        }
        if !self.ports.contains_key(&id) {
            match self.port(id) {
                Ok(socket) => drop(self.ports.insert(id, socket)),
                Err(error) => return debug!("no UDP port for the guest: {error}"),
            }
        }
        let _ = self.ports[&id].send_to(data, to);
    }

    fn port(&self, id: FlowId) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        epoll::add(&self.epoll, &socket, EventData::new_u64(UDP << KIND | id.to_bits()), EventFlags::IN)?;
        Ok(socket)
    }

    /// Sends an echo request by a socket that needs no privileges, where the host's administrator allows that
    /// (`net.ipv4.ping_group_range`).
    fn ask(&mut self, to: Ipv4Addr, (identifier, sequence): (u16, u16), data: &[u8]) -> io::Result<()> {
        if self.echo.is_none() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::ICMP))?;
            epoll::add(&self.epoll, &socket, EventData::new_u64(ECHO << KIND), EventFlags::IN)?;
            self.echo = Some(socket);
        }
        let Some(socket) = &self.echo else { return Ok(()) };
        // Type and code; the kernel fills in checksum and identifier.
        let mut message = vec![8, 0, 0, 0, 0, 0];
        message.extend(sequence.to_be_bytes());
        message.extend_from_slice(data);
        rustix::net::sendto(socket, &message, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
        if self.echoes.len() >= REMEMBERED {
            self.echoes.clear();
        }
        self.echoes.insert((to, sequence), identifier);
        Ok(())
    }

    fn at_echo(&mut self, network: &mut Network) {
        let Some(socket) = &self.echo else { return };
        for _ in 0..DATAGRAMS {
            let Ok((len, _, Some(from))) =
                rustix::net::recvfrom(socket.as_fd(), &mut self.buffer[..], RecvFlags::empty())
            else {
                return;
            };
            let Ok(SocketAddr::V4(from)) = SocketAddr::try_from(from) else { return };
            let Some((&[0, _, _, _, _, _, high, low], data)) = self.buffer[..len].split_first_chunk::<8>() else {
                continue;
            };
            let sequence = u16::from_be_bytes([high, low]);
            if let Some(identifier) = self.echoes.remove(&(*from.ip(), sequence)) {
                network.echo_answered(*from.ip(), (identifier, sequence), data);
            }
        }
    }
}

impl Connection {
    /// The guest's bytes, until the host takes no more.
    fn feed_host(&mut self, network: &mut Network, now: u64, id: FlowId, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            if self.pending.is_empty() {
                let read = network.tcp_read(now, id, buffer);
                if read == 0 {
                    break;
                }
                self.pending.extend_from_slice(&buffer[..read]);
            }
            match self.socket.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.finishing) {
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// The host's bytes, as many as there is room for.
    fn feed_guest(&mut self, network: &mut Network, now: u64, id: FlowId, buffer: &mut [u8]) -> io::Result<()> {
        while !self.ended {
            let room = network.tcp_room(id).min(buffer.len());
            if room == 0 {
                break;
            }
            match self.socket.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.ended = true;
                    network.tcp_finished(now, id);
                }
                Ok(read) => {
                    let taken = network.tcp_write(now, id, &buffer[..read]);
                    debug_assert_eq!(taken, read, "there was room");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
