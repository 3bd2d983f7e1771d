//! An authenticated, encrypted connection to the peer, as frames of bytes. What the frames say is the engine's.
//!
//! The handshake is Noise_NNpsk0 (noiseprotocol.org, revision 34): both ends prove that they hold one shared secret, and
//! the ephemeral keys give forward secrecy. Static keys (KKpsk) would add files to exchange without naming the peer any
//! better, as there are only two who hold the secret. Each side first sends a preamble in the clear, which is part of
//! what the handshake authenticates: nobody in between can talk the two into an open link or an older version.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use snow::{Builder, StatelessTransportState};

use super::Error;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const MAGIC: &[u8; 8] = b"FERROMIR";
/// The framing's version; the messages' own is negotiated by the engines.
const VERSION: u8 = 1;
/// Most bytes in a frame, and what encryption adds to them.
const MAX_FRAME: usize = 65_535;
const TAG: usize = 16;
/// The shortest secret: an attacker who records a handshake can try short ones.
const MIN_SECRET: usize = 16;

/// Refuses an address that other machines reach.
pub(crate) fn require_loopback(address: &str) -> Result<(), Error> {
    let open = |address: &str| -> std::io::Result<bool> {
        Ok(address.to_socket_addrs()?.any(|address| !address.ip().is_loopback()))
    };
    match open(address) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::Open(address.into())),
        Err(source) => Err(Error::Address(address.into(), source)),
    }
}

/// The key that both nodes derive from their secret file.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
        let secret = bytes.trim_ascii_end();
        if secret.len() < MIN_SECRET {
            return Err(Error::Setting(format!(
                "{}: a secret has at least {MIN_SECRET} bytes: make one with 'head -c 32 /dev/urandom | base64', the \
                 same on both nodes",
                path.display()
            )));
        }
        let mut hash = Sha256::new();
        hash.update(b"ferro mirror secret\0");
        hash.update(secret);
        Ok(Self(hash.finalize().into()))
    }
}

/// What a connection is protected by.
#[derive(Clone)]
pub(crate) struct Protection {
    pub(crate) key: Option<Key>,
    /// An open link between machines was asked for.
    pub(crate) insecure: bool,
    pub(crate) timeout: Duration,
}

/// The two directions of a connection.
pub(crate) struct Channel {
    pub(crate) socket: Arc<TcpStream>,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

pub(crate) struct Sender {
    socket: Arc<TcpStream>,
    cipher: Option<Arc<StatelessTransportState>>,
    nonce: u64,
    buffer: Vec<u8>,
}

pub(crate) struct Receiver {
    socket: Arc<TcpStream>,
    cipher: Option<Arc<StatelessTransportState>>,
    nonce: u64,
    buffer: Vec<u8>,
}

fn lost(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Link(doing, source)
}

impl Protection {
    /// Turns a fresh connection into a channel; `dialed` at the side that connected.
    pub(crate) fn handshake(&self, socket: TcpStream, dialed: bool) -> Result<Channel, Error> {
        let doing = "prepare the connection to the peer";
        socket.set_nodelay(true).map_err(lost(doing))?;
        socket.set_read_timeout(Some(self.timeout)).map_err(lost(doing))?;
        socket.set_write_timeout(Some(self.timeout)).map_err(lost(doing))?;
        if self.key.is_none() && !self.insecure {
            let peer = socket.peer_addr().map_err(lost(doing))?;
            if !peer.ip().is_loopback() {
                return Err(Error::Open(peer.to_string()));
            }
        }
        let mine = preamble(self.key.is_some());
        let mut theirs = [0; 10];
        (&socket).write_all(&mine).map_err(lost("greet the peer"))?;
        (&socket).read_exact(&mut theirs).map_err(lost("read the peer's greeting"))?;
        if theirs[..8] != *MAGIC || theirs[8] != VERSION {
            return Err(Error::Handshake("the other end is no mirror that speaks this version"));
        }
        if theirs != mine {
            return Err(Error::Handshake("one node has a secret file and the other has none"));
        }
        let socket = Arc::new(socket);
        let cipher = match &self.key {
            None => None,
            Some(key) => Some(Arc::new(noise(&socket, key, dialed)?)),
        };
        let mut channel = Channel {
            socket: Arc::clone(&socket),
            sender: Sender { socket: Arc::clone(&socket), cipher: cipher.clone(), nonce: 0, buffer: Vec::new() },
            receiver: Receiver { socket, cipher, nonce: 0, buffer: Vec::new() },
        };
        // The first frame proves to the listener that this isn't an old handshake sent again.
        if dialed {
            channel.sender.send(&[])?;
        } else {
            channel.receiver.receive()?;
        }
        Ok(channel)
    }
}

fn preamble(encrypted: bool) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(MAGIC);
    (bytes[8], bytes[9]) = (VERSION, u8::from(encrypted));
    bytes
}

fn noise(socket: &TcpStream, key: &Key, dialed: bool) -> Result<StatelessTransportState, Error> {
    let wrong = |_| Error::Handshake("the peer has another secret, or isn't the peer");
    let gone = |_| Error::Handshake("the peer broke off the authentication: does it have the same secret?");
    let prologue = preamble(true);
    let pattern = PATTERN.parse().map_err(wrong)?;
    let builder = Builder::new(pattern).psk(0, &key.0).and_then(|b| b.prologue(&prologue)).map_err(wrong)?;
    let mut state = if dialed { builder.build_initiator() } else { builder.build_responder() }.map_err(wrong)?;
    let (mut message, mut payload) = ([0; 48], [0; 48]);
    for turn in [dialed, !dialed] {
        if turn {
            let length = state.write_message(&[], &mut message).map_err(wrong)?;
            (&mut &*socket).write_all(&message[..length]).map_err(gone)?;
        } else {
            // An ephemeral key and a tag.
            (&mut &*socket).read_exact(&mut message).map_err(gone)?;
            state.read_message(&message, &mut payload).map_err(wrong)?;
        }
    }
    state.into_stateless_transport_mode().map_err(wrong)
}

impl Sender {
    /// Sends bytes, in as many frames as they take; none at all as an empty frame, a sign of life.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        self.buffer.clear();
        loop {
            let (part, after) = rest.split_at(rest.len().min(MAX_FRAME - TAG));
            self.frame(part)?;
            rest = after;
            if rest.is_empty() || self.buffer.len() > 1 << 20 {
                (&mut &*self.socket).write_all(&self.buffer).map_err(lost("send to the peer"))?;
                self.buffer.clear();
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn frame(&mut self, part: &[u8]) -> Result<(), Error> {
        let at = self.buffer.len();
        let length = part.len() + if self.cipher.is_some() { TAG } else { 0 };
        self.buffer.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
        match &self.cipher {
            None => self.buffer.extend_from_slice(part),
            Some(cipher) => {
                self.buffer.resize(at + 2 + length, 0);
                cipher
                    .write_message(self.nonce, part, &mut self.buffer[at + 2..])
                    .map_err(|_| Error::Handshake("the connection's encryption is exhausted"))?;
                self.nonce += 1;
            }
        }
        Ok(())
    }
}

impl Receiver {
    /// The content of the next frame; empty for a sign of life.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>, Error> {
        let mut length = [0; 2];
        let gone = lost("receive from the peer");
        (&mut &*self.socket).read_exact(&mut length).map_err(&gone)?;
        self.buffer.resize(usize::from(u16::from_le_bytes(length)), 0);
        (&mut &*self.socket).read_exact(&mut self.buffer).map_err(&gone)?;
        let Some(cipher) = &self.cipher else { return Ok(std::mem::take(&mut self.buffer)) };
        let mut plain = vec![0; self.buffer.len()];
        let length = cipher
            .read_message(self.nonce, &self.buffer, &mut plain)
            .map_err(|_| Error::Handshake("a frame isn't the peer's: the connection was tampered with"))?;
        self.nonce += 1;
        plain.truncate(length);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair(a: Option<[u8; 32]>, b: Option<[u8; 32]>) -> (Result<Channel, Error>, Result<Channel, Error>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let side =
            |key: Option<[u8; 32]>| Protection { key: key.map(Key), insecure: false, timeout: Duration::from_secs(20) };
        let dialer = std::thread::spawn(move || side(a).handshake(TcpStream::connect(address).unwrap(), true));
        let accepted = side(b).handshake(listener.accept().unwrap().0, false);
        (dialer.join().unwrap(), accepted)
    }

    #[test]
    fn bytes_cross_both_ways_and_are_encrypted_only_with_a_secret() {
        for key in [None, Some([7; 32])] {
            let (a, b) = pair(key, key);
            let (mut a, mut b) = (a.unwrap(), b.unwrap());
            let long: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
            let sent = long.clone();
            let thread = std::thread::spawn(move || {
                a.sender.send(&sent).unwrap();
                a.receiver.receive().unwrap()
            });
            let mut received = Vec::new();
            while received.len() < long.len() {
                received.extend(b.receiver.receive().unwrap());
            }
            assert!(received == long);
            assert_eq!(b.receiver.cipher.is_some(), key.is_some());
            b.sender.send(b"back").unwrap();
            assert_eq!(thread.join().unwrap(), b"back");
        }
    }

    #[test]
    fn another_secret_or_none_is_refused_at_both_ends() {
        for (a, b) in [(Some([1; 32]), Some([2; 32])), (None, Some([2; 32])), (Some([1; 32]), None)] {
            let (a, b) = pair(a, b);
            assert!(a.is_err() && b.is_err());
        }
    }
}
