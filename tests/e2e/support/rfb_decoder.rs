//! The viewer's side of RFB's encodings: rectangles into pixels, for tests of the server. Panics at what no server may send.

use std::io::{Cursor, Read};

use flate2::{Decompress, FlushDecompress};

/// How pixels come, as far as a viewer has to know to read them.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) bytes: usize,
    pub(crate) big_endian: bool,
    /// Bytes of a pixel that ZRLE sends.
    pub(crate) compressed: (usize, usize),
    /// The shifts with which Tight's red, green and blue are put together, if it sends them so.
    pub(crate) rgb: Option<[u32; 3]>,
}

impl Format {
    /// 0x00RRGGBB in 32 bits, little-endian.
    pub(crate) const TRUE: Self = Self { bytes: 4, big_endian: false, compressed: (0, 3), rgb: Some([16, 8, 0]) };
}

/// A viewer's picture: values in the viewer's format, and the state of the encodings.
pub(crate) struct Decoder {
    pub(crate) format: Format,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<u32>,
    zlib: Decompress,
    zrle: Decompress,
    tight: [Decompress; 4],
    /// Tight rectangles of the kinds fill, two colours, palette, pixels, JPEG.
    pub(crate) tight_kinds: [usize; 5],
}

/// Columns and rows from x and y on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

fn bytes(input: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes).expect("the server sends all of it");
    bytes
}

fn u8(input: &mut impl Read) -> usize {
    usize::from(bytes(input, 1)[0])
}

fn inflate(stream: &mut Decompress, compressed: &[u8], wanted: Option<usize>) -> Vec<u8> {
    let mut out = Vec::with_capacity(wanted.unwrap_or(1 << 16) + 64);
    let mut rest = compressed;
    loop {
        let before = stream.total_in();
        stream.decompress_vec(rest, &mut out, FlushDecompress::Sync).expect("a stream of zlib");
        rest = &rest[(stream.total_in() - before) as usize..];
        if rest.is_empty() && out.len() < out.capacity() {
            break;
        }
        out.reserve(1 << 16);
    }
    assert!(wanted.is_none_or(|wanted| wanted == out.len()), "{} of {wanted:?} bytes", out.len());
    out
}

impl Decoder {
    pub(crate) fn new(format: Format, width: usize, height: usize) -> Self {
        let stream = || Decompress::new(true);
        Self {
            format,
            width,
            height,
            pixels: vec![0; width * height],
            zlib: stream(),
            zrle: stream(),
            tight: [stream(), stream(), stream(), stream()],
            tight_kinds: [0; 5],
        }
    }

    fn value(&self, bytes: &[u8]) -> u32 {
        let join = |value, byte: &u8| value << 8 | u32::from(*byte);
        if self.format.big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    fn pixel(&self, input: &mut impl Read) -> u32 {
        self.value(&bytes(input, self.format.bytes))
    }

    fn compressed_pixel(&self, input: &mut impl Read) -> u32 {
        let (from, to) = self.format.compressed;
        let mut whole = vec![0; self.format.bytes];
        input.read_exact(&mut whole[from..to]).expect("a pixel");
        self.value(&whole)
    }

    fn tight_pixel(&self, input: &mut impl Read) -> u32 {
        let Some(shifts) = self.format.rgb else { return self.pixel(input) };
        let channels = bytes(input, 3);
        channels.iter().zip(shifts).fold(0, |value, (channel, shift)| value | u32::from(*channel) << shift)
    }

    fn put(&mut self, area: Area, pixels: &[u32]) {
        assert_eq!(pixels.len(), area.width * area.height);
        for (row, pixels) in pixels.chunks(area.width).enumerate() {
            let start = (area.y + row) * self.width + area.x;
            self.pixels[start..start + area.width].copy_from_slice(pixels);
        }
    }

    /// Reads a rectangle's contents.
    pub(crate) fn rect(&mut self, encoding: i32, area: Area, input: &mut impl Read) {
        let Area { x, y, width, height } = area;
        assert!(x + width <= self.width && y + height <= self.height && width * height > 0, "{area:?}");
        match encoding {
            0 => self.raw(area, input),
            5 => self.hextile(area, input),
            6 => {
                let compressed = length_and_bytes(input);
                let raw = inflate(&mut self.zlib, &compressed, Some(width * height * self.format.bytes));
                self.raw(area, &mut Cursor::new(raw));
            }
            7 => self.tight(area, input),
            16 => {
                let compressed = length_and_bytes(input);
                let raw = inflate(&mut self.zrle, &compressed, None);
                self.zrle(area, &mut Cursor::new(raw));
            }
            other => panic!("encoding {other}"),
        }
    }

    /// What CopyRect does: brings what is at `x`, `y` into the area.
    pub(crate) fn copy(&mut self, area: Area, x: usize, y: usize) {
        assert!(x + area.width <= self.width && y + area.height <= self.height && area.width * area.height > 0);
        assert!(area.x + area.width <= self.width && area.y + area.height <= self.height, "{area:?}");
        let from = |row: usize| (y + row) * self.width + x;
        let pixels: Vec<u32> =
            (0..area.height).flat_map(|row| self.pixels[from(row)..][..area.width].to_vec()).collect();
        self.put(area, &pixels);
    }

    fn raw(&mut self, area: Area, input: &mut impl Read) {
        let raw = bytes(input, area.width * area.height * self.format.bytes);
        let pixels: Vec<u32> = raw.chunks(self.format.bytes).map(|bytes| self.value(bytes)).collect();
        self.put(area, &pixels);
    }

    fn hextile(&mut self, area: Area, input: &mut impl Read) {
        let (mut background, mut foreground) = (None, None);
        for tile in tiles(area, 16) {
            let flags = u8(input);
            if flags & 1 != 0 {
                self.raw(tile, input);
                (background, foreground) = (None, None);
                continue;
            }
            if flags & 2 != 0 {
                background = Some(self.pixel(input));
            }
            let mut pixels = vec![background.expect("a background"); tile.width * tile.height];
            if flags & 4 != 0 {
                foreground = Some(self.pixel(input));
            }
            let count = if flags & 8 != 0 { u8(input) } else { 0 };
            for _ in 0..count {
                let colour = if flags & 16 != 0 { self.pixel(input) } else { foreground.expect("a foreground") };
                let (place, size) = (u8(input), u8(input));
                let (left, top) = (place >> 4, place & 15);
                for row in top..=top + (size & 15) {
                    pixels[row * tile.width + left..=row * tile.width + left + (size >> 4)].fill(colour);
                }
            }
            self.put(tile, &pixels);
        }
    }

    fn zrle(&mut self, area: Area, input: &mut Cursor<Vec<u8>>) {
        for tile in tiles(area, 64) {
            let count = tile.width * tile.height;
            let kind = u8(input);
            let mut palette = vec![];
            let colours = if kind < 128 { kind } else { kind - 128 };
            if kind != 0 && kind != 128 {
                assert!(colours <= 16 || kind > 129, "kind {kind}");
                palette = (0..colours).map(|_| self.compressed_pixel(input)).collect();
            }
            let mut pixels = vec![];
            match kind {
                0 => pixels = (0..count).map(|_| self.compressed_pixel(input)).collect(),
                1 => pixels = vec![palette[0]; count],
                2..=16 => {
                    let bits = [1, 2, 4][usize::from(kind > 2) + usize::from(kind > 4)];
                    for _ in 0..tile.height {
                        let row = bytes(input, (tile.width * bits).div_ceil(8));
                        pixels.extend((0..tile.width).map(|column| {
                            let shift = 8 - bits - column * bits % 8;
                            palette[usize::from(row[column * bits / 8]) >> shift & ((1 << bits) - 1)]
                        }));
                    }
                }
                _ => {
                    while pixels.len() < count {
                        let (colour, run) = if kind == 128 {
                            (self.compressed_pixel(input), true)
                        } else {
                            let index = u8(input);
                            (palette[index & 127], index & 128 != 0)
                        };
                        let len = if run { run_length(input) } else { 1 };
                        pixels.extend(std::iter::repeat_n(colour, len));
                    }
                }
            }
            self.put(tile, &pixels);
        }
        assert_eq!(input.position() as usize, input.get_ref().len(), "nothing is left over");
    }

    fn tight(&mut self, area: Area, input: &mut impl Read) {
        let control = u8(input);
        assert_eq!(control & 15, 0, "no stream begins again");
        let count = area.width * area.height;
        if control == 0x80 {
            self.tight_kinds[0] += 1;
            let colour = self.tight_pixel(input);
            return self.put(area, &vec![colour; count]);
        }
        if control == 0x90 {
            self.tight_kinds[4] += 1;
            let len = tight_length(input);
            let jpeg = bytes(input, len);
            let rgb = jpeg_decoder::Decoder::new(&jpeg[..]).decode().expect("a JPEG");
            let pixels: Vec<u32> = rgb.chunks(3).map(|c| u32::from_be_bytes([0, c[0], c[1], c[2]])).collect();
            return self.put(area, &pixels);
        }
        assert!(control < 0x80);
        let filter = if control & 0x40 != 0 { u8(input) } else { 0 };
        let stream = control >> 4 & 3;
        let mut palette = vec![];
        if filter == 1 {
            let colours = u8(input) + 1;
            palette = (0..colours).map(|_| self.tight_pixel(input)).collect();
        }
        let pixel = if self.format.rgb.is_some() { 3 } else { self.format.bytes };
        let len = match palette.len() {
            0 => count * pixel,
            2 => area.width.div_ceil(8) * area.height,
            _ => count,
        };
        let raw = if len < 12 {
            bytes(input, len)
        } else {
            let compressed = tight_length(input);
            inflate(&mut self.tight[stream], &bytes(input, compressed), Some(len))
        };
        let pixels: Vec<u32> = match palette.len() {
            0 => {
                self.tight_kinds[3] += 1;
                raw.chunks(pixel).map(|bytes| self.tight_pixel(&mut &bytes[..])).collect()
            }
            2 => {
                self.tight_kinds[1] += 1;
                let row = |row: &[u8]| {
                    (0..area.width).map(|x| palette[usize::from(row[x / 8] >> (7 - x % 8) & 1)]).collect::<Vec<_>>()
                };
                raw.chunks(area.width.div_ceil(8)).flat_map(row).collect()
            }
            _ => {
                self.tight_kinds[2] += 1;
                raw.iter().map(|index| palette[usize::from(*index)]).collect()
            }
        };
        self.put(area, &pixels);
    }
}

fn length_and_bytes(input: &mut impl Read) -> Vec<u8> {
    let len = bytes(input, 4).iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    bytes(input, len)
}

fn run_length(input: &mut impl Read) -> usize {
    let mut len = 1;
    loop {
        let byte = u8(input);
        len += byte;
        if byte != 255 {
            return len;
        }
    }
}

fn tight_length(input: &mut impl Read) -> usize {
    let mut len = 0;
    for shift in [0, 7, 14] {
        let byte = u8(input);
        len |= (if shift == 14 { byte } else { byte & 127 }) << shift;
        if byte & 128 == 0 {
            break;
        }
    }
    len
}

fn tiles(area: Area, side: usize) -> Vec<Area> {
    let mut tiles = vec![];
    for y in (0..area.height).step_by(side) {
        for x in (0..area.width).step_by(side) {
            let (width, height) = (side.min(area.width - x), side.min(area.height - y));
            tiles.push(Area { x: area.x + x, y: area.y + y, width, height });
        }
    }
    tiles
}
