//! The process that answers DHCP and DNS for a host's segments: started by `ferro net up` when everything else stands, ended
//! by `down`. The answers are [`ferro_net`]'s; here are sockets, files and the process.

mod dhcp;
mod dns;
mod leases;
pub mod settings;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ferro_net::dhcp::Lease;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use self::settings::Services;
use super::{Error, Result, port};

const SETTINGS: &str = "services.json";
/// Held while the process runs; has its number.
const LOCK: &str = "services.lock";
const LOG: &str = "services.log";
/// What the process says when it answers.
const READY: &str = "ready";
/// How long it may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Where leases are kept when the rest is in `state`: where a restart of the host leaves them, if nothing else was said.
#[must_use]
pub fn lease_folder(state: &Path) -> PathBuf {
    if state == Path::new("/run/ferro") { "/var/lib/ferro/leases".into() } else { state.join("leases") }
}

/// A lease, and what is known of its card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseStatus {
    /// The segment.
    pub segment: String,
    /// The lease.
    #[serde(flatten)]
    pub lease: Lease,
    /// The name by which the card is known.
    pub name: Option<String>,
    /// Whether it holds.
    pub holds: bool,
}

/// All leases of the segments that are up, also those that have ended.
///
/// # Errors
/// Files that can't be read.
pub fn leases(state: &Path) -> Result<Vec<LeaseStatus>> {
    let settings = settings(state)?;
    let now = now();
    let ports = port::list(state)?;
    let mut all = vec![];
    for segment in &settings.segments {
        let config = segment.dhcp(port::names(&ports, &segment.name));
        for lease in kept(state, &segment.name)? {
            let name = config.name_of(lease.mac).map(str::to_owned).or_else(|| lease.hostname.clone());
            all.push(LeaseStatus { segment: segment.name.clone(), holds: lease.holds(now), lease, name });
        }
    }
    Ok(all)
}

/// The leases of one segment.
pub(super) fn kept(state: &Path, segment: &str) -> Result<Vec<Lease>> {
    let folder = lease_folder(state);
    leases::read(&folder, segment).map_err(|error| Error::host(format!("read leases in {}", folder.display()), error))
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn settings(state: &Path) -> Result<Services> {
    let path = state.join(SETTINGS);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| Error::Memory { path, source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Services::default()),
        Err(error) => Err(Error::host(format!("read {}", path.display()), error)),
    }
}

/// The process that holds the lock, if one does.
fn running(state: &Path) -> Option<Pid> {
    let mut file = File::open(state.join(LOCK)).ok()?;
    if !matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// Whether the process runs.
pub(super) fn is_running(state: &Path) -> bool {
    running(state).is_some()
}

/// Starts the process anew with these settings; it answers when this returns.
///
/// # Errors
/// Ports that others have, another DHCP server on an uplink; nothing runs then.
pub(super) fn start(state: &Path, services: &Services) -> Result<()> {
    stop(state)?;
    let fail = |error| Error::host("start the process for DHCP and DNS", error);
    let text = serde_json::to_vec_pretty(services).map_err(|error| fail(error.into()))?;
    std::fs::write(state.join(SETTINGS), text).map_err(fail)?;
    let log = File::create(state.join(LOG)).map_err(fail)?;
    let mut child = Command::new(std::env::current_exe().map_err(fail)?)
        .args(["net", "serve", "--state"])
        .arg(state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(fail)?;
    let mut told = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut told).map_err(fail)?;
    }
    if told.trim() == READY {
        return Ok(());
    }
    // It said why, and ends.
    let _ = child.kill();
    let _ = child.wait();
    let log = std::fs::read_to_string(state.join(LOG)).unwrap_or_default();
    let last = log.trim_end().lines().last().unwrap_or("it ended without a word");
    Err(Error::Service(last.trim_start_matches("ferro: ").trim_start_matches("error: ").to_owned()))
}

/// Ends the process, if it runs.
///
/// # Errors
/// It can't be ended.
pub(super) fn stop(state: &Path) -> Result<()> {
    let begin = Instant::now();
    while let Some(process) = running(state) {
        let signal = if begin.elapsed() < ENDING / 2 { Signal::TERM } else { Signal::KILL };
        // It may be gone by now.
        let _ = kill_process(process, signal);
        if begin.elapsed() > ENDING {
            let problem = format!("process {} can't be ended", process.as_raw_nonzero());
            return Err(Error::Service(problem));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Name servers of the host itself.
fn own_resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = |line: &str| line.strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(server).collect()
}

/// The process itself: answers until it is ended. Says that it is ready on standard output, which is closed then.
///
/// # Errors
/// Ports that others have, another DHCP server, no right to.
pub fn serve(state: &Path) -> Result<()> {
    let services = settings(state)?;
    let told = |error| Error::host(format!("hold {}", state.join(LOCK).display()), error);
    let mut lock = File::options().create(true).truncate(false).write(true).open(state.join(LOCK)).map_err(told)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Busy(state.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => return Err(told(error)),
    }
    lock.set_len(0).and_then(|()| lock.rewind()).map_err(told)?;
    write!(lock, "{}", std::process::id()).and_then(|()| lock.flush()).map_err(told)?;
    // A process of its own: what ends the command that started it doesn't end it.
    let _ = ferro_sys::daemon::new_session();

    let (updates, received) = tokio::sync::mpsc::channel(1024);
    let mut workers = vec![];
    for (index, segment) in services.segments.iter().enumerate() {
        if segment.dhcp.is_some() || !segment.reservations.is_empty() {
            workers.push(dhcp::Worker::open(state, index, segment, updates.clone())?);
        }
    }
    let answering = dns::Answering::open(&services, &own_resolvers())?;
    for worker in workers {
        let spawned = std::thread::Builder::new().name("dhcp".into()).spawn(move || worker.work());
        spawned.map_err(|error| Error::host("start a thread", error))?;
    }
    println!("{READY}");
    let nowhere =
        File::options().write(true).open("/dev/null").map_err(|error| Error::host("open /dev/null", error))?;
    rustix::stdio::dup2_stdout(&nowhere).map_err(|error| Error::host("close standard output", error.into()))?;
    answering.work(received, updates)
}
