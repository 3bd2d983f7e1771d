//! Stream sockets of either kind, as servers of this process use them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// How long a client may refuse bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connected client.
pub(crate) trait Client: Read + Write + Send + Sync + Sized + 'static {
    /// The same connection once more.
    fn second(&self) -> io::Result<Self>;
    /// Writing to a client that takes nothing fails after a while, and small writes aren't held back.
    fn limit_writes(&self) -> io::Result<()>;
    /// Ends the connection; whoever reads or writes it is told.
    fn hang_up(&self);
}

impl Client for TcpStream {
    fn second(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn limit_writes(&self) -> io::Result<()> {
        self.set_nodelay(true)?;
        self.set_write_timeout(Some(PATIENCE))
    }
    fn hang_up(&self) {
        // It may have gone by itself.
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Client for UnixStream {
    fn second(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn limit_writes(&self) -> io::Result<()> {
        self.set_write_timeout(Some(PATIENCE))
    }
    fn hang_up(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Listens at a unix socket that only its owner may open.
///
/// # Errors
/// What the host says; also if there is a file that isn't a socket left behind by a VM before.
pub(crate) fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
