//! Hashes, key derivation and random numbers by name. The algorithms themselves are RustCrypto's.

use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit};
use sha1::Digest;
use zeroize::Zeroizing;

use super::algorithm::Hash;
use crate::{Error, Result};

/// Fills `bytes` with the host's random numbers.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::Io {
        operation: "get random numbers".into(),
        source: std::io::Error::other(error.to_string()),
    })
}

/// The digest of several pieces, one after the other.
pub(super) fn hash(hash: Hash, pieces: &[&[u8]]) -> Vec<u8> {
    fn with<D: Digest>(pieces: &[&[u8]]) -> Vec<u8> {
        let mut digest = D::new();
        pieces.iter().for_each(|piece| digest.update(piece));
        digest.finalize().to_vec()
    }
    match hash {
        Hash::Sha1 => with::<sha1::Sha1>(pieces),
        Hash::Sha224 => with::<sha2::Sha224>(pieces),
        Hash::Sha256 => with::<sha2::Sha256>(pieces),
        Hash::Sha384 => with::<sha2::Sha384>(pieces),
        Hash::Sha512 => with::<sha2::Sha512>(pieces),
        Hash::Ripemd160 => with::<ripemd::Ripemd160>(pieces),
    }
}

/// PBKDF2 with HMAC: `len` bytes.
pub(super) fn pbkdf2(hash: Hash, password: &[u8], salt: &[u8], rounds: u32, len: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; len]);
    match hash {
        Hash::Sha1 => derive::<Hmac<sha1::Sha1>>(password, salt, rounds, &mut key),
        Hash::Sha224 => derive::<Hmac<sha2::Sha224>>(password, salt, rounds, &mut key),
        Hash::Sha256 => derive::<Hmac<sha2::Sha256>>(password, salt, rounds, &mut key),
        Hash::Sha384 => derive::<Hmac<sha2::Sha384>>(password, salt, rounds, &mut key),
        Hash::Sha512 => derive::<Hmac<sha2::Sha512>>(password, salt, rounds, &mut key),
        Hash::Ripemd160 => derive::<Hmac<ripemd::Ripemd160>>(password, salt, rounds, &mut key),
    }
    key
}

fn derive<M: KeyInit + hmac::digest::FixedOutput + hmac::digest::Update + Clone + Sync>(
    password: &[u8],
    salt: &[u8],
    rounds: u32,
    key: &mut [u8],
) {
    // HMAC takes keys of any length: this can't fail.
    let _ = pbkdf2::pbkdf2::<M>(password, salt, rounds, key);
}

/// How many rounds take about `millis` milliseconds here to derive `len` bytes; at least 1000.
pub(super) fn rounds_for(hash: Hash, millis: u64, len: usize) -> u32 {
    let mut rounds: u32 = 1 << 12;
    loop {
        let start = Instant::now();
        let _ = pbkdf2(hash, b"measuring", &[0; 32], rounds, len);
        let took = start.elapsed();
        if took >= Duration::from_millis(20) || rounds >= 1 << 26 {
            let per_milli = f64::from(rounds) / (took.as_secs_f64() * 1000.0).max(1e-6);
            return (per_milli * millis as f64).clamp(1000.0, f64::from(u32::MAX)) as u32;
        }
        rounds *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6070.
    #[test]
    fn pbkdf2_matches_the_standard() {
        let key = pbkdf2(Hash::Sha1, b"password", b"salt", 2, 20);
        assert_eq!(key[..4], [0xea, 0x6c, 0x01, 0x4d]);
    }
}
