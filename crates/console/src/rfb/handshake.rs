//! The beginning of a connection (RFC 6143, 7.1 to 7.3): version, security, and the client's wish to be alone. With VeNCrypt
//! (rfbproto, 7.2.13) the connection turns to TLS in between, which is the carrier's business.

use super::Ending;
use super::auth::{challenge_response, same};

/// What the server says first.
pub(super) const GREETING: &[u8; 12] = b"RFB 003.008\n";

const NONE: u8 = 1;
const VNC: u8 = 2;
const VENCRYPT: u8 = 19;

/// VeNCrypt's subtypes: TLS by X.509 certificates, then nothing or the password.
const X509_NONE: u32 = 260;
const X509_VNC: u32 = 261;

/// VeNCrypt's version, 0.2.
const SUBVERSION: [u8; 2] = [0, 2];

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
    /// VeNCrypt's own version.
    Subversion,
    Subtype,
    /// TLS is being turned on.
    Tls,
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
    /// So many bytes were taken; what comes next comes through TLS.
    Encrypt(usize),
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
    encrypt: bool,
    challenge: [u8; 16],
    version: Version,
    step: Step,
}

impl Handshake {
    /// A connection whose client has to know the password, if there is one, and has to turn to TLS first if `encrypt`.
    pub(super) fn new(password: Option<Vec<u8>>, encrypt: bool, challenge: [u8; 16]) -> Self {
        Self { password, encrypt, challenge, version: Version::V3, step: Step::Version }
    }

    fn security(&self) -> u8 {
        match self.password {
            _ if self.encrypt => VENCRYPT,
            Some(_) => VNC,
            None => NONE,
        }
    }

    fn subtype(&self) -> u32 {
        if self.password.is_some() { X509_VNC } else { X509_NONE }
    }

    /// TLS is on: answers go to `out`.
    pub(super) fn encrypted(&mut self, out: &mut Vec<u8>) {
        if self.step == Step::Tls {
            self.begin(out);
        }
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
                Some(_) if self.encrypt => {
                    out.extend_from_slice(&SUBVERSION);
                    self.step = Step::Subversion;
                    Progress::Taken(1)
                }
                Some(_) => {
                    self.begin(out);
                    Progress::Taken(1)
                }
            },
            Step::Subversion => match bytes.first_chunk::<2>() {
                None => Progress::Wait,
                Some(&SUBVERSION) => {
                    // Fine; and of subtypes there is one.
                    out.extend_from_slice(&[0, 1]);
                    out.extend_from_slice(&self.subtype().to_be_bytes());
                    self.step = Step::Subtype;
                    Progress::Taken(2)
                }
                Some(_) => {
                    out.push(1);
                    Progress::Refused(Ending::Security)
                }
            },
            Step::Subtype => match bytes.first_chunk::<4>() {
                None => Progress::Wait,
                Some(chosen) if *chosen == self.subtype().to_be_bytes() => {
                    out.push(1);
                    self.step = Step::Tls;
                    Progress::Encrypt(4)
                }
                Some(_) => {
                    out.push(0);
                    Progress::Refused(Ending::Security)
                }
            },
            Step::Tls => Progress::Wait,
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
        if self.version == Version::V3 && self.encrypt {
            let why = b"this server wants TLS, which is in RFB from version 3.7 on";
            out.extend_from_slice(&0_u32.to_be_bytes());
            out.extend_from_slice(&(why.len() as u32).to_be_bytes());
            out.extend_from_slice(why);
            return Progress::Refused(Ending::Security);
        }
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
            if self.version == Version::V8 || self.encrypt {
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
            let mut handshake = Handshake::new(None, false, [0; 16]);
            let (out, end) = run(&mut handshake, &[line, chosen, &[1]].concat());
            assert_eq!((&out[..], end), (sent, Progress::Done { taken: 1, shared: true }), "{line:?}");
        }
    }

    #[test]
    fn the_password_decides() {
        let challenge = *b"0123456789abcdef";
        for (password, right) in [(&b"secret"[..], true), (b"Secret", false)] {
            let mut handshake = Handshake::new(Some(b"secret".to_vec()), false, challenge);
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
        let mut handshake = Handshake::new(Some(b"secret".to_vec()), false, challenge);
        let (_, end) = run(&mut handshake, b"RFB 003.008\n\x01\x01");
        assert_eq!(end, Progress::Refused(Ending::Security), "nobody comes in without");
    }

    #[test]
    fn vencrypt_turns_to_tls_before_anything_secret() {
        let challenge = *b"0123456789abcdef";
        let begin = |password: Option<&[u8]>| Handshake::new(password.map(<[u8]>::to_vec), true, challenge);
        let mut handshake = begin(Some(b"secret"));
        let (out, end) = run(&mut handshake, b"RFB 003.008\n\x13\0\x02\0\0\x01\x05rest");
        assert_eq!((&out[..], end), (&[1, 19, 0, 2, 0, 1, 0, 0, 1, 5, 1][..], Progress::Encrypt(4)));
        assert_eq!(handshake.advance(b"rest", &mut vec![]), Progress::Wait, "what isn't encrypted isn't read");
        let mut out = vec![];
        handshake.encrypted(&mut out);
        assert_eq!(out, challenge);
        let response = challenge_response(b"secret", challenge);
        let (out, end) = run(&mut handshake, &[&response[..], &[1]].concat());
        assert_eq!((&out[..], end), (&[0; 4][..], Progress::Done { taken: 1, shared: true }));
        let mut handshake = begin(None);
        run(&mut handshake, b"RFB 003.007\n\x13\0\x02\0\0\x01\x04");
        let mut out = vec![];
        handshake.encrypted(&mut out);
        assert_eq!(out, [0; 4]);
        for wrong in [
            &b"RFB 003.003\n"[..],
            b"RFB 003.008\n\x01",
            b"RFB 003.008\n\x13\0\x01",
            b"RFB 003.008\n\x13\0\x02\0\0\x01\x05",
        ] {
            let (_, end) = run(&mut begin(None), wrong);
            assert_eq!(end, Progress::Refused(Ending::Security), "{wrong:?}");
        }
    }

    #[test]
    fn other_protocols_are_sent_away() {
        for line in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0", b"RFB 002.000\n", b"RFB 3.8\nabcd", b"RFB 003.00x\n"] {
            let (_, end) = run(&mut Handshake::new(None, false, [0; 16]), line);
            assert_eq!(end, Progress::Refused(Ending::Version), "{line:?}");
        }
    }
}
