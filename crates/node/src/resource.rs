//! What a resource group is made of, as a Linux host has it: mirrors, VMs, floating addresses, hooks. Each can be started,
//! stopped and looked at; when that is done isn't decided here.

pub mod address;
pub mod hook;
pub mod mirror;
pub mod vm;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferro_cluster::group::Data;

/// How something is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The fencing token.
    pub epoch: u64,
    /// Mirrors may write without the peer.
    pub alone: bool,
    /// An operator insisted.
    pub force: bool,
}

/// Says whether what is being done is still wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    own: u64,
    newest: Arc<AtomicU64>,
}

impl Wish {
    /// The wish of number `own`; void once `newest` is greater.
    #[must_use]
    pub fn new(own: u64, newest: Arc<AtomicU64>) -> Self {
        Self { own, newest }
    }

    /// Whether something else is wanted by now.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.newest.load(Ordering::Acquire) > self.own
    }
}

/// Something that runs on one node at a time. Failures are told in words that name the thing.
pub trait Resource: Send {
    /// Starts it. That it runs already is no error.
    ///
    /// # Errors
    /// It doesn't run; why.
    fn start(&mut self, how: Start, wish: &Wish) -> Result<(), String>;

    /// Stops it, at once and by any means if `hard`. That it doesn't run is no error.
    ///
    /// # Errors
    /// It may still run; why.
    fn stop(&mut self, hard: bool, wish: &Wish) -> Result<(), String>;

    /// Whether it runs and answers.
    ///
    /// # Errors
    /// It doesn't; what is known.
    fn monitor(&mut self) -> Result<(), String>;
}

/// Mirrored data of a group.
pub trait Mirrored: Send {
    /// How they stand.
    fn look(&mut self) -> Data;

    /// They may be written without the peer.
    fn go_alone(&mut self);
}
