//! Graphics modes: four planes, two bits, 256 colours, and VBE's direct colours, row by row.

use super::memory::{DirtyPages, VideoMemory};
use super::registers::Registers;
use super::surface::{Changes, Rect, Surface};
use super::vbe::Mode;

/// How a row's bytes become pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Four planes, a pixel being a bit of each.
    Planar,
    /// Two bits a pixel, from planes 0 and 1 in turn.
    TwoBits,
    /// A byte a pixel, into the palette.
    Indexed,
    /// 5 bits of each colour.
    Rgb15,
    /// 5, 6 and 5 bits.
    Rgb16,
    /// Three bytes: blue, green, red.
    Rgb24,
    /// Four bytes: blue, green, red, nothing.
    Rgb32,
}

/// The picture by its registers.
#[derive(Debug, Clone, Copy)]
struct Picture {
    width: u32,
    height: u32,
    format: Format,
    start: usize,
    pitch: usize,
    /// Scan lines of a row of pixels.
    repeat: u32,
    /// The scan line where it begins anew at address 0.
    split: u32,
    /// Odd rows are 8 KiB of plane addresses further, as on a CGA.
    interleaved: bool,
}

impl Picture {
    fn of_vbe(mode: &Mode) -> Self {
        let format = match mode.depth {
            4 => Format::Planar,
            8 => Format::Indexed,
            15 => Format::Rgb15,
            16 => Format::Rgb16,
            24 => Format::Rgb24,
            _ => Format::Rgb32,
        };
        let scale = if mode.depth == 4 { 4 } else { 1 };
        Self {
            width: mode.width,
            height: mode.height,
            format,
            start: mode.start * scale,
            pitch: mode.pitch * scale,
            repeat: 1,
            split: u32::MAX,
            interleaved: false,
        }
    }

    fn of_vga(registers: &Registers) -> Self {
        let crtc = &registers.crtc;
        let (format, dots) = match registers.graphics[5] >> 5 & 3 {
            0 => (Format::Planar, 8),
            1 => (Format::TwoBits, 8),
            _ => (Format::Indexed, 4),
        };
        let interleaved = crtc.0[0x17] & 1 == 0;
        let repeat = if interleaved { 1 } else { crtc.row_scans() } * if crtc.doubles() { 2 } else { 1 };
        Self {
            width: crtc.columns() * dots,
            height: (crtc.scan_lines() / repeat).max(1),
            format,
            start: crtc.start() * 4,
            pitch: crtc.pitch() * 4,
            repeat,
            split: crtc.split(),
            interleaved,
        }
    }

    /// The index of a row's first byte in video memory.
    fn row(&self, y: u32) -> usize {
        let split = (self.split / self.repeat).saturating_add(1);
        let (base, y) = if y >= split { (0, y - split) } else { (self.start, y) };
        if self.interleaved {
            return base + (y / 2) as usize * self.pitch + (y as usize & 1) * 0x2000 * 4;
        }
        base + y as usize * self.pitch
    }

    /// Bytes of video memory that a row takes.
    fn row_len(&self) -> usize {
        let width = self.width as usize;
        match self.format {
            Format::Planar => width / 8 * 4,
            // Two planes of four carry a byte for four pixels each.
            Format::TwoBits => width / 8 * 4,
            Format::Indexed => width,
            Format::Rgb15 | Format::Rgb16 => width * 2,
            Format::Rgb24 => width * 3,
            Format::Rgb32 => width * 4,
        }
    }
}

/// Five bits as eight, and six.
fn widen(value: u32, bits: u32) -> u32 {
    let value = value & ((1 << bits) - 1);
    value << (8 - bits) | value >> (2 * bits - 8)
}

/// The colours of the modes that have some.
struct Colours {
    sixteen: [u32; 16],
    all: [u32; 256],
}

fn convert(format: Format, bytes: &[u8], colours: &Colours, pixels: &mut Vec<u32>) {
    pixels.clear();
    match format {
        Format::Planar => {
            for planes in bytes.chunks_exact(4) {
                pixels.extend((0..8).rev().map(|bit| {
                    let index = (0..4).fold(0, |index, plane| index | (planes[plane] >> bit & 1) << plane);
                    colours.sixteen[usize::from(index)]
                }));
            }
        }
        Format::TwoBits => {
            for planes in bytes.chunks_exact(4) {
                for byte in [planes[0], planes[1]] {
                    pixels.extend([6, 4, 2, 0].map(|shift| colours.sixteen[usize::from(byte >> shift & 3)]));
                }
            }
        }
        Format::Indexed => pixels.extend(bytes.iter().map(|index| colours.all[usize::from(*index)])),
        Format::Rgb15 | Format::Rgb16 => {
            let green_bits = if format == Format::Rgb15 { 5 } else { 6 };
            pixels.extend(bytes.chunks_exact(2).map(|pair| {
                let value = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
                let red = widen(value >> (5 + green_bits), 5);
                red << 16 | widen(value >> 5, green_bits) << 8 | widen(value, 5)
            }));
        }
        Format::Rgb24 => {
            pixels.extend(bytes.chunks_exact(3).map(|rgb| u32::from_le_bytes([rgb[0], rgb[1], rgb[2], 0])));
        }
        Format::Rgb32 => {
            pixels.extend(bytes.chunks_exact(4).map(|rgb| u32::from_le_bytes([rgb[0], rgb[1], rgb[2], 0])));
        }
    }
}

/// Renders what changed; everything, if `all` says so or the size is another.
pub(super) fn render(
    registers: &Registers,
    mode: Option<&Mode>,
    memory: &VideoMemory,
    dirty: &DirtyPages,
    all: bool,
    surface: &mut Surface,
) -> Vec<Rect> {
    if !all && !dirty.any() {
        return vec![];
    }
    let picture = mode.map_or_else(|| Picture::of_vga(registers), Picture::of_vbe);
    let all = surface.resize(picture.width, picture.height) || all;
    let colours = Colours { sixteen: registers.colours(), all: registers.palette.pixels() };
    let len = picture.row_len();
    let mut bytes = vec![0; len];
    let mut pixels = Vec::with_capacity(picture.width as usize);
    let mut changes = Changes::default();
    for y in 0..picture.height {
        let index = picture.row(y) % memory.len();
        if !all && !dirty.touches(index, len) {
            continue;
        }
        memory.read(index, &mut bytes);
        convert(picture.format, &bytes, &colours, &mut pixels);
        if let Some(columns) = surface.put(0, y, &pixels) {
            changes.add(y, columns);
        }
    }
    changes.finish()
}
