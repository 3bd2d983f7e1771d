//! What a node does with real disks, sockets, interfaces and processes. The decisions are in the crates without I/O that it
//! drives (`mirror`) and in pure functions (`segment/plan.rs`); machines, chips and CPUs are not known here.

pub mod mirror;
pub mod segment;
