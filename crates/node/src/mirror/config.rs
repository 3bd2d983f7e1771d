//! A mirror's configuration file and the places of its other files. Starts nothing.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ferro_mirror::{Congestion, Engine, LOG_CAPACITY, Protocol};
use serde::{Deserialize, Serialize};

use super::Error;

/// Bytes of an extent of the activity log, at least: what a crash makes the two compare again.
const EXTENT: u64 = 4 << 20;
/// The largest device: its bitmap is kept in memory.
const MAX_SIZE: u64 = 16 << 40;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replication {
    /// Written here and handed to the link.
    A,
    /// Written here and received by the peer.
    B,
    /// Written on both disks.
    C,
}

/// The content of `NAME.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// 0 listens, 1 connects.
    pub node: u8,
    /// Size of the device in bytes.
    pub size: u64,
    /// The image or block device below.
    pub backing: PathBuf,
    /// Its format: raw, qcow2. Never guessed from what is on the disk, as that is the consumer's to write.
    pub format: String,
    /// Where the peer listens, HOST:PORT.
    pub peer: String,
    /// Where this node listens, HOST:PORT.
    pub listen: String,
    /// When a write is acknowledged.
    pub protocol: Replication,
    /// The file with the secret that both nodes share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// An open link between machines is wanted.
    #[serde(default)]
    pub insecure: bool,
    /// A primary that loses its peer waits until somebody lets it go on.
    #[serde(default)]
    pub fencing: bool,
    /// Milliseconds between two signs of life.
    #[serde(default = "keepalive")]
    pub keepalive_ms: u64,
    /// Milliseconds of silence after which the peer counts as lost.
    #[serde(default = "timeout")]
    pub timeout_ms: u64,
    /// Blocks of a resync under way when nothing else is to do.
    #[serde(default = "sync_in_flight")]
    pub sync_in_flight: usize,
}

fn keepalive() -> u64 {
    1000
}
fn timeout() -> u64 {
    5000
}
fn sync_in_flight() -> usize {
    64
}

/// The files of one mirror.
#[derive(Clone, Debug)]
pub struct Place {
    /// The mirror's name.
    pub name: String,
    directory: PathBuf,
}

impl Place {
    /// Where the files of mirror `name` are, in `directory`.
    ///
    /// # Errors
    /// A name that can't be a file's.
    pub fn new(directory: &Path, name: &str) -> Result<Self, Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 60 || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(Error::Name(name.into()));
        }
        Ok(Self { name: name.into(), directory: directory.into() })
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.directory.join(format!("{}.{ending}", self.name))
    }
    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.file("toml")
    }
    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.file("meta")
    }
    /// The socket for commands.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.file("control")
    }
    /// The NBD socket, which is there while this node is primary.
    #[must_use]
    pub fn nbd(&self) -> PathBuf {
        self.file("nbd")
    }
    /// The log of a mirror in the background.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.file("log")
    }

    /// Names of the mirrors in `directory`, in order.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn list(directory: &Path) -> Result<Vec<String>, Error> {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::file("read", directory))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes the mirror's files. The backing stays as it is.
    ///
    /// # Errors
    /// A file that can't be removed.
    pub fn delete(&self) -> Result<(), Error> {
        for file in [self.control(), self.nbd(), self.log(), self.metadata(), self.config()] {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", &file)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl MirrorConfig {
    /// What the configuration file says.
    ///
    /// # Errors
    /// No such mirror, a file that can't be read, or says nonsense.
    pub fn load(place: &Place) -> Result<Self, Error> {
        let path = place.config();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoMirror(place.name.clone(), path));
            }
            other => other.map_err(Error::file("read", &path))?,
        };
        let config: Self = toml::from_str(&text).map_err(|e| Error::Config(path, e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::Setting(why.into()));
        if self.node > 1 {
            return wrong("--node is 0 on one machine and 1 on the other");
        }
        if self.size == 0 || !self.size.is_multiple_of(512) || self.size > MAX_SIZE {
            return wrong("the size is a multiple of 512 bytes, up to 16 TiB");
        }
        if self.keepalive_ms == 0 || self.timeout_ms <= self.keepalive_ms {
            return wrong("timeout_ms has to be longer than keepalive_ms, and both longer than 0");
        }
        if self.sync_in_flight == 0 || self.sync_in_flight > 1024 {
            return wrong("sync_in_flight is 1 to 1024");
        }
        if self.secret_file.is_none() && !self.insecure {
            for address in [&self.peer, &self.listen] {
                super::channel::require_loopback(address)?;
            }
        }
        Ok(())
    }

    /// Writes the configuration and blank metadata of a new mirror.
    ///
    /// # Errors
    /// It exists already; files that can't be written.
    pub fn create(&self, place: &Place) -> Result<(), Error> {
        self.check()?;
        if place.config().exists() || place.metadata().exists() {
            return Err(Error::Exists(place.name.clone(), place.config()));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place.directory)
            .map_err(Error::file("make", &place.directory))?;
        let text = toml::to_string(self).map_err(|e| Error::Config(place.config(), e.to_string()))?;
        // The configuration last: a mirror whose creation was cut short isn't one.
        write_new(&place.metadata(), &Engine::format(&self.engine(0)))?;
        write_new(&place.config(), text.as_bytes())?;
        std::fs::File::open(&place.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Error::file("sync", &place.directory))
    }

    /// The engine's settings.
    #[must_use]
    pub fn engine(&self, entropy: u64) -> ferro_mirror::Config {
        // Extent numbers and the log have room for any size then.
        ferro_mirror::Config {
            node: self.node,
            size: self.size,
            protocol: match self.protocol {
                Replication::A => Protocol::A,
                Replication::B => Protocol::B,
                Replication::C => Protocol::C,
            },
            extent: EXTENT,
            log_extents: LOG_CAPACITY.min(256),
            max_in_flight: 256,
            congestion: Congestion::Block,
            sync_in_flight: self.sync_in_flight,
            fencing: self.fencing,
            entropy,
        }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(Error::file("write", path))
}
