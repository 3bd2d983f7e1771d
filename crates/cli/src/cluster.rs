//! `ferro cluster`, and `ferro up`, `down`, `status`, `ps`, `start`, `stop`, …: what people ask of a node's daemon. Here are
//! flags and words; the daemon does it.

mod migrate;
mod show;

use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use ferro_node::daemon::api::{GroupRequest, InfraRequest, NodeStatus, VmRequest};
use ferro_node::daemon::client::request;
use ferro_node::infra::Infra;
use serde_json::Value;

use crate::exit;
use crate::net::report::Output;
pub(crate) use migrate::MigrateArgs;

/// How long everything on a node may take to stop, or a new daemon to begin.
const PATIENCE: Duration = Duration::from_mins(10);

/// Which daemon is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Daemon {
    /// The socket of the node's daemon
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/ferro/node.sock",
        env = "FERRO_NODE_SOCKET",
        global = true
    )]
    socket: PathBuf,
}

impl Daemon {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        Ok(request(&self.socket, method, path, body)?)
    }

    fn status(&self) -> anyhow::Result<NodeStatus> {
        serde_json::from_value(self.ask("GET", "/v1/status", None)?).context("the daemon is of another version")
    }

    /// Asks for what another daemon begins with, and waits for that.
    fn replace(&self, method: &str, body: Option<&Value>) -> anyhow::Result<ExitCode> {
        let before = self.status()?.pid;
        self.ask(method, "/v1/infra", body)?;
        let start = std::time::Instant::now();
        while self.status().map_or(before, |status| status.pid) == before {
            if start.elapsed() > PATIENCE {
                bail!("it takes too long; 'ferro cluster status' and the daemon's log show what it waits for");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(ExitCode::from(exit::OK))
    }

    fn group(&self, action: &str, request: &GroupRequest) -> anyhow::Result<ExitCode> {
        self.ask("POST", &format!("/v1/groups/{action}"), Some(&serde_json::to_value(request)?))?;
        Ok(ExitCode::from(exit::OK))
    }

    fn vm(&self, name: &str, action: &str, request: &VmRequest) -> anyhow::Result<ExitCode> {
        self.ask("POST", &format!("/v1/vms/{name}/{action}"), Some(&serde_json::to_value(request)?))?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// Flags of all `ferro cluster` commands.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    daemon: Daemon,
    #[command(subcommand)]
    command: ClusterCommand,
}

/// One group, or all.
#[derive(Debug, clap::Args)]
struct OfGroup {
    /// The group [default: all]
    group: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Say how this node, its peer and the groups stand
    Status {
        /// Say it again every second
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Run nothing on this node: what runs moves to the other
    Standby(OfGroup),
    /// End the standby
    Online(OfGroup),
    /// Move a group to the other node, or to the one given
    Move {
        /// The group [default: all]
        group: Option<String>,
        /// The node's number, 0 or 1
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=1))]
        to: Option<u8>,
    },
    /// Start, stop and restart nothing by itself, or again
    Maintenance {
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        state: String,
        /// The group [default: all]
        group: Option<String>,
    },
    /// Start a group here although nobody vouches for its data: what only the other node has is given up
    Promote {
        /// The group [default: all]
        group: Option<String>,
        /// Say that you know what that means
        #[arg(long, required = true)]
        force: bool,
    },
    /// Forget that a group failed here
    Cleanup(OfGroup),
    /// Say what happened and why, the latest last
    Events {
        #[command(flatten)]
        output: Output,
    },
    /// Say why groups run here, there or nowhere, and what to do about it
    Explain,
}

impl ClusterArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let daemon = self.daemon;
        let of = |group: Option<String>| GroupRequest { group, node: None };
        match self.command {
            ClusterCommand::Status { watch, output } => loop {
                let status = daemon.status()?;
                output.value(&status, || show::status(&status))?;
                if !watch {
                    return Ok(ExitCode::from(exit::OK));
                }
                std::thread::sleep(Duration::from_secs(1));
            },
            ClusterCommand::Standby(OfGroup { group }) => daemon.group("standby", &of(group)),
            ClusterCommand::Online(OfGroup { group }) => daemon.group("online", &of(group)),
            ClusterCommand::Move { group, to } => daemon.group("move", &GroupRequest { group, node: to }),
            ClusterCommand::Maintenance { state, group } => daemon.group(&format!("maintenance-{state}"), &of(group)),
            ClusterCommand::Promote { group, force: _ } => daemon.group("promote", &of(group)),
            ClusterCommand::Cleanup(OfGroup { group }) => daemon.group("cleanup", &of(group)),
            ClusterCommand::Events { output } => {
                let events = daemon.ask("GET", "/v1/events", None)?;
                output.value(&events, || show::events(&events))?;
                Ok(ExitCode::from(exit::OK))
            }
            ClusterCommand::Explain => {
                crate::img::print(&show::explain(&daemon.status()?))?;
                Ok(ExitCode::from(exit::OK))
            }
        }
    }
}

/// `ferro up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The infrastructure; on a pair the same file on both nodes
    #[arg(value_name = "INFRA.TOML")]
    file: PathBuf,
    /// Only say whether the file is in order
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    daemon: Daemon,
}

impl UpArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let infra = Infra::from_file(&self.file)?;
        if self.check {
            crate::img::print(&format!("{}: in order\n", infra.name))?;
            return Ok(ExitCode::from(exit::OK));
        }
        let text =
            std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let folder = std::path::absolute(&self.file)?.parent().unwrap_or(Path::new("/")).to_owned();
        let body = serde_json::to_value(InfraRequest { text, folder })?;
        self.daemon.replace("PUT", Some(&body))
    }
}

/// `ferro down`.
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    daemon: Daemon,
}

impl DownArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.daemon.replace("DELETE", None)
    }
}

/// `ferro status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    output: Output,
}

impl StatusArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let status = self.daemon.status()?;
        self.output.value(&status, || show::status(&status) + "\n" + &show::vms(&status))?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// `ferro ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    output: Output,
}

impl PsArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let status = self.daemon.status()?;
        self.output.value(&status.vms, || show::vms(&status))?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// A VM of the node's.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// The VM
    vm: String,
    #[command(flatten)]
    daemon: Daemon,
}

/// A VM, and whether it is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// The VM
    vm: String,
    /// At once, without asking the guest
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// A VM and a snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotArgs {
    /// The VM
    vm: String,
    /// The snapshot's name
    snapshot: String,
    #[command(flatten)]
    daemon: Daemon,
}

/// `ferro start`.
pub(crate) fn start(arguments: &VmArgs) -> anyhow::Result<ExitCode> {
    arguments.daemon.vm(&arguments.vm, "start", &VmRequest::default())
}

/// `ferro stop`.
pub(crate) fn stop(arguments: &StopArgs) -> anyhow::Result<ExitCode> {
    let request = VmRequest { force: arguments.force, snapshot: None };
    arguments.daemon.vm(&arguments.vm, "stop", &request)
}

/// `ferro snapshot` and `ferro rollback`.
pub(crate) fn snapshot(arguments: SnapshotArgs, action: &str) -> anyhow::Result<ExitCode> {
    let request = VmRequest { snapshot: Some(arguments.snapshot), force: false };
    arguments.daemon.vm(&arguments.vm, action, &request)
}

/// `ferro console`: the VM's serial console on this terminal, until Ctrl-].
pub(crate) fn console(arguments: &VmArgs) -> anyhow::Result<ExitCode> {
    const ESCAPE: u8 = 0x1d;
    let status = arguments.daemon.status()?;
    let Some(vm) = status.vms.iter().find(|vm| vm.name == arguments.vm) else {
        bail!("there is no VM '{}': 'ferro ps' lists them", arguments.vm);
    };
    let stream = UnixStream::connect(&vm.console)
        .with_context(|| format!("VM {} is {}: its console {} doesn't answer", vm.name, vm.state, vm.console))?;
    if std::io::stdin().is_terminal() {
        eprintln!("connected to {}; Ctrl-] leaves", vm.name);
    }
    let mut output = stream.try_clone()?;
    let printer = std::thread::spawn(move || {
        // Until either end is closed.
        let _ = std::io::copy(&mut output, &mut std::io::stdout().lock());
    });
    let _raw = ferro_machine::RawTerminal::enter();
    let mut input = stream;
    let mut buffer = [0; 1024];
    loop {
        let length = std::io::stdin().read(&mut buffer)?;
        let typed = &buffer[..length];
        if length == 0 || typed.contains(&ESCAPE) {
            break;
        }
        input.write_all(typed)?;
    }
    // What was typed last may still be answered, where this isn't a person who leaves.
    if !std::io::stdin().is_terminal() {
        std::thread::sleep(Duration::from_millis(300));
    }
    input.shutdown(std::net::Shutdown::Both).ok();
    let _ = printer.join();
    Ok(ExitCode::from(exit::OK))
}
