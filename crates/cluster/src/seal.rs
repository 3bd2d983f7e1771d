//! Messages that only holders of a key can make: a body and HMAC-SHA-256 (RFC 2104), cut to 16 bytes. Who sealed it and that
//! it isn't a repetition is for the body to say.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the code after a body.
const CODE: usize = 16;
/// Shortest secret that is accepted, in bytes.
const SHORTEST: usize = 16;

/// What both ends of a conversation know and nobody else.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// A key made of a secret; `None` if that has less than 16 bytes.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < SHORTEST {
            return None;
        }
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    fn code(&self, body: &[u8]) -> [u8; CODE] {
        let full = self.0.clone().chain_update(body).finalize().into_bytes();
        let mut code = [0; CODE];
        code.copy_from_slice(&full[..CODE]);
        code
    }

    /// `body` with its code.
    pub(crate) fn seal(&self, mut body: Vec<u8>) -> Vec<u8> {
        let code = self.code(&body);
        body.extend(code);
        body
    }

    /// The body of a message whose code is right.
    pub(crate) fn open<'a>(&self, message: &'a [u8]) -> Option<&'a [u8]> {
        let (body, code) = message.split_at_checked(message.len().checked_sub(CODE)?)?;
        self.0.clone().chain_update(body).verify_truncated_left(code).ok()?;
        Some(body)
    }

    /// A number that nobody without the key can foretell.
    pub(crate) fn derive(&self, parts: &[u64]) -> u64 {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
        let [a, b, c, d, e, f, g, h, ..] = self.code(&bytes);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Takes numbers from the front of a body.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// Nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A number for a name (FNV-1a, 64 bits), for messages in which names would take room.
pub(crate) fn number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_opens_a_message_and_only_a_whole_one() {
        let key = Key::new(b"0123456789abcdef").unwrap();
        let other = Key::new(b"0123456789abcdeg").unwrap();
        let sealed = key.seal(b"hello".to_vec());
        assert_eq!(key.open(&sealed), Some(&b"hello"[..]));
        assert_eq!(other.open(&sealed), None);
        for position in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[position] ^= 1;
            assert_eq!(key.open(&bent), None);
            assert_eq!(key.open(&sealed[..position]), None);
        }
        assert!(Key::new(b"short").is_none());
    }
}
