//! A block device mirrored between two nodes, as a state machine: bytes, completions and time come in as arguments,
//! operations and messages go out as results. No sockets, clocks, files or threads; no storage format is known here.

mod api;
mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod generation;
mod metadata;
mod pages;
pub mod wire;

pub use api::{
    Admin, AdminError, Config, Congestion, DataOp, DiskError, Event, Input, MetaOp, Output, Protocol, Request,
    RequestError, Time,
};
pub use engine::{DiskState, Engine, LinkState, MAX_QUEUE, MAX_REQUEST, Status};
pub use metadata::{BLOCK, LOG_CAPACITY};
pub use pages::MetadataError;
