//! Virtual networks on a Linux host: bridges, TAP interfaces, routes and forwarding one by one ([`bridge`], [`tap`],
//! [`route`], [`forwarding`]). Everything is idempotent: what is already so is said to be, and left alone. What guests
//! send is no matter of this module: frames pass through the kernel.

pub mod bridge;
mod error;
pub mod forwarding;
mod host;
pub mod route;
pub mod tap;

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
