//! What Ferro does on a host. No engine's rules are here (those are in `net` and `mirror`, without I/O), and no VM.

pub mod segment;
