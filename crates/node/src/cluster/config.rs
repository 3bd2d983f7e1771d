//! The `[cluster]` part of `node.toml`: which pair, over which links, with which times and which arbiter. Checked as a whole;
//! nothing is opened here but the secret.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferro_cluster::heartbeat::{MAX_LINKS, Timing, TimingError};
use ferro_cluster::{Arbiter, Key, NodeId};
use serde::{Deserialize, Deserializer};

use super::fence::FenceConfig;

/// A span of time, written as `200ms`, `2s`, `1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|error| serde::de::Error::custom(format!("'{text}' is no time such as 200ms or 2s: {error}")))
    }
}

/// What is wrong with a cluster's settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Times that don't fit.
    #[error("cluster: {0}")]
    Timing(#[from] TimingError),
    /// Something else.
    #[error("cluster: {0}")]
    Setting(String),
    /// The secret can't be used.
    #[error("cluster: the secret in {path} can't be used: {problem}", path = .0.display(), problem = .1)]
    Secret(PathBuf, String),
}

/// A way to the peer: one of `peer` (unicast), `broadcast`, `multicast`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Where this node listens.
    pub listen: SocketAddr,
    /// Where the peer listens.
    pub peer: Option<SocketAddr>,
    /// The broadcast address and port of a network.
    pub broadcast: Option<SocketAddr>,
    /// A group and port.
    pub multicast: Option<SocketAddr>,
    /// Only by this interface.
    pub interface: Option<String>,
}

impl LinkConfig {
    /// Where packets go.
    ///
    /// # Errors
    /// Not exactly one destination is given.
    pub fn destination(&self) -> Result<SocketAddr, ConfigError> {
        match (self.peer, self.broadcast, self.multicast) {
            (Some(address), None, None) | (None, Some(address), None) => Ok(address),
            (None, None, Some(address)) if address.ip().is_multicast() => Ok(address),
            (None, None, Some(address)) => {
                Err(ConfigError::Setting(format!("link {}: {address} is no multicast address", self.listen)))
            }
            _ => Err(ConfigError::Setting(format!(
                "link {}: say where the peer is: one of peer, broadcast, multicast",
                self.listen
            ))),
        }
    }
}

/// The `[cluster]` part as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterConfig {
    /// The pair's name, the same on both nodes and in the witness' settings.
    pub name: String,
    /// 0 on one node, 1 on the other.
    pub node: u8,
    /// The file with the secret that both nodes and the witness share.
    pub secret_file: PathBuf,
    /// Ways to the peer.
    #[serde(rename = "link")]
    pub links: Vec<LinkConfig>,
    /// Between two packets.
    pub keepalive: Option<Span>,
    /// Silence that is worth a warning.
    pub warntime: Option<Span>,
    /// Silence that is death.
    pub deadtime: Option<Span>,
    /// How long a node that starts waits for the other.
    pub initdead: Option<Span>,
    /// For how long the witness grants a lease; deadtime if not given.
    pub lease: Option<Span>,
    /// Who decides when the nodes can't see each other. Has to be said.
    pub arbiter: Arbiter,
    /// Where the witness listens.
    pub witness: Option<SocketAddr>,
    /// How the peer is switched off.
    pub fence: Option<FenceConfig>,
}

impl ClusterConfig {
    /// Which node this is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::from_index(self.node).unwrap_or(NodeId::Zero)
    }

    /// The times, with Heartbeat's proportions where only some are given.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let usual = Timing::default();
        let keepalive = self.keepalive.map_or(usual.keepalive, |span| span.0);
        let deadtime = self.deadtime.map_or(keepalive * 10, |span| span.0);
        Timing {
            keepalive,
            warntime: self.warntime.map_or((deadtime / 2).max(keepalive), |span| span.0),
            deadtime,
            initdead: self.initdead.map_or(usual.initdead.max(deadtime * 2), |span| span.0),
        }
    }

    /// For how long a lease is asked for.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease.map_or(self.timing().deadtime, |span| span.0)
    }

    /// Refuses what can't work. File names are taken relative to `folder`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&mut self, folder: &Path) -> Result<(), ConfigError> {
        let wrong = |why: String| Err(ConfigError::Setting(why));
        self.secret_file = folder.join(&self.secret_file);
        if self.name.is_empty() || self.name.len() > 60 {
            return wrong("name has to have 1 to 60 letters".into());
        }
        if self.node > 1 {
            return wrong(format!("node = {}: it is 0 on one machine and 1 on the other", self.node));
        }
        if self.links.is_empty() || self.links.len() > MAX_LINKS {
            return wrong(format!("there have to be 1 to {MAX_LINKS} [[cluster.link]]s"));
        }
        for link in &self.links {
            let destination = link.destination()?;
            if destination.is_ipv4() != link.listen.is_ipv4() {
                return wrong(format!("link {}: {destination} is of the other IP version", link.listen));
            }
        }
        self.timing().check()?;
        if self.lease() < self.timing().keepalive * 2 {
            return wrong(format!("lease ({:?}) has to be at least twice keepalive", self.lease()));
        }
        match self.arbiter {
            Arbiter::Witness if self.witness.is_none() => {
                wrong("arbiter = \"witness\" wants witness = \"HOST:PORT\", where 'ferro witness' listens".into())
            }
            Arbiter::Fence if self.fence.is_none() => {
                wrong("arbiter = \"fence\" wants [cluster.fence], which says how the peer is switched off".into())
            }
            _ => Ok(()),
        }
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// It can't be read, is too short, or everybody may read it.
    pub fn key(&self) -> Result<Key, ConfigError> {
        read_key(&self.secret_file)
    }
}

/// Reads a secret that two or three machines share.
///
/// # Errors
/// It can't be read, is too short, or everybody may read it.
pub(super) fn read_key(path: &Path) -> Result<Key, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let refuse = |problem: String| ConfigError::Secret(path.to_owned(), problem);
    let metadata = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(refuse(format!("others may read it: chmod 600 {}", path.display())));
    }
    let secret = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let secret = secret.trim_ascii();
    Key::new(secret).ok_or_else(|| {
        refuse("it has less than 16 bytes: 'head -c 32 /dev/urandom | base64 > FILE' makes a good one".into())
    })
}

/// Whether only this machine reaches an address.
pub(super) fn is_local(address: IpAddr) -> bool {
    address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClusterConfig, String> {
        let mut config: ClusterConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check(Path::new("/etc/ferro")).map_err(|error| error.to_string())?;
        Ok(config)
    }

    const PLAIN: &str = "name = \"pair\"\nnode = 0\nsecret-file = \"secret\"\narbiter = \"none\"\n";
    const LINK: &str = "[[link]]\nlisten = \"10.0.0.1:694\"\npeer = \"10.0.0.2:694\"\n";

    #[test]
    fn what_is_not_said_follows_from_what_is() {
        let config = read(&format!("{PLAIN}keepalive = \"10ms\"\n{LINK}")).unwrap();
        let timing = config.timing();
        assert_eq!(timing.deadtime, Duration::from_millis(100));
        assert_eq!(timing.warntime, Duration::from_millis(50));
        assert_eq!(config.lease(), timing.deadtime);
        assert_eq!(config.secret_file, Path::new("/etc/ferro/secret"));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        for (text, words) in [
            (PLAIN.to_owned() + "[[link]]\nlisten = \"10.0.0.1:694\"\n", "one of peer, broadcast, multicast"),
            (PLAIN.to_owned() + "keepalive = \"1s\"\ndeadtime = \"1s\"\n" + LINK, "twice keepalive"),
            (PLAIN.to_owned() + "keepalive = \"soon\"\n" + LINK, "no time such as"),
            (PLAIN.replace("none", "witness") + LINK, "where 'ferro witness' listens"),
            (PLAIN.replace("none", "fence") + LINK, "how the peer is switched off"),
            (PLAIN.replace("node = 0", "node = 2") + LINK, "1 on the other"),
            (PLAIN.to_owned() + "[[link]]\nlisten = \"10.0.0.1:1\"\nmulticast = \"10.0.0.2:1\"\n", "no multicast"),
        ] {
            let complaint = read(&text).unwrap_err();
            assert!(complaint.contains(words), "{text}: {complaint}");
        }
    }
}
