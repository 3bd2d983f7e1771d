//! VNC authentication (RFC 6143, 7.2.2): the client encrypts a challenge with its password as DES key. Not more than a
//! lock on a garden gate; what is said afterwards is in the clear.

use des::Des;
use des::cipher::{Array, BlockCipherEncrypt, KeyInit};

/// What a client that knows the password answers to a challenge. The first eight bytes of the password count; the bits of
/// each are taken in the opposite order, as all VNC programs do.
pub fn challenge_response(password: &[u8], challenge: [u8; 16]) -> [u8; 16] {
    let mut key = [0; 8];
    for (to, from) in key.iter_mut().zip(password) {
        *to = from.reverse_bits();
    }
    let cipher = Des::new(&Array(key));
    let mut response = challenge;
    for block in response.chunks_exact_mut(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(block);
        let mut bytes = Array(bytes);
        cipher.encrypt_block(&mut bytes);
        block.copy_from_slice(&bytes);
    }
    response
}

/// Whether two answers are equal, in a time that doesn't tell where they differ.
pub(super) fn same(a: &[u8; 16], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn des_is_keyed_by_mirrored_bytes() {
        // FIPS 81's example: key 0123456789abcdef, "Now is t" becomes 3fa40e8a984d4815.
        let password = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].map(u8::reverse_bits);
        let response = challenge_response(&password, *b"Now is tNow is t");
        assert_eq!(response[..8], [0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15]);
        assert_eq!(response[..8], response[8..]);
        assert!(same(&response, &response) && !same(&response, &[0; 16]) && !same(&response, &[]));
    }

    #[test]
    fn eight_bytes_of_a_password_count() {
        let challenge = [7; 16];
        assert_eq!(challenge_response(b"12345678", challenge), challenge_response(b"123456789", challenge));
        assert_ne!(challenge_response(b"1234567", challenge), challenge_response(b"12345678", challenge));
    }
}
