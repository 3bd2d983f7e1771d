//! The monitor: what can be asked of a running VM ([`Command`], [`Reply`]), and the two languages in which it is asked:
//! [`hmp`] for people, [`qmp`] for programs. Each operation exists once, in whoever executes the commands.

mod command;
pub mod hmp;
pub mod qmp;
mod reply;

pub use command::{
    BlockThrottle, Command, Examination, MemorySpace, MouseButtons, NetworkLink, Screenshot, SnapshotJob, Wave,
};
pub use reply::{
    BalloonInfo, BlockInfo, BlockStats, CaptureInfo, ChardevInfo, CpuInfo, ErrorClass, Event, ImageInfo, JobInfo,
    MappedPage, MouseInfo, NetworkInfo, OperationError, PciInfo, PciRegion, Reply, RunState, SnapshotInfo, VncClient,
    VncInfo,
};

/// What a monitor session wants of whoever carries its bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Bytes for the client.
    Send(Vec<u8>),
    /// A command to execute; the session waits for its result and asks for nothing else meanwhile.
    Execute(Command),
    /// The session is over.
    Close,
}

/// The longest line or message that a client may send, in bytes; the session ends when one is longer.
pub const MAX_INPUT: usize = 1 << 20;
