//! The VNC server of a running VM: its listener, its clients and their threads. The protocol is `ferro-console`'s.

mod channel;
mod client;
mod server;
mod target;
mod tls;
mod watcher;

pub(crate) use server::{Server, absent};
pub use target::{VncPlace, VncTarget, WebSocketPlace};
pub use tls::TlsCredentials;
