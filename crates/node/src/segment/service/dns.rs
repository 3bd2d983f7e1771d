//! DNS for all segments: sockets of the gateways, connections, and questions put to other servers. One thread does it all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ferro_net::dns::{Client, Output, Reply, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tracing::{debug, warn};

use super::dhcp::Update;
use super::settings::Services;
use crate::segment::{Error, Result};

const PORT: u16 = 53;
/// Questions answered before others get their turn.
const BATCH: usize = 64;
const LONGEST_DATAGRAM: usize = 4096;
/// Connections of one segment at one time.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(250);

/// Bound sockets that aren't served yet.
pub(super) struct Answering {
    sockets: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
    server: Server,
}

impl Answering {
    /// Binds the port of every segment's gateway.
    pub(super) fn open(services: &Services, own: &[IpAddr]) -> Result<Self> {
        let ids = || u16::from_ne_bytes(random());
        let server =
            Server::new(services.dns(own), Box::new(ids)).map_err(|error| Error::Service(error.to_string()))?;
        let sockets = services.segments.iter().map(|segment| bind(segment.gateway)).collect::<Result<_>>()?;
        Ok(Self { sockets, server })
    }

    /// Answers until the process ends.
    pub(super) fn work(self, updates: Receiver<Update>, _held: Sender<Update>) -> Result<()> {
        let fail = |error| Error::host("answer DNS", error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        LocalSet::new().block_on(&runtime, self.answer(updates)).map_err(fail)
    }

    async fn answer(self, updates: Receiver<Update>) -> io::Result<()> {
        let (mut udp, mut listeners) = (vec![], vec![]);
        for (socket, listener) in self.sockets {
            udp.push(Rc::new(UdpSocket::from_std(socket)?));
            listeners.push(TcpListener::from_std(listener)?);
        }
        let desk = Rc::new(Desk {
            begin: Instant::now(),
            server: RefCell::new(self.server),
            udp,
            connections: RefCell::default(),
            asking: RefCell::default(),
        });
        for segment in 0..desk.udp.len() {
            spawn_local(datagrams(desk.clone(), segment));
        }
        for (segment, listener) in listeners.into_iter().enumerate() {
            spawn_local(accept(desk.clone(), segment, listener));
        }
        spawn_local(name_hosts(desk.clone(), updates));
        loop {
            tokio::time::sleep(TICK).await;
            desk.server.borrow_mut().timer(desk.now());
            desk.act();
        }
    }
}

/// Two bytes that nobody can guess.
fn random() -> [u8; 2] {
    let mut bytes = [0; 2];
    // The kernel always has as few as these once it has booted.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes
}

fn bind(gateway: Ipv4Addr) -> Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let bind = || -> io::Result<_> {
        let udp = std::net::UdpSocket::bind((gateway, PORT))?;
        let tcp = std::net::TcpListener::bind((gateway, PORT))?;
        // A burst of questions waits rather than being lost.
        let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(4 << 20);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    };
    bind().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Error::Service(format!(
            "another DNS server of this host has port {PORT} of {gateway}: stop it, or bind it to other addresses"
        )),
        _ => Error::host(format!("answer DNS at {gateway}"), error),
    })
}

/// What the tasks share; all are of one thread.
struct Desk {
    begin: Instant,
    server: RefCell<Server>,
    udp: Vec<Rc<UdpSocket>>,
    /// Where answers to connections go, by their numbers.
    connections: RefCell<BTreeMap<u64, Sender<Vec<u8>>>>,
    /// Questions on their way, by their numbers.
    asking: RefCell<BTreeMap<u64, JoinHandle<()>>>,
}

impl Desk {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Does what the server wants.
    fn act(self: &Rc<Self>) {
        loop {
            let Some(output) = self.server.borrow_mut().poll() else { return };
            match output {
                Output::Answer(client, message) => match client.reply {
                    Reply::Udp(to) => {
                        if let Some(socket) = self.udp.get(client.segment) {
                            // An answer that doesn't fit the socket is lost like one on the way.
                            let _ = socket.try_send_to(&message, to);
                        }
                    }
                    Reply::Tcp(number) => {
                        if let Some(connection) = self.connections.borrow().get(&number) {
                            let _ = connection.try_send(message);
                        }
                    }
                },
                Output::Ask { number, server, tcp, message } => {
                    let desk = self.clone();
                    let task = spawn_local(async move { desk.ask(number, server, tcp, message).await });
                    if let Some(former) = self.asking.borrow_mut().insert(number, task) {
                        former.abort();
                    }
                }
                Output::Done(number) => {
                    if let Some(task) = self.asking.borrow_mut().remove(&number) {
                        task.abort();
                    }
                }
            }
        }
    }

    /// Puts a question from a port of its own, and hands in what comes back until that is the answer.
    async fn ask(self: Rc<Self>, number: u64, server: SocketAddr, tcp: bool, message: Vec<u8>) {
        let asked = if tcp {
            self.ask_tcp(number, server, &message).await
        } else {
            self.ask_udp(number, server, &message).await
        };
        if let Err(error) = asked {
            debug!("{server} can't be asked: {error}");
            self.server.borrow_mut().failed(self.now(), number);
            self.act();
        }
    }

    async fn ask_udp(self: &Rc<Self>, number: u64, server: SocketAddr, message: &[u8]) -> io::Result<()> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(message).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let len = socket.recv(&mut buffer).await?;
            self.server.borrow_mut().answered(self.now(), number, &buffer[..len]);
            self.act();
        }
    }

    async fn ask_tcp(self: &Rc<Self>, number: u64, server: SocketAddr, message: &[u8]) -> io::Result<()> {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&framed(message)).await?;
        loop {
            let len = stream.read_u16().await?;
            let mut answer = vec![0; usize::from(len)];
            stream.read_exact(&mut answer).await?;
            self.server.borrow_mut().answered(self.now(), number, &answer);
            self.act();
        }
    }
}

/// RFC 1035, section 4.2.2.
fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), message].concat()
}

async fn datagrams(desk: Rc<Desk>, segment: usize) {
    let socket = desk.udp[segment].clone();
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        if let Err(error) = socket.readable().await {
            warn!("DNS by UDP ends: {error}");
            return;
        }
        for _ in 0..BATCH {
            let (len, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What ICMP says of an earlier answer.
                Err(_) => continue,
            };
            let client = Client { segment, reply: Reply::Udp(from) };
            let answer = desk.server.borrow_mut().query(desk.now(), client, &buffer[..len]);
            if let Some(answer) = answer {
                let _ = socket.try_send_to(&answer, from);
            }
        }
        desk.act();
        tokio::task::yield_now().await;
    }
}

async fn accept(desk: Rc<Desk>, segment: usize, listener: TcpListener) {
    let mut next = (segment as u64) << 48;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("a connection for DNS can't be taken: {error}");
                tokio::time::sleep(TICK).await;
                continue;
            }
        };
        let first = (segment as u64) << 48;
        let count = desk.connections.borrow().range(first..first + (1 << 48)).count();
        if count >= MOST_CONNECTIONS {
            continue;
        }
        next += 1;
        let (sender, receiver) = channel(16);
        desk.connections.borrow_mut().insert(next, sender);
        let (desk, number) = (desk.clone(), next);
        spawn_local(async move {
            // It ends when the client likes, or says nothing.
            let _ = connection(&desk, segment, number, stream, receiver).await;
            desk.connections.borrow_mut().remove(&number);
        });
    }
}

async fn connection(
    desk: &Rc<Desk>,
    segment: usize,
    number: u64,
    mut stream: TcpStream,
    mut answers: Receiver<Vec<u8>>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let reading = async {
        loop {
            let len = tokio::time::timeout(IDLE, reader.read_u16()).await??;
            let mut message = vec![0; usize::from(len)];
            tokio::time::timeout(IDLE, reader.read_exact(&mut message)).await??;
            let client = Client { segment, reply: Reply::Tcp(number) };
            let answer = desk.server.borrow_mut().query(desk.now(), client, &message);
            if let Some(answer) = answer
                && let Some(connection) = desk.connections.borrow().get(&number)
            {
                let _ = connection.try_send(answer);
            }
            desk.act();
            tokio::task::yield_now().await;
        }
    };
    let writing = async {
        while let Some(answer) = answers.recv().await {
            tokio::time::timeout(IDLE, writer.write_all(&framed(&answer))).await??;
        }
        Ok(())
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

async fn name_hosts(desk: Rc<Desk>, mut updates: Receiver<Update>) {
    while let Some(update) = updates.recv().await {
        let mut server = desk.server.borrow_mut();
        match update {
            Update::Host { segment, label, address, keep } => server.set_host(segment, &label, address, keep),
            Update::Gone { segment, address } => server.forget_host(segment, address),
        }
    }
}
