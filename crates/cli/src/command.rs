//! The one definition of the command line, from which parsing, help, completions and man pages come.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{exit, img, kvm, mirror, monitor, net, run};

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
