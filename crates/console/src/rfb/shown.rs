//! What a viewer shows: the picture that adds up from what was sent to it. By it an update has just what differs, however
//! roughly the damage was told, and what has moved is found. Takes as much memory as the picture.

use super::region::Region;
use super::scroll::{self, Copy};
use super::{Picture, Rect};

/// Tiles that have to differ before it is asked whether something scrolled.
const MUCH: usize = 32;

/// A viewer's picture.
#[derive(Debug, Default)]
pub(super) struct Shown {
    size: (u16, u16),
    pixels: Vec<u32>,
    /// Where the viewer may show something else.
    unknown: Region,
}

impl Shown {
    /// A viewer of this size, of which nothing is known.
    pub(super) fn new(size: (u16, u16)) -> Self {
        let mut unknown = Region::new(size);
        unknown.add(Rect::of_size(size));
        Self { size, pixels: vec![0; usize::from(size.0) * usize::from(size.1)], unknown }
    }

    /// Whether it belongs to no picture yet.
    pub(super) fn is_for_nothing(&self) -> bool {
        self.pixels.is_empty()
    }

    fn picture(&self) -> Picture<'_> {
        Picture { width: self.size.0.into(), height: self.size.1.into(), pixels: &self.pixels }
    }

    /// The viewer may have lost what is in this rectangle.
    pub(super) fn forget(&mut self, rect: Rect) {
        self.unknown.add(rect);
    }

    /// The tiles of these rectangles in which the viewer doesn't show the picture, which has its size.
    pub(super) fn differing(&self, rects: &[Rect], now: Picture<'_>) -> Region {
        let mut differing = Region::new(self.size);
        for tile in rects.iter().flat_map(|rect| Region::tiles_of(*rect)) {
            let tile = tile.clipped(self.size);
            let differs = |row: usize| self.picture().row(tile, row) != now.row(tile, row);
            if self.unknown.touches(tile) || (0..usize::from(tile.height)).any(differs) {
                differing.add(tile);
            }
        }
        differing
    }

    /// What the viewer is to copy within its picture, where that is worth it; notes that it has.
    pub(super) fn scroll(&mut self, differing: &Region, now: Picture<'_>) -> Vec<Copy> {
        if differing.len() < MUCH || !self.unknown.is_empty() {
            return vec![];
        }
        let copies = scroll::find(self.picture(), now, differing.bounds());
        for copy in &copies {
            let columns = usize::from(copy.to.x)..usize::from(copy.to.x + copy.to.width);
            let width = usize::from(self.size.0);
            let mut row = |row: u16| {
                let [from, to] = [copy.from, copy.to.y].map(|y| usize::from(y + row) * width);
                self.pixels.copy_within(from + columns.start..from + columns.end, to + columns.start);
            };
            if copy.from > copy.to.y {
                (0..copy.to.height).for_each(&mut row);
            } else {
                (0..copy.to.height).rev().for_each(&mut row);
            }
        }
        copies
    }

    /// A rectangle was sent.
    pub(super) fn sent(&mut self, rect: Rect, now: Picture<'_>) {
        self.unknown.take(rect);
        let width = usize::from(self.size.0);
        for row in 0..usize::from(rect.height) {
            let start = (usize::from(rect.y) + row) * width + usize::from(rect.x);
            self.pixels[start..][..usize::from(rect.width)].copy_from_slice(now.row(rect, row));
        }
    }
}
