//! A DNS server for the networks of one host (RFC 1035): what it knows of their hosts it answers itself, with authority, by
//! name and backwards; the rest it asks other servers, for those who may. Questions, answers and time come in, answers and
//! questions to others go out; sockets are elsewhere.

mod cache;
mod forward;
mod local;
mod server;
#[cfg(test)]
mod tests;

pub use local::is_label;
pub use server::{Client, Config, ConfigError, Output, Reply, Segment, Server};
