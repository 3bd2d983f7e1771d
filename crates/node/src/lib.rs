//! What a node does with real disks, sockets and processes. The decisions are in the crates without I/O that it drives
//! (`mirror`); machines, chips and CPUs are not known here.

pub mod mirror;
