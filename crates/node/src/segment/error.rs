//! What can go wrong with a host's networks, in words that say what to do. Nothing is decided here.

use std::io;
use std::path::PathBuf;

use rtnetlink::Error as Netlink;

/// What every operation on the host's networks returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a network couldn't be changed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process lacks the right.
    #[error("cannot {action}: it takes root, or the capability CAP_NET_ADMIN")]
    Permission {
        /// What was tried, as a verb phrase.
        action: String,
    },
    /// The kernel refused.
    #[error("cannot {action}: {source}")]
    Host {
        /// What was tried, as a verb phrase.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Netlink itself failed.
    #[error("cannot {action}: netlink: {message}")]
    Netlink {
        /// What was tried, as a verb phrase.
        action: String,
        /// What went wrong.
        message: String,
    },
    /// The name can't be an interface's.
    #[error("{0:?} can't be the name of an interface: 1 to 15 bytes, without '/', ':' and white space")]
    Name(String),
    /// No such interface.
    #[error("there is no interface {0}; `ip link` shows what there is")]
    Unknown(String),
    /// The name belongs to something else.
    #[error("{name} is {found}, not {wanted}: choose another name")]
    AnotherKind {
        /// The interface.
        name: String,
        /// What it is, with an article.
        found: String,
        /// What was wanted, with an article.
        wanted: &'static str,
    },
    /// The TAP interface is plugged into another bridge.
    #[error("{name} is plugged into {bridge}: delete it there first, or choose another name")]
    AnotherBridge {
        /// The interface.
        name: String,
        /// Where it is.
        bridge: String,
    },
    /// The bridge has ports.
    #[error("{bridge} still has {ports}: delete those first")]
    InUse {
        /// The bridge.
        bridge: String,
        /// Its ports, listed.
        ports: String,
    },
    /// The TAP interface belongs to somebody else.
    #[error("{name} belongs to user {found}, not {wanted}: delete it first")]
    AnotherOwner {
        /// The interface.
        name: String,
        /// Its owner's number, or `nobody in particular`.
        found: String,
        /// The wanted owner's number.
        wanted: u32,
    },
    /// No such user.
    #[error("there is no user {0} in /etc/passwd: name one that is there, or give a number")]
    User(String),
    /// A route to there leads elsewhere.
    #[error("{destination} is already routed {found}: delete that route first")]
    AnotherRoute {
        /// Where to.
        destination: String,
        /// By what it goes now.
        found: String,
    },
    /// A route needs a gateway or an interface.
    #[error("a route to {0} needs an interface (--dev br0), a gateway (--via ADDRESS), or both")]
    Nowhere(String),
    /// The program nft isn't installed.
    #[error("the program nft is missing, and segments need their firewall: install nftables")]
    NoNft,
    /// nft refused.
    #[error("nft refused the firewall's rules: {0}")]
    Nft(String),
    /// Somebody else's thing.
    #[error("{what} that Ferro didn't make is in the way: delete it, or declare the segment otherwise")]
    Foreign {
        /// What it is, with an article.
        what: String,
    },
    /// No such segment is up.
    #[error("there is no segment {name} up{}: `ferro net up SEGMENTS.TOML` brings declared ones up", list(known))]
    NoSegment {
        /// The name.
        name: String,
        /// Those that are up, listed.
        known: String,
    },
    /// The interface isn't a port of a segment.
    #[error("{0} is no port of a segment; `ferro net tap delete` deletes any TAP interface")]
    NoPort(String),
    /// Two ports would have one card's address.
    #[error(
        "another port of segment {segment} has the card's address {mac} already: give one of the two VMs another name or mac"
    )]
    SameCard {
        /// The card's address.
        mac: String,
        /// The segment.
        segment: String,
    },
    /// The interface has addresses, which a bridge's port can't use.
    #[error(
        "{interface} has the address {address}, which stops working when it is an uplink: take the address away, or give the segment a vlan"
    )]
    UplinkInUse {
        /// The interface.
        interface: String,
        /// Its address.
        address: String,
    },
    /// The kernel has no VLANs.
    #[error("this kernel has no VLANs (module 8021q), which segment interface {0} needs")]
    NoVlan(String),
    /// The process that answers DHCP and DNS can't do it.
    #[error("DHCP and DNS: {0}")]
    Service(String),
    /// Another process is changing the segments.
    #[error("another process is changing the segments (it holds {})", .0.display())]
    Busy(PathBuf),
    /// The memory of what was made is damaged.
    #[error("{} isn't what Ferro wrote: {source}; what it made has to be deleted by hand", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
}

fn list(known: &str) -> String {
    if known.is_empty() { String::new() } else { format!(" (there are: {known})") }
}

impl Error {
    /// An operating-system error while doing `action`.
    pub(super) fn host(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        if matches!(source.kind(), io::ErrorKind::PermissionDenied) {
            Self::Permission { action }
        } else {
            Self::Host { action, source }
        }
    }

    /// Netlink's error while doing `action`.
    pub(super) fn netlink(action: impl Into<String>, error: &Netlink) -> Self {
        match error {
            Netlink::NetlinkError(message) => Self::host(action, message.to_io()),
            other => Self::Netlink { action: action.into(), message: other.to_string() },
        }
    }
}
