//! Who is connected, who is let in, and what the monitor is told of it.

use std::io::{self, Read};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ferro_console::monitor::{Event, VncClient, VncInfo};
use ferro_console::rfb::Settings;
use rustls::ServerConfig;
use tracing::debug;

use super::client::{self, Entrance, Message};
use super::{TlsCredentials, VncPlace, VncTarget, WebSocketPlace, watcher};
use crate::bus::lock;
use crate::handle::{Follower, Handle, Screen};
use crate::monitor::Subscribers;
use crate::socket::{self, Client};

/// Clients that have been let in, at most; and those that haven't yet, before the oldest of these has to go.
const CLIENTS: usize = 32;
/// Clients that are still being hung up on come on top of those, up to so many in all.
const CONNECTIONS: usize = 4 * CLIENTS;

/// The server.
pub(crate) struct Server {
    place: VncPlace,
    name: String,
    /// Clients have to know it; the first eight bytes count.
    password: Mutex<Option<Vec<u8>>>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) handle: Handle,
    pub(super) screen: Screen,
    subscribers: Arc<Subscribers>,
    pub(super) clients: Mutex<Vec<Connected>>,
    /// A client has begun to wait for changes.
    pub(super) waiting: Condvar,
}

/// A connected client.
pub(super) struct Connected {
    number: u64,
    who: VncClient,
    /// It has been let in.
    entered: bool,
    /// It was hung up on.
    leaves: bool,
    /// It wants to be woken when the screen has changed.
    pub(super) waits: bool,
    pub(super) follower: Follower,
    messages: SyncSender<Message>,
    hang_up: Box<dyn Fn() + Send>,
}

impl Connected {
    /// Tells its thread that the screen has changed. Where the queue is full the thread isn't asleep.
    pub(super) fn wake(&self) {
        let _ = self.messages.try_send(Message::Screen);
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// After a connection that couldn't be accepted: for want of descriptors that goes on for a while.
fn pause_after(error: &io::Error) {
    debug!("VNC: a connection can't be accepted: {error}");
    std::thread::sleep(Duration::from_millis(100));
}

/// What the monitor says where there is no server.
pub(crate) fn absent() -> VncInfo {
    VncInfo { enabled: false, host: None, service: None, auth: None, clients: vec![] }
}

impl Server {
    /// Listens for clients. `password` is the content of the password's file.
    ///
    /// # Errors
    /// A socket, a thread or random numbers that can't be had.
    pub(crate) fn listen(
        target: &VncTarget,
        password: Option<Vec<u8>>,
        name: String,
        handle: Handle,
        subscribers: Arc<Subscribers>,
    ) -> io::Result<Arc<Self>> {
        let first_line = |text: Vec<u8>| text.split(|byte| matches!(byte, b'\r' | b'\n')).next().map(<[u8]>::to_vec);
        let password = match password.and_then(first_line) {
            Some(line) if line.is_empty() => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the password's file has no password"));
            }
            // Until one is set, nobody knows it.
            None if target.has_password() => Some(random::<8>()?.to_vec()),
            other => other,
        };
        let screen = handle.screen().cloned().ok_or(io::ErrorKind::Unsupported)?;
        let server = Arc::new(Self {
            place: target.place.clone(),
            name,
            password: Mutex::new(password),
            tls: target.tls.as_ref().map(TlsCredentials::load).transpose()?,
            handle,
            screen,
            subscribers,
            clients: Mutex::default(),
            waiting: Condvar::new(),
        });
        match (&target.place, &target.websocket) {
            (VncPlace::Tcp(address), WebSocketPlace::Same) => server.listen_tcp(address, Entrance::Any)?,
            (VncPlace::Tcp(address), _) => server.listen_tcp(address, Entrance::Rfb)?,
            (VncPlace::Unix(path), _) => server.listen_unix(path)?,
        }
        if let WebSocketPlace::Tcp(address) = &target.websocket {
            server.listen_tcp(address, Entrance::Web)?;
        }
        let watched = server.clone();
        std::thread::Builder::new().name("vnc-screen".into()).spawn(move || watcher::watch(&watched))?;
        Ok(server)
    }

    fn listen_tcp(self: &Arc<Self>, address: &str, entrance: Entrance) -> io::Result<()> {
        let (listener, server) = (TcpListener::bind(address)?, self.clone());
        let accept = move || {
            loop {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let family = if peer.is_ipv4() { "ipv4" } else { "ipv6" };
                        let (host, service) = (peer.ip().to_string(), peer.port().to_string());
                        server.admit(stream, VncClient { host, service, family: family.into() }, entrance);
                    }
                    Err(error) => pause_after(&error),
                }
            }
        };
        std::thread::Builder::new().name("vnc-listen".into()).spawn(accept).map(drop)
    }

    fn listen_unix(self: &Arc<Self>, path: &Path) -> io::Result<()> {
        let (listener, server) = (socket::listen_unix(path)?, self.clone());
        let who = VncClient { host: path.display().to_string(), service: String::new(), family: "unix".into() };
        let accept = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => server.admit(stream, who.clone(), Entrance::Rfb),
                    Err(error) => pause_after(&error),
                }
            }
        };
        std::thread::Builder::new().name("vnc-listen".into()).spawn(accept).map(drop)
    }

    /// Gives a client its threads, or turns it away. Who only connects can't keep others out.
    fn admit<C: Client>(self: &Arc<Self>, stream: C, who: VncClient, entrance: Entrance) {
        let mut clients = lock(&self.clients);
        let entered = clients.iter().filter(|client| client.entered).count();
        if entered >= CLIENTS || clients.len() >= CONNECTIONS {
            debug!("VNC: {} is turned away: there are {} clients", who.host, clients.len());
            stream.hang_up();
            return;
        }
        let mut waiting = clients.iter_mut().filter(|client| !client.entered && !client.leaves);
        if let (Some(oldest), CLIENTS..) = (waiting.next(), waiting.count() + 1) {
            oldest.leaves = true;
            (oldest.hang_up)();
        }
        drop(clients);
        if let Err(error) = client::start(self, stream, who, entrance) {
            debug!("VNC: a client is lost: {error}");
        }
    }

    /// Whether clients need to know nothing.
    pub(super) fn has_no_password(&self) -> bool {
        lock(&self.password).is_none()
    }

    /// What a client's session begins with; it has to turn to TLS if `encrypt`.
    pub(super) fn settings(&self, encrypt: bool) -> io::Result<Settings> {
        self.screen.update();
        // Before the firmware has set a mode there is nothing to show.
        let size = self.screen.with_picture(|picture| (picture.width() as usize, picture.height() as usize));
        let size = if size.0 * size.1 == 0 { (640, 480) } else { size };
        let password = lock(&self.password).clone();
        Ok(Settings { name: self.name.clone(), password, encrypt, challenge: random()?, size })
    }

    /// Notes a client; its number.
    pub(super) fn add<C: Client>(
        &self,
        stream: C,
        who: VncClient,
        follower: Follower,
        messages: SyncSender<Message>,
    ) -> u64 {
        let mut clients = lock(&self.clients);
        let number = clients.last().map_or(0, |last| last.number + 1);
        let hang_up = Box::new(move || stream.hang_up());
        clients.push(Connected {
            number,
            who,
            entered: false,
            leaves: false,
            waits: false,
            follower,
            messages,
            hang_up,
        });
        number
    }

    /// A client has been let in; unless it shares the screen, the others have to go.
    pub(super) fn enter(&self, number: u64, shared: bool) {
        let mut clients = lock(&self.clients);
        let full = clients.iter().filter(|client| client.entered).count() >= CLIENTS;
        let mut entered = None;
        for client in clients.iter_mut() {
            if client.number == number && full {
                (client.hang_up)();
            } else if client.number == number {
                client.entered = true;
                entered = Some(client.who.clone());
            } else if !shared && client.entered {
                (client.hang_up)();
            }
        }
        drop(clients);
        if let Some(client) = entered {
            self.subscribers.tell(&Event::Vnc { connected: true, client });
        }
    }

    /// Whether a client sleeps until the screen changes.
    pub(super) fn set_waiting(&self, number: u64, waits: bool) {
        let mut clients = lock(&self.clients);
        let client = clients.iter_mut().find(|client| client.number == number);
        let begins = client.is_some_and(|client| std::mem::replace(&mut client.waits, waits) != waits) && waits;
        drop(clients);
        if begins {
            self.waiting.notify_all();
        }
    }

    /// A client is gone.
    pub(super) fn remove(&self, number: u64) {
        let mut clients = lock(&self.clients);
        let gone = clients.iter().position(|client| client.number == number).map(|at| clients.remove(at));
        drop(clients);
        if let Some(gone) = gone.filter(|gone| gone.entered) {
            self.subscribers.tell(&Event::Vnc { connected: false, client: gone.who });
        }
    }

    /// What the monitor tells of it.
    pub(crate) fn info(&self) -> VncInfo {
        let (host, service) = match &self.place {
            VncPlace::Tcp(address) => address.rsplit_once(':').unwrap_or((address, "")),
            VncPlace::Unix(path) => (path.to_str().unwrap_or_default(), ""),
        };
        let auth = match &self.tls {
            Some(_) => "vencrypt",
            None if self.has_no_password() => "none",
            None => "vnc",
        };
        let clients =
            lock(&self.clients).iter().filter(|client| client.entered).map(|client| client.who.clone()).collect();
        VncInfo {
            enabled: true,
            host: Some(host.to_owned()),
            service: Some(service.to_owned()),
            auth: Some(auth.into()),
            clients,
        }
    }

    /// Clients that come from now on need this password.
    pub(crate) fn change_password(&self, password: &[u8]) {
        *lock(&self.password) = Some(password.to_vec());
    }
}
