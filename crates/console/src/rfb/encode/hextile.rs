//! Hextile (RFC 6143, 7.7.4): tiles of 16 by 16 pixels, each a background with rectangles on it, or raw.

use super::palette::Palette;
use super::{Converter, Picture, Rect, raw, tiles};
use crate::rfb::pixel::Form;

const RAW: u8 = 1;
const BACKGROUND: u8 = 2;
const FOREGROUND: u8 = 4;
const SUBRECTS: u8 = 8;
const COLOURED: u8 = 16;

/// Colours of a tile that isn't sent raw, at most.
const COLOURS: usize = 16;

/// A rectangle of one colour in a tile: x, y, width, height.
type Patch = (usize, usize, usize, usize, u32);

pub(super) fn encode(converter: &Converter, picture: Picture<'_>, rect: Rect, out: &mut Vec<u8>) {
    // What the client takes for granted from the tile before.
    let (mut background, mut foreground) = (None, None);
    let mut pixels = vec![];
    for tile in tiles(rect, 16) {
        picture.copy(tile, &mut pixels);
        let start = out.len();
        let palette = Palette::<COLOURS>::of(&pixels);
        let sent = palette.is_some_and(|palette| {
            let common = commonest(&palette, &pixels);
            let patches = patches(&pixels, usize::from(tile.width), common);
            let one_colour = palette.colours().len() <= 2;
            let mut flags = 0;
            out.push(0);
            if background != Some(common) {
                flags |= BACKGROUND;
                converter.put(Form::Full, &[common], out);
            }
            let colour = patches.first().map(|patch| patch.4).filter(|_| one_colour);
            if let Some(colour) = colour
                && foreground != Some(colour)
            {
                flags |= FOREGROUND;
                converter.put(Form::Full, &[colour], out);
            }
            if !patches.is_empty() {
                flags |= if one_colour { SUBRECTS } else { SUBRECTS | COLOURED };
                out.push(patches.len() as u8);
            }
            for &(x, y, width, height, colour) in &patches {
                if !one_colour {
                    converter.put(Form::Full, &[colour], out);
                }
                out.extend_from_slice(&[(x << 4 | y) as u8, ((width - 1) << 4 | (height - 1)) as u8]);
            }
            out[start] = flags;
            let fits = patches.len() <= 255 && out.len() - start <= pixels.len() * converter.bytes(Form::Full);
            if fits {
                background = Some(common);
                foreground = if flags & COLOURED != 0 { None } else { colour.or(foreground) };
            }
            fits
        });
        if !sent {
            out.truncate(start);
            out.push(RAW);
            raw::encode(converter, picture, tile, out);
            (background, foreground) = (None, None);
        }
    }
}

/// The colour that most pixels have.
fn commonest(palette: &Palette<COLOURS>, pixels: &[u32]) -> u32 {
    let mut counts = [0; COLOURS];
    pixels.iter().for_each(|pixel| counts[palette.index(*pixel)] += 1);
    let most = palette.colours().iter().zip(counts).max_by_key(|(_, count)| *count);
    most.map_or(0, |(colour, _)| *colour)
}

/// Covers everything that isn't background by rectangles.
fn patches(pixels: &[u32], width: usize, background: u32) -> Vec<Patch> {
    let height = pixels.len() / width;
    let mut left = pixels.to_vec();
    let mut patches = vec![];
    for at in 0..left.len() {
        let colour = left[at];
        if colour == background {
            continue;
        }
        let (x, y) = (at % width, at / width);
        let run = (x..width).take_while(|x| left[y * width + x] == colour).count();
        let same = |row: &usize| left[row * width + x..][..run].iter().all(|pixel| *pixel == colour);
        let rows = (y..height).take_while(same).count();
        for row in y..y + rows {
            left[row * width + x..][..run].fill(background);
        }
        patches.push((x, y, run, rows, colour));
    }
    patches
}
