//! Encryption of 512 byte sectors under a key that is known. Not where the key comes from.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};

use super::algorithm::{Cipher, CipherSpec, IvGen, Mode};
use super::digest;
use super::secret::Secret;
use crate::{Error, Result};

const SECTOR: usize = 512;
/// How many sectors are encrypted at once.
const GROUP: usize = 16;

/// A block cipher with its key.
#[derive(Clone)]
enum Key {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Key {
    fn new(key: &[u8]) -> Result<Self> {
        let wrong = |_| Error::Invalid(format!("a key of {} bytes", key.len()));
        match key.len() {
            16 => Aes128::new_from_slice(key).map(Self::Aes128).map_err(wrong),
            24 => Aes192::new_from_slice(key).map(Self::Aes192).map_err(wrong),
            _ => Aes256::new_from_slice(key).map(Self::Aes256).map_err(wrong),
        }
    }

    fn encrypt(&self, blocks: &mut [Block]) {
        match self {
            Self::Aes128(key) => key.encrypt_blocks(blocks),
            Self::Aes192(key) => key.encrypt_blocks(blocks),
            Self::Aes256(key) => key.encrypt_blocks(blocks),
        }
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        match self {
            Self::Aes128(key) => key.decrypt_blocks(blocks),
            Self::Aes192(key) => key.decrypt_blocks(blocks),
            Self::Aes256(key) => key.decrypt_blocks(blocks),
        }
    }
}

struct Keys {
    mode: Mode,
    ivgen: IvGen,
    data: Key,
    /// XTS: the key of the tweak.
    tweak: Option<Key>,
    /// ESSIV: the key that encrypts sector numbers.
    essiv: Option<Key>,
}

/// Encrypts and decrypts whole sectors. It may be locked: then it refuses both.
pub(crate) struct SectorCipher(Option<Keys>);

impl SectorCipher {
    /// A cipher without its key.
    pub(crate) fn locked() -> Self {
        Self(None)
    }

    /// Whether the key is missing.
    pub(crate) fn is_locked(&self) -> bool {
        self.0.is_none()
    }

    /// The cipher that a specification names, under a key of [`CipherSpec::key_len`] bytes.
    ///
    /// # Errors
    /// A key of the wrong length, and hashes that ESSIV can't use.
    pub(crate) fn new(spec: CipherSpec, key: &[u8]) -> Result<Self> {
        if key.len() != spec.key_len() {
            return Err(Error::Invalid(format!("a key of {} bytes for {}", key.len(), spec.cipher)));
        }
        let (data, tweak) = match spec.mode {
            Mode::Xts => {
                let (data, tweak) = key.split_at(key.len() / 2);
                (Key::new(data)?, Some(Key::new(tweak)?))
            }
            Mode::Ecb | Mode::Cbc => (Key::new(key)?, None),
        };
        let essiv = match spec.ivgen {
            IvGen::Essiv(hash) if spec.mode != Mode::Ecb => {
                let salt = digest::hash(hash, &[key]);
                if ![16, 24, 32].contains(&salt.len()) {
                    return Err(Error::Unsupported(format!("ESSIV can't use the hash {hash} with AES")));
                }
                Some(Key::new(&salt)?)
            }
            _ => None,
        };
        Ok(Self(Some(Keys { mode: spec.mode, ivgen: spec.ivgen, data, tweak, essiv })))
    }

    /// The scheme of qcow2's encryption method 1: AES-128-CBC, the passphrase's first 16 bytes as the key.
    ///
    /// # Errors
    /// None for any passphrase; longer ones are cut off as QEMU does it.
    pub(crate) fn legacy_aes(secret: &Secret) -> Result<Self> {
        let mut key = [0; 16];
        let used = secret.bytes().len().min(16);
        key[..used].copy_from_slice(&secret.bytes()[..used]);
        Self::new(CipherSpec { cipher: Cipher::Aes128, mode: Mode::Cbc, ivgen: IvGen::Plain64 }, &key)
    }

    /// Encrypts whole sectors, of which the first lies at byte `offset`, a multiple of 512.
    ///
    /// # Errors
    /// A locked cipher; ranges that aren't whole sectors.
    pub(crate) fn encrypt(&self, data: &mut [u8], offset: u64) -> Result<()> {
        self.apply(data, offset, true)
    }

    /// The reverse of [`SectorCipher::encrypt`].
    ///
    /// # Errors
    /// A locked cipher; ranges that aren't whole sectors.
    pub(crate) fn decrypt(&self, data: &mut [u8], offset: u64) -> Result<()> {
        self.apply(data, offset, false)
    }

    fn apply(&self, data: &mut [u8], offset: u64, encrypt: bool) -> Result<()> {
        let Some(keys) = &self.0 else {
            return Err(Error::Secret("a secret is needed for the data of an encrypted image".into()));
        };
        if !data.len().is_multiple_of(SECTOR) || !offset.is_multiple_of(SECTOR as u64) {
            return Err(Error::Invalid("encrypted data must be whole sectors".into()));
        }
        let mut number = offset / SECTOR as u64;
        for group in data.chunks_mut(SECTOR * GROUP) {
            let mut ivs = keys.ivs(number, group.len() / SECTOR);
            match (&keys.tweak, keys.mode) {
                (Some(tweak), _) => {
                    tweak.encrypt(&mut ivs);
                    keys.xts(group, &ivs, encrypt);
                }
                (None, Mode::Ecb) => keys.blocks(group, encrypt),
                (None, _) => {
                    for (sector, iv) in group.chunks_exact_mut(SECTOR).zip(&ivs) {
                        keys.cbc(sector, iv, encrypt);
                    }
                }
            }
            number += (group.len() / SECTOR) as u64;
        }
        Ok(())
    }
}

impl Keys {
    /// The initialisation vectors of `count` sectors.
    fn ivs(&self, first: u64, count: usize) -> Vec<Block> {
        let mut ivs: Vec<Block> = (first..)
            .take(count)
            .map(|number| {
                let number = if self.ivgen == IvGen::Plain { number & 0xffff_ffff } else { number };
                Block::from(u128::from(number).to_le_bytes())
            })
            .collect();
        if let Some(essiv) = &self.essiv {
            essiv.encrypt(&mut ivs);
        }
        ivs
    }

    fn blocks(&self, data: &mut [u8], encrypt: bool) {
        let (blocks, _) = Array::slice_as_chunks_mut(data);
        if encrypt { self.data.encrypt(blocks) } else { self.data.decrypt(blocks) }
    }

    /// Several sectors at once, so that the cipher gets many blocks in one go.
    fn xts(&self, group: &mut [u8], ivs: &[Block], encrypt: bool) {
        let mut tweaks = [0u128; GROUP * SECTOR / 16];
        for (sector, iv) in tweaks.chunks_exact_mut(SECTOR / 16).zip(ivs) {
            let mut tweak = u128::from_le_bytes((*iv).into());
            for entry in sector {
                *entry = tweak;
                // Times x in GF(2^128), without a branch on secret bits.
                tweak = tweak << 1 ^ (tweak.cast_signed() >> 127).cast_unsigned() & 0x87;
            }
        }
        xor(group, &tweaks);
        self.blocks(group, encrypt);
        xor(group, &tweaks);
    }

    fn cbc(&self, sector: &mut [u8], iv: &Block, encrypt: bool) {
        let iv = u128::from_le_bytes((*iv).into());
        if encrypt {
            let mut last = iv;
            for block in sector.chunks_exact_mut(16) {
                xor(block, &[last]);
                self.blocks(block, true);
                last = block.try_into().map_or(0, u128::from_le_bytes);
            }
        } else {
            let mut previous = [0u128; SECTOR / 16];
            previous[0] = iv;
            for (entry, block) in previous[1..].iter_mut().zip(sector.chunks_exact(16)) {
                *entry = block.try_into().map_or(0, u128::from_le_bytes);
            }
            self.blocks(sector, false);
            xor(sector, &previous);
        }
    }
}

fn xor(data: &mut [u8], with: &[u128]) {
    for (block, with) in data.as_chunks_mut::<16>().0.iter_mut().zip(with) {
        *block = (u128::from_le_bytes(*block) ^ with).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Hash;

    /// IEEE 1619-2007, vector 10: AES-256-XTS, data unit 0xff.
    #[test]
    fn xts_matches_the_standard() {
        let key: Vec<u8> = [
            "2718281828459045235360287471352662497757247093699959574966967627",
            "3141592653589793238462643383279502884197169399375105820974944592",
        ]
        .concat()
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
        let cipher = SectorCipher::new(CipherSpec::default(), &key).unwrap();
        let plain: Vec<u8> = (0..512).map(|index| index as u8).collect();
        let mut data = plain.clone();
        cipher.encrypt(&mut data, 0xff * 512).unwrap();
        assert_eq!(data[..8], [0x1c, 0x3b, 0x3a, 0x10, 0x2f, 0x77, 0x03, 0x86]);
        cipher.decrypt(&mut data, 0xff * 512).unwrap();
        assert_eq!(data, plain);
    }

    #[test]
    fn every_combination_decrypts_what_it_encrypted() {
        for cipher in [Cipher::Aes128, Cipher::Aes192, Cipher::Aes256] {
            for mode in [Mode::Ecb, Mode::Cbc, Mode::Xts] {
                for ivgen in [IvGen::Plain, IvGen::Plain64, IvGen::Essiv(Hash::Sha256)] {
                    let spec = CipherSpec { cipher, mode, ivgen };
                    let key: Vec<u8> = (0..spec.key_len()).map(|index| index as u8).collect();
                    let cipher = SectorCipher::new(spec, &key).unwrap();
                    let plain: Vec<u8> = (0..512 * 40).map(|index| (index / 3) as u8).collect();
                    let mut data = plain.clone();
                    cipher.encrypt(&mut data, 1 << 40).unwrap();
                    assert_ne!(data, plain);
                    cipher.decrypt(&mut data[512..1024], (1 << 40) + 512).unwrap();
                    assert_eq!(data[512..1024], plain[512..1024], "{spec:?}");
                    cipher.encrypt(&mut data[512..1024], (1 << 40) + 512).unwrap();
                    cipher.decrypt(&mut data, 1 << 40).unwrap();
                    assert_eq!(data, plain, "{spec:?}");
                }
            }
        }
    }
}
