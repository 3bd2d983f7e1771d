//! Text modes: characters and attributes from planes 0 and 1, glyphs from plane 2.

use super::memory::{DirtyPages, VideoMemory};
use super::registers::Registers;
use super::surface::{Changes, Rect, Surface};

const GLYPH_ROOM: usize = 32;
const GLYPHS: usize = 256;

/// A character with its attribute.
type Cell = (u8, u8);

/// The text screen by its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    columns: u32,
    rows: u32,
    glyph_width: u32,
    glyph_height: u32,
    start: usize,
    pitch: usize,
}

impl Layout {
    /// `None` if the registers give no screen.
    fn new(registers: &Registers) -> Option<Self> {
        let crtc = &registers.crtc;
        let scans = crtc.scan_lines() / if crtc.doubles() { 2 } else { 1 };
        let rows = scans / crtc.row_scans();
        (rows > 0).then(|| Self {
            columns: crtc.columns(),
            rows,
            glyph_width: 9 - u32::from(registers.sequencer[1] & 1),
            glyph_height: crtc.row_scans(),
            start: crtc.start(),
            pitch: crtc.pitch(),
        })
    }

    fn address(&self, column: u32, row: u32) -> usize {
        self.start + row as usize * self.pitch + column as usize
    }
}

/// The cursor: the address of its cell, and its scan lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    address: usize,
    first: u8,
    last: u8,
}

impl Cursor {
    fn new(registers: &Registers) -> Option<Self> {
        let crtc = &registers.crtc.0;
        let cursor = Self { address: registers.crtc.cursor(), first: crtc[10] & 31, last: crtc[11] & 31 };
        (crtc[10] & 0x20 == 0 && cursor.first <= cursor.last).then_some(cursor)
    }

    fn covers(self, scan: u32) -> bool {
        (u32::from(self.first)..=u32::from(self.last)).contains(&scan)
    }
}

/// Renders text, and remembers what it has rendered.
#[derive(Debug, Default)]
pub(super) struct TextRenderer {
    layout: Option<Layout>,
    cells: Vec<Cell>,
    fonts: [Vec<u8>; 2],
    cursor: Option<Cursor>,
}

fn cell(memory: &VideoMemory, address: usize) -> Cell {
    let [character, attribute, ..] = memory.planes(address).to_le_bytes();
    (character, attribute)
}

/// Where in plane 2 the two fonts are, that of attribute bit 3 last.
fn font_addresses(registers: &Registers) -> [usize; 2] {
    let map = usize::from(registers.sequencer[3]);
    [map >> 4 & 1 | map << 1 & 6, map >> 5 & 1 | map >> 1 & 6].map(|number| number * 0x2000)
}

fn font(memory: &VideoMemory, address: usize) -> Vec<u8> {
    (0..GLYPHS * GLYPH_ROOM).map(|index| memory.byte((address + index) * 4 + 2)).collect()
}

/// What the screen says, row by row; characters beyond ASCII become question marks.
pub(super) fn contents(registers: &Registers, memory: &VideoMemory) -> Vec<String> {
    let Some(layout) = Layout::new(registers) else { return vec![] };
    let character = |column, row| match cell(memory, layout.address(column, row)).0 {
        0 => ' ',
        code @ 0x20..0x7f => char::from(code),
        _ => '?',
    };
    let row = |row| (0..layout.columns).map(|column| character(column, row)).collect::<String>();
    (0..layout.rows).map(|number| row(number).trim_end().to_owned()).collect()
}

impl TextRenderer {
    /// Whether the surface's size is another than before is said by the caller (`all`), who also forgets on mode changes.
    pub(super) fn render(
        &mut self,
        registers: &Registers,
        memory: &VideoMemory,
        dirty: &DirtyPages,
        all: bool,
        surface: &mut Surface,
    ) -> Vec<Rect> {
        let Some(layout) = Layout::new(registers) else { return vec![] };
        let cursor = Cursor::new(registers);
        if !all && !dirty.any() && cursor == self.cursor {
            return vec![];
        }
        let mut all = surface.resize(layout.columns * layout.glyph_width, layout.rows * layout.glyph_height)
            || all
            || self.layout != Some(layout);
        let fonts = font_addresses(registers).map(|address| font(memory, address));
        if self.fonts != fonts {
            self.fonts = fonts;
            all = true;
        }
        let old_cursor = std::mem::replace(&mut self.cursor, cursor);
        self.layout = Some(layout);
        self.cells.resize((layout.columns * layout.rows) as usize, (0, 0));
        let colours = registers.colours();
        let mut changes = Changes::default();
        for row in 0..layout.rows {
            let mut touched: Option<(u32, u32)> = None;
            for column in 0..layout.columns {
                let address = layout.address(column, row);
                let now = cell(memory, address);
                let index = (row * layout.columns + column) as usize;
                let moved = old_cursor != cursor
                    && [old_cursor, cursor].into_iter().flatten().any(|cursor| cursor.address == address);
                if !all && !moved && self.cells[index] == now {
                    continue;
                }
                self.cells[index] = now;
                let here = cursor.filter(|cursor| cursor.address == address);
                self.draw(registers, &colours, layout, (column, row), now, here, surface);
                let x = column * layout.glyph_width;
                let (from, to) = touched.unwrap_or((x, x));
                touched = Some((from.min(x), to.max(x + layout.glyph_width)));
            }
            if let Some(columns) = touched {
                (0..layout.glyph_height).for_each(|scan| changes.add(row * layout.glyph_height + scan, columns));
            }
        }
        changes.finish()
    }

    #[allow(clippy::too_many_arguments)]
    fn draw(
        &self,
        registers: &Registers,
        colours: &[u32; 16],
        layout: Layout,
        (column, row): (u32, u32),
        (character, attribute): Cell,
        cursor: Option<Cursor>,
        surface: &mut Surface,
    ) {
        let mode = registers.attribute[0x10];
        // Where characters blink, the background has eight colours.
        let background = attribute >> 4 & if mode & 8 != 0 { 7 } else { 15 };
        let (ink, paper) = (colours[usize::from(attribute & 15)], colours[usize::from(background)]);
        let font = &self.fonts[usize::from(attribute >> 3 & 1)];
        // Line-drawing characters go on into the ninth column.
        let joined = mode & 4 != 0 && (0xc0..=0xdf).contains(&character);
        for scan in 0..layout.glyph_height {
            let mut bits = font[usize::from(character) * GLYPH_ROOM + scan as usize];
            let mut pixels = [paper; 9];
            if cursor.is_some_and(|cursor| cursor.covers(scan)) {
                bits = 0xff;
            }
            for (bit, pixel) in pixels[..8].iter_mut().enumerate() {
                if bits >> (7 - bit) & 1 != 0 {
                    *pixel = ink;
                }
            }
            if joined || cursor.is_some_and(|cursor| cursor.covers(scan)) {
                pixels[8] = pixels[7];
            }
            let (x, y) = (column * layout.glyph_width, row * layout.glyph_height + scan);
            surface.put(x, y, &pixels[..layout.glyph_width as usize]);
        }
    }
}
