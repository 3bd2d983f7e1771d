//! What keeps a pair of nodes up when one of them dies: heartbeats and membership, arbitration, and the decisions of who
//! runs a resource group when. Sans-I/O: time, packets, randomness and the outcome of everything done to the world come in,
//! what is to be done goes out. Nothing here knows mirrors, VMs, addresses or sockets: a resource is a name that can be
//! started and stopped.
//!
//! Two rules hold whatever happens, given that the clocks of the machines run at about the same pace:
//! a group is started only by a node that has *permission* (the other's word, the witness' lease, a fence that worked), and
//! a node whose permission ends stops the group before it ends. See [`group`].

mod engine;
mod event;
#[doc(hidden)]
pub mod fuzzing;
pub mod group;
pub mod heartbeat;
mod lease;
mod seal;
mod time;
pub mod witness;

pub use engine::{Admin, AdminError, Arbiter, Cluster, Config, Input, Output, Overview};
pub use event::Event;
pub use seal::Key;
pub use time::{NodeId, Time};
