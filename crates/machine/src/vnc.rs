//! The VNC server of a running VM: its listener, its clients and their threads. The protocol is `ferro-console`'s.

mod client;
mod server;
mod target;
mod watcher;

pub(crate) use server::{Server, absent};
pub use target::{VncPlace, VncTarget};
