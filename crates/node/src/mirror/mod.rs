//! A mirror as a process: disks, sockets, threads and commands around the engine of `ferro-mirror`. The rules of
//! replication are the engine's.

mod channel;
mod config;
mod control;
mod device;
mod disk;
mod link;
mod owner;
mod process;

use std::path::{Path, PathBuf};

pub use config::{MirrorConfig, Place, Replication};
pub use control::{Command, call};
pub use process::Mirror;

/// Why a mirror's process or a command to it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No name for files.
    #[error("'{0}' is no name of a mirror: letters, digits, '-', '_' and '.', up to 60")]
    Name(String),
    /// It isn't there.
    #[error("there is no mirror '{0}' ({path}): 'ferro mirror list' shows those there are", path = .1.display())]
    NoMirror(String, PathBuf),
    /// It is there already.
    #[error("mirror '{0}' exists already ({path}): 'ferro mirror delete' removes it", path = .1.display())]
    Exists(String, PathBuf),
    /// The configuration can't be read.
    #[error("{path}: {1}", path = .0.display())]
    Config(PathBuf, String),
    /// A setting that can't work.
    #[error("{0}")]
    Setting(String),
    /// The host refused something on a file.
    #[error("{path}: cannot {1}: {2}", path = .0.display())]
    File(PathBuf, &'static str, #[source] std::io::Error),
    /// An address that others reach, without a secret.
    #[error(
        "{0} is reachable from other machines and without a secret nobody is authenticated: say --secret-file F, the same secret on both nodes, or --insecure"
    )]
    Open(String),
    /// The peer can't be reached.
    #[error("cannot reach {0}: {1}")]
    Address(String, #[source] std::io::Error),
    /// Nobody can listen there.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, #[source] std::io::Error),
    /// The connection broke.
    #[error("cannot {0}: {1}")]
    Link(&'static str, #[source] std::io::Error),
    /// The other end isn't who it should be.
    #[error("{0}")]
    Handshake(&'static str),
    /// The other end says what no mirror says.
    #[error("{0}")]
    Message(String),
    /// The backing disk can't be used.
    #[error(transparent)]
    Disk(#[from] ferro_block::Error),
    /// The metadata can't be used.
    #[error("{path}: {1}", path = .0.display())]
    Metadata(PathBuf, #[source] ferro_mirror::MetadataError),
    /// The mirror doesn't run.
    #[error("mirror '{0}' is not up: start it with 'ferro mirror up {0}'")]
    NotUp(String),
    /// It runs already.
    #[error("mirror '{0}' is up already")]
    Up(String),
    /// It refused the command.
    #[error("mirror '{0}': {1}")]
    Refused(String, String),
}

impl Error {
    fn file(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File(path.into(), operation, source)
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|source| Error::Link("start a thread", source))
}
