//! The few colours of a part of the picture.

/// Colours in the order of their first appearance, `N` at most.
pub(super) struct Palette<const N: usize> {
    colours: Vec<u32>,
    /// An open hash table of indices into `colours`, one more than the index; 0 is free.
    slots: Vec<u16>,
    last: (u32, usize),
}

impl<const N: usize> Palette<N> {
    /// The colours of these pixels; `None` if there are more than `N`. There has to be a pixel.
    pub(super) fn of(pixels: &[u32]) -> Option<Self> {
        let first = *pixels.first()?;
        let slots = vec![0; (N * 4).next_power_of_two()];
        let mut palette = Self { colours: Vec::with_capacity(N), slots, last: (first, 0) };
        palette.insert(first);
        for &pixel in pixels {
            if pixel != palette.last.0 && !palette.insert(pixel) {
                return None;
            }
        }
        Some(palette)
    }

    fn slot(&self, colour: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (colour.wrapping_mul(0x9e37_79b1) >> 16) as usize & mask;
        while let Some(index) = usize::from(self.slots[slot]).checked_sub(1) {
            if self.colours[index] == colour {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn insert(&mut self, colour: u32) -> bool {
        let slot = self.slot(colour);
        if self.slots[slot] == 0 {
            if self.colours.len() == N {
                return false;
            }
            self.colours.push(colour);
            self.slots[slot] = self.colours.len() as u16;
        }
        self.last = (colour, usize::from(self.slots[slot]) - 1);
        true
    }

    /// The colours.
    pub(super) fn colours(&self) -> &[u32] {
        &self.colours
    }

    /// The number of a colour that is in it.
    pub(super) fn index(&self, colour: u32) -> usize {
        if self.last.0 == colour {
            return self.last.1;
        }
        usize::from(self.slots[self.slot(colour)]).saturating_sub(1)
    }
}

/// Packs the pixels' numbers, `bits` each (1, 2 or 4), rows beginning with a byte of their own.
pub(super) fn pack<const N: usize>(palette: &Palette<N>, pixels: &[u32], width: usize, bits: usize, out: &mut Vec<u8>) {
    let per_byte = 8 / bits;
    for row in pixels.chunks(width) {
        for group in row.chunks(per_byte) {
            let byte = group
                .iter()
                .enumerate()
                .fold(0, |byte, (place, &pixel)| byte | palette.index(pixel) << (8 - bits * (place + 1)));
            out.push(byte as u8);
        }
    }
}
