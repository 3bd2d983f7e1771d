//! Network engines: frames, sockets' results and time come in as arguments, frames and wishes go out as results. No
//! sockets, clocks, files or threads are here, and no guest.

pub mod dhcp;
pub mod dns;

#[doc(hidden)]
pub mod fuzzing;
mod mac;
pub mod user;
pub mod wire;

pub use mac::{MacAddress, MacError, stable_mac};
