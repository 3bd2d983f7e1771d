//! DHCP on one segment's bridge: frames in and out, leases made durable before they are told, ports' checks brought along.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ferro_net::MacAddress;
use ferro_net::dhcp::{CLIENT_PORT, Event, Output, SERVER_PORT, Server, discover, offering_server};
use ferro_net::wire::{self, Seen};
use ferro_sys::packet::{PacketSocket, hardware_address};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc::Sender;
use tracing::{debug, info, warn};

use super::leases::Journal;
use super::settings::Served;
use super::{lease_folder, now};
use crate::segment::{Error, Result, port};

/// Frames looked at before the leases that they made are written.
const BATCH: usize = 64;
const LONGEST_FRAME: usize = 2048;
/// How often it is looked whether ports have changed.
const LOOK: Duration = Duration::from_secs(1);
/// How often the same warning is told.
const WARNING: Duration = Duration::from_secs(30);
/// How long another server has for its answer.
const SEARCH: Duration = Duration::from_millis(600);

/// Something about names.
#[derive(Debug)]
pub(super) enum Update {
    /// A host has this name and address; with `keep`, unless another has the name.
    Host { segment: usize, label: String, address: Ipv4Addr, keep: bool },
    /// Nobody has this address any more.
    Gone { segment: usize, address: Ipv4Addr },
}

/// One segment's DHCP.
pub(super) struct Worker {
    segment: usize,
    served: Served,
    state: PathBuf,
    /// The bridge's own.
    card: MacAddress,
    frames: PacketSocket,
    /// Nothing is read from it: it keeps others from the port, and the host from saying that nobody has it.
    _port: UdpSocket,
    server: Server,
    journal: Journal,
    updates: Sender<Update>,
    /// When the ports were last changed.
    ports: Option<SystemTime>,
    warned: Option<(String, Instant)>,
}

impl Worker {
    /// Opens everything; makes sure that no other server is on the segment's uplink.
    pub(super) fn open(state: &Path, segment: usize, served: &Served, updates: Sender<Update>) -> Result<Self> {
        let fail = |error| Error::host(format!("answer DHCP on {}", served.bridge), error);
        let port = hold_port(&served.bridge).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Error::Service(format!(
                "another DHCP server of this host has port {SERVER_PORT} on {}: stop it, or bind it to other interfaces",
                served.bridge
            )),
            _ => fail(error),
        })?;
        let card = MacAddress(hardware_address(&served.bridge).map_err(fail)?);
        let frames = PacketSocket::open_services(&served.bridge).map_err(fail)?;
        let folder = lease_folder(state);
        let journal = Journal::open(&folder, &served.name)
            .map_err(|error| Error::host(format!("keep leases in {}", folder.display()), error))?;
        let server = Server::new(served.dhcp(vec![]), journal.leases());
        let worker = Self {
            segment,
            served: served.clone(),
            state: state.to_owned(),
            card,
            frames,
            _port: port,
            server,
            journal,
            updates,
            ports: None,
            warned: None,
        };
        if let Some(outside) = &served.outside
            && let Some(other) = worker.search().map_err(fail)?
        {
            return Err(Error::Service(format!(
                "a DHCP server at {other} answers already on {outside}, segment {}: stop it, or declare the segment without dhcp",
                served.name
            )));
        }
        Ok(worker)
    }

    /// Whether another server answers.
    fn search(&self) -> std::io::Result<Option<Ipv4Addr>> {
        let from = (self.card, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT));
        let to = ([0xff; 6], SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT));
        let id = std::process::id() ^ now() as u32;
        for _ in 0..2 {
            self.frames.send(&wire::datagram(from, to, &discover(self.card, id)))?;
            let begin = Instant::now();
            while let Some(left) = SEARCH.checked_sub(begin.elapsed()) {
                self.wait(left)?;
                let mut buffer = [0; LONGEST_FRAME];
                while let Ok(len) = self.frames.receive(&mut buffer) {
                    if let Some(Seen::Server(_, message)) = wire::read(&buffer[..len])
                        && let Some(server) = offering_server(message, Some(id))
                    {
                        return Ok(Some(server));
                    }
                }
            }
        }
        Ok(None)
    }

    fn wait(&self, longest: Duration) -> std::io::Result<()> {
        let timeout = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: i64::from(longest.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.frames, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers until the bridge is gone.
    pub(super) fn work(mut self) {
        self.name_all();
        let mut looked = Instant::now();
        loop {
            let deadline = self.server.deadline().map(|at| Duration::from_millis(at.saturating_sub(now())));
            if let Err(error) = self.wait(deadline.unwrap_or(LOOK).min(LOOK)) {
                warn!("DHCP on {} ends: {error}", self.served.bridge);
                return;
            }
            self.read();
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look_at_ports();
                self.forget_ended();
            }
            self.server.timer(now());
            self.act();
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; LONGEST_FRAME];
        for _ in 0..BATCH {
            let Ok(len) = self.frames.receive(&mut buffer) else { return };
            match wire::read(&buffer[..len]) {
                // Who asks for another card would be given what is another's.
                Some(Seen::Client(card, message)) if message.get(28..34) == Some(card.0.as_slice()) => {
                    if !self.is_known(card) {
                        self.look_at_ports();
                    }
                    self.server.receive(now(), message);
                }
                Some(Seen::Server(card, message)) if card != self.card => {
                    if let Some(other) = offering_server(message, None) {
                        self.warn(format!(
                            "another DHCP server answers on segment {}: {other} at {card}",
                            self.served.name
                        ));
                    }
                }
                Some(Seen::Claim(address, card)) => self.server.taken(now(), address, card),
                _ => {}
            }
        }
    }

    fn is_known(&self, card: MacAddress) -> bool {
        self.server.config().name_of(card).is_some()
    }

    /// Does what the server wants: leases are durable, and ports let them pass, before anybody is told.
    fn act(&mut self) {
        let (mut sends, mut news, mut refresh) = (vec![], vec![], false);
        while let Some(output) = self.server.poll() {
            match output {
                Output::Probe(address) => self.send(&wire::probe(self.card, address)),
                Output::Keep(lease) => {
                    let former = self.journal.leases_of(lease.address);
                    let is_new = former.is_none_or(|former| former.mac != lease.mac || !former.holds(now()));
                    refresh |= is_new || !lease.holds(now());
                    self.journal.add(&lease);
                    if !lease.holds(now()) {
                        news.push(Update::Gone { segment: self.segment, address: lease.address });
                    }
                }
                Output::Send { to, card, message } => sends.push((to, card, message)),
                Output::Event(event) => self.tell(&event, &mut news),
            }
        }
        if let Err(error) = self.journal.sync() {
            self.warn(format!("leases of segment {} can't be kept, so none are given: {error}", self.served.name));
            return;
        }
        if refresh && let Err(error) = port::refresh(&self.state, &self.served.name) {
            self.warn(format!("the checks of ports can't be renewed: {error}"));
        }
        for update in news {
            self.update(update);
        }
        let from = (self.card, SocketAddrV4::new(self.served.gateway, SERVER_PORT));
        for (to, card, message) in sends {
            self.send(&wire::datagram(from, (card, SocketAddrV4::new(to, CLIENT_PORT)), &message));
        }
    }

    fn send(&self, frame: &[u8]) {
        if let Err(error) = self.frames.send(frame) {
            debug!("{}: a frame can't be sent: {error}", self.served.bridge);
        }
    }

    fn tell(&mut self, event: &Event, news: &mut Vec<Update>) {
        match event {
            Event::Given { mac, address, name } => {
                debug!("segment {}: {event}", self.served.name);
                let keep = !self.is_known(*mac);
                let host = |label| Update::Host { segment: self.segment, label, address: *address, keep };
                news.extend(name.clone().map(host));
            }
            Event::Released { .. } => debug!("segment {}: {event}", self.served.name),
            Event::Conflict { .. } | Event::Full { .. } | Event::Refused { .. } => {
                self.warn(format!("segment {}: {event}", self.served.name));
            }
        }
    }

    /// Tells something that may come often now and then.
    fn warn(&mut self, text: String) {
        let again = self.warned.as_ref().is_some_and(|(last, at)| *last == text && at.elapsed() < WARNING);
        if !again {
            warn!("{text}");
            self.warned = Some((text, Instant::now()));
        }
    }

    fn update(&self, update: Update) {
        // When nobody hears it, the process ends.
        let _ = self.updates.blocking_send(update);
    }

    /// Names of reserved addresses and of leases that hold.
    fn name_all(&mut self) {
        self.look_at_ports();
        let config = self.server.config();
        let reserved = config.reservations.iter().filter_map(|one| Some((one.name.clone()?, one.address, false)));
        let now = now();
        let leased = self.server.leases().filter(|lease| lease.holds(now)).filter_map(|lease| {
            let known = config.name_of(lease.mac).map(str::to_owned);
            let keep = known.is_none();
            Some((known.or_else(|| lease.hostname.clone())?, lease.address, keep))
        });
        let all: Vec<_> = reserved.chain(leased).collect();
        for (label, address, keep) in all {
            self.update(Update::Host { segment: self.segment, label, address, keep });
        }
    }

    /// VMs come and go with their names.
    fn look_at_ports(&mut self) {
        let changed = port::changed(&self.state);
        if changed == self.ports {
            return;
        }
        self.ports = changed;
        match port::list(&self.state) {
            Ok(ports) => {
                self.server.set_names(port::names(&ports, &self.served.name));
                for port in ports.iter().filter(|port| port.segment == self.served.name) {
                    if let (Some(address), Some(label)) = (port.address, port.label()) {
                        self.update(Update::Host { segment: self.segment, label, address, keep: false });
                    }
                }
            }
            Err(error) => info!("the list of ports can't be read: {error}"),
        }
    }

    fn forget_ended(&self) {
        let now = now();
        let lately = |end: u64| end * 1000 <= now && end * 1000 + 10_000 > now;
        for lease in self.server.leases().filter(|lease| lately(lease.ends)) {
            self.update(Update::Gone { segment: self.segment, address: lease.address });
        }
    }
}

fn hold_port(bridge: &str) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind_device(Some(bridge.as_bytes()))?;
    socket.set_recv_buffer_size(1024)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
    Ok(socket.into())
}
