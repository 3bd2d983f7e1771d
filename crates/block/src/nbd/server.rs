//! Exports, listening sockets and connections: who may connect and how many. The protocol is in `handshake` and `session`.

use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::handshake;
use super::session::{self, Budget};
use super::socket::Socket;
use super::wire::transmission;
use crate::{Error, Result, Storage};

/// How long a client may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// One storage under one name.
#[derive(Clone)]
pub struct Export {
    /// The name, at most 4096 bytes.
    pub name: String,
    /// For people; at most 4096 bytes, may be empty.
    pub description: String,
    /// What is exported.
    pub storage: Arc<dyn Storage>,
    /// Refuse writes even if the storage takes them.
    pub read_only: bool,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("name", &self.name).field("read_only", &self.read_only).finish_non_exhaustive()
    }
}

impl Export {
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only || self.storage.is_read_only()
    }

    /// What the export can do, in the protocol's flags.
    pub(super) fn flags(&self, structured: bool) -> u16 {
        use transmission::*;
        // Every connection works on the one storage, so a flush on any covers what was written on all.
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
        flags |= if self.is_read_only() { READ_ONLY } else { SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO };
        if structured { flags | SEND_DF } else { flags }
    }
}

/// A socket on which clients are awaited.
#[derive(Debug)]
pub enum Listener {
    /// On this machine; the file is removed when this is dropped.
    Unix(UnixListener, PathBuf),
    /// Anywhere.
    Tcp(TcpListener),
}

impl Listener {
    /// Makes a socket file that only its owner may use. A file left by a server that is gone is replaced.
    ///
    /// # Errors
    /// Another server listens there, the file is something else, what bind(2) says.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let path = path.as_ref();
        let failed = |operation: &str, source| Error::File { path: path.into(), operation: operation.into(), source };
        if let Ok(found) = std::fs::symlink_metadata(path) {
            let dead = found.file_type().is_socket()
                && std::os::unix::net::UnixStream::connect(path)
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
            if !dead {
                return Err(failed("listen", std::io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(path).map_err(|source| failed("replace a dead socket", source))?;
        }
        // Made beside its place and moved there when only the owner may use it: nobody gets in before.
        let mut staging = path.as_os_str().to_owned();
        staging.push(format!(".{}", std::process::id()));
        let listener = UnixListener::bind(&staging).map_err(|source| failed("listen", source))?;
        std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&staging, path))
            .map_err(|source| failed("set up", source))?;
        Ok(Self::Unix(listener, path.into()))
    }

    /// Listens on a TCP address; port 0 means any free one.
    ///
    /// # Errors
    /// The name isn't known, what bind(2) says.
    pub fn tcp(address: impl ToSocketAddrs + std::fmt::Display) -> Result<Self> {
        let bound = TcpListener::bind(&address);
        bound.map(Self::Tcp).map_err(|source| Error::Io { operation: format!("listen on {address}"), source })
    }

    /// The TCP port, if it is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
        }
    }

    fn accept(&self) -> std::io::Result<Socket> {
        match self {
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Socket::Unix(stream)),
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
        }
    }

    /// Makes a thread that waits in [`Listener::accept`] return.
    fn wake(&self) {
        use std::os::fd::AsFd;
        let fd = match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        };
        // Shutting a listening socket down ends accept(2) on Linux; it fails only if that has been done.
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Exports and the connections to them.
#[derive(Debug)]
pub struct Server {
    exports: Vec<Export>,
    max_clients: usize,
    clients: AtomicUsize,
    /// Sockets of the connections there are, to end them when the server stops.
    sockets: Mutex<Vec<Weak<Socket>>>,
    stopping: AtomicBool,
    budget: Arc<Budget>,
}

impl Server {
    /// A server of these exports for up to `max_clients` connections at a time.
    pub fn new(exports: Vec<Export>, max_clients: usize) -> Arc<Self> {
        Arc::new(Self {
            exports,
            max_clients,
            clients: AtomicUsize::new(0),
            sockets: Mutex::new(Vec::new()),
            stopping: AtomicBool::new(false),
            budget: Arc::new(Budget::new()),
        })
    }

    /// Serves one connection until it ends; for tests, socket activation and callers with sockets of their own.
    ///
    /// # Errors
    /// The connection broke or the client broke the protocol. Its requests up to then are done.
    pub fn serve(&self, socket: &Arc<Socket>) -> Result<()> {
        socket.tune();
        socket.set_timeout(Some(HANDSHAKE_TIMEOUT)).map_err(handshake::lost)?;
        let Some(agreement) = handshake::negotiate(socket, &self.exports)? else { return Ok(()) };
        socket.set_timeout(None).map_err(handshake::lost)?;
        session::run(socket, agreement, &self.budget)
    }

    /// Starts to accept connections in the background.
    ///
    /// # Errors
    /// No threads left.
    pub fn start(self: &Arc<Self>, listener: Listener) -> Result<ServerHandle> {
        let (server, listener) = (Arc::clone(self), Arc::new(listener));
        let accepting = Arc::clone(&listener);
        let thread = std::thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || server.accept_all(&accepting))
            .map_err(|source| Error::Io { operation: "start a thread".into(), source })?;
        Ok(ServerHandle { server: Arc::clone(self), listener, thread: Some(thread) })
    }

    fn accept_all(self: &Arc<Self>, listener: &Listener) {
        while !self.stopping.load(Ordering::Acquire) {
            match listener.accept() {
                Ok(_) if self.stopping.load(Ordering::Acquire) => return,
                Ok(socket) => self.admit(socket),
                Err(error) => {
                    if self.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    tracing::warn!("cannot accept an NBD client: {error}");
                    // Out of descriptors, for one: there will be some when a client leaves.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: Socket) {
        if self.clients.fetch_add(1, Ordering::AcqRel) >= self.max_clients {
            self.clients.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("an NBD client is turned away: {} are connected", self.max_clients);
            return;
        }
        let socket = Arc::new(socket);
        {
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.retain(|socket| socket.strong_count() > 0);
            sockets.push(Arc::downgrade(&socket));
        }
        let server = Arc::clone(self);
        let work = move || {
            match server.serve(&socket) {
                Ok(()) => tracing::debug!("an NBD client left"),
                Err(error) if is_hang_up(&error) => tracing::debug!("an NBD client hung up: {error}"),
                Err(error) => tracing::warn!("an NBD connection ended: {error}"),
            }
            server.clients.fetch_sub(1, Ordering::AcqRel);
        };
        if let Err(error) = std::thread::Builder::new().name("nbd-client".into()).spawn(work) {
            self.clients.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("cannot serve an NBD client: {error}");
        }
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }
}

/// Whether a client just went away, which many do without a word.
fn is_hang_up(error: &Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// A server that accepts connections; dropping it ends them all and returns when their requests are done.
#[derive(Debug)]
pub struct ServerHandle {
    server: Arc<Server>,
    listener: Arc<Listener>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ServerHandle {
    /// The TCP port listened on, if it is one.
    pub fn port(&self) -> Option<u16> {
        self.listener.port()
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.server.stopping.store(true, Ordering::Release);
        self.listener.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        let sockets = std::mem::take(&mut *self.server.sockets.lock().unwrap_or_else(PoisonError::into_inner));
        for socket in sockets {
            if let Some(socket) = socket.upgrade() {
                socket.shut_down();
            }
        }
        for _ in 0..1000 {
            if self.server.clients() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
