//! Where a VNC server listens and what it asks of its clients, as front ends write it.

use std::path::PathBuf;
use std::str::FromStr;

use super::TlsCredentials;
use crate::description::{DescriptionError, refuse, split_options, switch};

/// The TCP port of display 0.
const FIRST_PORT: u16 = 5900;
/// The TCP port of display 0 for WebSockets only.
const FIRST_WEB_PORT: u16 = 5700;

/// Where a VNC server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VncPlace {
    /// A TCP listener at `HOST:PORT`.
    Tcp(String),
    /// A unix socket, which only its owner may open.
    Unix(PathBuf),
}

impl std::fmt::Display for VncPlace {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// Where viewers in web pages connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WebSocketPlace {
    /// Where others do: who speaks first, and speaks HTTP, is served a WebSocket.
    #[default]
    Same,
    /// Nowhere.
    Off,
    /// A TCP listener of their own at `HOST:PORT`.
    Tcp(String),
}

/// A VNC server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VncTarget {
    /// Where it listens.
    pub place: VncPlace,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Nobody is let in before a password was set, in the file or by the monitor.
    pub password: bool,
    /// The certificates with which connections are encrypted; without them none is.
    pub tls: Option<TlsCredentials>,
    /// Where viewers in web pages connect.
    pub websocket: WebSocketPlace,
}

impl VncTarget {
    /// Whether clients need a password.
    pub(crate) fn has_password(&self) -> bool {
        self.password || self.password_file.is_some()
    }
}

impl VncTarget {
    /// Whether just anybody who connects is let in.
    pub(crate) fn is_open_to_all(&self) -> bool {
        !self.has_password() && !self.tls.as_ref().is_some_and(|tls| tls.verify_peer)
    }

    /// The TCP addresses, each `HOST:PORT`.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        let place = match &self.place {
            VncPlace::Tcp(address) => Some(address.as_str()),
            VncPlace::Unix(_) => None,
        };
        let web = match &self.websocket {
            WebSocketPlace::Tcp(address) => Some(address.as_str()),
            _ => None,
        };
        place.into_iter().chain(web)
    }

    /// Where WebSockets are served, by `on`, `off`, `PORT` or `HOST:PORT`.
    fn set_websocket(&mut self, value: &str) -> Result<(), DescriptionError> {
        let place = match &self.place {
            VncPlace::Tcp(address) => address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>().ok())),
            VncPlace::Unix(_) => None,
        };
        let (host, own) = place.unwrap_or(("127.0.0.1", None));
        let (host, port) = match (value, value.rsplit_once(':')) {
            ("off", _) => {
                self.websocket = WebSocketPlace::Off;
                return Ok(());
            }
            ("on", _) => (host, own.map(|port| port - FIRST_PORT + FIRST_WEB_PORT)),
            (_, Some(("", port))) => (host, port.parse().ok()),
            (_, Some((host, port))) => (host, port.parse().ok()),
            (port, None) => (host, port.parse().ok()),
        };
        let Some(port) = port else { return refuse(value, "websocket= is a port, HOST:PORT, on or off") };
        self.websocket = WebSocketPlace::Tcp(format!("{host}:{port}"));
        Ok(())
    }
}

impl FromStr for VncTarget {
    type Err = DescriptionError;

    /// `[HOST]:DISPLAY` or `unix:PATH`, then `[,password-file=F][,password=on][,tls-creds-dir=DIR[,verify-peer=on]]
    /// [,websocket=PORT|off]`. Display 0 is port 5900; without a host it is the loopback address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = split_options(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let place = match (first.strip_prefix("unix:"), first.rsplit_once(':')) {
            (Some(path), _) if !path.is_empty() => VncPlace::Unix(path.into()),
            (None, Some((host, display))) => {
                let port = display.parse::<u16>().ok().and_then(|display| display.checked_add(FIRST_PORT));
                let Some(port) = port else { return refuse(text, "a display is a number: port 5900 is display 0") };
                VncPlace::Tcp(format!("{}:{port}", if host.is_empty() { "127.0.0.1" } else { host }))
            }
            _ => return refuse(text, "VNC listens at [HOST]:DISPLAY or unix:PATH"),
        };
        let websocket = WebSocketPlace::Same;
        let mut target = Self { place, password_file: None, password: false, tls: None, websocket };
        let mut verify_peer = None;
        for part in parts {
            match part.split_once('=').unwrap_or((&part, "on")) {
                ("password", value) => target.password = switch(value)?,
                ("password-file", file) if !file.is_empty() => target.password_file = Some(file.into()),
                ("tls-creds-dir", dir) if !dir.is_empty() => {
                    target.tls = Some(TlsCredentials { dir: dir.into(), verify_peer: false });
                }
                ("verify-peer", value) => verify_peer = Some(switch(value)?),
                ("websocket", value) => target.set_websocket(value)?,
                // QEMU's way to say whether other viewers may stay: here it is theirs to say.
                ("share", "allow-exclusive" | "ignore") => {}
                ("tls-creds", _) => return refuse(&part, "say tls-creds-dir=DIR, the folder of the certificates"),
                ("sasl" | "tls" | "x509" | "x509verify", _) => {
                    return refuse(
                        &part,
                        "viewers are known by password= or by certificate: tls-creds-dir=DIR,verify-peer=on",
                    );
                }
                _ => {
                    let options = "password-file=F, password=on, tls-creds-dir=DIR, verify-peer=on and websocket=PORT";
                    return refuse(&part, format!("VNC's options are {options}"));
                }
            }
        }
        match (&mut target.tls, verify_peer) {
            (Some(tls), Some(verify)) => tls.verify_peer = verify,
            (None, Some(_)) => return refuse(text, "verify-peer= goes with tls-creds-dir="),
            (_, None) => {}
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmDescription;

    #[test]
    fn places_and_options_are_read() {
        let target: VncTarget = ":1,password-file=a,,b".parse().unwrap();
        assert_eq!((target.place, target.password_file), (VncPlace::Tcp("127.0.0.1:5901".into()), Some("a,b".into())));
        let place = |text: &str| text.parse::<VncTarget>().map(|target| target.place.to_string()).ok();
        assert_eq!(place("0.0.0.0:0"), Some("0.0.0.0:5900".into()));
        assert_eq!(place("[::1]:7"), Some("[::1]:5907".into()));
        assert_eq!(place("unix:/run/vnc"), Some("unix:/run/vnc".into()));
        assert!(":0,password".parse::<VncTarget>().unwrap().has_password());
        let target: VncTarget = ":3,tls-creds-dir=/pki,verify-peer=on,websocket".parse().unwrap();
        assert_eq!(target.tls, Some(TlsCredentials { dir: "/pki".into(), verify_peer: true }));
        assert_eq!(target.addresses().collect::<Vec<_>>(), ["127.0.0.1:5903", "127.0.0.1:5703"]);
        let websocket = |value: &str| format!("[::]:0,websocket={value}").parse::<VncTarget>().unwrap().websocket;
        assert_eq!(websocket("80"), WebSocketPlace::Tcp("[::]:80".into()));
        assert_eq!(websocket("127.0.0.1:80"), WebSocketPlace::Tcp("127.0.0.1:80".into()));
        assert_eq!(websocket("off"), WebSocketPlace::Off);
        let wrong = [":0,verify-peer=on", ":0,websocket=x", "unix:/x,websocket=on", ":0,sasl", ":0,tls-creds=tls0"];
        assert!(wrong.iter().all(|wrong| wrong.parse::<VncTarget>().is_err()));
        for wrong in ["", "0", ":", ":x", ":65000", "unix:", ":0,tls", ":0,password=maybe", ":0,password-file="] {
            assert!(wrong.parse::<VncTarget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_screen_shown_to_others_has_a_password_or_has_to_be_asked_for() {
        let with = |vnc: &str, insecure, vga| {
            let vnc = Some(vnc.parse().unwrap());
            VmDescription { kernel: Some("k".into()), vnc, insecure, vga, ..VmDescription::default() }
        };
        assert!(with(":0", false, None).has_vga());
        for (vnc, insecure) in [
            (":0", false),
            ("localhost:0", false),
            ("0.0.0.0:0,password=on", false),
            ("h:0", true),
            ("h:0,tls-creds-dir=d,verify-peer", false),
        ] {
            assert_eq!(with(vnc, insecure, None).check(), Ok(()), "{vnc}");
        }
        for open in ["0.0.0.0:0,tls-creds-dir=d", ":0,websocket=0.0.0.0:80"] {
            assert!(with(open, false, None).check().is_err(), "{open}");
        }
        assert!(with("0.0.0.0:0", false, None).check().unwrap_err().to_string().contains("password-file"));
        assert!(with(":0", false, Some(false)).check().unwrap_err().to_string().contains("--vga"));
    }
}
