//! The VGA as a PCI function: its windows and ports, and the picture that it makes.

use ferro_guest::{LoadError, SaveState, StateReader, StateWriter};

use super::graphics;
use super::memory::VideoMemory;
use super::planes::Planes;
use super::registers::{self, Registers};
use super::surface::{Rect, Surface};
use super::text::{self, TextRenderer};
use super::vbe::{Effect, Mode, Vbe};
use crate::pci::{BarKind, ConfigSpace, FixedWindow, Identity, PciFunction};

/// The register of the linear framebuffer's window, which is memory that the board maps.
pub const FRAMEBUFFER_BAR: usize = 0;
const REGISTERS_BAR: usize = 2;
const REGISTERS_LEN: u64 = 4096;

const MEMORY_WINDOW: usize = 6;
const PORTS_WINDOW: usize = 7;
const VBE_WINDOW: usize = 8;
const VBE_PORT: u64 = 0x1ce;

/// What is shown, roughly: between two of these nothing of the picture can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blank,
    Text,
    Graphics,
}

/// The device.
pub struct Vga {
    config: ConfigSpace,
    memory: VideoMemory,
    registers: Registers,
    planes: Planes,
    vbe: Vbe,
    text: TextRenderer,
    shown: Option<Kind>,
}

impl Vga {
    /// A VGA over this memory.
    pub fn new(memory: VideoMemory) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class: 0x03_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(FRAMEBUFFER_BAR, BarKind::Memory32 { prefetchable: true }, memory.len() as u64);
        config.add_bar(REGISTERS_BAR, BarKind::Memory32 { prefetchable: false }, REGISTERS_LEN);
        let vbe = Vbe::new(memory.len());
        Self {
            config,
            memory,
            registers: Registers::default(),
            planes: Planes::default(),
            vbe,
            text: TextRenderer::default(),
            shown: None,
        }
    }

    /// Brings the surface in line with what is shown now, and returns what changed in it. A surface that isn't the one of
    /// the last call has to be asked for as a whole with [`Vga::invalidate`] first.
    pub fn update(&mut self, surface: &mut Surface) -> Vec<Rect> {
        let mode = self.vbe.mode();
        let kind = match (self.registers.is_blank(), mode.is_some() || self.registers.is_graphics()) {
            (true, _) => Kind::Blank,
            (false, true) => Kind::Graphics,
            (false, false) => Kind::Text,
        };
        let size = (surface.width(), surface.height());
        let all = std::mem::take(&mut self.registers.changed) || self.shown != Some(kind);
        self.shown = Some(kind);
        let dirty = self.memory.take_dirty(self.memory.len());
        let changes = match kind {
            Kind::Blank => blank(surface, all),
            Kind::Text => self.text.render(&self.registers, &self.memory, &dirty, all, surface),
            Kind::Graphics => graphics::render(&self.registers, mode.as_ref(), &self.memory, &dirty, all, surface),
        };
        let (width, height) = (surface.width(), surface.height());
        if (width, height) == size { changes } else { vec![Rect { x: 0, y: 0, width, height }] }
    }

    /// Has the next update render everything.
    pub fn invalidate(&mut self) {
        self.shown = None;
    }

    /// What a text screen says, row by row, without what is behind a row's last character; `None` in graphics modes.
    pub fn contents(&self) -> Option<Vec<String>> {
        let text = self.vbe.mode().is_none() && !self.registers.is_graphics();
        text.then(|| text::contents(&self.registers, &self.memory))
    }

    /// Brings the window and the palette in line with VBE's registers.
    fn follow_vbe(&mut self) {
        self.planes.bank = self.vbe.bank_offset();
        self.registers.palette.wide = self.vbe.has_wide_palette();
    }

    fn write_vbe(&mut self, register: u16, value: u16) {
        let before = self.vbe.mode();
        let effect = self.vbe.write(register, value);
        self.follow_vbe();
        let mode = self.vbe.mode();
        if let (Effect::Clear, Some(mode)) = (effect, &mode) {
            self.memory.clear(cleared(mode));
        }
        self.registers.changed |= effect != Effect::Nothing && before != mode;
        if let Some(mode) = mode.filter(|mode| before != Some(*mode)) {
            Vbe::program(&mode, &mut self.registers);
        }
    }

    fn read_port(&mut self, port: u16, size: u8) -> u64 {
        let byte = |index: u8| u64::from(self.registers.read(port + u16::from(index))) << (8 * index);
        (0..size).map(byte).fold(0, |value, byte| value | byte)
    }

    fn write_port(&mut self, port: u16, size: u8, value: u64) {
        for index in 0..size {
            self.registers.write(port + u16::from(index), (value >> (8 * index)) as u8);
        }
    }

    /// The window of registers: VGA ports from 0x3C0 on at 0x400, VBE's at 0x500.
    fn read_registers(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            0x400..0x420 => self.read_port(0x3c0 + (offset - 0x400) as u16, size.min(2)),
            0x500..0x516 => u64::from(self.vbe.read((offset - 0x500) as u16 / 2)),
            _ => 0,
        }
    }

    fn write_registers(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            0x400..0x420 => self.write_port(0x3c0 + (offset - 0x400) as u16, size.min(2), value),
            0x500..0x516 => self.write_vbe((offset - 0x500) as u16 / 2, value as u16),
            _ => {}
        }
    }
}

/// Bytes that a new mode shows.
fn cleared(mode: &Mode) -> usize {
    mode.pitch * mode.height as usize * if mode.depth == 4 { 4 } else { 1 }
}

fn blank(surface: &mut Surface, all: bool) -> Vec<Rect> {
    if surface.width() == 0 {
        surface.resize(640, 480);
    }
    if !all {
        return vec![];
    }
    let (width, height) = (surface.width(), surface.height());
    let black = vec![0; width as usize];
    let changed = (0..height).filter(|y| surface.put(0, *y, &black).is_some()).count();
    if changed == 0 { vec![] } else { vec![Rect { x: 0, y: 0, width, height }] }
}

impl PciFunction for Vga {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn fixed_windows(&self) -> Vec<FixedWindow> {
        let mut windows = vec![];
        if self.config.decodes_memory() {
            windows.push(FixedWindow { start: 0xa_0000, len: 0x2_0000, io: false, bar: MEMORY_WINDOW });
        }
        if self.config.decodes_ports() {
            let (start, len) = (registers::FIRST_PORT.into(), registers::PORTS.into());
            windows.push(FixedWindow { start, len, io: true, bar: PORTS_WINDOW });
            windows.push(FixedWindow { start: VBE_PORT, len: 3, io: true, bar: VBE_WINDOW });
        }
        windows
    }

    fn read_bar(&mut self, bar: usize, offset: u64, size: u8) -> u64 {
        match bar {
            REGISTERS_BAR => self.read_registers(offset, size),
            MEMORY_WINDOW => (0..u64::from(size)).fold(0, |value, index| {
                let byte = self.planes.read(&self.registers, &self.memory, offset + index);
                value | u64::from(byte) << (8 * index)
            }),
            PORTS_WINDOW => self.read_port(registers::FIRST_PORT + offset as u16, size),
            VBE_WINDOW if offset == 0 => u64::from(self.vbe.selected()),
            VBE_WINDOW => u64::from(self.vbe.read(self.vbe.selected())),
            _ => u64::MAX,
        }
    }

    fn write_bar(&mut self, bar: usize, offset: u64, size: u8, value: u64) {
        match bar {
            REGISTERS_BAR => self.write_registers(offset, size, value),
            MEMORY_WINDOW => {
                for index in 0..u64::from(size) {
                    let byte = (value >> (8 * index)) as u8;
                    self.planes.write(&self.registers, &self.memory, offset + index, byte);
                }
            }
            PORTS_WINDOW => self.write_port(registers::FIRST_PORT + offset as u16, size, value),
            VBE_WINDOW if offset == 0 => self.vbe.select(value as u16),
            VBE_WINDOW => self.write_vbe(self.vbe.selected(), value as u16),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.registers = Registers::default();
        self.planes = Planes::default();
        self.vbe = Vbe::new(self.memory.len());
        self.shown = None;
    }
}

/// Video memory is a part of the VM's RAM and is saved with it.
impl SaveState for Vga {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.config.save(into);
        self.registers.save(into);
        into.u32(self.planes.latch);
        self.vbe.save(into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.config.load(from)?;
        self.registers.load(from)?;
        self.planes.latch = from.u32()?;
        self.vbe.load(from)?;
        self.follow_vbe();
        // Everything is drawn anew.
        self.shown = None;
        Ok(())
    }
}
