//! A laboratory of network namespaces on one machine: two nodes with a cable between them, a witness, and a client on the
//! lan to which all belong. What was made goes when it is dropped, with every process in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// Runs to the end and returns what it printed.
///
/// # Errors
/// It can't be started, or fails; with its complaints.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Longest wait for anything, to end what hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// The namespaces, by what they are called here.
const MACHINES: [&str; 4] = ["alpha", "beta", "witness", "lan"];

/// The machines, the switch of the lan, and the processes that were started.
pub struct Lab {
    prefix: String,
    /// Where files are, and where programs run.
    pub folder: PathBuf,
    ferro: PathBuf,
    processes: Vec<Child>,
}

fn ip(line: &str) -> anyhow::Result<()> {
    output(Command::new("ip").args(line.split(' '))).map(drop)
}

impl Lab {
    /// Makes the namespaces and wires them: `eth0` on the lan (192.168.1.2, .3, .9 and .50), `eth1` on the nodes' cable
    /// (10.9.0.1 and .2).
    ///
    /// # Errors
    /// No right to make namespaces, no `ip`.
    pub fn new(ferro: &Path, folder: &Path) -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("ferro-lab-{}-{}-", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix, folder: folder.into(), ferro: ferro.into(), processes: vec![] };
        let switch = lab.name("switch");
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add bridge type bridge"))?;
        ip(&format!("-n {switch} link set bridge up"))?;
        for (machine, address) in MACHINES.iter().zip([2, 3, 9, 50]) {
            let name = lab.name(machine);
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link add eth0 type veth peer name {machine} netns {switch}"))?;
            ip(&format!("-n {switch} link set {machine} master bridge up"))?;
            ip(&format!("-n {name} address add 192.168.1.{address}/24 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        let (alpha, beta) = (lab.name("alpha"), lab.name("beta"));
        ip(&format!("-n {alpha} link add eth1 type veth peer name eth1 netns {beta}"))?;
        for (name, address) in [(&alpha, 1), (&beta, 2)] {
            ip(&format!("-n {name} address add 10.9.0.{address}/24 dev eth1"))?;
            ip(&format!("-n {name} link set eth1 up"))?;
        }
        ip(&format!("-n {} route add 10.77.0.0/16 via 192.168.1.1", lab.name("lan")))?;
        Ok(lab)
    }

    /// The namespace of a machine.
    #[must_use]
    pub fn name(&self, machine: &str) -> String {
        format!("{}{machine}", self.prefix)
    }

    /// A program on a machine, in the lab's folder.
    #[must_use]
    pub fn command(&self, machine: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine)]).arg(program).current_dir(&self.folder);
        command
    }

    /// `ferro` on a machine, to its end.
    ///
    /// # Errors
    /// It fails.
    pub fn ferro(&self, machine: &str, line: &str) -> anyhow::Result<String> {
        output(self.command(machine, &self.ferro).args(line.split(' ')))
    }

    /// `ferro` on a machine, in the background; what it says goes to `NAME.log`.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(&mut self, machine: &str, name: &str, line: &str) -> anyhow::Result<()> {
        let log = std::fs::File::options().append(true).create(true).open(self.folder.join(format!("{name}.log")))?;
        let mut command = self.command(machine, &self.ferro);
        command.arg("-v").args(line.split(' ')).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(command.spawn().with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    /// The processes of a machine.
    fn processes_of(&self, machine: &str) -> Vec<String> {
        let listed = Command::new("ip").args(["netns", "pids", &self.name(machine)]).output();
        let listed = listed.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
        listed.split_whitespace().map(str::to_owned).collect()
    }

    /// Kills every process of a machine, until none is left.
    pub fn kill(&self, machine: &str) {
        let start = Instant::now();
        loop {
            let processes = self.processes_of(machine);
            if processes.is_empty() || start.elapsed() > Duration::from_secs(10) {
                return;
            }
            // Some may be gone already.
            let _ = Command::new("kill").arg("-9").args(&processes).stderr(Stdio::null()).status();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Pulls a machine's cables out, or plugs them in.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn cables(&self, machine: &str, plugged: bool) -> anyhow::Result<()> {
        let state = if plugged { "up" } else { "down" };
        ip(&format!("-n {} link set {machine} {state}", self.name("switch")))?;
        ip(&format!("-n {} link set eth1 {state}", self.name(machine)))
    }

    /// A machine that loses its power: its processes, and what its kernel knew.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn power_off(&self, machine: &str) -> anyhow::Result<()> {
        self.cables(machine, false)?;
        self.kill(machine);
        // The kernel's addresses and interfaces go with the power, too.
        let name = self.name(machine);
        let _ = ip(&format!("-n {name} address flush dev eth0 to 192.168.1.1"));
        let listed = output(Command::new("ip").args(["-n", &name, "-o", "link", "show"]))?;
        for line in listed.lines() {
            let interface = line.split(": ").nth(1).unwrap_or_default().split('@').next().unwrap_or_default();
            if interface.starts_with("fv-") || interface.starts_with("ferro-") {
                ip(&format!("-n {name} link delete {interface}"))?;
            }
        }
        output(self.command(machine, "nft").args(["flush", "ruleset"])).map(drop)
    }

    /// Fetches a page as the client on the lan; none if there is no answer soon.
    #[must_use]
    pub fn fetch(&self, url: &str) -> Option<String> {
        let told = self
            .command("lan", "curl")
            .args(["--silent", "--fail", "--max-time", "3", "--noproxy", "*", url])
            .output()
            .ok()?;
        told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned())
    }

    /// The last lines of what the daemons said.
    fn logs(&self) -> String {
        let mut text = String::new();
        for machine in MACHINES {
            let log = std::fs::read_to_string(self.folder.join(format!("{machine}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(25)..].join("\n");
            text += &format!("--- {machine}\n{last}\n");
        }
        text
    }

    /// Waits until `done` says yes.
    ///
    /// # Errors
    /// It doesn't within four minutes.
    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) -> anyhow::Result<Duration> {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() > PATIENCE {
                bail!("it doesn't come: {what}\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(start.elapsed())
    }
}

/// What a node's daemon tells.
impl Lab {
    /// Its status; none if it doesn't answer.
    #[must_use]
    pub fn status(&self, node: &str) -> Option<Value> {
        let line = format!("cluster status --output json --socket {node}/run/node.sock");
        serde_json::from_str(&self.ferro(node, &line).ok()?).ok()
    }

    /// Whether the first group runs on `node`.
    #[must_use]
    pub fn is_active(&self, node: &str) -> bool {
        self.status(node).is_some_and(|status| status["groups"][0]["role"] == "active")
    }

    /// Whether the first group runs on `node`, and the peer has all data of these mirrors.
    #[must_use]
    pub fn is_in_sync(&self, node: &str, mirrors: &[&str]) -> bool {
        let shared = self.status(node).is_some_and(|status| {
            let group = &status["groups"][0];
            group["role"] == "active" && group["data"] == "both" && status["peer"] == "alive"
        });
        let in_sync = |mirror: &&str| {
            let line = format!("mirror status {mirror} --output json --state {node}/state/mirrors");
            let told = self.ferro(node, &line).unwrap_or_default();
            serde_json::from_str::<Value>(&told)
                .is_ok_and(|mirror| mirror["peer-disk"] == "up-to-date" && mirror["out-of-sync"] == 0)
        };
        shared && mirrors.iter().all(in_sync)
    }

    /// Starts a node's daemon with `NODE.toml` and waits until it answers.
    ///
    /// # Errors
    /// It doesn't.
    pub fn start_node(&mut self, node: &str) -> anyhow::Result<()> {
        self.spawn(node, node, &format!("node --config {node}.toml"))?;
        self.until("the daemon answers", |lab| lab.status(node).is_some()).map(drop)
    }

    /// Whether the lan's client reaches an address.
    #[must_use]
    pub fn answers(&self, address: &str) -> bool {
        let ping = self.command("lan", "busybox").args(["ping", "-c", "1", "-W", "1", address]).output();
        ping.is_ok_and(|told| told.status.success())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for machine in MACHINES {
            self.kill(machine);
        }
        for child in &mut self.processes {
            // They were killed.
            let _ = child.wait();
        }
        for machine in MACHINES.iter().chain(&["switch"]) {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(machine)]).status();
        }
    }
}
