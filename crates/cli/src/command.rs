//! The one definition of the command line, from which parsing, help, completions and man pages come.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{clone, cluster, exit, img, kvm, mirror, monitor, net, node, run};

/// Virtual machines, their disks and networks on one or two machines.
#[derive(Debug, Parser)]
#[command(name = "ferro", version, infer_long_args = true, args_override_self = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Say more about what happens (-vv: details, -vvv: everything)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a virtual machine in this process
    Run(Box<run::RunArgs>),
    /// Run a virtual machine, described by QEMU's flags
    Kvm(kvm::KvmArgs),
    /// Disk images: create, inspect, convert, serve, mount (qemu-img's commands and flags)
    Img {
        #[command(subcommand)]
        command: img::ImgCommand,
    },
    /// Mirrors: a disk kept identical on two machines
    Mirror(mirror::MirrorArgs),
    /// Virtual networks of this host: bridges, TAP interfaces, routes
    Net {
        #[command(subcommand)]
        command: net::NetCommand,
    },
    /// Run this machine as a node: its segments, mirrors, VMs, and its half of a cluster
    Node(node::NodeArgs),
    /// Run a witness: the third machine that says which node of a pair may be active
    Witness(node::WitnessArgs),
    /// The pair: who is active and why; standby, move, maintenance
    Cluster(cluster::ClusterArgs),
    /// Bring an infrastructure up on this node
    Up(cluster::UpArgs),
    /// Stop everything on this node in good order
    Down(cluster::DownArgs),
    /// Say how this node, its groups and its VMs stand
    Status(cluster::StatusArgs),
    /// List the node's VMs
    Ps(cluster::PsArgs),
    /// Start a VM that was stopped
    Start(cluster::VmArgs),
    /// Shut a VM down, and keep it so
    Stop(cluster::StopArgs),
    /// Talk to a VM's serial console
    Console(cluster::VmArgs),
    /// Save a VM's memory and disks under a name
    Snapshot(cluster::SnapshotArgs),
    /// Take a VM back to a snapshot
    Rollback(cluster::SnapshotArgs),
    /// Make another VM of one that doesn't run: its disks and its entry in infra.toml
    Clone(clone::CloneArgs),
    /// Move a VM to the other node
    Migrate(cluster::MigrateArgs),
    /// Command a running VM by its monitor
    Monitor(monitor::MonitorArgs),
    /// Write a picture of a running VM's screen
    Screenshot(monitor::ScreenshotArgs),
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    Man {
        /// The directory they go to
        directory: PathBuf,
    },
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(arguments) => arguments.run(),
            Command::Kvm(arguments) => arguments.run(),
            Command::Img { command } => command.run(),
            Command::Mirror(arguments) => arguments.run(),
            Command::Net { command } => command.run(),
            Command::Node(arguments) => arguments.run(),
            Command::Witness(arguments) => arguments.run(),
            Command::Cluster(arguments) => arguments.run(),
            Command::Up(arguments) => arguments.run(),
            Command::Down(arguments) => arguments.run(),
            Command::Status(arguments) => arguments.run(),
            Command::Ps(arguments) => arguments.run(),
            Command::Start(arguments) => cluster::start(&arguments),
            Command::Stop(arguments) => cluster::stop(&arguments),
            Command::Console(arguments) => cluster::console(&arguments),
            Command::Snapshot(arguments) => cluster::snapshot(arguments, "snapshot"),
            Command::Rollback(arguments) => cluster::snapshot(arguments, "rollback"),
            Command::Clone(arguments) => arguments.run(),
            Command::Migrate(arguments) => arguments.run(),
            Command::Monitor(arguments) => arguments.run(),
            Command::Screenshot(arguments) => arguments.run(),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "ferro", &mut script);
                std::io::stdout().write_all(&script).context("cannot write the completions")?;
                Ok(ExitCode::from(exit::OK))
            }
            Command::Man { directory } => {
                std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
                clap_mangen::generate_to(Self::command(), &directory)
                    .with_context(|| format!("cannot write man pages to {}", directory.display()))?;
                Ok(ExitCode::from(exit::OK))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
