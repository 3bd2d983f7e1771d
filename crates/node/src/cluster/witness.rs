//! The witness as a process: one UDP socket and one file.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferro_cluster::witness::{MAX_MESSAGE, Output, Record, Witness};
use serde::Deserialize;

use super::clock;
use super::config::{ConfigError, is_local, read_key};
use super::store::{self, StoreError};

/// `witness.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The file that remembers; `/var/lib/ferro/witness.json` if not given.
    pub state: Option<PathBuf>,
    /// The pairs that are served.
    #[serde(rename = "pair")]
    pub pairs: Vec<PairConfig>,
}

/// One pair.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PairConfig {
    /// Its name.
    pub name: String,
    /// The file with the secret that it shares with this witness.
    pub secret_file: PathBuf,
}

/// Why a witness can't work.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The settings can't be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// They make no sense.
    #[error("{path}: {1}", path = .0.display())]
    Syntax(PathBuf, #[source] Box<toml::de::Error>),
    /// They can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody can listen there.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The memory can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WitnessConfig {
    /// Reads a file; file names in it are relative to its folder.
    ///
    /// # Errors
    /// It can't be read, or says nonsense.
    pub fn from_file(path: &Path) -> Result<Self, WitnessError> {
        let text = std::fs::read_to_string(path).map_err(|error| WitnessError::Read(path.into(), error))?;
        let mut config: Self =
            toml::from_str(&text).map_err(|error| WitnessError::Syntax(path.into(), Box::new(error)))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.pairs.iter_mut().for_each(|pair| pair.secret_file = folder.join(&pair.secret_file));
        config.state = config.state.map(|state| folder.join(state));
        Ok(config)
    }

    /// Where it remembers.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| "/var/lib/ferro/witness.json".into())
    }
}

/// Serves until `stop` says so; `begun` is called once it listens.
///
/// # Errors
/// Settings, socket or memory that can't be used. A memory that can't be written ends the witness: it mustn't promise what
/// it would forget.
pub fn serve(config: &WitnessConfig, begun: impl FnOnce(), stop: impl Fn() -> bool) -> Result<(), WitnessError> {
    let mut pairs = Vec::new();
    for pair in &config.pairs {
        pairs.push((pair.name.clone(), read_key(&pair.secret_file)?));
    }
    let path = config.state();
    let records: Vec<Record> = store::load(&path)?;
    // Sees early whether it can be written.
    store::save(&path, &records)?;
    let socket = UdpSocket::bind(config.listen).map_err(|error| WitnessError::Listen(config.listen, error))?;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .map_err(|error| WitnessError::Listen(config.listen, error))?;
    if is_local(config.listen.ip()) {
        tracing::warn!("{} is reached from this machine only", config.listen);
    }
    let mut witness = Witness::new(clock::now(), clock::unique(), pairs, &records);
    begun();
    let mut buffer = [0; MAX_MESSAGE + 1];
    while !stop() {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => witness.receive(clock::now(), from, &buffer[..length]),
            // Nobody asked, or somebody who asked is gone.
            Err(_) => continue,
        }
        while let Some(output) = witness.poll() {
            match output {
                Output::Store { version, records } => {
                    store::save(&path, &records)?;
                    for record in &records {
                        tracing::info!("group {:016x}: epoch {} {:?}", record.group, record.epoch, record.holder);
                    }
                    witness.stored(version);
                }
                Output::Send(to, bytes) => {
                    if let Err(error) = socket.send_to(&bytes, to) {
                        tracing::debug!("cannot answer {to}: {error}");
                    }
                }
            }
        }
    }
    Ok(())
}
