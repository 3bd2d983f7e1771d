//! The raw system calls that no well-kept crate wraps, each as a safe function over owned descriptors and buffers. This
//! crate knows nothing of Ferro: no guest, no image, no network.

mod aligned;
pub mod daemon;
pub mod kick;
pub mod ofd_lock;
pub mod packet;
pub mod ring;
pub mod signals;
pub mod tap;

pub use aligned::AlignedBuffer;
