//! How a client wants its pixels (RFC 6143, 7.4), and bringing ours into that form.

/// A pixel format that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PixelFormat {
    /// 8, 16 or 32.
    bits: u8,
    depth: u8,
    big_endian: bool,
    /// False where the client looks pixels up in a map, which then has our 256 colours.
    true_colour: bool,
    max: [u16; 3],
    shift: [u8; 3],
}

impl PixelFormat {
    /// Our own: 32 bits, 0x00RRGGBB, little-endian.
    pub(super) const OURS: Self =
        Self { bits: 32, depth: 24, big_endian: false, true_colour: true, max: [255; 3], shift: [16, 8, 0] };

    /// The one that a client describes; `None` if it makes no sense.
    pub(super) fn parse(bytes: &[u8; 16]) -> Option<Self> {
        let &[bits, depth, big, colour, r1, r0, g1, g0, b1, b0, red, green, blue, ..] = bytes;
        let (big_endian, true_colour) = (big != 0, colour != 0);
        if !matches!(bits, 8 | 16 | 32) {
            return None;
        }
        if !true_colour {
            return Some(Self { bits, depth: 8, big_endian, true_colour, max: [7, 7, 3], shift: [5, 2, 0] });
        }
        let max = [[r1, r0], [g1, g0], [b1, b0]].map(u16::from_be_bytes);
        let shift = [red, green, blue];
        let fits = |(max, shift): (&u16, &u8)| *shift < bits && u64::from(*max) << shift >> bits == 0;
        let format = Self { bits, depth, big_endian, true_colour, max, shift };
        max.iter().zip(&shift).all(fits).then_some(format)
    }

    /// As it is written in messages.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let [[r1, r0], [g1, g0], [b1, b0]] = self.max.map(u16::to_be_bytes);
        let [red, green, blue] = self.shift;
        let flags = [self.big_endian, self.true_colour].map(u8::from);
        [self.bits, self.depth, flags[0], flags[1], r1, r0, g1, g0, b1, b0, red, green, blue, 0, 0, 0]
    }

    /// The colours that a client without true colour is to put into its map: red, green and blue for each.
    pub(super) fn colour_map(self) -> Option<impl Iterator<Item = [u16; 3]>> {
        let level = |value: u32, max: u32| (value * 0xffff / max) as u16;
        let colour = move |index: u32| [level(index >> 5, 7), level(index >> 2 & 7, 7), level(index & 3, 3)];
        (!self.true_colour).then(|| (0..256).map(colour))
    }

    /// Bytes of a pixel.
    pub(super) fn bytes(self) -> usize {
        usize::from(self.bits / 8)
    }
}

/// Which bytes of a pixel are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All.
    Full,
    /// Those that ZRLE sends (RFC 6143, 7.7.5): three where the fourth has nothing in it.
    Compressed,
    /// Those that Tight sends: red, green, blue where each has eight bits of 32.
    Tight,
}

#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Bytes `from..to` of the pixel in the client's byte order.
    Bytes { from: usize, to: usize },
    /// Red, green, blue.
    Rgb,
}

/// Brings pixels into a client's format.
#[derive(Debug)]
pub(super) struct Converter {
    format: PixelFormat,
    tables: Box<[[u32; 256]; 3]>,
}

impl Converter {
    /// A converter into this format.
    pub(super) fn new(format: PixelFormat) -> Self {
        let table = |channel: usize| {
            let (max, shift) = (u64::from(format.max[channel]), format.shift[channel]);
            std::array::from_fn(|value| (((value as u64 * max + 127) / 255) << shift) as u32)
        };
        Self { format, tables: Box::new(std::array::from_fn(table)) }
    }

    /// Where the bytes of a form are.
    fn layout(&self, form: Form) -> Layout {
        let PixelFormat { bits, depth, big_endian, true_colour, max, shift } = self.format;
        let full = Layout::Bytes { from: 0, to: self.format.bytes() };
        if form == Form::Full || bits != 32 || !true_colour || depth > 24 {
            return full;
        }
        if form == Form::Tight {
            return if max == [255; 3] && depth == 24 { Layout::Rgb } else { full };
        }
        let used = max.iter().zip(shift).fold(0, |used, (max, shift)| used | u32::from(*max) << shift);
        match (used >> 24, used & 0xff) {
            (0, _) if big_endian => Layout::Bytes { from: 1, to: 4 },
            (0, _) => Layout::Bytes { from: 0, to: 3 },
            (_, 0) if big_endian => Layout::Bytes { from: 0, to: 3 },
            (_, 0) => Layout::Bytes { from: 1, to: 4 },
            _ => full,
        }
    }

    /// Bytes of a pixel in this form.
    pub(super) fn bytes(&self, form: Form) -> usize {
        match self.layout(form) {
            Layout::Bytes { from, to } => to - from,
            Layout::Rgb => 3,
        }
    }

    /// Writes pixels.
    pub(super) fn put(&self, form: Form, pixels: &[u32], out: &mut Vec<u8>) {
        let layout = self.layout(form);
        out.reserve(pixels.len() * self.bytes(form));
        for &pixel in pixels {
            let [_, red, green, blue] = pixel.to_be_bytes();
            let (from, to) = match layout {
                Layout::Rgb => {
                    out.extend_from_slice(&[red, green, blue]);
                    continue;
                }
                Layout::Bytes { from, to } => (from, to),
            };
            let [reds, greens, blues] = &*self.tables;
            let value = reds[usize::from(red)] | greens[usize::from(green)] | blues[usize::from(blue)];
            let big = value.to_be_bytes();
            let bytes = match (self.format.big_endian, self.format.bits) {
                (false, _) => value.to_le_bytes(),
                (true, 8) => [big[3], 0, 0, 0],
                (true, 16) => [big[2], big[3], 0, 0],
                (true, _) => big,
            };
            out.extend_from_slice(&bytes[from..to]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converter(bits: u8, depth: u8, big: bool, max: [u16; 3], shift: [u8; 3]) -> Converter {
        let format = PixelFormat { bits, depth, big_endian: big, true_colour: true, max, shift };
        Converter::new(PixelFormat::parse(&format.to_bytes()).unwrap())
    }

    fn put(converter: &Converter, form: Form) -> Vec<u8> {
        let mut out = vec![];
        converter.put(form, &[0x12_34ff], &mut out);
        out
    }

    #[test]
    fn pixels_take_the_clients_form() {
        let ours = Converter::new(PixelFormat::OURS);
        assert_eq!(put(&ours, Form::Full), [0xff, 0x34, 0x12, 0]);
        assert_eq!(put(&ours, Form::Compressed), [0xff, 0x34, 0x12]);
        assert_eq!(put(&ours, Form::Tight), [0x12, 0x34, 0xff]);
        let high = converter(32, 24, true, [255; 3], [24, 16, 8]);
        assert_eq!(put(&high, Form::Full), [0x12, 0x34, 0xff, 0]);
        assert_eq!(put(&high, Form::Compressed), [0x12, 0x34, 0xff]);
        let sixteen = converter(16, 16, true, [31, 63, 31], [11, 5, 0]);
        assert_eq!(put(&sixteen, Form::Tight), [0x11, 0xbf]);
        assert_eq!(put(&converter(8, 8, false, [7, 7, 3], [5, 2, 0]), Form::Full), [0x07]);
    }

    #[test]
    fn formats_without_sense_are_refused() {
        let mut bytes = PixelFormat::OURS.to_bytes();
        bytes[0] = 24;
        assert_eq!(PixelFormat::parse(&bytes), None);
        bytes[0] = 16;
        assert_eq!(PixelFormat::parse(&bytes), None, "red lies outside of 16 bits");
        bytes[3] = 0;
        assert_eq!(PixelFormat::parse(&bytes).unwrap().colour_map().unwrap().count(), 256);
    }
}
