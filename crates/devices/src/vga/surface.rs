//! What a screen shows: pixels, and the parts of them that changed.

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// The leftmost column.
    pub x: u32,
    /// The uppermost row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Pixels, row by row, each 0x00RRGGBB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surface {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl Surface {
    /// Columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All pixels.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// One row.
    ///
    /// # Panics
    /// Below the last one.
    pub fn row(&self, y: u32) -> &[u32] {
        let start = y as usize * self.width as usize;
        &self.pixels[start..start + self.width as usize]
    }

    /// Black, in another size; whether the size is new.
    pub(super) fn resize(&mut self, width: u32, height: u32) -> bool {
        if (self.width, self.height) == (width, height) {
            return false;
        }
        (self.width, self.height) = (width, height);
        self.pixels.clear();
        self.pixels.resize(width as usize * height as usize, 0);
        true
    }

    /// Writes pixels into a row from `x` on; those that end up outside are left out. Returns the columns that changed.
    pub(super) fn put(&mut self, x: u32, y: u32, pixels: &[u32]) -> Option<(u32, u32)> {
        if y >= self.height || x >= self.width {
            return None;
        }
        let len = pixels.len().min((self.width - x) as usize);
        let start = y as usize * self.width as usize + x as usize;
        let target = &mut self.pixels[start..start + len];
        let first = target.iter().zip(pixels).position(|(old, new)| old != new)?;
        let last = target.iter().zip(pixels).rposition(|(old, new)| old != new)?;
        target[first..=last].copy_from_slice(&pixels[first..=last]);
        Some((x + first as u32, x + last as u32 + 1))
    }

    /// The image as a PPM file (P6).
    pub fn to_ppm(&self) -> Vec<u8> {
        let mut bytes = format!("P6\n{} {}\n255\n", self.width, self.height).into_bytes();
        bytes.extend(self.pixels.iter().flat_map(|pixel| {
            let [_, red, green, blue] = pixel.to_be_bytes();
            [red, green, blue]
        }));
        bytes
    }
}

/// Joins changed stretches of rows into rectangles.
#[derive(Debug, Default)]
pub(super) struct Changes {
    done: Vec<Rect>,
}

impl Changes {
    /// Columns `from..to` of a row changed. Rows come in order.
    pub(super) fn add(&mut self, y: u32, (from, to): (u32, u32)) {
        if let Some(last) = self.done.last_mut()
            && last.y + last.height == y
        {
            let end = (last.x + last.width).max(to);
            last.x = last.x.min(from);
            last.width = end - last.x;
            last.height += 1;
            return;
        }
        self.done.push(Rect { x: from, y, width: to - from, height: 1 });
    }

    pub(super) fn finish(self) -> Vec<Rect> {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_changes() {
        let mut surface = Surface::default();
        assert!(surface.resize(4, 2) && !surface.resize(4, 2));
        assert_eq!(surface.put(1, 0, &[0, 7, 0]), Some((2, 3)));
        assert_eq!(surface.put(1, 0, &[0, 7, 0]), None);
        assert_eq!(surface.put(3, 1, &[9, 9, 9]), Some((3, 4)));
        assert_eq!(surface.put(0, 2, &[9]), None);
        assert_eq!(surface.row(1), [0, 0, 0, 9]);
        assert_eq!(surface.to_ppm()[..17], *b"P6\n4 2\n255\n\0\0\0\0\0\0");
    }

    #[test]
    fn rows_that_follow_each_other_are_one_rectangle() {
        let mut changes = Changes::default();
        changes.add(1, (2, 4));
        changes.add(2, (1, 3));
        changes.add(5, (0, 1));
        let rect = |x, y, width, height| Rect { x, y, width, height };
        assert_eq!(changes.finish(), [rect(1, 1, 3, 2), rect(0, 5, 1, 1)]);
    }
}
