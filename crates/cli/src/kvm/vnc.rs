//! `-vnc` and the certificates that it names (`-object tls-creds-x509`), as QEMU has them.

use std::collections::HashMap;

use anyhow::{Context, bail};
use ferro_machine::{TlsCredentials, VncTarget};

/// What was said of the screen, until all flags are read.
#[derive(Default)]
pub(super) struct Vnc {
    target: Option<String>,
    credentials: HashMap<String, TlsCredentials>,
}

impl Vnc {
    /// `-vnc`'s value.
    pub(super) fn set(&mut self, value: &str) -> anyhow::Result<()> {
        self.target = (value != "none").then(|| value.to_owned());
        // What is wrong with it is said here, by its flag; the certificates may be named later.
        self.target.iter().try_for_each(|value| without_credentials(value).1.parse::<VncTarget>().map(drop))?;
        Ok(())
    }

    /// `-object`'s value. As in QEMU clients are verified unless `verify-peer=off` is said.
    pub(super) fn object(&mut self, value: &str) -> anyhow::Result<()> {
        let (mut id, mut dir, mut verify_peer) = (None, None, true);
        // A doubled comma stands for one in a name.
        for (number, part) in value.replace(",,", "\0").split(',').enumerate() {
            let part = part.replace('\0', ",");
            match part.split_once('=').unwrap_or(("", &part)) {
                ("" | "qom-type", "tls-creds-x509") if number == 0 => {}
                ("" | "qom-type", _) if number == 0 => bail!("of QEMU's objects there is tls-creds-x509"),
                ("id", name) => id = Some(name.to_owned()),
                ("dir", name) => dir = Some(name.to_owned()),
                ("endpoint", "server") => {}
                ("endpoint", _) => bail!("certificates are the VNC server's: endpoint=server"),
                ("verify-peer", "on" | "yes" | "true") => verify_peer = true,
                ("verify-peer", "off" | "no" | "false") => verify_peer = false,
                _ => bail!("{part}: tls-creds-x509 has id=, dir=, endpoint=server and verify-peer=on|off"),
            }
        }
        let dir = dir.context("dir= is missing: the folder with server-cert.pem and server-key.pem")?.into();
        self.credentials.insert(id.context("id= is missing")?, TlsCredentials { dir, verify_peer });
        Ok(())
    }

    /// The server that the flags stand for.
    pub(super) fn finish(self) -> anyhow::Result<Option<VncTarget>> {
        let Some(value) = self.target else { return Ok(None) };
        let (id, rest) = without_credentials(&value);
        let mut target: VncTarget = rest.parse()?;
        if let Some(id) = id {
            let named = self.credentials.get(id);
            let missing = || format!("-vnc {value}: say -object tls-creds-x509,id={id},dir=DIR,endpoint=server, too");
            target.tls = Some(named.with_context(missing)?.clone());
        }
        Ok(Some(target))
    }
}

/// The name of the certificates, and everything else.
fn without_credentials(value: &str) -> (Option<&str>, String) {
    let (named, rest): (Vec<&str>, Vec<&str>) = value.split(',').partition(|part| part.starts_with("tls-creds="));
    (named.first().and_then(|part| part.strip_prefix("tls-creds=")), rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_by_their_name() {
        let read = |object: &str, vnc: &str| {
            let mut flags = Vnc::default();
            flags.set(vnc)?;
            flags.object(object)?;
            flags.finish()
        };
        let object = "tls-creds-x509,id=tls0,dir=/a,,b,endpoint=server";
        let target = read(object, ":0,tls-creds=tls0,password-file=c,,d").unwrap().unwrap();
        assert_eq!(target.tls, Some(TlsCredentials { dir: "/a,b".into(), verify_peer: true }));
        assert_eq!(target.password_file, Some("c,d".into()));
        let target = read(&format!("{object},verify-peer=off"), ":0,tls-creds=tls0").unwrap().unwrap();
        assert!(!target.tls.unwrap().verify_peer);
        assert_eq!(read(object, ":0").unwrap().unwrap().tls, None);
        assert_eq!(read(object, "none").unwrap(), None);
        assert!(read(object, ":0,tls-creds=other").unwrap_err().to_string().contains("id=other"));
        for wrong in
            ["secret,id=s", "tls-creds-x509,id=x", "tls-creds-x509,dir=d", "tls-creds-x509,id=x,dir=d,endpoint=client"]
        {
            assert!(read(wrong, ":0").is_err(), "{wrong}");
        }
    }
}
