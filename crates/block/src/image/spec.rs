//! What a user calls an image: which protocol reaches it, where, in which format, with which options. Opens nothing.

use std::path::{Path, PathBuf};

use super::{Format, KeyValues};
use crate::nbd::{Address, DEFAULT_PORT, Transport};
use crate::{Error, Result};

/// How an image's bytes are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// A file or block device.
    File(PathBuf),
    /// An export of an NBD server.
    Nbd(Address),
}

/// An image as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Where the bytes are.
    pub protocol: Protocol,
    /// What they mean; found out if not given.
    pub format: Option<Format>,
    /// The format's options: `encrypt.key-secret`, `backing.…`.
    pub options: KeyValues,
    /// The name as it was given, for messages.
    pub name: String,
}

impl ImageSpec {
    /// Reads a file name, an NBD address or a `json:` description.
    ///
    /// # Errors
    /// A malformed address or description.
    pub fn from_name(name: &str, format: Option<Format>) -> Result<Self> {
        if let Some(json) = name.strip_prefix("json:") {
            let mut spec = Self::from_options(KeyValues::from_json(json)?)?;
            spec.format = spec.format.or(format);
            spec.name = name.into();
            return Ok(spec);
        }
        let protocol = match Address::parse(name) {
            Some(address) => Protocol::Nbd(address?),
            None if name.is_empty() => return Err(Error::Invalid("The file name is empty".into())),
            None => Protocol::File(name.strip_prefix("file:").unwrap_or(name).into()),
        };
        Ok(Self { protocol, format, options: KeyValues::default(), name: name.into() })
    }

    /// Reads `--image-opts`.
    ///
    /// # Errors
    /// No file named, a driver that isn't known, options that aren't.
    pub fn from_image_opts(text: &str) -> Result<Self> {
        let mut spec = Self::from_options(KeyValues::parse(text, Some("driver"))?)?;
        if spec.name.is_empty() {
            spec.name = text.into();
        }
        Ok(spec)
    }

    fn from_options(mut options: KeyValues) -> Result<Self> {
        let driver = options.take("driver");
        let mut file = options.take_below("file");
        // A name alone stands for a file.
        if let Some(name) = options.take("file") {
            file.insert("filename", name);
        }
        let (format, mut below) = match driver.as_deref() {
            Some("file" | "host_device" | "nbd") => (Some(Format::Raw), {
                let mut below = std::mem::take(&mut options);
                below.insert("driver", driver.clone().unwrap_or_default());
                below
            }),
            Some(name) => (Some(name.parse()?), file),
            None => (None, file),
        };
        if let Some(name) = options.take("filename") {
            below.insert("filename", name);
        }
        let (protocol, name) = protocol(&mut below)?;
        // How QEMU does its I/O has no counterpart here.
        for ignored in ["locking", "aio", "cache.direct", "cache.no-flush", "node-name", "read-only", "auto-read-only"]
        {
            below.take(ignored);
            options.take(ignored);
        }
        options.take("discard");
        below.finish()?;
        Ok(Self { protocol, format, options, name })
    }

    /// The image that `name`, found in an image at `self`, means: relative to where that image is.
    ///
    /// # Errors
    /// As for [`ImageSpec::from_name`].
    pub fn relative(&self, name: &str, format: Option<Format>) -> Result<Self> {
        let mut spec = Self::from_name(name, format)?;
        if let (Protocol::File(path), Protocol::File(from)) = (&mut spec.protocol, &self.protocol)
            && path.is_relative()
            && let Some(dir) = from.parent()
        {
            *path = dir.join(&path);
            spec.name = path.display().to_string();
        }
        Ok(spec)
    }

    /// The file's path, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        match &self.protocol {
            Protocol::File(path) => Some(path),
            Protocol::Nbd(_) => None,
        }
    }
}

/// Takes the options of the protocol layer.
fn protocol(options: &mut KeyValues) -> Result<(Protocol, String)> {
    let driver = options.take("driver");
    if driver.as_deref() == Some("nbd") {
        let export = options.take("export").unwrap_or_default();
        let mut server = options.take_below("server");
        for key in ["host", "port", "path"] {
            if let Some(value) = options.take(key) {
                server.insert(key, value);
            }
        }
        server.take("type");
        let transport = match (server.take("path"), server.take("host")) {
            (Some(path), _) => Transport::Unix(path.into()),
            (None, Some(host)) => Transport::Tcp(host, server.take_number("port")?.unwrap_or(DEFAULT_PORT)),
            (None, None) => return Err(Error::Invalid("NBD server address missing".into())),
        };
        let address = Address { transport, export };
        let name = address.to_string();
        return Ok((Protocol::Nbd(address), name));
    }
    if !matches!(driver.as_deref(), None | Some("file" | "host_device")) {
        return Err(Error::Unsupported(format!("Unknown protocol '{}'", driver.unwrap_or_default())));
    }
    let Some(name) = options.take("filename") else {
        return Err(Error::Invalid("A file name is missing: file.filename=…".into()));
    };
    Ok((ImageSpec::from_name(&name, None)?.protocol, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_are_read() {
        let spec = ImageSpec::from_name("dir/disk.img", None).expect("a file");
        assert_eq!(spec.path(), Some(Path::new("dir/disk.img")));
        let spec = ImageSpec::from_name(r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"x"}}"#, None);
        let spec = spec.expect("a description");
        assert_eq!((spec.format, spec.path()), (Some(Format::Qcow2), Some(Path::new("x"))));
        let spec = ImageSpec::from_image_opts("driver=qcow2,encrypt.key-secret=s,file.filename=y").expect("options");
        assert_eq!(spec.options.get("encrypt.key-secret"), Some("s"));
        let spec = ImageSpec::from_image_opts("driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=/s");
        assert!(matches!(spec.expect("an export").protocol, Protocol::Nbd(_)));
        let spec = ImageSpec::from_image_opts("driver=nbd,host=h,port=1,export=e").expect("an export");
        assert_eq!(spec.name, "nbd://h:1/e");
        assert!(ImageSpec::from_image_opts("driver=qcow2").is_err());
        assert!(ImageSpec::from_image_opts("driver=bogus,file.filename=x").is_err());
    }

    #[test]
    fn backing_names_are_relative_to_the_image() {
        let overlay = ImageSpec::from_name("/a/b/top.qcow2", None).expect("a file");
        let base = overlay.relative("base.img", None).expect("a file");
        assert_eq!(base.path(), Some(Path::new("/a/b/base.img")));
        assert_eq!(overlay.relative("/x", None).expect("a file").path(), Some(Path::new("/x")));
        assert!(matches!(overlay.relative("nbd://h/", None).expect("an export").protocol, Protocol::Nbd(_)));
    }
}
