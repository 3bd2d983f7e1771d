//! Images as users name them: a file name, a `json:` description, an NBD address or QEMU's key=value options, with a format
//! that is given or found out, opened with everything below them: files, data files, backing chains, keys.

mod create;
mod luks;
mod open;
mod options;
mod probe;
mod spec;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use create::{CreateRequest, FormatOptions, create};
pub use open::{Image, OpenMode, open};
pub use options::{KeyValues, parse_size};
pub use probe::probe;
pub use spec::{ImageSpec, Protocol};
pub use window::Window;

use crate::crypto::Secret;
use crate::{Error, Result};

/// What the bytes of a file mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// The disk's bytes themselves.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
    /// A LUKS volume.
    Luks,
}

impl Format {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Qcow2, Self::Luks];

    /// The name as qemu-img spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Luks => "luks",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|format| format.name() == name);
        known.ok_or_else(|| Error::Invalid(format!("Unknown file format '{name}'")))
    }
}

/// Secrets by the identifiers that options name them by.
#[derive(Debug, Clone, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Adds one; a second of the same name is an error.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add(&mut self, id: &str, secret: Secret) -> Result<()> {
        match self.0.insert(id.into(), secret) {
            None => Ok(()),
            Some(_) => Err(Error::Secret(format!("attempt to add duplicate property '{id}' to object"))),
        }
    }

    /// The secret of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, id: &str) -> Result<&Secret> {
        let missing =
            || Error::Secret(format!("No secret with id '{id}': give it with --object secret,id={id},file=…"));
        self.0.get(id).ok_or_else(missing)
    }
}

/// How the host's page cache is used (qemu-img's `-t` and `-T`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// Through the cache; flushes reach the disk.
    #[default]
    Writeback,
    /// Around the cache.
    None,
    /// Through the cache; every write reaches the disk.
    WriteThrough,
    /// Around the cache; every write reaches the disk.
    DirectSync,
    /// Through the cache; flushes do nothing.
    Unsafe,
}

impl FromStr for Cache {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "writeback" => Ok(Self::Writeback),
            "none" | "off" => Ok(Self::None),
            "writethrough" => Ok(Self::WriteThrough),
            "directsync" => Ok(Self::DirectSync),
            "unsafe" => Ok(Self::Unsafe),
            _ => Err(Error::Invalid(format!(
                "Invalid cache option: {name} (none, writeback, writethrough, directsync or unsafe)"
            ))),
        }
    }
}

impl Cache {
    pub(crate) fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::DirectSync)
    }

    pub(crate) fn writes_through(self) -> bool {
        matches!(self, Self::WriteThrough | Self::DirectSync)
    }
}
