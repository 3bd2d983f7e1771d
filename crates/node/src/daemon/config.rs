//! `node.toml`: what is particular to this machine.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::api::token::{Token, TokenError};
use crate::cluster::{ClusterConfig, ConfigError};

/// Where settings are if nothing else is said.
pub const DEFAULT: &str = "/etc/ferro/node.toml";

/// Why `node.toml` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// It can't be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// It isn't TOML, or has unknown fields.
    #[error("{path}: {1}", path = .0.display())]
    Syntax(PathBuf, #[source] Box<toml::de::Error>),
    /// The cluster's part.
    #[error(transparent)]
    Cluster(#[from] ConfigError),
    /// Mirrors need addresses.
    #[error("{path}: mirror-address and peer-mirror-address say by which addresses the nodes' mirrors talk, as no link has a peer to take them from", path = .0.display())]
    MirrorAddress(PathBuf),
    /// Others could listen in.
    #[error("{path}: the API at {1} isn't encrypted, and others could read its token on the way: listen on 127.0.0.1 and reach it through ssh -L, or say insecure = true in [api]", path = .0.display())]
    Insecure(PathBuf, SocketAddr),
}

/// The API over TCP, beside its socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ApiConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The file with the token that requests have to carry; only its owner may read it.
    pub token_file: PathBuf,
    /// That others on the way may read and change what passes is accepted: HTTP isn't encrypted.
    #[serde(default)]
    pub insecure: bool,
}

impl ApiConfig {
    /// Reads the token.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn token(&self) -> Result<Token, TokenError> {
        Token::read(&self.token_file)
    }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeConfig {
    /// This machine's name.
    pub name: String,
    /// What has to outlive a restart of the machine.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// What doesn't: sockets, process IDs.
    #[serde(default = "run")]
    pub run: PathBuf,
    /// This node's address for mirrors; the first link's if not given.
    pub mirror_address: Option<IpAddr>,
    /// The peer's.
    pub peer_mirror_address: Option<IpAddr>,
    /// The API over TCP; only its socket if not given.
    pub api: Option<ApiConfig>,
    /// The pair; a single node if there is none.
    pub cluster: Option<ClusterConfig>,
}

fn state() -> PathBuf {
    "/var/lib/ferro".into()
}

fn run() -> PathBuf {
    "/run/ferro".into()
}

impl NodeConfig {
    /// Reads and checks a file. File names in it are relative to its folder.
    ///
    /// # Errors
    /// See [`NodeConfigError`].
    pub fn from_file(path: &Path) -> Result<Self, NodeConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| NodeConfigError::Read(path.into(), error))?;
        let mut config: Self =
            toml::from_str(&text).map_err(|error| NodeConfigError::Syntax(path.into(), Box::new(error)))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
        config.state = folder.join(&config.state);
        config.run = folder.join(&config.run);
        if let Some(api) = &mut config.api {
            api.token_file = folder.join(&api.token_file);
            if !api.listen.ip().to_canonical().is_loopback() && !api.insecure {
                return Err(NodeConfigError::Insecure(path.into(), api.listen));
            }
        }
        if let Some(cluster) = &mut config.cluster {
            cluster.check(&folder)?;
            let link = cluster.links.iter().find_map(|link| Some((link.listen.ip(), link.peer?.ip())));
            let own = config.mirror_address.or(link.map(|(own, _)| own));
            let peer = config.peer_mirror_address.or(link.map(|(_, peer)| peer));
            if own.is_none() || peer.is_none() {
                return Err(NodeConfigError::MirrorAddress(path.into()));
            }
            (config.mirror_address, config.peer_mirror_address) = (own, peer);
        }
        Ok(config)
    }

    /// The infrastructure that is up on this node.
    #[must_use]
    pub fn infra(&self) -> PathBuf {
        self.state.join("infra.toml")
    }
    /// The folder of mirrors' settings and metadata.
    #[must_use]
    pub fn mirrors(&self) -> PathBuf {
        self.state.join("mirrors")
    }
    /// The folder of disk images that weren't given a place.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }
    /// The folder of VMs' descriptions.
    #[must_use]
    pub fn vms(&self) -> PathBuf {
        self.state.join("vms")
    }
    /// The socket of the API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("node.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_open_to_others_only_if_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        let read = |listen: &str, more: &str| {
            let text = format!("name = \"a\"\n[api]\nlisten = \"{listen}\"\ntoken-file = \"token\"\n{more}");
            std::fs::write(&path, text).unwrap();
            NodeConfig::from_file(&path)
        };
        let config = read("127.0.0.1:8006", "").unwrap();
        assert_eq!(config.api.unwrap().token_file, folder.path().join("token"));
        read("[::1]:8006", "").unwrap();
        for address in ["0.0.0.0:8006", "192.168.1.2:8006", "[::]:8006", "[::ffff:192.168.1.2]:8006"] {
            let complaint = read(address, "").unwrap_err().to_string();
            assert!(complaint.contains("insecure = true"), "{complaint}");
            read(address, "insecure = true\n").unwrap();
        }
        assert!(matches!(read("localhost", ""), Err(NodeConfigError::Syntax(..))));
    }
}
