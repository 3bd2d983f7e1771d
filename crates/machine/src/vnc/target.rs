//! Where a VNC server listens and what it asks of its clients, as front ends write it.

use std::path::PathBuf;
use std::str::FromStr;

use crate::description::{DescriptionError, refuse, split_options, switch};

/// The TCP port of display 0.
const FIRST_PORT: u16 = 5900;

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

/// A VNC server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VncTarget {
    /// Where it listens.
    pub place: VncPlace,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Nobody is let in before a password was set, in the file or by the monitor.
    pub password: bool,
}

impl VncTarget {
    /// Whether clients need a password.
    pub(crate) fn has_password(&self) -> bool {
        self.password || self.password_file.is_some()
    }
}

impl FromStr for VncTarget {
    type Err = DescriptionError;

    /// `[HOST]:DISPLAY` or `unix:PATH`, then `[,password-file=F][,password=on]`. Display 0 is port 5900; without a host it is
    /// the loopback address.
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
        let mut target = Self { place, password_file: None, password: false };
        for part in parts {
            match part.split_once('=').unwrap_or((&part, "on")) {
                ("password", value) => target.password = switch(value)?,
                ("password-file", file) if !file.is_empty() => target.password_file = Some(file.into()),
                _ => return refuse(&part, "VNC's options are password-file=F and password=on"),
            }
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
        for (vnc, insecure) in [(":0", false), ("localhost:0", false), ("0.0.0.0:0,password=on", false), ("h:0", true)]
        {
            assert_eq!(with(vnc, insecure, None).check(), Ok(()), "{vnc}");
        }
        assert!(with("0.0.0.0:0", false, None).check().unwrap_err().to_string().contains("password-file"));
        assert!(with(":0", false, Some(false)).check().unwrap_err().to_string().contains("--vga"));
    }
}
