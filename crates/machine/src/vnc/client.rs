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
use crate::handle::Follower;
use crate::socket::Client;

/// Messages that wait for a session at most.
const WAITING: usize = 16;
/// How long a client may take to be let in.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two updates.
const FRAME: Duration = Duration::from_millis(15);

/// What wakes a session's thread.
pub(super) enum Message {
    Bytes(Vec<u8>),
    /// The screen has changed, or the lamps.
    Screen,
    Gone,
}

/// Serves a client in threads of its own.
///
/// # Errors
/// A thread, another descriptor or random numbers that can't be had.
pub(super) fn start<C: Client>(server: &Arc<Server>, stream: C, who: VncClient) -> io::Result<()> {
    stream.limit_writes()?;
    let (mut readable, control) = (stream.second()?, stream.second()?);
    let settings = server.settings()?;
    let (sender, messages) = sync_channel(WAITING);
    let follower = server.screen.follow();
    let number = server.add(control, who, follower.clone(), sender.clone());
    let mut owner = Owner { server: server.clone(), number, stream, session: Session::new(settings), follower };
    let own = move || {
        let end = owner.serve(&messages);
        debug!("VNC: client {number} ends: {end:?}");
        owner.stream.hang_up();
        owner.server.remove(number);
        owner.session.release();
        // Nobody reads what there is to send; keys that it held are let go.
        while let Some(output) = owner.session.poll() {
            owner.press(&output);
        }
    };
    let spawned = std::thread::Builder::new()
        .name("vnc".into())
        .spawn(own)
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

/// Tells a session what changed since it was last told.
fn tell(session: &mut Session, follower: &Follower) {
    let small = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    for rect in follower.take() {
        let [x, y, width, height] = [rect.x, rect.y, rect.width, rect.height].map(small);
        session.damage(Rect { x, y, width, height });
    }
}

/// The session, with all that it acts on.
struct Owner<C> {
    server: Arc<Server>,
    number: u64,
    stream: C,
    session: Session,
    follower: Follower,
}

impl<C: Client> Owner<C> {
    /// Serves the client until it or its session ends.
    fn serve(&mut self, messages: &Receiver<Message>) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE;
        let mut next_update = Instant::now();
        loop {
            while let Some(output) = self.session.poll() {
                match output {
                    Output::Send(bytes) => self.stream.write_all(&bytes)?,
                    Output::Enter { shared } => self.server.enter(self.number, shared),
                    Output::Close(why) => return Err(io::Error::other(why)),
                    pressed => self.press(&pressed),
                }
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
                _ if !self.session.is_open() => Some(deadline),
                Wants::Update => Some(next_update),
                _ => None,
            };
            self.server.set_waiting(self.number, wants == Wants::Changes);
            let message = match limit {
                Some(limit) => messages.recv_timeout(limit.saturating_duration_since(now)),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(Message::Bytes(bytes)) => self.session.input(&bytes),
                Ok(Message::Screen) => {}
                Err(RecvTimeoutError::Timeout) if self.session.is_open() => {}
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(Message::Gone) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Tells the session what changed.
    fn look(&mut self) {
        tell(&mut self.session, &self.follower);
        self.session.lamps(self.server.handle.lamps());
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
                let down = |bit: u8| buttons >> bit & 1 != 0;
                let buttons = Buttons { left: down(0), middle: down(1), right: down(2), ..Buttons::default() };
                // Down the screen is towards the user, which a mouse counts as negative.
                self.server.handle.move_mouse(dx, -dy, wheel, buttons);
            }
            Output::Send(_) | Output::Enter { .. } | Output::Close(_) | Output::Position { .. } => {}
        }
    }
}
