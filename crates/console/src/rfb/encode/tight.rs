//! Tight (rfbproto, 7.7.7): a rectangle is one colour, or numbers of a palette, or pixels, the latter two through one of
//! three streams of zlib; or, if the client lets it lose something, a JPEG.

use super::palette::{Palette, pack};
use super::{Converter, Effort, Encoder, Picture, Rect};
use crate::rfb::pixel::Form;

const FILL: u8 = 0x80;
const JPEG: u8 = 0x90;
/// A filter's number follows.
const FILTER: u8 = 0x40;
const PALETTE_FILTER: u8 = 1;

/// Streams of zlib: for pixels, for palettes of two colours, and for larger ones.
const PIXELS: u8 = 0;
const TWO: u8 = 1;
const MORE: u8 = 2;

/// Shorter data isn't compressed.
const COMPRESSED_FROM: usize = 12;
/// The widest rectangle that clients take.
const WIDEST: u16 = 2048;
/// Pixels of a rectangle: small enough for differing parts of the screen to be treated differently.
const LARGEST: usize = 1 << 16;
/// Pixels below which JPEG's headers are not worth it.
const JPEG_FROM: usize = 4096;
/// JPEG's quality for the levels that a client can ask for.
const QUALITY: [u8; 10] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95];

/// Rows of a strip that may be sent by itself: those of a line of text.
const STRIP: u16 = 16;

/// The parts in which a rectangle is sent: those that fit Tight's limits, and of these strips of two colours apart from
/// others, as they take one bit for each pixel.
pub(super) fn parts(picture: Picture<'_>, rect: Rect) -> Vec<Rect> {
    let width = rect.width.min(WIDEST);
    let height = (LARGEST / usize::from(width.max(1))).min(usize::from(rect.height)).max(1) as u16;
    let mut parts = vec![];
    for y in (0..rect.height).step_by(usize::from(height)) {
        for x in (0..rect.width).step_by(usize::from(width)) {
            let (width, height) = (width.min(rect.width - x), height.min(rect.height - y));
            strips(picture, Rect { x: rect.x + x, y: rect.y + y, width, height }, &mut parts);
        }
    }
    parts
}

/// The colours of a rectangle, if there are no more than two; the same one twice if there is one.
fn two_colours(picture: Picture<'_>, rect: Rect) -> Option<(u32, u32)> {
    let first = *picture.row(rect, 0).first()?;
    let mut second = first;
    for pixel in (0..usize::from(rect.height)).flat_map(|row| picture.row(rect, row)) {
        if *pixel != first && *pixel != second {
            if second != first {
                return None;
            }
            second = *pixel;
        }
    }
    Some((first.min(second), first.max(second)))
}

/// The colours of two rectangles together, if both have no more than two and so do they.
fn together((a, b): (u32, u32), (c, d): (u32, u32)) -> Option<(u32, u32)> {
    let (low, high) = (a.min(c), b.max(d));
    [a, b, c, d].iter().all(|colour| *colour == low || *colour == high).then_some((low, high))
}

/// Cuts a rectangle into strips of two colours and others; neighbours that can be sent as one are joined.
fn strips(picture: Picture<'_>, rect: Rect, parts: &mut Vec<Rect>) {
    let mut last: Option<(Rect, Option<(u32, u32)>)> = None;
    for y in (0..rect.height).step_by(usize::from(STRIP)) {
        let strip = Rect { y: rect.y + y, height: STRIP.min(rect.height - y), ..rect };
        let colours = two_colours(picture, strip);
        last = Some(match last {
            None => (strip, colours),
            Some((part, before)) => {
                let joined = match (before, colours) {
                    (None, None) => Some(None),
                    (Some(before), Some(colours)) => together(before, colours).map(Some),
                    _ => None,
                };
                match joined {
                    Some(colours) => (Rect { height: part.height + strip.height, ..part }, colours),
                    None => {
                        parts.push(part);
                        (strip, colours)
                    }
                }
            }
        });
    }
    parts.extend(last.map(|(part, _)| part));
}

/// A length in one to three bytes of seven bits, the lowest first.
fn put_length(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len < 1 << 22);
    out.push((len & 0x7f | usize::from(len > 0x7f) << 7) as u8);
    if len > 0x7f {
        out.push((len >> 7 & 0x7f | usize::from(len > 0x3fff) << 7) as u8);
    }
    if len > 0x3fff {
        out.push((len >> 14) as u8);
    }
}

impl Encoder {
    pub(super) fn tight(
        &mut self,
        effort: Effort,
        converter: &Converter,
        picture: Picture<'_>,
        rect: Rect,
        out: &mut Vec<u8>,
    ) {
        let mut pixels = std::mem::take(&mut self.pixels);
        picture.copy(rect, &mut pixels);
        self.bytes.clear();
        match Palette::<256>::of(&pixels) {
            Some(palette) if palette.colours().len() == 1 => {
                out.push(FILL);
                converter.put(Form::Tight, palette.colours(), out);
            }
            // A palette of half as many colours as pixels wins nothing.
            Some(palette) if palette.colours().len() * 2 <= pixels.len() => {
                let two = palette.colours().len() == 2;
                let stream = if two { TWO } else { MORE };
                out.extend_from_slice(&[FILTER | stream << 4, PALETTE_FILTER, (palette.colours().len() - 1) as u8]);
                converter.put(Form::Tight, palette.colours(), out);
                if two {
                    pack(&palette, &pixels, usize::from(rect.width), 1, &mut self.bytes);
                } else {
                    self.bytes.extend(pixels.iter().map(|pixel| palette.index(*pixel) as u8));
                }
                self.compress(stream, effort, out);
            }
            palette => {
                let worth_it = palette.is_none() && pixels.len() >= JPEG_FROM && converter.bytes(Form::Full) > 1;
                let lossy = effort.quality.filter(|_| worth_it).and_then(|quality| jpeg(quality, &pixels, rect));
                if let Some(jpeg) = lossy.filter(|jpeg| jpeg.len() < 1 << 22) {
                    out.push(JPEG);
                    put_length(jpeg.len(), out);
                    out.extend_from_slice(&jpeg);
                } else {
                    out.push(PIXELS << 4);
                    converter.put(Form::Tight, &pixels, &mut self.bytes);
                    self.compress(PIXELS, effort, out);
                }
            }
        }
        self.pixels = pixels;
    }

    /// Writes what was gathered, through one of the streams.
    fn compress(&mut self, stream: u8, effort: Effort, out: &mut Vec<u8>) {
        if self.bytes.len() < COMPRESSED_FROM {
            out.extend_from_slice(&self.bytes);
            return;
        }
        let stream = &mut self.tight[usize::from(stream)];
        stream.set_level(effort.compression);
        let mut compressed = vec![];
        stream.write(&self.bytes, &mut compressed);
        put_length(compressed.len(), out);
        out.extend_from_slice(&compressed);
    }
}

fn jpeg(quality: u8, pixels: &[u32], rect: Rect) -> Option<Vec<u8>> {
    let bytes: Vec<u8> =
        pixels.iter().flat_map(|pixel| [(pixel >> 16) as u8, (pixel >> 8) as u8, *pixel as u8]).collect();
    let mut jpeg = vec![];
    let encoder = jpeg_encoder::Encoder::new(&mut jpeg, QUALITY[usize::from(quality).min(9)]);
    encoder.encode(&bytes, rect.width, rect.height, jpeg_encoder::ColorType::Rgb).ok()?;
    Some(jpeg)
}
