//! ZRLE (RFC 6143, 7.7.6): tiles of 64 by 64 pixels, each in the shortest of several ways, through one stream of zlib.

use super::palette::{Palette, pack};
use super::{Converter, Effort, Encoder, Picture, Rect, tiles};
use crate::rfb::pixel::Form;

const PLAIN_RLE: u8 = 128;
/// Colours of a palette that comes with runs.
const COLOURS: usize = 127;

impl Encoder {
    pub(super) fn zrle(
        &mut self,
        effort: Effort,
        converter: &Converter,
        picture: Picture<'_>,
        rect: Rect,
        out: &mut Vec<u8>,
    ) {
        self.bytes.clear();
        for tile in tiles(rect, 64) {
            picture.copy(tile, &mut self.pixels);
            encode_tile(converter, &self.pixels, usize::from(tile.width), &mut self.bytes);
        }
        self.zrle.set_level(effort.compression);
        self.zrle.write_with_length(&self.bytes, out);
    }
}

/// Stretches of one colour: the colour, and how many pixels.
fn runs(pixels: &[u32]) -> impl Iterator<Item = (u32, usize)> {
    pixels.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()))
}

/// A run's length: as many 255 as fit, and the rest.
fn put_length(len: usize, out: &mut Vec<u8>) {
    out.extend(std::iter::repeat_n(255, (len - 1) / 255));
    out.push(((len - 1) % 255) as u8);
}

fn encode_tile(converter: &Converter, pixels: &[u32], width: usize, out: &mut Vec<u8>) {
    let size = converter.bytes(Form::Compressed);
    let put = |colours: &[u32], out: &mut Vec<u8>| converter.put(Form::Compressed, colours, out);
    let length = |len: usize| (len - 1) / 255 + 1;
    let plain_rle: usize = runs(pixels).map(|(_, len)| size + length(len)).sum();
    let raw = pixels.len() * size;
    let Some(palette) = Palette::<COLOURS>::of(pixels) else {
        if plain_rle < raw {
            out.push(PLAIN_RLE);
            for (colour, len) in runs(pixels) {
                put(&[colour], out);
                put_length(len, out);
            }
        } else {
            out.push(0);
            put(pixels, out);
        }
        return;
    };
    let count = palette.colours().len();
    if count == 1 {
        out.push(1);
        return put(palette.colours(), out);
    }
    let short = |len: usize| if len == 1 { 1 } else { 1 + length(len) };
    let palette_rle = count * size + runs(pixels).map(|(_, len)| short(len)).sum::<usize>();
    let bits = match count {
        2 => 1,
        3..=4 => 2,
        _ => 4,
    };
    let packed =
        if count <= 16 { count * size + pixels.len() / width * (width * bits).div_ceil(8) } else { usize::MAX };
    // Packed rows of text repeat themselves, which zlib sees, better than runs do.
    if packed <= palette_rle.saturating_mul(2) && packed < raw {
        out.push(count as u8);
        put(palette.colours(), out);
        pack(&palette, pixels, width, bits, out);
    } else if palette_rle < raw.min(plain_rle) {
        out.push(PLAIN_RLE + count as u8);
        put(palette.colours(), out);
        for (colour, len) in runs(pixels) {
            let index = palette.index(colour) as u8;
            if len == 1 {
                out.push(index);
            } else {
                out.push(index | 128);
                put_length(len, out);
            }
        }
    } else if plain_rle < raw {
        out.push(PLAIN_RLE);
        for (colour, len) in runs(pixels) {
            put(&[colour], out);
            put_length(len, out);
        }
    } else {
        out.push(0);
        put(pixels, out);
    }
}
