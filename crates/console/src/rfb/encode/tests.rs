//! Every encoding, read back by a viewer's decoder and held against the picture.

use std::io::Cursor;

use super::*;
use crate::rfb::pixel::{Form, PixelFormat};
use decoder::{Area, Decoder, Format};

#[path = "../../../../../tests/e2e/support/rfb_decoder.rs"]
pub(in crate::rfb) mod decoder;

const ALL: [Encoding; 5] = [Encoding::Raw, Encoding::Hextile, Encoding::Zlib, Encoding::Zrle, Encoding::Tight];
const SIZE: (usize, usize) = (167, 91);

struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

/// Pictures of every kind: one colour, text of two, few colours in runs, many, noise.
fn pictures() -> Vec<Vec<u32>> {
    let mut random = Random(0x1234_5678);
    let mut make = |pixel: &mut dyn FnMut(usize, usize, &mut Random) -> u32| {
        let mut pixels = vec![];
        for at in 0..SIZE.0 * SIZE.1 {
            pixels.push(pixel(at % SIZE.0, at / SIZE.0, &mut random));
        }
        pixels
    };
    vec![
        make(&mut |_, _, _| 0x12_3456),
        make(&mut |x, y, _| if (x * 7 ^ y * 13) & 8 == 0 { 0 } else { 0xaa_aaaa }),
        make(&mut |_, _, random| if random.next() & 1 == 0 { 0 } else { 0xff_ffff }),
        make(&mut |x, y, _| (x / 30 + y / 20) as u32 * 0x11_2233 & 0xff_ffff),
        make(&mut |_, _, random| (random.next() % 16) * 0x0f_1011),
        make(&mut |_, _, random| (random.next() % 200) * 0x01_0101),
        make(&mut |x, y, _| (x as u32) << 16 | (y as u32) << 8 | (x * y) as u32 & 0xff),
        make(&mut |x, _, _| (x / 2 * 0x01_0307) as u32 & 0xff_ffff),
        make(&mut |_, _, random| random.next() & 0xff_ffff),
    ]
}

fn formats() -> Vec<(PixelFormat, Format)> {
    let parse = |bytes: [u8; 13]| {
        let mut whole = [0; 16];
        whole[..13].copy_from_slice(&bytes);
        PixelFormat::parse(&whole).unwrap()
    };
    let format = |bytes, big_endian, compressed, rgb| Format { bytes, big_endian, compressed, rgb };
    vec![
        (PixelFormat::OURS, Format::TRUE),
        (parse([32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0]), format(4, true, (1, 4), Some([16, 8, 0]))),
        (parse([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 8, 16, 24]), format(4, false, (1, 4), Some([8, 16, 24]))),
        (parse([32, 32, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16]), format(4, false, (0, 4), None)),
        (parse([16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0]), format(2, false, (0, 2), None)),
        (parse([16, 15, 1, 1, 0, 31, 0, 31, 0, 31, 10, 5, 0]), format(2, true, (0, 2), None)),
        (parse([8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 0, 3, 6]), format(1, false, (0, 1), None)),
        (parse([8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), format(1, false, (0, 1), None)),
    ]
}

/// The whole picture's values in the client's format.
fn expected(format: PixelFormat, pixels: &[u32]) -> Vec<u32> {
    let mut raw = vec![];
    Converter::new(format).put(Form::Full, pixels, &mut raw);
    let big = format.to_bytes()[2] != 0;
    let value = |bytes: &[u8]| {
        let join = |value, byte: &u8| value << 8 | u32::from(*byte);
        if big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    };
    raw.chunks(format.bytes()).map(value).collect()
}

fn send(encoder: &mut Encoder, decoder: &mut Decoder, to: (Encoding, Effort, PixelFormat), pixels: &[u32], rect: Rect) {
    let (encoding, effort, format) = to;
    let picture = Picture { width: SIZE.0, height: SIZE.1, pixels };
    for part in encoding.parts(picture, rect) {
        let mut out = vec![];
        encoder.encode(encoding, effort, &Converter::new(format), picture, part, &mut out);
        let mut input = Cursor::new(&out[12..]);
        let [x, y, width, height] = [part.x, part.y, part.width, part.height].map(usize::from);
        decoder.rect(i32::from_be_bytes(out[8..12].try_into().unwrap()), Area { x, y, width, height }, &mut input);
        assert_eq!(input.position() as usize + 12, out.len(), "all of it is read: {encoding:?} {part:?}");
    }
}

#[test]
fn every_encoding_gives_the_picture_back_in_every_format() {
    let whole = Rect { x: 0, y: 0, width: SIZE.0 as u16, height: SIZE.1 as u16 };
    for (format, read) in formats() {
        for encoding in ALL {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(read, SIZE.0, SIZE.1));
            for (number, pixels) in pictures().iter().enumerate() {
                send(&mut encoder, &mut decoder, (encoding, Effort::default(), format), pixels, whole);
                assert_eq!(decoder.pixels, expected(format, pixels), "{encoding:?} {format:?}, picture {number}");
            }
        }
    }
}

#[test]
fn rectangles_of_any_size_change_only_what_is_in_them() {
    let mut random = Random(77);
    let pictures = pictures();
    for encoding in ALL {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(Format::TRUE, SIZE.0, SIZE.1));
        let mut shown = vec![0; SIZE.0 * SIZE.1];
        for _ in 0..200 {
            let mut below = |limit: usize| random.next() as usize % limit;
            let (x, y) = (below(SIZE.0), below(SIZE.1));
            let (width, height) = (1 + below(SIZE.0 - x), 1 + below(SIZE.1 - y));
            let pixels = &pictures[below(pictures.len())];
            for row in y..y + height {
                let range = row * SIZE.0 + x..row * SIZE.0 + x + width;
                shown[range.clone()].copy_from_slice(&pixels[range]);
            }
            let rect = Rect { x: x as u16, y: y as u16, width: width as u16, height: height as u16 };
            send(&mut encoder, &mut decoder, (encoding, Effort::default(), PixelFormat::OURS), &shown.clone(), rect);
            assert!(decoder.pixels == shown, "{encoding:?} {rect:?}");
        }
    }
}

#[test]
fn tight_takes_the_way_that_fits_the_picture() {
    let whole = Rect { x: 0, y: 0, width: SIZE.0 as u16, height: SIZE.1 as u16 };
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(Format::TRUE, SIZE.0, SIZE.1));
    let pictures = pictures();
    let mut kinds = |pixels: &[u32], quality| {
        decoder.tight_kinds = [0; 5];
        let effort = Effort { compression: 9, quality };
        send(&mut encoder, &mut decoder, (Encoding::Tight, effort, PixelFormat::OURS), pixels, whole);
        (decoder.tight_kinds, decoder.pixels.clone())
    };
    assert_eq!(kinds(&pictures[0], Some(9)).0, [1, 0, 0, 0, 0]);
    assert_eq!(kinds(&pictures[1], Some(9)).0, [0, 1, 0, 0, 0]);
    assert_eq!(kinds(&pictures[5], Some(9)).0, [0, 0, 1, 0, 0]);
    assert_eq!(kinds(&pictures[6], None).0, [0, 0, 0, 1, 0]);
    let smooth: Vec<u32> =
        (0..SIZE.0 * SIZE.1).map(|at| (at % SIZE.0) as u32 * 0x01_0000 | (at / SIZE.0) as u32).collect();
    let (kinds, shown) = kinds(&smooth, Some(9));
    assert_eq!(kinds, [0, 0, 0, 0, 1]);
    let far = |a: u32, b: u32| a.to_be_bytes().iter().zip(b.to_be_bytes()).any(|(a, b)| a.abs_diff(b) > 24);
    assert!(!smooth.iter().zip(&shown).any(|(a, b)| far(*a, *b)), "a JPEG of good quality is close to the picture");
}

#[test]
fn tights_parts_cover_large_rectangles_and_stay_in_its_limits() {
    for (width, height) in [(1, 1), (2048, 100), (2049, 3), (5000, 3000), (16384, 1), (1, 16384)] {
        let pixels = vec![7; (width + 3) * (height + 5)];
        let picture = Picture { width: width + 3, height: height + 5, pixels: &pixels };
        let (width, height) = (width as u16, height as u16);
        let parts = Encoding::Tight.parts(picture, Rect { x: 3, y: 5, width, height });
        assert!(
            parts.iter().all(|part| part.width <= 2048 && u32::from(part.width) * u32::from(part.height) <= 1 << 16)
        );
        let pixels: u64 = parts.iter().map(|part| u64::from(part.width) * u64::from(part.height)).sum();
        assert_eq!(pixels, u64::from(width) * u64::from(height));
    }
}

#[test]
fn tight_keeps_lines_of_two_colours_apart() {
    // Grey text, a green line, grey text, and noise.
    let colour = |y: usize| match y {
        16..32 => 0x55_ff55,
        64.. => 0,
        _ => 0xaa_aaaa,
    };
    let pixels: Vec<u32> = (0..100 * 96)
        .map(|at| {
            if at >= 6400 {
                at as u32 * 77
            } else if at % 3 == 0 {
                0
            } else {
                colour(at / 100)
            }
        })
        .collect();
    let picture = Picture { width: 100, height: 96, pixels: &pixels };
    let parts = Encoding::Tight.parts(picture, Rect { x: 0, y: 0, width: 100, height: 96 });
    let rows: Vec<(u16, u16)> = parts.iter().map(|part| (part.y, part.height)).collect();
    assert_eq!(rows, [(0, 16), (16, 16), (32, 32), (64, 32)]);
}
