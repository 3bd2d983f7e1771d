//! The anti-forensic splitter of LUKS: a key spread over so many bytes that erasing any of them destroys it.

use zeroize::Zeroizing;

use super::algorithm::Hash;
use super::digest::{self, random};
use crate::Result;

/// Anti-forensic split: stripes of which all are needed to get the key back.
pub(super) fn split(hash: Hash, key: &[u8], count: usize) -> Result<Zeroizing<Vec<u8>>> {
    let mut stripes = Zeroizing::new(vec![0; key.len() * count]);
    let last = key.len() * (count - 1);
    random(&mut stripes[..last])?;
    let mixed = mix(hash, &stripes[..last], key.len());
    for ((byte, mixed), key) in stripes[last..].iter_mut().zip(mixed.iter()).zip(key) {
        *byte = mixed ^ key;
    }
    Ok(stripes)
}

/// The reverse of [`split`].
pub(super) fn merge(hash: Hash, stripes: &[u8], key_len: usize) -> Zeroizing<Vec<u8>> {
    let (mixed, last) = stripes.split_at(stripes.len() - key_len);
    let mut key = mix(hash, mixed, key_len);
    key.iter_mut().zip(last).for_each(|(byte, last)| *byte ^= last);
    key
}

fn mix(hash: Hash, stripes: &[u8], key_len: usize) -> Zeroizing<Vec<u8>> {
    let mut block = Zeroizing::new(vec![0; key_len]);
    for stripe in stripes.chunks_exact(key_len) {
        block.iter_mut().zip(stripe).for_each(|(byte, stripe)| *byte ^= stripe);
        for (index, part) in block.chunks_mut(hash.len()).enumerate() {
            let digest = digest::hash(hash, &[&(index as u32).to_be_bytes(), part]);
            part.copy_from_slice(&digest[..part.len()]);
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_merges() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
            let key = [3; 48];
            let mut stripes = split(hash, &key, 7).unwrap();
            assert_eq!(stripes.len(), 7 * 48);
            assert_eq!(merge(hash, &stripes, 48)[..], key);
            stripes[50] ^= 1;
            assert_ne!(merge(hash, &stripes, 48)[..], key);
        }
    }
}
