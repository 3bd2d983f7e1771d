//! `ferro mirror`: makes mirrors, starts and stops their processes, and gives them commands. The mirror is in `node`.

mod create;
mod show;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};
use ferro_node::mirror::{Command, MirrorConfig, Place, call};

use crate::exit;

/// Where mirrors' files are unless something else is said.
const STATE: &str = "/var/lib/ferro/mirrors";
/// The variable that says something else.
const VARIABLE: &str = "FERRO_MIRROR_STATE";

/// Which directory.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct State {
    /// The directory of the mirrors' files [default: $FERRO_MIRROR_STATE, else /var/lib/ferro/mirrors]
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
}

impl State {
    fn directory(&self) -> PathBuf {
        let directory = self.state.clone().unwrap_or_else(default_state);
        // Only an empty path has no absolute form, and that names no directory either.
        std::path::absolute(&directory).unwrap_or(directory)
    }

    fn place(&self, name: &str) -> anyhow::Result<Place> {
        Ok(Place::new(&self.directory(), name)?)
    }
}

fn default_state() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| STATE.into(), PathBuf::from)
}

/// Flags of all mirror commands.
#[derive(Debug, clap::Args)]
pub(crate) struct MirrorArgs {
    #[command(flatten)]
    state: State,
    #[command(subcommand)]
    command: MirrorCommand,
}

/// A mirror by its name.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The mirror
    name: String,
}

/// A mirror, and whether to insist.
#[derive(Debug, clap::Args)]
pub(crate) struct Forced {
    /// The mirror
    name: String,
    /// Even if that loses something: stale data are promoted, users of the device are cut off
    #[arg(long)]
    force: bool,
}

/// A mirror, and with what right it is promoted.
#[derive(Debug, clap::Args)]
pub(crate) struct Promoted {
    /// The mirror
    name: String,
    /// Even if the data here may be stale or incomplete
    #[arg(long)]
    force: bool,
    /// The fencing token of a cluster: vouches that the peer has nothing newer and stays out; has to be above all seen
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum MirrorCommand {
    /// Describe a new mirror; to be done on both nodes
    Create(create::CreateArgs),
    /// Start the mirror's process
    Up(up::UpArgs),
    /// Stop it in good order
    Down(Forced),
    /// Make this node the one that reads and writes
    Primary(Promoted),
    /// Make it the one that only receives
    Secondary(Forced),
    /// Look for the peer
    Connect(Named),
    /// Leave the peer, and look for none
    Disconnect(Named),
    /// Let a primary that lost its peer and waits (fencing) go on
    GoAlone(Named),
    /// Compare both replicas, and mark what differs
    Verify(Named),
    /// Void the data here; everything is copied from the peer again
    Invalidate(Named),
    /// Halt the resync
    Pause(Named),
    /// Go on with the resync
    Resume(Named),
    /// In a split brain, give up what was written here
    DiscardMyData(Named),
    /// Say how a mirror, or all of them, stand
    Status(show::StatusArgs),
    /// Name the mirrors there are
    List,
    /// Remove a mirror's files; its backing stays
    Delete(Named),
    /// Show the device as a file in a directory, while this node is primary (FUSE)
    Mount {
        /// The mirror
        name: String,
        /// The directory in which disk.raw and partitionN.raw appear
        directory: PathBuf,
    },
}

impl MirrorArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let state = self.state;
        let (name, command) = match self.command {
            MirrorCommand::Create(arguments) => return arguments.run(&state),
            MirrorCommand::Up(arguments) => return arguments.run(&state),
            MirrorCommand::Status(arguments) => return arguments.run(&state),
            MirrorCommand::List => return show::list(&state),
            MirrorCommand::Delete(Named { name }) => return delete(&state, &name),
            MirrorCommand::Mount { name, directory } => return mount(&state.place(&name)?, &directory),
            MirrorCommand::Down(Forced { name, force }) => return up::down(&state.place(&name)?, force),
            MirrorCommand::Primary(Promoted { name, force, epoch }) => {
                (name, Command::Primary { force, epoch, alone: epoch.is_some() })
            }
            MirrorCommand::Secondary(Forced { name, force }) => (name, Command::Secondary { force }),
            MirrorCommand::Connect(Named { name }) => (name, Command::Connect),
            MirrorCommand::Disconnect(Named { name }) => (name, Command::Disconnect),
            MirrorCommand::GoAlone(Named { name }) => (name, Command::GoAlone),
            MirrorCommand::Verify(Named { name }) => (name, Command::Verify),
            MirrorCommand::Invalidate(Named { name }) => (name, Command::Invalidate),
            MirrorCommand::Pause(Named { name }) => (name, Command::Pause),
            MirrorCommand::Resume(Named { name }) => (name, Command::Resume),
            MirrorCommand::DiscardMyData(Named { name }) => (name, Command::DiscardMyData),
        };
        let place = state.place(&name)?;
        MirrorConfig::load(&place)?;
        call(&place, command)?;
        Ok(ExitCode::from(exit::OK))
    }
}

fn delete(state: &State, name: &str) -> anyhow::Result<ExitCode> {
    let place = state.place(name)?;
    MirrorConfig::load(&place)?;
    if call(&place, Command::Status).is_ok() {
        bail!("mirror '{name}' is up: stop it with 'ferro mirror down {name}' first");
    }
    place.delete()?;
    Ok(ExitCode::from(exit::OK))
}

/// The device of a mirror, as an image.
fn uri(place: &Place) -> String {
    format!("nbd+unix:///?socket={}", place.nbd().display())
}

/// What `mirror:NAME` means as an image: the NBD socket of that mirror, if this node is primary.
pub(crate) fn device(name: &str) -> anyhow::Result<String> {
    device_at(&Place::new(&default_state(), name)?)
}

fn device_at(place: &Place) -> anyhow::Result<String> {
    MirrorConfig::load(place)?;
    let status = call(place, Command::Status)?;
    if status["role"] != "primary" {
        bail!("mirror '{0}' is not primary here: 'ferro mirror primary {0}' makes it so", place.name);
    }
    Ok(uri(place))
}

/// `ferro img mount` on the mirror's device.
fn mount(place: &Place, directory: &Path) -> anyhow::Result<ExitCode> {
    let device = device_at(place)?;
    let words = ["ferro", "img", "mount", "-f", "raw", &device];
    let words = words.into_iter().map(Into::into).chain([directory.as_os_str().to_owned()]);
    crate::command::Cli::try_parse_from(words)?.run()
}
