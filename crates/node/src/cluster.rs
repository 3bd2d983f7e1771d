//! The cluster's engine in a real process: its settings, UDP sockets, durable records, the witness, and the thread that
//! owns it. Who may run what, and when, is the engine's (`ferro-cluster`); how a VM or a mirror is started is
//! [`crate::resource`]'s.

pub mod clock;
pub mod config;
mod fence;
mod link;
mod owner;
mod store;
pub mod witness;

pub use config::{ClusterConfig, ConfigError, LinkConfig, Span};
pub use fence::FenceConfig;
pub use owner::{Beginning, Command, Event, Handle, Logged, Member, Owner, Permission, Report, StartError};
