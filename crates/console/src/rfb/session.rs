//! A client's session: what it was told, what it wants, what it doesn't have yet. Nothing is drawn ahead of what a client
//! asks for: one that reads slowly gets fewer updates with more in each, and takes no more memory than one update.

use std::collections::{BTreeSet, VecDeque};

use super::encode::{Effort, Encoder, Encoding};
use super::handshake::{GREETING, Handshake, Progress};
use super::messages::{self, Message};
use super::pixel::{Converter, PixelFormat};
use super::region::Region;
use super::{Ending, Output, Rect, keysym};
use crate::keys::Key;

mod update;

#[cfg(test)]
mod tests;

const DESKTOP_SIZE: i32 = -223;
const POINTER_TYPE: i32 = -257;
const EXTENDED_KEY: i32 = -258;
const LED_STATE: i32 = -261;
const EXTENDED_DESKTOP_SIZE: i32 = -308;
const FENCE: i32 = -312;
const CONTINUOUS: i32 = -313;

const FENCE_REQUEST: u32 = 1 << 31;
/// BlockBefore, BlockAfter and SyncNext, which sending everything in order keeps.
const FENCE_KNOWN: u32 = 7;

/// A relative movement of nothing.
const STILL: i32 = 0x7fff;
/// Columns and rows of the largest picture that is shown.
const LARGEST: usize = 1 << 14;

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VM's name, for the viewer's title.
    pub name: String,
    /// What clients have to know.
    pub password: Option<Vec<u8>>,
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

/// What a client can do beyond the basic protocol.
#[derive(Debug, Default)]
struct Abilities {
    desktop_size: bool,
    extended_desktop_size: bool,
    pointer_type: bool,
    extended_key: bool,
    led_state: bool,
    fence: bool,
    continuous: bool,
}

/// Rectangles without pixels that the next update has to have in it.
#[derive(Debug, Default)]
struct Notices {
    size: bool,
    /// An attempt to change the size, to be refused.
    size_refused: bool,
    pointer_type: bool,
    extended_key: bool,
    lamps: bool,
}

impl Notices {
    fn any(&self) -> bool {
        self.size || self.size_refused || self.pointer_type || self.extended_key || self.lamps
    }
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
    /// What of the screen the client doesn't have.
    dirty: Region,
    requested: Option<Rect>,
    continuous: Option<Rect>,
    lamps: u8,
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
            handshake: Handshake::new(settings.password, settings.challenge),
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
            requested: None,
            continuous: None,
            lamps: 0,
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

    /// Lets go of the keys and buttons that the client holds: it is gone, or has to go.
    pub fn release(&mut self) {
        for key in std::mem::take(&mut self.pressed) {
            self.output.push_back(Output::Key { key, down: false });
        }
        if self.pointer.take().is_some_and(|(_, _, buttons)| buttons & 7 != 0) {
            self.output.push_back(Output::Pointer { dx: 0, dy: 0, wheel: 0, buttons: 0 });
        }
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
            Message::Fence { flags, payload } => {
                if flags & FENCE_REQUEST != 0 {
                    self.send(fence(flags & FENCE_KNOWN, &payload));
                }
            }
            Message::SetDesktopSize => self.notices.size_refused = self.abilities.extended_desktop_size,
        }
    }

    fn set_format(&mut self, bytes: &[u8; 16]) {
        let Some(format) = PixelFormat::parse(bytes) else { return self.close(Ending::Malformed) };
        self.converter = Converter::new(format);
        if let Some(colours) = format.colour_map() {
            let mut message = vec![1, 0, 0, 0, 1, 0];
            message.extend(colours.flatten().flat_map(u16::to_be_bytes));
            self.send(message);
        }
    }

    fn set_encodings(&mut self, numbers: &[i32]) {
        self.encoding = numbers.iter().find_map(|number| Encoding::from_number(*number)).unwrap_or(Encoding::Raw);
        self.effort = Effort::default();
        let before = std::mem::take(&mut self.abilities);
        for &number in numbers {
            match number {
                DESKTOP_SIZE => self.abilities.desktop_size = true,
                EXTENDED_DESKTOP_SIZE => self.abilities.extended_desktop_size = true,
                POINTER_TYPE => self.abilities.pointer_type = true,
                EXTENDED_KEY => self.abilities.extended_key = true,
                LED_STATE => self.abilities.led_state = true,
                FENCE => self.abilities.fence = true,
                CONTINUOUS => self.abilities.continuous = true,
                -256..=-247 => self.effort.compression = (number + 256) as u32,
                -32..=-23 => self.effort.quality = Some((number + 32) as u8),
                _ => {}
            }
        }
        let now = &self.abilities;
        self.notices.size |= now.extended_desktop_size && !before.extended_desktop_size;
        self.notices.pointer_type |= now.pointer_type && !before.pointer_type;
        self.notices.extended_key |= now.extended_key && !before.extended_key;
        self.notices.lamps |= now.led_state && !before.led_state;
        let (fence_new, continuous_new) = (now.fence && !before.fence, now.continuous && !before.continuous);
        if fence_new {
            self.send(fence(FENCE_REQUEST | 1, &[]));
        }
        if continuous_new {
            // That it may be turned on.
            self.send(vec![150]);
        }
    }

    fn key(&mut self, key: Option<Key>, down: bool) {
        let Some(key) = key else { return };
        if down {
            self.pressed.insert(key);
        } else {
            self.pressed.remove(&key);
        }
        self.output.push_back(Output::Key { key, down });
    }

    fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        let (old_x, old_y, old) = self.pointer.replace((x, y, buttons)).unwrap_or((x, y, 0));
        let moved = |new: u16, old: u16| i32::from(new) - i32::from(old);
        let (dx, dy) = if self.abilities.pointer_type {
            (i32::from(x) - STILL, i32::from(y) - STILL)
        } else {
            (moved(x, old_x), moved(y, old_y))
        };
        // The wheel is two more buttons, pressed once for each notch.
        let pressed = buttons & !old;
        let wheel = i32::from(pressed & 0x10 != 0) - i32::from(pressed & 0x08 != 0);
        if (dx, dy, wheel) != (0, 0, 0) || (buttons ^ old) & 7 != 0 {
            self.output.push_back(Output::Pointer { dx, dy, wheel, buttons: buttons & 7 });
        }
    }
}

fn fence(flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![248, 0, 0, 0];
    message.extend_from_slice(&flags.to_be_bytes());
    message.push(payload.len() as u8);
    message.extend_from_slice(payload);
    message
}
