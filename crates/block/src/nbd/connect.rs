//! Where an NBD server listens and which export is meant, as URIs say it (github.com/NetworkBlockDevice/nbd, doc/uri.md).
//! No protocol.

use std::fmt;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::Socket;
use crate::{Error, Result};

/// The port registered for NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// An export on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where the server listens.
    pub transport: Transport,
    /// The export's name; the empty name is the server's default.
    pub export: String,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A socket on this machine.
    Unix(PathBuf),
    /// Host (a name or an address without brackets) and port.
    Tcp(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Unix(path) => write!(f, "nbd+unix:///{}?socket={}", self.export, path.display()),
            Transport::Tcp(host, port) if host.contains(':') => write!(f, "nbd://[{host}]:{port}/{}", self.export),
            Transport::Tcp(host, port) => write!(f, "nbd://{host}:{port}/{}", self.export),
        }
    }
}

impl Address {
    /// Reads `nbd://host[:port]/export`, `nbd+unix:///export?socket=PATH`, and QEMU's older `nbd:host:port[:exportname=N]`
    /// and `nbd:unix:PATH[:exportname=N]`. None if it is none of these.
    ///
    /// # Errors
    /// An address of one of these forms that is incomplete.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        if let Some(rest) = text.strip_prefix("nbd+unix://") {
            Some(parse_unix(rest).ok_or_else(|| wrong(text, "nbd+unix:///EXPORT?socket=PATH")))
        } else if let Some(rest) = text.strip_prefix("nbd://") {
            Some(parse_tcp(rest).ok_or_else(|| wrong(text, "nbd://HOST:PORT/EXPORT")))
        } else if text.starts_with("nbds://") || text.starts_with("nbds+unix://") {
            Some(Err(Error::Unsupported(format!("{text}: NBD over TLS is not supported"))))
        } else {
            let rest = text.strip_prefix("nbd:")?;
            Some(parse_old(rest).ok_or_else(|| wrong(text, "nbd:HOST:PORT:exportname=NAME")))
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(&self) -> Result<Socket> {
        let connected = match &self.transport {
            Transport::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Transport::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).map(Socket::Tcp),
        };
        let socket = connected.map_err(|source| Error::Io { operation: format!("connect to {self}"), source })?;
        socket.tune();
        Ok(socket)
    }
}

fn wrong(text: &str, form: &str) -> Error {
    Error::Invalid(format!("{text}: not an address of the form {form}"))
}

fn parse_unix(rest: &str) -> Option<Address> {
    let (path, query) = rest.split_once('?')?;
    let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="))?;
    let export = decode(path.strip_prefix('/').unwrap_or(path))?;
    Some(Address { transport: Transport::Unix(decode(socket)?.into()), export })
}

fn parse_tcp(rest: &str) -> Option<Address> {
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    let (place, export) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok())?;
    let host = if host.is_empty() { "localhost" } else { host };
    Some(Address { transport: Transport::Tcp(host.into(), port), export: decode(export)? })
}

fn parse_old(rest: &str) -> Option<Address> {
    let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
    let transport = match place.strip_prefix("unix:") {
        Some("") => return None,
        Some(path) => Transport::Unix(path.into()),
        None => {
            let (host, port) = place.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Transport::Tcp(host.into(), port.parse().ok()?)
        }
    };
    Some(Address { transport, export: export.into() })
}

/// Takes `%41` for `A`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Address {
        Address { transport: Transport::Tcp(host.into(), port), export: export.into() }
    }

    #[test]
    fn all_forms_are_read() {
        let parse = |text| Address::parse(text).expect("an NBD address").expect("a good one");
        assert_eq!(parse("nbd://host:1234/disk"), tcp("host", 1234, "disk"));
        assert_eq!(parse("nbd://host"), tcp("host", DEFAULT_PORT, ""));
        assert_eq!(parse("nbd://[::1]:99/a%20b"), tcp("::1", 99, "a b"));
        assert_eq!(parse("nbd:127.0.0.1:10809:exportname=x"), tcp("127.0.0.1", 10809, "x"));
        let unix = Address { transport: Transport::Unix("/tmp/s".into()), export: "e".into() };
        assert_eq!(parse("nbd+unix:///e?socket=/tmp/s"), unix);
        assert_eq!(parse("nbd:unix:/tmp/s:exportname=e"), unix);
        assert_eq!(parse(&unix.to_string()), unix);
    }

    #[test]
    fn other_names_and_bad_addresses_are_told_apart() {
        assert!(Address::parse("disk.img").is_none());
        for bad in ["nbd+unix:///x", "nbd://host:port/", "nbd:unix:", "nbd:host", "nbd://h/%zz", "nbds://h/"] {
            assert!(Address::parse(bad).expect("an NBD address").is_err(), "{bad}");
        }
    }
}
