//! What a node does with real disks, sockets, interfaces and processes. The decisions are in the crates without I/O that it
//! drives (`cluster`, `mirror`) and in pure functions (`segment/plan.rs`); machines, chips and CPUs are not known here.

pub mod clone;
pub mod cluster;
pub mod daemon;
pub mod infra;
pub mod mirror;
pub mod resource;
pub mod segment;

pub use ferro_cluster::Time;
