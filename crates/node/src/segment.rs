//! Virtual networks on a Linux host: bridges, TAP interfaces, routes and forwarding one by one ([`bridge`], [`tap`],
//! [`route`], [`forwarding`]), or declared as a whole ([`config`], [`plan`], [`bring`]). Everything is idempotent: what is already so is said to be, and left alone. What guests
//! send is no matter of this module: frames pass through the kernel.

mod apply;
pub mod bridge;
pub mod config;
mod error;
mod filter;
mod firewall;
pub mod forwarding;
mod host;
mod nft;
pub mod plan;
pub mod port;
pub mod route;
pub mod rule;
pub mod service;
mod state;
pub mod tap;

pub use apply::{Standing, bring, status};
pub use error::{Error, Result};
pub use host::{Host, Kind, Link, Route};

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It had to be done, and is.
    Done,
    /// It was so before.
    Already,
}
