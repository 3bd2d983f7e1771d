//! Where serial ports, monitors and debuggers are reached.

use std::path::PathBuf;
use std::str::FromStr;

use super::{DescriptionError, refuse};

/// Where the serial port or the virtio console leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SerialTarget {
    /// Nowhere.
    #[default]
    None,
    /// The terminal.
    Stdio,
    /// A file that takes the output.
    File(PathBuf),
    /// A unix socket that one client at a time connects to.
    Unix(PathBuf),
    /// A TCP socket, likewise.
    Tcp(String),
}

impl FromStr for SerialTarget {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = value.split_once(['=', ':']).unwrap_or((value, ""));
        match (kind, rest) {
            ("none" | "null", "") => Ok(Self::None),
            ("stdio", "") => Ok(Self::Stdio),
            ("file", path) if !path.is_empty() => Ok(Self::File(path.into())),
            ("unix", path) if !path.is_empty() => Ok(Self::Unix(path.split(',').next().unwrap_or(path).into())),
            ("tcp", address) if address.contains(':') => {
                let address = address.split(',').next().unwrap_or(address);
                let address = if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() };
                Ok(Self::Tcp(address))
            }
            _ => refuse(value, "it leads to stdio, none, file=F, unix=PATH or tcp=HOST:PORT"),
        }
    }
}

/// Where a monitor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorTarget {
    /// The process's standard input and output; together with a serial port there, Ctrl-A c changes between the two.
    Stdio,
    /// A unix socket, which only its owner may open.
    Unix(PathBuf),
    /// A TCP listener at `HOST:PORT`.
    Tcp(String),
}

impl FromStr for MonitorTarget {
    type Err = DescriptionError;

    /// `stdio`, `unix:PATH`, `tcp:HOST:PORT`; without a host it is the loopback address. QEMU's options after it (`,server`,
    /// `,nowait`) say nothing new.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let (place, _) = value.split_once(',').unwrap_or((value, ""));
        let (kind, rest) = place.split_once([':', '=']).unwrap_or((place, ""));
        match (kind, rest.rsplit_once(':')) {
            ("stdio", None) if rest.is_empty() => Ok(Self::Stdio),
            ("unix", _) if !rest.is_empty() => Ok(Self::Unix(rest.into())),
            ("tcp" | "telnet", Some((host, port))) if port.parse::<u16>().is_ok() => {
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => refuse(value, "a monitor is at stdio, unix:PATH or tcp:HOST:PORT"),
        }
    }
}

/// Where a gdb stub listens: `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GdbAddress(pub String);

impl GdbAddress {
    /// Whether only this host reaches it.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }
}

/// Whether only this host reaches a listener at `HOST:PORT`.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for GdbAddress {
    type Err = DescriptionError;

    /// `tcp:HOST:PORT`; without a host it is the loopback address. QEMU's options after it (`,server`) say nothing new.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let address = value.split(',').next().and_then(|text| text.strip_prefix("tcp:"));
        match address.and_then(|address| address.rsplit_once(':')) {
            Some(("", port)) if port.parse::<u16>().is_ok() => Ok(Self(format!("127.0.0.1:{port}"))),
            Some((host, port)) if port.parse::<u16>().is_ok() => Ok(Self(format!("{host}:{port}"))),
            _ => refuse(value, "a debugger connects to tcp:HOST:PORT, such as tcp:127.0.0.1:1234"),
        }
    }
}
