//! Network engines: frames, sockets' results and time come in as arguments, frames and wishes go out as results. No
//! sockets, clocks, files or threads are here, and no guest.

#[doc(hidden)]
pub mod fuzzing;
pub mod user;
