//! The monitor of a running VM: carries the bytes of its sessions (the terminal, sockets), executes their commands, and
//! tells programs of events. The languages are `ferro-console`'s.

mod chardevs;
mod core_file;
mod drives;
mod events;
mod inspect;
mod jobs;
mod operator;
mod pages;
mod snapshots;
mod transport;

pub(crate) use ferro_console::monitor::Event;

pub(crate) use chardevs::chardevs;
pub(crate) use drives::{Drive, DriveKind};
pub(crate) use events::Subscribers;
pub(crate) use operator::{Operator, Parts};
pub(crate) use transport::{Language, TerminalSession, listen, terminal_session};
