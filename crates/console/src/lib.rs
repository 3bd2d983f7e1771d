//! How people and programs reach a running VM: the monitor in its two languages, and the screen over VNC. Protocols only:
//! bytes come in as arguments, bytes and commands go out as results. No sockets, clocks or threads; no VM is known here.

#[doc(hidden)]
pub mod fuzzing;
pub mod keys;
pub mod monitor;
pub mod rfb;
pub mod websocket;
