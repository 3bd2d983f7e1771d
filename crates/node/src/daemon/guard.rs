//! The guard: the process that was started as `ferro node`, of which the daemon proper is a child. It starts the daemon
//! again when that dies, which VMs don't notice, and it knows until when this node may run what it runs: if no daemon has
//! prolonged that in time, it ends the VMs and takes the addresses away. It is small, so that it doesn't die.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferro_cluster::Time;
use ipnet::IpNet;
use rustix::process::{Pid, Signal, kill_process};

use super::NodeError;
use super::config::NodeConfig;
use crate::cluster::{Permission, clock};
use crate::infra::{AddressSettings, Infra};
use crate::resource::{address, vm};

/// The variable by which a new daemon learns until when what runs may run.
pub const INHERITED: &str = "FERRO_NODE_PERMISSION";
/// The exit code by which a daemon asks to be started again at once.
pub const AGAIN: u8 = 75;
/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(2);
/// A daemon that dies sooner than this after its start had a short life.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// After so many short lives in a row the next daemon is started a second later.
const SHORT_LIVES: u32 = 3;

/// Writes down which floating addresses there may be, for the guard and for a daemon after this one. Those that an earlier
/// daemon knew and that are declared no more are taken away.
pub(super) fn remember_addresses(config: &NodeConfig, infra: &Infra) -> Result<(), NodeError> {
    for (address, interface) in remembered(config) {
        let is_same = |one: &AddressSettings| one.address == address && one.interface == interface;
        if !infra.addresses.iter().any(is_same)
            && let Err(error) = address::remove(address, &interface)
        {
            tracing::error!("address {address} on {interface}: {error}");
        }
    }
    let addresses: Vec<(IpNet, &str)> =
        infra.addresses.iter().map(|address| (address.address, address.interface.as_str())).collect();
    let path = addresses_file(config);
    let text = serde_json::to_vec(&addresses).unwrap_or_default();
    std::fs::write(&path, text).map_err(|error| NodeError::File(path.clone(), "write", error))
}

fn addresses_file(config: &NodeConfig) -> PathBuf {
    config.run.join("addresses.json")
}

fn remembered(config: &NodeConfig) -> Vec<(IpNet, String)> {
    let text = std::fs::read(addresses_file(config)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Ends everything that a group might run on this node.
fn release(config: &NodeConfig) {
    vm::end_all(&config.vms());
    for (address, interface) in remembered(config) {
        if let Err(error) = address::remove(address, &interface) {
            tracing::error!("address {address} on {interface}: {error}");
        }
    }
}

/// No permission is known, or it has no end.
const ENDLESS: u64 = u64::MAX;
/// The permission is over, and everything was ended.
const OVER: u64 = 0;

/// Runs the daemon as a child, again and again, until it ends in good order or `stop` says so.
///
/// # Errors
/// The daemon can't be started at all: its first start fails.
pub fn watch(
    config: &NodeConfig,
    mut daemon: impl FnMut() -> Command,
    stop: impl Fn() -> bool,
) -> Result<u8, NodeError> {
    let until = Arc::new(AtomicU64::new(ENDLESS));
    let deadtime = config.cluster.as_ref().map_or(Duration::from_secs(1), |cluster| cluster.timing().deadtime);
    let (mut begun, mut short) = (false, 0);
    loop {
        let started = Instant::now();
        let mut command = daemon();
        let inherited = until.load(Ordering::Acquire);
        if inherited != ENDLESS {
            command.env(INHERITED, inherited.to_string());
        }
        let program = PathBuf::from(command.get_program());
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| NodeError::File(program, "start", error))?;
        let known = Arc::clone(&until);
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Ok(permission) = serde_json::from_str::<Permission>(&line) {
                        known.store(permission.until.unwrap_or(ENDLESS), Ordering::Release);
                    }
                }
            });
        }
        let code = attend(config, &mut child, &until, deadtime, &stop);
        if code == Some(AGAIN) {
            begun = true;
            continue;
        }
        if let Some(code) = code {
            // Its own end is in good order only if nothing is left.
            if code == 0 || !begun && started.elapsed() < SHORT_LIFE {
                return Ok(code);
            }
        }
        begun = true;
        tracing::error!("the daemon died; it is started again");
        short = if started.elapsed() < SHORT_LIFE { short + 1 } else { 0 };
        if short > SHORT_LIVES {
            let pause = Instant::now();
            while pause.elapsed() < Duration::from_secs(1) && !stop() {
                expire(config, &until, deadtime);
                std::thread::sleep(TICK);
            }
        }
    }
}

/// Waits for the daemon's end; its exit code, if it had one.
fn attend(
    config: &NodeConfig,
    child: &mut Child,
    until: &AtomicU64,
    deadtime: Duration,
    stop: &impl Fn() -> bool,
) -> Option<u8> {
    let mut asked = false;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code().and_then(|code| u8::try_from(code).ok()),
            Ok(None) => {}
            Err(error) => tracing::error!("the daemon: {error}"),
        }
        if stop() && !asked {
            asked = true;
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It may be gone by now.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        expire(config, until, deadtime);
        std::thread::sleep(TICK);
    }
}

/// Ends everything if the permission is about to be over: later than the daemon itself would, but in time.
fn expire(config: &NodeConfig, until: &AtomicU64, deadtime: Duration) {
    let end = until.load(Ordering::Acquire);
    if end != ENDLESS && end != OVER && clock::now() >= Time(end).before(deadtime / 16) {
        tracing::error!("nobody has prolonged the permission to run: everything is ended");
        release(config);
        until.store(OVER, Ordering::Release);
    }
}
