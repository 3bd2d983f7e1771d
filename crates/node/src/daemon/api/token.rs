//! The token by which requests over TCP show that they may: `Authorization: Bearer TOKEN` (RFC 6750). Whoever has it may do
//! everything that the API can.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

/// The fewest bytes of a token.
const SHORTEST: usize = 16;
/// The most.
const LONGEST: usize = 4096;

/// Why a token can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It can't be read.
    #[error("cannot read the token file {path}: {1}; 'head -c 32 /dev/urandom | base64 > FILE' makes a good token", path = .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// Everybody may read it.
    #[error("others may read the token file {path}: chmod 600 {path}", path = .0.display())]
    Open(PathBuf),
    /// It is too short, too long, or can't be in a header.
    #[error("the token file {path} has to hold {SHORTEST} to {LONGEST} letters, digits and signs, without blanks: 'head -c 32 /dev/urandom | base64 > FILE' makes a good one", path = .0.display())]
    Unfit(PathBuf),
}

/// A token. It can be compared, but not printed.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads a file; blanks around the token don't belong to it.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        use std::io::Read;
        let fail = |error| TokenError::Read(path.into(), error);
        let file = std::fs::File::open(path).map_err(fail)?;
        // Of the file that is read, not of one that has its name later.
        if file.metadata().map_err(fail)?.permissions().mode() & 0o077 != 0 {
            return Err(TokenError::Open(path.into()));
        }
        let mut text = Vec::new();
        file.take(2 * LONGEST as u64).read_to_end(&mut text).map_err(fail)?;
        let token = text.trim_ascii();
        if !(SHORTEST..=LONGEST).contains(&token.len()) || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Unfit(path.into()));
        }
        Ok(Self(token.into()))
    }

    /// Whether an `Authorization` header has this token. How long that takes says nothing about where they differ.
    #[must_use]
    pub fn admits(&self, header: &[u8]) -> bool {
        let Some((scheme, given)) = header.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && given.trim_ascii().ct_eq(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_of_its_owner_with_a_long_token_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Token::read(&path)
        };
        assert!(matches!(Token::read(&path), Err(TokenError::Read(..))));
        assert!(matches!(write("0123456789abcdef", 0o640), Err(TokenError::Open(_))));
        assert!(matches!(write("0123456789abcde\n", 0o600), Err(TokenError::Unfit(_))));
        assert!(matches!(write("0123456789 abcdef", 0o600), Err(TokenError::Unfit(_))));
        let token = write("0123456789abcdef\n", 0o600).unwrap();
        assert!(token.admits(b"Bearer 0123456789abcdef") && token.admits(b"bearer  0123456789abcdef"));
        for header in
            [&b""[..], b"Bearer ", b"Bearer 0123456789abcdee", b"Bearer 0123456789abcdef0", b"Basic 0123456789abcdef"]
        {
            assert!(!token.admits(header));
        }
        assert_eq!(format!("{token:?}"), "Token");
    }
}
