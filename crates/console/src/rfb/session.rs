//! A client's session: what it was told, what it wants, what it doesn't have yet. Nothing is drawn ahead of what a client
//! asks for: one that reads slowly gets fewer updates with more in each, and takes no more memory than one update and one
//! picture.

use std::collections::{BTreeSet, VecDeque};

use super::encode::{Effort, Encoder, Encoding};
use super::handshake::{GREETING, Handshake, Progress};
use super::messages::{self, Message};
use super::pixel::{Converter, PixelFormat};
use super::region::Region;
use super::shown::Shown;
use super::{Ending, Output, Rect, keysym};
use crate::keys::Key;
use abilities::{Abilities, Notices};

mod abilities;
mod input;
mod update;

#[cfg(test)]
mod tests;

/// Columns and rows of the largest picture that is shown.
const LARGEST: usize = 1 << 14;

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VM's name, for the viewer's title.
    pub name: String,
    /// What clients have to know.
    pub password: Option<Vec<u8>>,
    /// Clients have to turn to TLS before anything else (VeNCrypt with X.509).
    pub encrypt: bool,
    /// Random bytes that were never used before.
    pub challenge: [u8; 16],
    /// Columns and rows of the screen as it is now.
    pub size: (usize, usize),
}

/// Whether a client waits for an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wants {
    /// It doesn't.
    Nothing,
    /// For one with what changes: none of it has changed yet.
    Changes,
    /// There is something to send to it.
    Update,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open,
    Closed,
}

/// A session.
pub struct Session {
    phase: Phase,
    handshake: Handshake,
    name: String,
    input: Vec<u8>,
    skip: u64,
    output: VecDeque<Output>,
    converter: Converter,
    encoding: Encoding,
    effort: Effort,
    encoder: Encoder,
    abilities: Abilities,
    notices: Notices,
    /// The size that the client knows.
    size: (u16, u16),
    /// Where the screen has changed since the client was sent it, or was asked for anew.
    dirty: Region,
    shown: Shown,
    requested: Option<Rect>,
    continuous: Option<Rect>,
    lamps: u8,
    absolute: bool,
    pointer: Option<(u16, u16, u8)>,
    pressed: BTreeSet<Key>,
}

fn clamp((width, height): (usize, usize)) -> (u16, u16) {
    (width.clamp(1, LARGEST) as u16, height.clamp(1, LARGEST) as u16)
}

impl Session {
    /// A session that begins; its first output is the greeting.
    pub fn new(settings: Settings) -> Self {
        let size = clamp(settings.size);
        let mut dirty = Region::new(size);
        dirty.add(Rect::of_size(size));
        Self {
            phase: Phase::Handshake,
            handshake: Handshake::new(settings.password, settings.encrypt, settings.challenge),
            name: settings.name,
            input: vec![],
            skip: 0,
            output: [Output::Send(GREETING.to_vec())].into(),
            converter: Converter::new(PixelFormat::OURS),
            encoding: Encoding::Raw,
            effort: Effort::default(),
            encoder: Encoder::default(),
            abilities: Abilities::default(),
            notices: Notices::default(),
            size,
            dirty,
            shown: Shown::default(),
            requested: None,
            continuous: None,
            lamps: 0,
            absolute: false,
            pointer: None,
            pressed: BTreeSet::new(),
        }
    }

    /// What it wants done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// Whether the client has been let in.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Takes bytes from the client. What it says counts from the next [`Session::poll`] on; take all that comes of it before
    /// more input, as that is what keeps the output short.
    pub fn input(&mut self, bytes: &[u8]) {
        let mut waiting = std::mem::take(&mut self.input);
        waiting.extend_from_slice(bytes);
        let mut rest = &waiting[..];
        loop {
            let skipped = self.skip.min(rest.len() as u64) as usize;
            self.skip -= skipped as u64;
            let taken = self.take(&rest[skipped..]);
            rest = &rest[skipped + taken..];
            if skipped + taken == 0 || rest.is_empty() {
                break;
            }
        }
        self.input = rest.to_vec();
    }

    /// What came but isn't read yet. After [`Output::Encrypt`] that is the beginning of TLS.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// The connection is encrypted, as [`Output::Encrypt`] asked: from now on input is what comes through TLS.
    pub fn encrypted(&mut self) {
        let mut answer = vec![];
        self.handshake.encrypted(&mut answer);
        if !answer.is_empty() {
            self.send(answer);
        }
    }

    /// Acts on whole messages; returns how many bytes they had. Stops where bytes are to be skipped.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.skip == 0 {
            let rest = &bytes[taken..];
            let step = match self.phase {
                Phase::Closed => return bytes.len(),
                Phase::Handshake => self.greet(rest),
                Phase::Open => match messages::parse(rest) {
                    Ok(None) => None,
                    Ok(Some((message, len))) => {
                        self.act(message);
                        Some(len)
                    }
                    Err(ending) => {
                        self.close(ending);
                        None
                    }
                },
            };
            match step {
                Some(len) => taken += len,
                None => break,
            }
        }
        taken
    }

    fn close(&mut self, ending: Ending) {
        self.release();
        self.phase = Phase::Closed;
        self.output.push_back(Output::Close(ending));
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.output.push_back(Output::Send(bytes));
    }

    fn greet(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut answer = vec![];
        let progress = self.handshake.advance(bytes, &mut answer);
        if !answer.is_empty() {
            self.send(answer);
        }
        match progress {
            Progress::Wait => None,
            Progress::Taken(len) => Some(len),
            Progress::Encrypt(len) => {
                self.output.push_back(Output::Encrypt);
                Some(len)
            }
            Progress::Refused(ending) => {
                self.close(ending);
                None
            }
            Progress::Done { taken, shared } => {
                self.phase = Phase::Open;
                self.output.push_back(Output::Enter { shared });
                let mut init = vec![];
                init.extend_from_slice(&self.size.0.to_be_bytes());
                init.extend_from_slice(&self.size.1.to_be_bytes());
                init.extend_from_slice(&PixelFormat::OURS.to_bytes());
                init.extend_from_slice(&(self.name.len() as u32).to_be_bytes());
                init.extend_from_slice(self.name.as_bytes());
                self.send(init);
                Some(taken)
            }
        }
    }

    fn act(&mut self, message: Message) {
        match message {
            Message::SetPixelFormat(bytes) => self.set_format(&bytes),
            Message::SetEncodings(numbers) => self.set_encodings(&numbers),
            Message::Request { incremental, area } => {
                let area = area.clipped(self.size);
                if !incremental {
                    self.dirty.add(area);
                    self.shown.forget(area);
                }
                self.requested = Some(self.requested.map_or(area, |requested| requested.joined(area)));
            }
            Message::Key { down, keysym } => self.key(keysym::from_keysym(keysym), down),
            Message::ExtendedKey { down, keysym, keycode } => {
                let key = keysym::from_scan_code(keycode).or_else(|| keysym::from_keysym(keysym));
                self.key(key, down);
            }
            Message::Pointer { buttons, x, y } => self.pointer(buttons, x, y),
            Message::Skip(len) => self.skip = len,
            Message::Continuous { enable: true, area } => self.continuous = Some(area.clipped(self.size)),
            Message::Continuous { enable: false, .. } => {
                if self.continuous.take().is_some() {
                    self.send(vec![150]);
                }
            }
            Message::Fence { flags, payload } => self.answer_fence(flags, &payload),
            Message::SetDesktopSize => self.notices.size_refused = self.abilities.extended_desktop_size,
        }
    }

    fn set_format(&mut self, bytes: &[u8; 16]) {
        let Some(format) = PixelFormat::parse(bytes) else { return self.close(Ending::Malformed) };
        self.converter = Converter::new(format);
        // What it has may have fewer colours.
        self.shown.forget(Rect::of_size(self.size));
        if let Some(colours) = format.colour_map() {
            let mut message = vec![1, 0, 0, 0, 1, 0];
            message.extend(colours.flatten().flat_map(u16::to_be_bytes));
            self.send(message);
        }
    }
}
