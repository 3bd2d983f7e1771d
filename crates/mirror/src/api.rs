//! What goes into an engine and what comes out of it. Types only.

use std::sync::Arc;

use crate::generation::Decision;
use crate::wire::{Message, Payload};

/// Nanoseconds on a clock that never goes back; its origin doesn't matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Written locally and handed to the link.
    A,
    /// Written locally and received by the peer.
    B,
    /// Written on both disks.
    C,
}

/// What to do when more than [`Config::max_in_flight`] writes wait for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Writes wait.
    Block,
    /// The link is dropped; the peer is resynced when it is back.
    FallBehind,
}

/// A mirror's fixed settings. Both nodes have to agree on size and protocol.
#[derive(Clone, Debug)]
pub struct Config {
    /// 0 or 1.
    pub node: u8,
    /// Size of the device in bytes.
    pub size: u64,
    /// When a write is acknowledged.
    pub protocol: Protocol,
    /// Bytes of an extent of the activity log.
    pub extent: u64,
    /// Extents that may be active at once, at most [`crate::LOG_CAPACITY`].
    pub log_extents: usize,
    /// Writes that may wait for the peer.
    pub max_in_flight: usize,
    /// What happens above that.
    pub congestion: Congestion,
    /// Blocks that a resync has in flight when nothing else is to do.
    pub sync_in_flight: usize,
    /// A primary that loses its peer stops until [`Admin::GoAlone`]: somebody has to make sure that the peer isn't
    /// promoted with data that are now growing stale.
    pub fencing: bool,
    /// Seed of the generation identifiers: must differ at every start.
    pub entropy: u64,
}

/// What the consumer of the device asks for. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// Read.
    Read { offset: u64, length: u64 },
    /// Write, write zeroes or trim; with `fua` it is durable when it is acknowledged.
    Write { offset: u64, payload: Payload, fua: bool },
    /// Makes durable what was acknowledged before.
    Flush,
}

/// An operator's or a cluster's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Accept a link.
    Connect,
    /// Drop the link and accept none.
    Disconnect,
    /// Become primary. With a token (an epoch that nobody else holds) the caller vouches that the peer is not ahead.
    Primary {
        /// The token of a cluster.
        epoch: Option<u64>,
        /// Whatever the data are.
        force: bool,
        /// Somebody has made sure that the peer isn't promoted with older data, so that it may go on without it from the
        /// start (see [`Config::fencing`]).
        alone: bool,
    },
    /// Stop being primary.
    Secondary,
    /// A primary that lost its peer may go on (see [`Config::fencing`]).
    GoAlone,
    /// This replica's data are void; the next resync copies everything.
    Invalidate,
    /// In a split brain this side gives way at the next connection.
    DiscardMyData,
    /// Stop resyncing.
    PauseSync,
    /// Go on resyncing.
    ResumeSync,
    /// Compare all blocks and mark those that differ; at the primary, if there is one.
    Verify,
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The data may be stale or incomplete.
    #[error("the data here may be stale or incomplete; promotion needs --force or a token of the cluster")]
    NotUpToDate,
    /// The peer is primary.
    #[error("the peer is primary")]
    PeerIsPrimary,
    /// Somebody had a later epoch.
    #[error("epoch {0} is not above {1}, which was seen here")]
    OldEpoch(u64, u64),
    /// Not in this state.
    #[error("not possible in this state")]
    State,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// This node is not primary.
    #[error("the mirror is not primary here")]
    NotPrimary,
    /// No working disk with the data can be reached.
    #[error("no replica with valid data can be reached")]
    NoData,
    /// Outside the device, empty, or too long.
    #[error("the request is outside the device or longer than allowed")]
    Range,
    /// More requests than the queue holds.
    #[error("the queue is full")]
    QueueFull,
}

/// An operation on the replica's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DataOp {
    /// Read.
    Read { offset: u64, length: u64 },
    /// Write.
    Write { offset: u64, payload: Payload },
    /// Make completed writes durable.
    Flush,
}

/// An operation on the metadata file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MetaOp {
    /// Write.
    Write { offset: u64, bytes: Vec<u8> },
    /// Make completed writes durable.
    Flush,
}

/// The disk failed an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError;

/// What an engine is told.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Input {
    /// The consumer asks; `id` comes back in [`Output::Reply`].
    Request { id: u64, request: Request },
    /// A [`DataOp`] is done; the bytes of a read, none otherwise.
    DataDone { op: u64, result: Result<Arc<[u8]>, DiskError> },
    /// A [`MetaOp`] is done.
    MetaDone { op: u64, result: Result<(), DiskError> },
    /// A fresh connection to the peer.
    LinkUp,
    /// It is gone.
    LinkDown,
    /// From the peer.
    Message(Message),
    /// A command.
    Admin(Admin),
    /// The deadline has passed.
    Timer,
}

/// What happened, for status and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake's conclusion.
    Handshake(Decision),
    /// Sizes, protocols or versions of the two differ.
    Incompatible,
    /// A primary lacks data that only its peer has, so the two can't be one before it gives up being primary.
    PrimaryBehind,
    /// The peer was lost; with [`Config::fencing`] a primary waits for [`Admin::GoAlone`].
    PeerLost,
    /// This node is primary.
    BecamePrimary,
    /// This node is no longer primary.
    BecameSecondary,
    /// Somebody has a later epoch: this primary gave up.
    Fenced,
    /// The local disk failed.
    Detached,
    /// A resync is complete, at either side.
    InSync,
    /// A verify is complete: how many blocks differ.
    Verified(u64),
}

/// What an engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Output {
    /// Do this on the disk. Operations may be done in any order.
    Data { op: u64, request: DataOp },
    /// Do this on the metadata file. Operations may be done in any order.
    Meta { op: u64, request: MetaOp },
    /// Send to the peer, in order.
    Send(Message),
    /// Close the connection; the engine takes it for closed.
    DropLink,
    /// Answer to the consumer: the bytes of a read, none otherwise.
    Reply { id: u64, result: Result<Arc<[u8]>, RequestError> },
    /// Answer to the command that was given.
    AdminReply(Result<(), AdminError>),
    /// For status and logs.
    Event(Event),
}
