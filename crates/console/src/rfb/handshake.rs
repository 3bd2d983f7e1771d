//! The beginning of a connection (RFC 6143, 7.1 to 7.3): version, security, and the client's wish to be alone.

use super::Ending;
use super::auth::{challenge_response, same};

/// What the server says first.
pub(super) const GREETING: &[u8; 12] = b"RFB 003.008\n";

const NONE: u8 = 1;
const VNC: u8 = 2;

/// A minor version of RFB 3 that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3,
    V7,
    V8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Version,
    Security,
    Response,
    Init,
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes have to come.
    Wait,
    /// So many bytes were taken.
    Taken(usize),
    /// The last step, of so many bytes.
    Done {
        /// Bytes taken.
        taken: usize,
        /// Others may stay.
        shared: bool,
    },
    /// The client isn't let in.
    Refused(Ending),
}

/// How far it is.
#[derive(Debug)]
pub(super) struct Handshake {
    password: Option<Vec<u8>>,
    challenge: [u8; 16],
    version: Version,
    step: Step,
}

impl Handshake {
    /// A connection whose client has to know the password, if there is one.
    pub(super) fn new(password: Option<Vec<u8>>, challenge: [u8; 16]) -> Self {
        Self { password, challenge, version: Version::V3, step: Step::Version }
    }

    fn security(&self) -> u8 {
        if self.password.is_some() { VNC } else { NONE }
    }

    /// Takes a step with the bytes that are there; answers go to `out`.
    pub(super) fn advance(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Progress {
        match self.step {
            Step::Version => self.version(bytes, out),
            Step::Security => match bytes.first() {
                None => Progress::Wait,
                Some(chosen) if *chosen != self.security() => {
                    self.refuse("this security type isn't offered", Ending::Security, out)
                }
                Some(_) => {
                    self.begin(out);
                    Progress::Taken(1)
                }
            },
            Step::Response => {
                let Some(response) = bytes.first_chunk::<16>() else { return Progress::Wait };
                let password = self.password.as_deref().unwrap_or_default();
                if !same(&challenge_response(password, self.challenge), response) {
                    return self.refuse("wrong password", Ending::Password, out);
                }
                out.extend_from_slice(&[0; 4]);
                self.step = Step::Init;
                Progress::Taken(16)
            }
            Step::Init => match bytes.first() {
                None => Progress::Wait,
                Some(shared) => Progress::Done { taken: 1, shared: *shared != 0 },
            },
        }
    }

    fn version(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Progress {
        let Some(line) = bytes.first_chunk::<12>() else {
            let begins = bytes.iter().zip(GREETING).take(4).all(|(got, wanted)| got == wanted);
            return if begins { Progress::Wait } else { Progress::Refused(Ending::Version) };
        };
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
        let shape = line.starts_with(b"RFB ") && line[7] == b'.' && line[11] == b'\n';
        let (Some(major), Some(minor), true) = (number(&line[4..7]), number(&line[8..11]), shape) else {
            return Progress::Refused(Ending::Version);
        };
        self.version = match (major, minor) {
            (..=2, _) => return Progress::Refused(Ending::Version),
            // Versions between those that exist are to be taken for 3.3.
            (3, ..=6) => Version::V3,
            (3, 7) => Version::V7,
            _ => Version::V8,
        };
        if self.version == Version::V3 {
            // The server decides.
            out.extend_from_slice(&u32::from(self.security()).to_be_bytes());
            self.begin(out);
        } else {
            out.extend_from_slice(&[1, self.security()]);
            self.step = Step::Security;
        }
        Progress::Taken(line.len())
    }

    /// The security type is agreed on.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.password.is_some() {
            out.extend_from_slice(&self.challenge);
            self.step = Step::Response;
        } else {
            if self.version == Version::V8 {
                out.extend_from_slice(&[0; 4]);
            }
            self.step = Step::Init;
        }
    }

    fn refuse(&self, why: &str, ending: Ending, out: &mut Vec<u8>) -> Progress {
        out.extend_from_slice(&1_u32.to_be_bytes());
        if self.version == Version::V8 {
            out.extend_from_slice(&(why.len() as u32).to_be_bytes());
            out.extend_from_slice(why.as_bytes());
        }
        Progress::Refused(ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(handshake: &mut Handshake, input: &[u8]) -> (Vec<u8>, Progress) {
        let (mut out, mut rest) = (vec![], input);
        loop {
            match handshake.advance(rest, &mut out) {
                Progress::Taken(len) => rest = &rest[len..],
                other => return (out, other),
            }
        }
    }

    #[test]
    fn each_version_has_its_steps() {
        for (line, chosen, sent) in [
            (b"RFB 003.003\n", &[][..], &[0, 0, 0, 1][..]),
            (b"RFB 003.005\n", &[], &[0, 0, 0, 1]),
            (b"RFB 003.007\n", &[1], &[1, 1]),
            (b"RFB 003.008\n", &[1], &[1, 1, 0, 0, 0, 0]),
            (b"RFB 003.889\n", &[1], &[1, 1, 0, 0, 0, 0]),
        ] {
            let mut handshake = Handshake::new(None, [0; 16]);
            let (out, end) = run(&mut handshake, &[line, chosen, &[1]].concat());
            assert_eq!((&out[..], end), (sent, Progress::Done { taken: 1, shared: true }), "{line:?}");
        }
    }

    #[test]
    fn the_password_decides() {
        let challenge = *b"0123456789abcdef";
        for (password, right) in [(&b"secret"[..], true), (b"Secret", false)] {
            let mut handshake = Handshake::new(Some(b"secret".to_vec()), challenge);
            let response = challenge_response(password, challenge);
            let (out, end) = run(&mut handshake, &[&GREETING[..], &[2], &response, &[0]].concat());
            assert_eq!(out[..18], [&[1, 2], &challenge[..]].concat());
            if right {
                assert_eq!((&out[18..], end), (&[0; 4][..], Progress::Done { taken: 1, shared: false }));
            } else {
                assert_eq!((&out[18..22], end), (&[0, 0, 0, 1][..], Progress::Refused(Ending::Password)));
                assert!(out.ends_with(b"wrong password"));
            }
        }
        let mut handshake = Handshake::new(Some(b"secret".to_vec()), challenge);
        let (_, end) = run(&mut handshake, b"RFB 003.008\n\x01\x01");
        assert_eq!(end, Progress::Refused(Ending::Security), "nobody comes in without");
    }

    #[test]
    fn other_protocols_are_sent_away() {
        for line in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0", b"RFB 002.000\n", b"RFB 3.8\nabcd", b"RFB 003.00x\n"] {
            let (_, end) = run(&mut Handshake::new(None, [0; 16]), line);
            assert_eq!(end, Progress::Refused(Ending::Version), "{line:?}");
        }
    }
}
