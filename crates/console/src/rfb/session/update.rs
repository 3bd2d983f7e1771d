//! Updates of a viewer's picture: when it waits for one, and what is in it.

use super::abilities::{
    DESKTOP_NAME, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, EXTENDED_KEY, LED_STATE, POINTER_TYPE, WIDE_LED_STATE,
};
use super::{Session, Wants, clamp};
use crate::rfb::encode::{copy_rect, header};
use crate::rfb::region::Region;
use crate::rfb::shown::Shown;
use crate::rfb::{Output, Picture, Rect};

/// More parts than that are sent as one: a message counts its rectangles in sixteen bits, and each may be sent in several.
const RECTANGLES: usize = 1 << 13;

impl Session {
    /// A part of the screen changed.
    pub fn damage(&mut self, rect: Rect) {
        self.dirty.add(rect);
    }

    /// The keyboard's lamps: scroll lock (bit 0), num lock (1), caps lock (2).
    pub fn lamps(&mut self, lamps: u8) {
        if self.lamps != lamps {
            self.lamps = lamps;
            self.notices.lamps |= self.abilities.lamps();
        }
    }

    fn wanted_area(&self) -> Option<Rect> {
        match (self.requested, self.continuous) {
            (Some(requested), Some(continuous)) => Some(requested.joined(continuous)),
            (requested, continuous) => requested.or(continuous),
        }
    }

    /// Whether it waits for an update.
    pub fn wants(&self) -> Wants {
        match self.wanted_area().filter(|_| self.is_open()) {
            None => Wants::Nothing,
            Some(area) if self.notices.any() || self.dirty.touches(area) => Wants::Update,
            Some(_) => Wants::Changes,
        }
    }

    /// Shows the picture as it is now: sends what the client waits for, if there is something.
    pub fn update(&mut self, picture: Picture<'_>) {
        if !self.is_open() {
            return;
        }
        let size = clamp((picture.width, picture.height));
        let resizable = self.abilities.desktop_size || self.abilities.extended_desktop_size;
        if size != self.size && resizable && self.wanted_area().is_some() {
            self.size = size;
            self.notices.size = true;
            self.shown = Shown::default();
            self.dirty = Region::new(size);
            self.dirty.add(Rect::of_size(size));
            self.requested = Some(Rect::of_size(size));
            self.continuous = self.continuous.map(|_| Rect::of_size(size));
        }
        if self.wants() != Wants::Update {
            return;
        }
        // A client that can't be told of another size goes on with its own.
        let shown = (usize::from(self.size.0), usize::from(self.size.1));
        if (picture.width, picture.height) == shown {
            return self.send_update(picture);
        }
        let mut pixels = vec![0; shown.0 * shown.1];
        let width = shown.0.min(picture.width);
        if width > 0 {
            for (to, from) in pixels.chunks_mut(shown.0).zip(picture.pixels.chunks(picture.width)) {
                to[..width].copy_from_slice(&from[..width]);
            }
        }
        self.send_update(Picture { width: shown.0, height: shown.1, pixels: &pixels });
    }

    fn send_update(&mut self, picture: Picture<'_>) {
        let Some(area) = self.wanted_area() else { return };
        let mut message = vec![0; 4];
        // A client takes a new size before anything else: such an update has no pixels.
        let resized = self.notices.size;
        let mut count = self.put_notices(&mut message);
        if !resized {
            count += self.put_changes(picture, area, &mut message);
        }
        // Where nothing differs after all, the client goes on waiting.
        if count > 0 {
            message[2..4].copy_from_slice(&count.to_be_bytes());
            self.requested = None;
            self.output.push_back(Output::Send(message));
        }
    }

    /// Writes what of an area the client doesn't show; in how many rectangles.
    fn put_changes(&mut self, picture: Picture<'_>, area: Rect, out: &mut Vec<u8>) -> u16 {
        let dirty = self.dirty.take(area);
        if dirty.is_empty() {
            return 0;
        }
        if self.shown.is_for_nothing() {
            self.shown = Shown::new(self.size);
        }
        let mut differing = self.shown.differing(&dirty, picture);
        let mut count = 0;
        // Only of a client that wants all of the screen is all known.
        if self.abilities.copy_rect && area == Rect::of_size(self.size) {
            let copies = self.shown.scroll(&differing, picture);
            if !copies.is_empty() {
                copies.iter().for_each(|copy| copy_rect(copy.to, copy.from, out));
                count += copies.len() as u16;
                differing = self.shown.differing(&dirty, picture);
            }
        }
        let mut rects = differing.take(area);
        if rects.len() > RECTANGLES {
            rects = rects.into_iter().reduce(Rect::joined).into_iter().collect();
        }
        for rect in rects {
            self.shown.sent(rect, picture);
            for part in self.encoding.parts(picture, rect) {
                self.encoder.encode(self.encoding, self.effort, &self.converter, picture, part, out);
                count += 1;
            }
        }
        count
    }

    /// Writes the rectangles that have no pixels; how many.
    fn put_notices(&mut self, out: &mut Vec<u8>) -> u16 {
        let notices = std::mem::take(&mut self.notices);
        let empty = Rect::of_size((0, 0));
        let screen = Rect::of_size(self.size);
        let mut count = 0;
        let mut put = |rect, number, bytes: &[u8]| {
            header(rect, number, out);
            out.extend_from_slice(bytes);
            count += 1;
        };
        if self.abilities.extended_desktop_size {
            // One screen, number 0, at the top left, as large as all.
            let mut layout = [0; 20];
            layout[0] = 1;
            layout[12..14].copy_from_slice(&screen.width.to_be_bytes());
            layout[14..16].copy_from_slice(&screen.height.to_be_bytes());
            if notices.size {
                put(screen, EXTENDED_DESKTOP_SIZE, &layout);
            }
            if notices.size_refused {
                // Asked by this client (x = 1); administratively prohibited (y = 1).
                put(Rect { x: 1, y: 1, ..screen }, EXTENDED_DESKTOP_SIZE, &layout);
            }
        } else if notices.size {
            put(screen, DESKTOP_SIZE, &[]);
        }
        if notices.pointer_type {
            put(Rect { x: self.absolute.into(), ..empty }, POINTER_TYPE, &[]);
        }
        if notices.extended_key {
            put(empty, EXTENDED_KEY, &[]);
        }
        if notices.name {
            let len = (self.name.len() as u32).to_be_bytes();
            put(empty, DESKTOP_NAME, &[&len, self.name.as_bytes()].concat());
        }
        if notices.lamps && self.abilities.led_state {
            put(empty, LED_STATE, &[self.lamps]);
        } else if notices.lamps {
            put(empty, WIDE_LED_STATE, &u32::from(self.lamps).to_be_bytes());
        }
        count
    }
}
