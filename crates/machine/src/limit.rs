//! Keeping a VM to its part of the host: by a control group where the host has version 2 of them and lets us, else in this
//! process itself. Disks and network cards are kept to theirs in this process always.

mod cgroup;
mod cpu;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::{debug, info, warn};

use crate::control::Control;
use crate::description::LimitDescription;

const CGROUPS: &str = "/sys/fs/cgroup";

/// What is left to do once the vCPUs are there.
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    cpu: Option<u32>,
}

/// Limits this process, before its threads start.
///
/// # Errors
/// A limit that can't be kept.
pub(crate) fn begin(name: &str, limits: &LimitDescription) -> io::Result<Enforcement> {
    if limits.cpu.is_none() && limits.shares.is_none() && limits.memory.is_none() {
        return Ok(Enforcement::default());
    }
    match cgroup::enter(Path::new(CGROUPS), name, limits) {
        Ok(folder) => {
            info!("limits are kept by the control group {}", folder.display());
            return Ok(Enforcement::default());
        }
        Err(error) => debug!("limits are kept in this process: {error}"),
    }
    if let Some(memory) = limits.memory {
        let limit = Rlimit { current: Some(memory.0), maximum: Some(memory.0) };
        setrlimit(Resource::Data, limit)?;
    }
    if let Some(shares) = limits.shares {
        set_nice(cpu::nice(shares));
    }
    Ok(Enforcement { cpu: limits.cpu })
}

/// Threads that start later have it from this one. Where the scheduler groups processes by session (sched(7), autogroups), it
/// is the group's that counts.
fn set_nice(nice: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        warn!("more than the usual share of processors takes root: {error}");
        return;
    }
    // Not every kernel has it.
    let _ = std::fs::write("/proc/self/autogroup", nice.to_string());
}

impl Enforcement {
    /// Keeps the vCPUs to their time from now on, in a thread of its own.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(crate) fn watch(&self, control: &Arc<Control>) -> io::Result<()> {
        let Some(percent) = self.cpu else { return Ok(()) };
        let control = control.clone();
        std::thread::Builder::new().name("cpu-cap".into()).spawn(move || cpu::watch(percent, &control)).map(drop)
    }
}
