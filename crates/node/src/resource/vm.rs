//! A VM as a resource: a process of its own, started in the background and spoken to by its QMP socket, so that it outlives
//! this daemon and is found again.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Resource, Start, Wish};
use crate::segment;
use crate::segment::port::Wish as PortWish;

/// How long a VM may take for an answer: on a machine that is short of everything it may be long.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel may take to end a process.
const ENDING: Duration = Duration::from_secs(5);

/// How long a guest may take to shut down when nothing else is said.
const SHUTDOWN: Duration = Duration::from_mins(1);

/// The files of one VM.
#[derive(Clone, Debug)]
pub struct VmPlace {
    /// Its name.
    pub name: String,
    /// The folder of descriptions.
    pub descriptions: PathBuf,
    /// The folder of sockets and process IDs.
    pub run: PathBuf,
}

impl VmPlace {
    /// Its description.
    #[must_use]
    pub fn description(&self) -> PathBuf {
        self.descriptions.join(format!("{}.toml", self.name))
    }
    /// The socket that takes QMP.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.run.join(format!("{}.qmp", self.name))
    }
    /// The socket of its serial console.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.run.join(format!("{}.console", self.name))
    }
    /// The file with its process ID.
    #[must_use]
    pub fn pidfile(&self) -> PathBuf {
        self.run.join(format!("{}.pid", self.name))
    }
    /// The file that says that an operator has stopped it.
    #[must_use]
    pub fn halted(&self) -> PathBuf {
        self.descriptions.join(format!("{}.halted", self.name))
    }
    /// What its process says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.run.join(format!("{}.log", self.name))
    }

    /// The processes that run it: one, or one that just starts or ends.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        find_processes(&["run", "--config", &self.description().display().to_string()])
    }
}

/// A VM.
#[derive(Clone, Debug)]
pub struct VmResource {
    place: VmPlace,
    /// Ports of segments that are there while it runs.
    ports: Vec<PortWish>,
    /// Where it is remembered which segments and ports there are.
    state: PathBuf,
    /// An operator had stopped it when it was last looked at.
    was_halted: bool,
}

/// Processes of this program that have these words among their arguments. Zombies are none.
fn find_processes(words: &[&str]) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return vec![] };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| *id != i32::try_from(std::process::id()).unwrap_or(0))
        .filter(|id| {
            let Ok(line) = std::fs::read(format!("/proc/{id}/cmdline")) else { return false };
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.iter().all(|word| arguments.contains(&word.as_bytes()))
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Shuts a VM down that nobody wants any more, and forgets its description.
pub(crate) fn retire(place: &VmPlace) {
    let mut resource = VmResource::new(place.clone(), vec![], PathBuf::new());
    let newest = Arc::new(AtomicU64::new(0));
    let (late, start) = (Arc::clone(&newest), Instant::now());
    let wish = Wish::new(0, newest);
    if !place.processes().is_empty() {
        std::thread::spawn(move || {
            while start.elapsed() < SHUTDOWN {
                std::thread::sleep(Duration::from_secs(1));
            }
            late.store(1, Ordering::Release);
        });
        if resource.stop(false, &wish).is_err() {
            let _ = resource.stop(true, &Wish::new(0, Arc::default()));
        }
    }
    // It may never have been written.
    let _ = std::fs::remove_file(place.description());
    let _ = std::fs::remove_file(place.halted());
}

/// Ends all VMs whose descriptions are in this folder.
pub(crate) fn end_all(descriptions: &Path) {
    let Ok(entries) = std::fs::read_dir(descriptions) else { return };
    let words: Vec<String> = entries.filter_map(|entry| Some(entry.ok()?.path().display().to_string())).collect();
    let find = || words.iter().flat_map(|word| find_processes(&["run", "--config", word])).collect();
    if let Err(pid) = end(find) {
        tracing::error!("process {pid} can't be ended");
    }
}

/// Ends such processes and waits until they are gone.
pub(super) fn end_processes(words: &[&str]) -> Result<(), String> {
    end(|| find_processes(words)).map_err(|left| format!("process {left} can't be ended"))
}

fn end(find: impl Fn() -> Vec<Pid>) -> Result<(), i32> {
    let start = Instant::now();
    loop {
        let found = find();
        let Some(first) = found.first() else { return Ok(()) };
        for pid in &found {
            // It may be gone by now.
            let _ = kill_process(*pid, Signal::KILL);
        }
        if start.elapsed() > ENDING {
            return Err(first.as_raw_nonzero().get());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Gives one command to a QMP socket and returns what it answers.
///
/// # Errors
/// Nobody listens, no answer in time, or a refusal; the message says which.
pub fn qmp(socket: &Path, command: &str, arguments: Value) -> Result<Value, String> {
    let broken = |error: std::io::Error| format!("{}: {error}", socket.display());
    let stream = UnixStream::connect(socket).map_err(broken)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(broken)?);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line).map_err(broken)?;
    for (name, arguments) in [("qmp_capabilities", json!({})), (command, arguments)] {
        writeln!(writer, "{}", json!({ "execute": name, "arguments": arguments })).map_err(broken)?;
        let answer = loop {
            line.clear();
            if reader.read_line(&mut line).map_err(broken)? == 0 {
                return Err(format!("{}: the VM ended", socket.display()));
            }
            let answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
            // Events come in between.
            if answer.get("event").is_none() {
                break answer;
            }
        };
        if let Some(error) = answer.get("error") {
            return Err(error["desc"].as_str().unwrap_or("refused").to_owned());
        }
        if name == command {
            return Ok(answer["return"].clone());
        }
    }
    Ok(Value::Null)
}

impl VmResource {
    /// The VM with its files at `place`, and ports of the segments that `state` knows.
    #[must_use]
    pub fn new(place: VmPlace, ports: Vec<PortWish>, state: PathBuf) -> Self {
        Self { place, ports, state, was_halted: false }
    }

    /// Plugs the VM's cards in, or takes them out.
    fn plug(&self, there: bool) -> Result<(), String> {
        if self.ports.is_empty() {
            return Ok(());
        }
        let told = |error: segment::Error| format!("VM {}: {error}", self.place.name);
        let host = segment::Host::open().map_err(told)?;
        for wish in &self.ports {
            if there {
                segment::port::plug(&host, &self.state, wish).map_err(told)?;
            } else {
                let interface = segment::port::interface(&wish.vm, wish.card);
                segment::port::unplug(&host, &self.state, &interface).map_err(told)?;
            }
        }
        Ok(())
    }

    fn is_halted(&self) -> bool {
        self.place.halted().exists()
    }

    fn launch(&self, wish: &Wish) -> Result<(), String> {
        let name = &self.place.name;
        let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let log = std::fs::File::create(self.place.log()).map_err(|error| format!("VM {name}: its log: {error}"))?;
        let mut child = Command::new(program)
            .args(["run", "--config"])
            .arg(self.place.description())
            .args(["--daemonize", "--pidfile"])
            .arg(self.place.pidfile())
            .arg("--qmp")
            .arg(format!("unix:{}", self.place.qmp().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("VM {name}: {error}"))?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(_)) => {
                    let told = std::fs::read_to_string(self.place.log()).unwrap_or_default();
                    let last = told.trim_end().lines().last().unwrap_or("it didn't start").to_owned();
                    return Err(format!("VM {name}: {}", last.trim_start_matches("ferro: ")));
                }
                Ok(None) if wish.is_void() => {
                    let gone = end(|| self.place.processes());
                    // It was killed.
                    let _ = child.wait();
                    return Err(gone.map_or_else(
                        |pid| format!("VM {name}: process {pid} can't be ended"),
                        |()| format!("VM {name}: its start was given up"),
                    ));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(format!("VM {name}: {error}")),
            }
        }
    }
}

impl Resource for VmResource {
    fn start(&mut self, _how: Start, wish: &Wish) -> Result<(), String> {
        if self.is_halted() || !self.place.processes().is_empty() {
            return Ok(());
        }
        self.plug(true)?;
        self.launch(wish)
    }

    fn stop(&mut self, hard: bool, wish: &Wish) -> Result<(), String> {
        if !hard && qmp(&self.place.qmp(), "system_powerdown", json!({})).is_ok() {
            // Until the guest is down or somebody loses patience.
            while !self.place.processes().is_empty() && !wish.is_void() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if !hard && wish.is_void() {
            return Err(format!("VM {} was still shutting down", self.place.name));
        }
        end(|| self.place.processes())
            .map_err(|pid| format!("VM {}: process {pid} can't be ended", self.place.name))?;
        self.plug(false)
    }

    fn monitor(&mut self) -> Result<(), String> {
        if self.is_halted() {
            self.was_halted = true;
            return Ok(());
        }
        if std::mem::take(&mut self.was_halted) && self.place.processes().is_empty() {
            // The operator wants it back: it hasn't failed.
            self.plug(true)?;
            return self.launch(&Wish::new(0, Arc::default()));
        }
        let name = &self.place.name;
        if self.place.processes().is_empty() {
            return Err(format!("VM {name} doesn't run"));
        }
        qmp(&self.place.qmp(), "query-status", json!({})).map(drop).map_err(|error| format!("VM {name}: {error}"))
    }
}
