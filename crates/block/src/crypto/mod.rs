//! Encryption of disk images: the LUKS version 1 header and its key slots, sector ciphers, the legacy qcow2 AES scheme, and
//! QEMU's standalone `luks` image format. Not the storage formats that embed them, and no key management beyond slots.

mod algorithm;
mod antiforensic;
mod digest;
mod luks;
mod secret;
mod sector;
mod storage;

pub use algorithm::{Cipher, CipherSpec, Hash, IvGen, Mode};
pub use luks::Luks;
pub use secret::Secret;
pub(crate) use sector::SectorCipher;
pub use storage::LuksStorage;

/// How a new LUKS volume encrypts, as `qemu-img`'s `encrypt.*` options say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LuksOptions {
    /// Cipher, mode and initialisation vector of the payload.
    pub spec: CipherSpec,
    /// The hash of key derivation and anti-forensic splitting.
    pub hash: Hash,
    /// Milliseconds of one CPU that one guess at the passphrase shall cost; 1 or more.
    pub iter_time_ms: u64,
    /// The number of iterations itself, instead of measuring for `iter_time_ms`; at least 1000 is used.
    pub iterations: Option<u32>,
}

impl Default for LuksOptions {
    fn default() -> Self {
        Self { spec: CipherSpec::default(), hash: Hash::Sha256, iter_time_ms: 2000, iterations: None }
    }
}

/// What `qemu-img info` says of a LUKS header.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LuksInfo {
    /// The initialisation vector generator: "plain64", "essiv"…
    pub ivgen_alg: String,
    /// The generator's hash, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivgen_hash_alg: Option<String>,
    /// The hash of key derivation.
    pub hash_alg: String,
    /// The cipher: "aes-256".
    pub cipher_alg: String,
    /// The volume's UUID.
    pub uuid: String,
    /// The cipher mode: "xts".
    pub cipher_mode: String,
    /// The eight key slots.
    pub slots: Vec<LuksSlotInfo>,
    /// Bytes from the header's beginning to the first encrypted byte.
    pub payload_offset: u64,
    /// Iterations of the master key's digest.
    pub master_key_iters: u32,
}

/// One key slot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LuksSlotInfo {
    /// Whether a passphrase is in it.
    pub active: bool,
    /// Iterations of key derivation, in an active slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iters: Option<u32>,
    /// Stripes of the anti-forensic split, in an active slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripes: Option<u32>,
    /// Bytes from the header's beginning to the slot's key material.
    pub key_offset: u64,
}
