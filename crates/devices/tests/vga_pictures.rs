//! What the VGA shows, by its registers and its memory as a guest programs them.

use std::sync::Arc;

use ferro_devices::pci::PciFunction;
use ferro_devices::vga::{Rect, Surface, Vga, VideoMemory};
use ferro_guest::{GuestMemory, Ram, Range, RangeKind};

/// Windows of the device: the memory at 0xA0000, the ports from 0x3B0 on, VBE's ports.
const WINDOW: usize = 6;
const PORTS: usize = 7;
const VBE: usize = 8;

const LEN: usize = 1 << 20;

struct Screen {
    vga: Vga,
    memory: Arc<GuestMemory>,
    surface: Surface,
}

impl Screen {
    fn new() -> Self {
        let range = Range { start: 0, len: LEN as u64, offset: 0, kind: RangeKind::Ram };
        let memory = Arc::new(GuestMemory::new(Ram::new(LEN as u64).unwrap(), &[range]).unwrap());
        let vga = Vga::new(VideoMemory::new(memory.clone(), 0, LEN, true));
        Self { vga, memory, surface: Surface::default() }
    }

    fn out(&mut self, port: u64, value: u8) {
        self.vga.write_bar(PORTS, port - 0x3b0, 1, value.into());
    }

    fn indexed(&mut self, port: u64, registers: &[(u8, u8)]) {
        for (index, value) in registers {
            self.vga.write_bar(PORTS, port - 0x3b0, 2, u64::from(u16::from_le_bytes([*index, *value])));
        }
    }

    fn attributes(&mut self, registers: &[(u8, u8)]) {
        self.vga.read_bar(PORTS, 0x3da - 0x3b0, 1);
        for (index, value) in registers {
            self.out(0x3c0, *index);
            self.out(0x3c0, *value);
        }
        self.out(0x3c0, 0x20);
    }

    /// Colours 0 to 15 are the palette's, whose entry n is n times four of red.
    fn colours(&mut self) {
        let palette: Vec<(u8, u8)> = (0..16).map(|index| (index, index)).collect();
        self.attributes(&palette);
        self.out(0x3c8, 0);
        for index in 0..=255_u8 {
            [index & 0x3f, 0, 0].into_iter().for_each(|component| self.out(0x3c9, component));
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.vga.write_bar(WINDOW, address - 0xa_0000 + at as u64, 1, u64::from(*byte));
        }
    }

    fn set_vbe(&mut self, registers: &[(u64, u64)]) {
        for (index, value) in registers {
            self.vga.write_bar(VBE, 0, 2, *index);
            self.vga.write_bar(VBE, 1, 2, *value);
        }
    }

    fn update(&mut self) -> Vec<Rect> {
        self.vga.update(&mut self.surface)
    }

    /// 4 columns of 2 rows of glyphs of 8 × 8 in 80-column pitch, letter A being a solid block.
    fn text_mode(&mut self) {
        self.out(0x3c2, 1);
        self.colours();
        self.indexed(0x3d4, &[(1, 3), (0x12, 15), (9, 7), (0x13, 2), (10, 6), (11, 7), (0x17, 0xa3), (14, 0), (15, 5)]);
        // The font, in plane 2 alone.
        self.indexed(0x3c4, &[(1, 1), (2, 4), (4, 6)]);
        self.indexed(0x3ce, &[(5, 0), (6, 4), (8, 0xff)]);
        self.write(0xa_0000 + 32 * u64::from(b'A'), &[0xff; 8]);
        // Characters and attributes, odd and even, at 0xB8000.
        self.indexed(0x3c4, &[(2, 3), (4, 2)]);
        self.indexed(0x3ce, &[(5, 0x10), (6, 0xe)]);
    }
}

/// What palette entry n is as a pixel.
fn red(index: u32) -> u32 {
    (index << 2 | index >> 4) << 16
}

#[test]
fn text_is_drawn_cell_by_cell_with_its_cursor() {
    let mut screen = Screen::new();
    screen.text_mode();
    screen.write(0xb_8000, b"A\x1eB\x07\0\x07A\x01");
    screen.update();
    assert_eq!((screen.surface.width(), screen.surface.height()), (32, 16));
    let row = screen.surface.row(3);
    assert!(row[..8].iter().all(|pixel| *pixel == red(14)), "ink of a solid letter");
    assert!(row[8..24].iter().all(|pixel| *pixel == 0) && row[24] == red(1));
    assert_eq!(screen.vga.contents().unwrap(), ["AB A", ""]);
    // The cursor: the last two scan lines of the second cell of the second row.
    assert_eq!((screen.surface.row(14)[8], screen.surface.row(13)[8]), (0, 0), "of colour 0, there");
    assert!(screen.update().is_empty());

    screen.write(0xb_8000 + 2, b"A\x04");
    assert_eq!(screen.update(), [Rect { x: 8, y: 0, width: 8, height: 8 }]);
    assert_eq!(screen.surface.row(0)[8], red(4));
    screen.indexed(0x3d4, &[(15, 1)]);
    screen.write(0xb_8000 + 8, b"\0\x04");
    let changes = screen.update();
    assert!(!changes.is_empty() && changes.iter().all(|rect| rect.width <= 32), "{changes:?}");
}

#[test]
fn planes_make_sixteen_colours() {
    let mut screen = Screen::new();
    screen.out(0x3c2, 1);
    screen.colours();
    screen.indexed(0x3d4, &[(1, 1), (0x12, 3), (9, 0), (0x13, 1), (0x17, 0xe3), (7, 0x10), (0x18, 0xff)]);
    screen.indexed(0x3c4, &[(1, 1), (2, 15), (4, 6)]);
    // Write mode 2: the value is a colour, the bit mask says which pixels.
    screen.indexed(0x3ce, &[(5, 2), (6, 5), (8, 0x80)]);
    screen.write(0xa_0000, &[9]);
    screen.indexed(0x3ce, &[(8, 0x01)]);
    screen.vga.read_bar(WINDOW, 0, 1);
    screen.write(0xa_0000, &[6]);
    screen.update();
    assert_eq!((screen.surface.width(), screen.surface.height()), (16, 4));
    assert_eq!(screen.surface.row(0)[..9], [red(9), 0, 0, 0, 0, 0, 0, red(6), 0]);
    // Read mode 1 finds the pixels of a colour; set and reset writes one whatever the value.
    screen.indexed(0x3ce, &[(5, 8), (2, 9), (7, 15)]);
    assert_eq!(screen.vga.read_bar(WINDOW, 0, 1), 0x80);
    screen.indexed(0x3ce, &[(5, 0), (0, 3), (1, 15), (8, 0xff)]);
    screen.write(0xa_0002, &[0]);
    assert_eq!(screen.update(), [Rect { x: 0, y: 1, width: 8, height: 1 }]);
    assert_eq!(screen.surface.row(1)[..9], [[red(3); 8].as_slice(), &[0]].concat());
}

#[test]
fn chained_planes_are_256_colours() {
    let mut screen = Screen::new();
    screen.out(0x3c2, 1);
    screen.colours();
    screen.indexed(0x3d4, &[(1, 79), (0x12, 0x8f), (7, 0x12), (9, 0x41), (0x13, 40), (0x17, 0xa3), (0x18, 0xff)]);
    screen.indexed(0x3c4, &[(1, 1), (2, 15), (4, 14)]);
    screen.indexed(0x3ce, &[(5, 0x40), (6, 5), (8, 0xff)]);
    screen.write(0xa_0000 + 320 * 199 + 318, &[5, 63]);
    screen.update();
    assert_eq!((screen.surface.width(), screen.surface.height()), (320, 200));
    assert_eq!(screen.surface.row(199)[317..], [0, red(5), red(63)]);
}

#[test]
fn the_linear_framebuffer_shows_only_what_changed() {
    let mut screen = Screen::new();
    screen.out(0x3c2, 1);
    screen.attributes(&[]);
    screen.memory.ram().fill(0, LEN, 0x55);
    // 320 × 200 in 32 bits, cleared.
    screen.set_vbe(&[(1, 320), (2, 200), (3, 32), (4, 0x41)]);
    assert_eq!(screen.update(), [Rect { x: 0, y: 0, width: 320, height: 200 }]);
    assert!(screen.surface.pixels().iter().all(|pixel| *pixel == 0));
    screen.memory.ram().store(4 * (320 * 100 + 7), 0x0012_3456_u32);
    assert_eq!(screen.update(), [Rect { x: 7, y: 100, width: 1, height: 1 }]);
    assert_eq!(screen.surface.row(100)[7], 0x0012_3456);
    assert!(screen.update().is_empty(), "nothing changed since");
    // 5, 6 and 5 bits, twice as wide as shown, and shown from the second row on.
    screen.set_vbe(&[(4, 0), (1, 64), (2, 32), (3, 16), (4, 0x41), (6, 128), (9, 1)]);
    screen.memory.ram().store(128 * 2, 0xf81f_u16);
    screen.update();
    assert_eq!((screen.surface.width(), screen.surface.row(0)[0]), (64, 0x00ff_00ff));
    // What doesn't fit the memory is no mode.
    screen.set_vbe(&[(4, 0), (1, 4096), (2, 4096), (3, 32), (4, 0x41)]);
    screen.update();
    assert!(screen.surface.width() < 4096 && screen.surface.height() < 4096);
}
