//! The LUKS version 1 header and its key slots, after the "LUKS1 On-Disk Format Specification": parsed, made, changed.
//! Reading and writing key material is left to closures; the payload isn't touched.

use zeroize::Zeroizing;

use super::algorithm::{CipherSpec, Hash};
use super::digest::random;
use super::secret::Secret;
use super::sector::SectorCipher;
use super::{LuksInfo, LuksOptions, LuksSlotInfo, antiforensic, digest};
use crate::{Error, Result};

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const SLOTS: usize = 8;
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
const SLOT_INACTIVE: u32 = 0x0000_dead;
/// Stripes of the anti-forensic split in new slots.
const STRIPES: u32 = 4000;
/// Key material begins here in new headers, in sectors, and is aligned to so much.
const MATERIAL_ALIGNMENT: u32 = 8;
const DIGEST_LEN: usize = 20;
/// More rounds than this are taken for an attempt to hang us.
const MAX_ROUNDS: u32 = 100_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    active: bool,
    rounds: u32,
    salt: [u8; 32],
    /// In sectors.
    offset: u32,
    stripes: u32,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    spec: CipherSpec,
    hash: Hash,
    /// In sectors.
    payload: u32,
    digest: [u8; DIGEST_LEN],
    salt: [u8; 32],
    rounds: u32,
    uuid: String,
    slots: [Slot; SLOTS],
}

fn corrupt(problem: impl Into<String>) -> Error {
    Error::Corrupt { format: "luks", problem: problem.into() }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn text(bytes: &[u8]) -> Result<&str> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| corrupt("a name in the header isn't text"))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

impl Luks {
    /// Bytes of the header itself, without key material.
    pub const HEADER_LEN: usize = 592;

    /// Parses a header of [`Luks::HEADER_LEN`] bytes.
    ///
    /// # Errors
    /// What isn't LUKS version 1, breaks a rule, or uses algorithms that aren't supported.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < Self::HEADER_LEN || bytes[..6] != MAGIC {
            return Err(Error::Invalid("Volume is not in LUKS format".into()));
        }
        let version = u16::from_be_bytes([bytes[6], bytes[7]]);
        if version != 1 {
            return Err(Error::Unsupported(format!("LUKS version {version} is not supported")));
        }
        let key_len = be32(bytes, 108);
        let spec = CipherSpec::from_luks(text(&bytes[8..40])?, text(&bytes[40..72])?, key_len as usize)?;
        let slot = |index: usize| {
            let at = 208 + index * 48;
            Slot {
                active: be32(bytes, at) == SLOT_ACTIVE,
                rounds: be32(bytes, at + 4),
                salt: array(bytes, at + 8),
                offset: be32(bytes, at + 40),
                stripes: be32(bytes, at + 44),
            }
        };
        let header = Self {
            spec,
            hash: text(&bytes[72..104])?.parse()?,
            payload: be32(bytes, 104),
            digest: array(bytes, 112),
            salt: array(bytes, 132),
            rounds: be32(bytes, 164),
            uuid: text(&bytes[168..208])?.to_string(),
            slots: std::array::from_fn(slot),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let too_many = |rounds: u32| !(1..=MAX_ROUNDS).contains(&rounds);
        if too_many(self.rounds) {
            return Err(corrupt("the master key's digest has an impossible number of iterations"));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.stripes != STRIPES {
                return Err(corrupt(format!("Keyslot {index} is corrupted (stripes {} != {STRIPES})", slot.stripes)));
            }
            if slot.active && too_many(slot.rounds) {
                return Err(corrupt(format!("Keyslot {index} has an impossible number of iterations")));
            }
            let end = u64::from(slot.offset) + self.material_sectors();
            if slot.offset < 2 || end > u64::from(self.payload) {
                return Err(corrupt(format!("Keyslot {index} is overlapping with the header or the payload")));
            }
        }
        Ok(())
    }

    fn material_len(&self) -> usize {
        self.spec.key_len() * STRIPES as usize
    }

    fn material_sectors(&self) -> u64 {
        self.material_len().div_ceil(512) as u64
    }

    /// Bytes from the header's beginning to the payload.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload) * 512
    }

    /// Bytes that a new header takes with its key material.
    pub fn new_len(options: &LuksOptions) -> u64 {
        let sectors = (options.spec.key_len() * STRIPES as usize).div_ceil(512) as u64;
        let aligned = sectors.next_multiple_of(u64::from(MATERIAL_ALIGNMENT));
        (u64::from(MATERIAL_ALIGNMENT) + aligned * SLOTS as u64) * 512
    }

    /// A new header with one passphrase, written through `write` (bytes, offset from the header's beginning), and the
    /// cipher that goes with it.
    ///
    /// # Errors
    /// Combinations that aren't possible, and errors of `write`.
    pub(crate) fn create(
        options: &LuksOptions,
        secret: &Secret,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<(Self, SectorCipher)> {
        let spec = options.spec;
        if spec.mode == super::Mode::Xts && spec.cipher == super::Cipher::Aes192 {
            return Err(Error::Unsupported("XTS mode is not supported with aes-192".into()));
        }
        let mut master = Zeroizing::new(vec![0; spec.key_len()]);
        random(&mut master)?;
        let cipher = SectorCipher::new(spec, &master)?;
        let mut salt = [0; 32];
        random(&mut salt)?;
        let rounds = options
            .iterations
            .unwrap_or_else(|| digest::rounds_for(options.hash, options.iter_time_ms, DIGEST_LEN) / 8);
        let rounds = rounds.max(1000);
        let total = Self::new_len(options) / 512;
        let each = (total as u32 - MATERIAL_ALIGNMENT) / SLOTS as u32;
        let slot = |index: usize| Slot {
            active: false,
            rounds: 0,
            salt: [0; 32],
            offset: MATERIAL_ALIGNMENT + index as u32 * each,
            stripes: STRIPES,
        };
        let mut header = Self {
            spec,
            hash: options.hash,
            payload: total as u32,
            digest: [0; DIGEST_LEN],
            salt,
            rounds,
            uuid: new_uuid()?,
            slots: std::array::from_fn(slot),
        };
        let digest = digest::pbkdf2(header.hash, &master, &header.salt, rounds, DIGEST_LEN);
        header.digest.copy_from_slice(&digest);
        header.fill_slot(0, &master, secret, (options.iter_time_ms, options.iterations), &mut write)?;
        write(&header.to_bytes(), 0)?;
        Ok((header, cipher))
    }

    /// Puts a passphrase into a slot: key material first, then the caller writes [`Luks::to_bytes`].
    fn fill_slot(
        &mut self,
        index: usize,
        master: &[u8],
        secret: &Secret,
        (millis, rounds): (u64, Option<u32>),
        write: &mut impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let key_len = self.spec.key_len();
        let rounds = rounds.unwrap_or_else(|| digest::rounds_for(self.hash, millis, key_len)).max(1000);
        let mut salt = [0; 32];
        random(&mut salt)?;
        let slot_key = digest::pbkdf2(self.hash, secret.bytes(), &salt, rounds, key_len);
        let mut material = antiforensic::split(self.hash, master, STRIPES as usize)?;
        let padded = material.len().next_multiple_of(512);
        material.resize(padded, 0);
        SectorCipher::new(self.spec, &slot_key)?.encrypt(&mut material, 0)?;
        let offset = u64::from(self.slots[index].offset) * 512;
        write(&material, offset)?;
        self.slots[index] = Slot { active: true, rounds, salt, ..self.slots[index].clone() };
        Ok(())
    }

    /// The master key, if the passphrase opens a slot; and which.
    fn master_key(
        &self,
        secret: &Secret,
        only: Option<usize>,
        mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
    ) -> Result<Option<(usize, Zeroizing<Vec<u8>>)>> {
        let key_len = self.spec.key_len();
        for (index, slot) in self.slots.iter().enumerate() {
            if !slot.active || only.is_some_and(|only| only != index) {
                continue;
            }
            let slot_key = digest::pbkdf2(self.hash, secret.bytes(), &slot.salt, slot.rounds, key_len);
            let mut material = Zeroizing::new(vec![0; self.material_len().next_multiple_of(512)]);
            read(&mut material, u64::from(slot.offset) * 512)?;
            SectorCipher::new(self.spec, &slot_key)?.decrypt(&mut material, 0)?;
            let master = antiforensic::merge(self.hash, &material[..self.material_len()], key_len);
            let digest = digest::pbkdf2(self.hash, &master, &self.salt, self.rounds, DIGEST_LEN);
            let same = digest.iter().zip(&self.digest).fold(0, |all, (one, other)| all | (one ^ other)) == 0;
            if same {
                return Ok(Some((index, master)));
            }
        }
        Ok(None)
    }

    /// The payload's cipher, if the passphrase opens a slot. `read` fills a buffer from an offset that counts from the
    /// header's beginning.
    ///
    /// # Errors
    /// A wrong passphrase, and errors of `read`.
    pub(crate) fn unlock(
        &self,
        secret: &Secret,
        read: impl FnMut(&mut [u8], u64) -> Result<()>,
    ) -> Result<SectorCipher> {
        match self.master_key(secret, None, read)? {
            Some((_, master)) => SectorCipher::new(self.spec, &master),
            None => Err(Error::Secret("Invalid password, cannot unlock any keyslot".into())),
        }
    }

    /// Puts another passphrase into a slot, the given one or the first free one.
    ///
    /// # Errors
    /// A wrong old passphrase, a slot that isn't free, and errors of `read` and `write`.
    pub(crate) fn add_secret(
        &mut self,
        old: &Secret,
        new: &Secret,
        (slot, iter_time_ms): (Option<usize>, u64),
        read: impl FnMut(&mut [u8], u64) -> Result<()>,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let free = || self.slots.iter().position(|slot| !slot.active);
        let index = match slot {
            Some(index) => index,
            None => free().ok_or_else(|| Error::Invalid("Can't add a keyslot - all keyslots are in use".into()))?,
        };
        match self.slots.get(index) {
            None => return Err(Error::Invalid(format!("Invalid keyslot {index} specified, there are 8"))),
            Some(slot) if slot.active => {
                return Err(Error::Invalid(format!(
                    "Refusing to overwrite active keyslot {index} - please erase it first"
                )));
            }
            Some(_) => {}
        }
        let Some((_, master)) = self.master_key(old, None, read)? else {
            return Err(Error::Secret("Failed to retrieve the master key: wrong passphrase".into()));
        };
        self.fill_slot(index, &master, new, (iter_time_ms, None), &mut write)?;
        write(&self.to_bytes(), 0)
    }

    /// Erases a slot: the header first, so that what is half erased isn't taken for a key.
    ///
    /// # Errors
    /// The last slot unless `force`, a slot that doesn't exist, errors of `write`.
    pub(crate) fn erase_slot(
        &mut self,
        index: usize,
        force: bool,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let active = self.slots.iter().filter(|slot| slot.active).count();
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(Error::Invalid(format!("Invalid keyslot {index} specified, there are 8")));
        };
        if slot.active && active == 1 && !force {
            return Err(Error::Invalid(format!(
                "Attempt to erase the only active keyslot {index} which will erase all the data in the image \
                 irreversibly - refusing operation"
            )));
        }
        *slot = Slot { active: false, rounds: 0, salt: [0; 32], ..slot.clone() };
        let offset = u64::from(slot.offset) * 512;
        write(&self.to_bytes(), 0)?;
        let mut garbage = vec![0; self.material_sectors() as usize * 512];
        random(&mut garbage)?;
        write(&garbage, offset)
    }

    /// Erases every slot that a passphrase opens.
    ///
    /// # Errors
    /// A passphrase that opens none, the last slot unless `force`, errors of `read` and `write`.
    pub(crate) fn erase_secret(
        &mut self,
        secret: &Secret,
        force: bool,
        mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let mut erased = 0;
        for index in 0..SLOTS {
            if self.master_key(secret, Some(index), &mut read)?.is_some() {
                self.erase_slot(index, force, &mut write)?;
                erased += 1;
            }
        }
        if erased == 0 {
            return Err(Error::Secret("No secrets match for the given passphrase".into()));
        }
        Ok(())
    }

    /// The header's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::HEADER_LEN);
        let name = |bytes: &mut Vec<u8>, name: &str, len: usize| {
            let end = bytes.len() + len;
            bytes.extend(name.as_bytes());
            bytes.resize(end, 0);
        };
        bytes.extend(MAGIC);
        bytes.extend(1u16.to_be_bytes());
        name(&mut bytes, "aes", 32);
        name(&mut bytes, &self.spec.mode_name(), 32);
        name(&mut bytes, &self.hash.to_string(), 32);
        bytes.extend(self.payload.to_be_bytes());
        bytes.extend((self.spec.key_len() as u32).to_be_bytes());
        bytes.extend(self.digest);
        bytes.extend(self.salt);
        bytes.extend(self.rounds.to_be_bytes());
        name(&mut bytes, &self.uuid, 40);
        for slot in &self.slots {
            bytes.extend(if slot.active { SLOT_ACTIVE } else { SLOT_INACTIVE }.to_be_bytes());
            bytes.extend(slot.rounds.to_be_bytes());
            bytes.extend(slot.salt);
            bytes.extend(slot.offset.to_be_bytes());
            bytes.extend(slot.stripes.to_be_bytes());
        }
        bytes
    }

    /// What `qemu-img info` says of it.
    pub fn info(&self) -> LuksInfo {
        let slot = |slot: &Slot| LuksSlotInfo {
            active: slot.active,
            iters: slot.active.then_some(slot.rounds),
            stripes: slot.active.then_some(slot.stripes),
            key_offset: u64::from(slot.offset) * 512,
        };
        let (ivgen_alg, ivgen_hash_alg) = match self.spec.ivgen {
            super::IvGen::Essiv(hash) => ("essiv".to_string(), Some(hash.to_string())),
            other => (other.to_string(), None),
        };
        LuksInfo {
            ivgen_alg,
            ivgen_hash_alg,
            hash_alg: self.hash.to_string(),
            cipher_alg: self.spec.cipher.to_string(),
            uuid: self.uuid.clone(),
            cipher_mode: self.spec.mode.to_string(),
            slots: self.slots.iter().map(slot).collect(),
            payload_offset: self.payload_offset(),
            master_key_iters: self.rounds,
        }
    }
}

/// A random UUID (version 4).
fn new_uuid() -> Result<String> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
