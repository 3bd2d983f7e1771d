//! A DHCP server for one network (RFC 2131, options of RFC 2132 and 3442): messages, results of probes and time come in,
//! answers, probes and leases to be kept come out. It is the only server of its network, and a client is a card: what a
//! client calls itself (option 61) isn't looked at, so that copies of one system with one identifier get along.

mod config;
mod lease;
mod message;
mod server;
#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError, Reservation};
pub use lease::Lease;
pub use message::{CLIENT_PORT, SERVER_PORT, discover, is_from_server, offering_server};
pub use server::{Event, Output, Server};
