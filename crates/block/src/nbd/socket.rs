//! A connected stream of either kind, read and written through shared references. No protocol.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// On this machine.
    Unix(UnixStream),
    /// Anywhere.
    Tcp(TcpStream),
}

impl Socket {
    /// Ends both directions; whoever waits in a read or write gets to know.
    pub fn shut_down(&self) {
        // It may be shut down already.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// How long a read or write may wait; `None` for ever.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
            Self::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)),
        }
    }

    /// Sends small messages at once, and lets the kernel hold as much as keeps a large transfer going.
    pub fn tune(&self) {
        // Both only make things faster.
        match self {
            Self::Tcp(stream) => {
                let _ = stream.set_nodelay(true);
            }
            Self::Unix(stream) => {
                let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, 4 << 20);
                let _ = rustix::net::sockopt::set_socket_recv_buffer_size(stream, 4 << 20);
            }
        }
    }

    /// Sends all of `buffers`.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&self, mut buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            let sent = match self {
                Self::Unix(stream) => (&*stream).write_vectored(buffers),
                Self::Tcp(stream) => (&*stream).write_vectored(buffers),
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut buffers, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => (&*stream).read(buffer),
            Socket::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => (&*stream).write(buffer),
            Socket::Tcp(stream) => (&*stream).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
