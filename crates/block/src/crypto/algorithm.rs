//! The names of ciphers, modes, hashes and initialisation vector generators, as qemu-img and LUKS headers spell them. Not
//! the algorithms.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A block cipher with its key length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES with a 128 bit key.
    Aes128,
    /// AES with a 192 bit key.
    Aes192,
    /// AES with a 256 bit key.
    Aes256,
}

impl Cipher {
    /// Bytes of one key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "aes-{}", self.key_len() * 8)
    }
}

impl FromStr for Cipher {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "aes-128" => Ok(Self::Aes128),
            "aes-192" => Ok(Self::Aes192),
            "aes-256" => Ok(Self::Aes256),
            _ => Err(Error::Unsupported(format!("Cipher algorithm '{name}' is not supported"))),
        }
    }
}

/// How blocks of one sector are chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every block alone; for compatibility only.
    Ecb,
    /// Cipher block chaining.
    Cbc,
    /// IEEE 1619 XTS, with two keys.
    Xts,
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ecb => "ecb",
            Self::Cbc => "cbc",
            Self::Xts => "xts",
        })
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "ecb" => Ok(Self::Ecb),
            "cbc" => Ok(Self::Cbc),
            "xts" => Ok(Self::Xts),
            _ => Err(Error::Unsupported(format!("Cipher mode '{name}' is not supported"))),
        }
    }
}

/// A hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
}

impl Hash {
    /// Bytes of a digest.
    #[allow(clippy::len_without_is_empty)] // A digest is never empty.
    pub fn len(self) -> usize {
        match self {
            Self::Sha1 | Self::Ripemd160 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Ripemd160 => "ripemd160",
        })
    }
}

impl FromStr for Hash {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha224" => Ok(Self::Sha224),
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            "ripemd160" => Ok(Self::Ripemd160),
            _ => Err(Error::Unsupported(format!("Hash algorithm '{name}' is not supported"))),
        }
    }
}

/// How a sector's number becomes its initialisation vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IvGen {
    /// The low 32 bits of the sector number.
    Plain,
    /// The 64 bit sector number.
    Plain64,
    /// The sector number encrypted under this hash of the key.
    Essiv(Hash),
}

impl fmt::Display for IvGen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => formatter.write_str("plain"),
            Self::Plain64 => formatter.write_str("plain64"),
            Self::Essiv(hash) => write!(formatter, "essiv:{hash}"),
        }
    }
}

impl FromStr for IvGen {
    type Err = Error;

    /// Reads "plain", "plain64", "essiv:HASH"; "essiv" alone means SHA-256.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "plain" => Ok(Self::Plain),
            "plain64" => Ok(Self::Plain64),
            "essiv" => Ok(Self::Essiv(Hash::Sha256)),
            _ => match name.strip_prefix("essiv:") {
                Some(hash) => Ok(Self::Essiv(hash.parse()?)),
                None => Err(Error::Unsupported(format!("IV generator '{name}' is not supported"))),
            },
        }
    }
}

/// How sectors are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSpec {
    /// The block cipher.
    pub cipher: Cipher,
    /// The chaining mode.
    pub mode: Mode,
    /// The initialisation vector generator.
    pub ivgen: IvGen,
}

impl Default for CipherSpec {
    fn default() -> Self {
        Self { cipher: Cipher::Aes256, mode: Mode::Xts, ivgen: IvGen::Plain64 }
    }
}

impl CipherSpec {
    /// Bytes of the whole key: twice the cipher's in XTS mode.
    pub fn key_len(self) -> usize {
        self.cipher.key_len() * if self.mode == Mode::Xts { 2 } else { 1 }
    }

    /// The part of a LUKS header's cipher mode field: "xts-plain64".
    pub fn mode_name(self) -> String {
        format!("{}-{}", self.mode, self.ivgen)
    }

    /// Reads a LUKS header's cipher name, mode and key length in bytes.
    ///
    /// # Errors
    /// Names that are not known, and key lengths that don't fit.
    pub fn from_luks(cipher: &str, mode: &str, key_len: usize) -> Result<Self> {
        let unsupported = || Error::Unsupported(format!("LUKS cipher '{cipher}-{mode}' with {key_len} byte keys"));
        let (mode_name, ivgen) = mode.split_once('-').unwrap_or((mode, "plain64"));
        let (mode, ivgen) = (mode_name.parse::<Mode>()?, ivgen.parse::<IvGen>()?);
        if cipher != "aes" {
            return Err(unsupported());
        }
        let one_key = if mode == Mode::Xts { key_len / 2 } else { key_len };
        let cipher = match one_key {
            16 => Cipher::Aes128,
            24 if mode != Mode::Xts => Cipher::Aes192,
            32 => Cipher::Aes256,
            _ => return Err(unsupported()),
        };
        let spec = Self { cipher, mode, ivgen };
        if spec.key_len() == key_len { Ok(spec) } else { Err(unsupported()) }
    }
}
