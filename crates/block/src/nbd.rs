//! The Network Block Device protocol (fixed newstyle; github.com/NetworkBlockDevice/nbd, doc/proto.md): a server that
//! exports any storage and a client that is storage. The messages themselves are in `wire`, which does no I/O.

mod client;
mod connect;
mod handshake;
mod reply;
mod request;
mod server;
mod session;
mod socket;
pub mod wire;

pub use client::NbdStorage;
pub use connect::{Address, DEFAULT_PORT, Transport};
pub use server::{Export, Listener, Server, ServerHandle};
pub use socket::Socket;
