//! Parts of the screen: rectangles, and the set of tiles that a client doesn't have yet. However often and wherever the
//! screen changes, such a set takes one bit for each tile.

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// The leftmost column.
    pub x: u16,
    /// The uppermost row.
    pub y: u16,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl Rect {
    /// A rectangle of this size at the top left.
    pub(super) fn of_size((width, height): (u16, u16)) -> Self {
        Self { x: 0, y: 0, width, height }
    }

    /// The part inside of an area of this size.
    pub(super) fn clipped(self, (width, height): (u16, u16)) -> Self {
        let (x, y) = (self.x.min(width), self.y.min(height));
        Self { x, y, width: self.width.min(width - x), height: self.height.min(height - y) }
    }

    /// The smallest rectangle with both in it.
    pub(super) fn joined(self, other: Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return if self.is_empty() { other } else { self };
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = (self.x.saturating_add(self.width)).max(other.x.saturating_add(other.width));
        let bottom = (self.y.saturating_add(self.height)).max(other.y.saturating_add(other.height));
        Self { x, y, width: right - x, height: bottom - y }
    }

    fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }
}

/// The side of a tile in pixels.
const TILE: u16 = 16;

/// A set of tiles of a screen.
#[derive(Debug, Default)]
pub(super) struct Region {
    size: (u16, u16),
    columns: usize,
    tiles: Vec<bool>,
    marked: usize,
}

impl Region {
    /// An empty set for a screen of this size.
    pub(super) fn new(size: (u16, u16)) -> Self {
        let columns = usize::from(size.0.div_ceil(TILE));
        Self { size, columns, tiles: vec![false; columns * usize::from(size.1.div_ceil(TILE))], marked: 0 }
    }

    /// Columns and rows of tiles that a rectangle touches.
    fn span(&self, rect: Rect) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let rect = rect.clipped(self.size);
        if rect.is_empty() {
            return (0..0, 0..0);
        }
        let range = |from: u16, len: u16| usize::from(from / TILE)..usize::from((from + len).div_ceil(TILE));
        (range(rect.x, rect.width), range(rect.y, rect.height))
    }

    /// The tiles that a rectangle touches.
    pub(super) fn tiles_of(rect: Rect) -> impl Iterator<Item = Rect> {
        let range =
            |from: u16, len: u16| (from / TILE..from.saturating_add(len).div_ceil(TILE)).map(|tile| tile * TILE);
        range(rect.y, rect.height)
            .flat_map(move |y| range(rect.x, rect.width).map(move |x| Rect { x, y, width: TILE, height: TILE }))
    }

    /// Tiles in it.
    pub(super) fn len(&self) -> usize {
        self.marked
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.marked == 0
    }

    /// The smallest rectangle with all of it inside.
    pub(super) fn bounds(&self) -> Rect {
        let tile = |at: usize| Rect {
            x: (at % self.columns) as u16 * TILE,
            y: (at / self.columns) as u16 * TILE,
            width: TILE,
            height: TILE,
        };
        let marked = self.tiles.iter().enumerate().filter(|(_, marked)| **marked).map(|(at, _)| tile(at));
        marked.reduce(Rect::joined).unwrap_or(Rect::of_size((0, 0))).clipped(self.size)
    }

    /// Puts the tiles that a rectangle touches into it.
    pub(super) fn add(&mut self, rect: Rect) {
        let (columns, rows) = self.span(rect);
        for row in rows {
            for tile in &mut self.tiles[row * self.columns..][columns.clone()] {
                self.marked += usize::from(!std::mem::replace(tile, true));
            }
        }
    }

    /// Whether there is something of it in the rectangle.
    pub(super) fn touches(&self, rect: Rect) -> bool {
        let (columns, rows) = self.span(rect);
        self.marked > 0 && rows.into_iter().any(|row| self.tiles[row * self.columns..][columns.clone()].contains(&true))
    }

    /// Takes out what is in the rectangle, as rectangles that don't overlap.
    pub(super) fn take(&mut self, rect: Rect) -> Vec<Rect> {
        let (columns, rows) = self.span(rect);
        let mut taken: Vec<Rect> = vec![];
        let mut above = 0..0;
        for row in rows {
            let start = taken.len();
            let mut column = columns.start;
            while column < columns.end {
                let from = column;
                while column < columns.end && self.tiles[row * self.columns + column] {
                    self.tiles[row * self.columns + column] = false;
                    self.marked -= 1;
                    column += 1;
                }
                if column == from {
                    column += 1;
                    continue;
                }
                let pixel = |tile: usize| tile as u16 * TILE;
                let width = pixel(column - from);
                taken.push(Rect { x: pixel(from), y: pixel(row), width, height: TILE });
            }
            // A row of the same stretches as the one above only makes that higher.
            let same = taken[start..].iter().map(|rect| (rect.x, rect.width));
            if start > above.start && same.eq(taken[above.clone()].iter().map(|rect| (rect.x, rect.width))) {
                taken.truncate(start);
                taken[above.clone()].iter_mut().for_each(|rect| rect.height += TILE);
            } else {
                above = start..taken.len();
            }
        }
        taken.iter().map(|rect| rect.clipped(self.size)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: u16, y: u16, width: u16, height: u16) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn what_was_added_is_taken_once() {
        let mut region = Region::new((100, 50));
        region.add(rect(20, 20, 40, 20));
        assert!(region.touches(rect(0, 0, 100, 50)) && !region.touches(rect(0, 0, 16, 50)));
        assert_eq!(region.take(rect(0, 0, 100, 50)), [rect(16, 16, 48, 32)]);
        assert_eq!(region.take(rect(0, 0, 100, 50)), []);
        region.add(rect(99, 49, 1000, 1000));
        assert_eq!(region.take(rect(0, 0, u16::MAX, u16::MAX)), [rect(96, 48, 4, 2)]);
        assert!(!region.touches(rect(0, 0, 100, 50)));
    }

    #[test]
    fn every_marked_pixel_comes_out_exactly_once() {
        let mut seed = 0x2545_f491_u32;
        let mut random = |below: u16| {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            (seed % u32::from(below)) as u16
        };
        for _ in 0..200 {
            let size = (1 + random(130), 1 + random(90));
            let mut region = Region::new(size);
            let mut wanted = vec![false; usize::from(size.0) * usize::from(size.1)];
            for _ in 0..random(6) {
                let added = rect(random(150), random(100), random(60), random(60)).clipped(size);
                region.add(added);
                for y in added.y..added.y + added.height {
                    for x in added.x..added.x + added.width {
                        wanted[usize::from(y) * usize::from(size.0) + usize::from(x)] = true;
                    }
                }
            }
            let mut got = vec![0; wanted.len()];
            for rect in region.take(Rect::of_size(size)) {
                for y in rect.y..rect.y + rect.height {
                    for x in rect.x..rect.x + rect.width {
                        got[usize::from(y) * usize::from(size.0) + usize::from(x)] += 1;
                    }
                }
            }
            assert!(got.iter().all(|times| *times <= 1));
            assert!(wanted.iter().zip(&got).all(|(wanted, got)| !wanted || *got == 1));
        }
    }
}
