//! A client's two threads: one reads its bytes, the other owns its session and writes. A client that doesn't read holds up
//! only its own; all it can do to the VM is to press keys and to look.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ferro_console::monitor::VncClient;
use ferro_console::rfb::{Output, Picture, Rect, Session, Wants};
use ferro_devices::ps2::{Buttons, Key};
use tracing::debug;

use super::Server;
use super::channel::Channel;
use crate::handle::Follower;
use crate::socket::Client;

/// Messages that wait for a session at most.
const WAITING: usize = 16;
/// How long a client may take to be let in.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to speak first; who doesn't is greeted in RFB.
const FIRST_WORD: Duration = Duration::from_millis(50);
/// The first byte of TLS: a record of its handshake.
const TLS: u8 = 0x16;
const WANTS_TLS: &[u8] = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
/// Between two updates.
const FRAME: Duration = Duration::from_millis(15);

/// What wakes a session's thread.
pub(super) enum Message {
    Bytes(Vec<u8>),
    /// The screen has changed, or the lamps.
    Screen,
    Gone,
}

/// What a client may speak, by where it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    /// RFB.
    Rfb,
    /// RFB, or a WebSocket: who is greeted in RFB waits for that, who wants a WebSocket speaks first.
    Any,
    /// A WebSocket.
    Web,
}

/// Serves a client in threads of its own.
///
/// # Errors
/// A thread or another descriptor that can't be had.
pub(super) fn start<C: Client>(server: &Arc<Server>, stream: C, who: VncClient, entrance: Entrance) -> io::Result<()> {
    stream.limit_writes()?;
    let (mut readable, control) = (stream.second()?, stream.second()?);
    let (sender, messages) = sync_channel(WAITING);
    let follower = server.screen.follow();
    let number = server.add(control, who, follower.clone(), sender.clone());
    let server = server.clone();
    let spawned = std::thread::Builder::new().name("vnc".into()).spawn({
        let server = server.clone();
        move || {
            let mut line =
                Line { stream, channel: Channel::default(), deadline: Instant::now() + HANDSHAKE, early: vec![] };
            let end = line.begin(&server, &messages, entrance).and_then(|encrypt| {
                let session = Session::new(server.settings(encrypt)?);
                let mut owner = Owner { server: server.clone(), number, line: &mut line, session, follower };
                let end = owner.serve(&messages);
                owner.let_go();
                end
            });
            debug!("VNC: client {number} ends: {end:?}");
            line.stream.hang_up();
            server.remove(number);
        }
    });
    let spawned = spawned
        .and_then(|_| std::thread::Builder::new().name("vnc-in".into()).spawn(move || read(&mut readable, &sender)));
    if spawned.is_err() {
        server.remove(number);
    }
    spawned.map(drop)
}

fn read(stream: &mut impl Read, sender: &SyncSender<Message>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if sender.send(Message::Bytes(buffer[..len].to_vec())).is_err() {
            return;
        }
    }
    // The session may have ended first.
    let _ = sender.send(Message::Gone);
}

/// The buttons that a client holds.
fn held(buttons: u8) -> Buttons {
    let down = |bit: u8| buttons >> bit & 1 != 0;
    Buttons { left: down(0), middle: down(1), right: down(2), ..Buttons::default() }
}

/// Tells a session what changed since it was last told.
fn tell(session: &mut Session, follower: &Follower) {
    let small = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    for rect in follower.take() {
        let [x, y, width, height] = [rect.x, rect.y, rect.width, rect.height].map(small);
        session.damage(Rect { x, y, width, height });
    }
}

/// A client's connection.
struct Line<C> {
    stream: C,
    channel: Channel,
    /// By when the client has to be let in.
    deadline: Instant,
    /// What the client said before it was greeted.
    early: Vec<u8>,
}

impl<C: Client> Line<C> {
    /// Finds out what the client speaks. Returns whether its session has to turn to TLS.
    fn begin(&mut self, server: &Server, messages: &Receiver<Message>, entrance: Entrance) -> io::Result<bool> {
        let limit = match entrance {
            Entrance::Rfb => return Ok(server.tls.is_some()),
            Entrance::Any => Instant::now() + FIRST_WORD,
            Entrance::Web => self.deadline,
        };
        let mut bytes = match wait(messages, limit) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && entrance == Entrance::Any => vec![],
            other => other?,
        };
        match (bytes.first(), &server.tls) {
            (Some(&TLS), Some(tls)) => self.channel.encrypt(tls.clone())?,
            (Some(b'G'), Some(_)) => {
                self.channel.send(WANTS_TLS.to_vec())?;
                self.write()?;
                return Err(io::Error::other("its WebSocket isn't encrypted"));
            }
            (Some(b'G'), None) => {}
            _ if entrance == Entrance::Web => return Err(io::Error::other("it speaks no WebSocket")),
            (_, tls) => {
                // Who speaks RFB without having been greeted is heard afterwards.
                self.early = bytes;
                return Ok(tls.is_some());
            }
        }
        self.channel.frame(server.has_no_password());
        loop {
            self.receive(bytes)?;
            if self.channel.is_open() {
                return Ok(false);
            }
            bytes = wait(messages, self.deadline)?;
        }
    }

    /// The session's bytes in those of the socket.
    fn receive(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let received = self.channel.receive(bytes);
        let written = self.write();
        received.and_then(|received| written.map(|()| received))
    }

    fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.channel.send(bytes)?;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.channel.take_output())
    }
}

/// The client's next bytes.
fn wait(messages: &Receiver<Message>, limit: Instant) -> io::Result<Vec<u8>> {
    loop {
        match messages.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(Message::Bytes(bytes)) => return Ok(bytes),
            Ok(Message::Screen) => {}
            Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(Message::Gone) | Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The session, with all that it acts on.
struct Owner<'a, C> {
    server: Arc<Server>,
    number: u64,
    line: &'a mut Line<C>,
    session: Session,
    follower: Follower,
}

impl<C: Client> Owner<'_, C> {
    /// Serves the client until it or its session ends.
    fn serve(&mut self, messages: &Receiver<Message>) -> io::Result<()> {
        let mut next_update = Instant::now();
        self.session.input(&std::mem::take(&mut self.line.early));
        loop {
            while let Some(output) = self.session.poll() {
                self.act(output)?;
            }
            self.look();
            let now = Instant::now();
            let wants = self.session.wants();
            if wants == Wants::Update && now >= next_update {
                next_update = now + FRAME;
                self.update();
                continue;
            }
            let limit = match wants {
                _ if !self.session.is_open() => Some(self.line.deadline),
                Wants::Update => Some(next_update),
                _ => None,
            };
            self.server.set_waiting(self.number, wants == Wants::Changes);
            let message = match limit {
                Some(limit) => messages.recv_timeout(limit.saturating_duration_since(now)),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(Message::Bytes(bytes)) => {
                    let bytes = self.line.receive(bytes)?;
                    self.session.input(&bytes);
                }
                Ok(Message::Screen) => {}
                Err(RecvTimeoutError::Timeout) if self.session.is_open() => {}
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(Message::Gone) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Does what the session wants.
    fn act(&mut self, output: Output) -> io::Result<()> {
        match output {
            Output::Send(bytes) => self.line.send(bytes),
            Output::Encrypt => {
                let tls = self.server.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
                self.line.channel.encrypt(tls)?;
                let early = self.session.take_unread();
                self.session.encrypted();
                let bytes = self.line.receive(early)?;
                self.session.input(&bytes);
                Ok(())
            }
            Output::Enter { shared } => {
                self.server.enter(self.number, shared);
                Ok(())
            }
            Output::Close(why) => {
                self.line.channel.close();
                self.line.write()?;
                Err(io::Error::other(why))
            }
            pressed => {
                self.press(&pressed);
                Ok(())
            }
        }
    }

    /// Lets go of the keys that a client held that is gone. Nobody reads what there is to send.
    fn let_go(&mut self) {
        self.session.release();
        while let Some(output) = self.session.poll() {
            self.press(&output);
        }
    }

    /// Tells the session what changed.
    fn look(&mut self) {
        tell(&mut self.session, &self.follower);
        self.session.lamps(self.server.handle.lamps());
        self.session.pointer_is_absolute(self.server.handle.pointer_is_absolute());
    }

    /// Shows the session the picture as it is now.
    fn update(&mut self) {
        self.server.screen.update();
        let Self { server, session, follower, .. } = self;
        server.screen.with_picture(|surface| {
            // What changed up to this very picture, no more and no less.
            tell(session, follower);
            let (width, height) = (surface.width() as usize, surface.height() as usize);
            session.update(Picture { width, height, pixels: surface.pixels() });
        });
    }

    /// Presses keys and moves the mouse.
    fn press(&self, output: &Output) {
        match *output {
            Output::Key { key, down } => {
                if let Some(key) = Key::from_evdev(key.0) {
                    // A guest that doesn't read its keyboard loses keys.
                    self.server.handle.key(key, down);
                }
            }
            Output::Pointer { dx, dy, wheel, buttons } => {
                // Down the screen is towards the user, which a mouse counts as negative.
                self.server.handle.move_mouse(dx, -dy, wheel, held(buttons));
            }
            Output::Position { x, y, wheel, buttons } => {
                // A tablet that its driver has just left is told of in a moment.
                self.server.handle.point((x, y), wheel, held(buttons));
            }
            Output::Send(_) | Output::Encrypt | Output::Enter { .. } | Output::Close(_) => {}
        }
    }
}
