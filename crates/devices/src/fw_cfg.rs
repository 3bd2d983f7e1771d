//! The firmware configuration device (QEMU's docs/specs/fw_cfg.rst): named and numbered items that firmware reads through
//! a selector and a data port, or by DMA. What the items hold is the board's business; nothing in them can be written.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferro_guest::{BusDevice, GuestMemory, LoadError, SaveState, StateReader, StateWriter};

/// First of the device's ports.
pub const PORT: u16 = 0x510;
/// How many there are.
pub const PORTS: u16 = 12;

/// Numbers of items that have no name.
pub mod key {
    /// RAM in bytes, 8 bytes.
    pub const RAM_SIZE: u16 = 0x03;
    /// CPUs present, 2 bytes.
    pub const CPUS: u16 = 0x05;
    /// Whether to show the boot menu, 2 bytes.
    pub const BOOT_MENU: u16 = 0x0e;
    /// The most CPUs there can be, 2 bytes.
    pub const MAX_CPUS: u16 = 0x0f;
    /// Whether ISA interrupt 0 is input 2 of the I/O APIC, 1 byte.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;
/// Items of architectures and the bits that QEMU uses as flags are not files.
const MAX_FILES: usize = 0x1000;
const NAME: usize = 56;

/// What reading the DMA address register gives.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

mod control {
    pub(super) const ERROR: u32 = 1;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

/// DMA moves data in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// The device.
pub struct FwCfg {
    memory: Arc<GuestMemory>,
    items: BTreeMap<u16, Vec<u8>>,
    names: Vec<String>,
    selected: u16,
    position: usize,
    dma_address: u64,
}

impl FwCfg {
    /// A device with DMA to `memory` and without items.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        let items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            // The traditional interface and DMA.
            (ID, 3_u32.to_le_bytes().to_vec()),
            (DIRECTORY, 0_u32.to_be_bytes().to_vec()),
        ]);
        Self { memory, items, names: vec![], selected: 0, position: 0, dma_address: 0 }
    }

    /// Adds a numbered item, or replaces it.
    pub fn add_item(&mut self, key: u16, contents: Vec<u8>) {
        self.items.insert(key, contents);
    }

    /// Adds a named item.
    ///
    /// # Panics
    /// A name of more than 55 bytes, contents of more than 4 GiB or too many items: mistakes of the board.
    pub fn add_file(&mut self, name: &str, contents: Vec<u8>) {
        assert!(name.len() < NAME && self.names.len() < MAX_FILES, "an item's name fits its directory entry");
        let key = FIRST_FILE + self.names.len() as u16;
        self.names.push(name.to_owned());
        let len = u32::try_from(contents.len()).expect("an item's size has 32 bits");
        self.items.insert(key, contents);
        let directory = self.items.entry(DIRECTORY).or_default();
        directory.splice(..4.min(directory.len()), (self.names.len() as u32).to_be_bytes());
        directory.extend(len.to_be_bytes());
        directory.extend(key.to_be_bytes());
        directory.extend([0; 2]);
        let mut padded = [0; NAME];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        directory.extend(padded);
    }

    /// The state after power-on; the items stay.
    pub fn reset(&mut self) {
        (self.selected, self.position, self.dma_address) = (0, 0, 0);
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.position = 0;
    }

    /// The next bytes of the selected item; zeros after its end.
    fn take(&mut self, into: &mut [u8]) {
        let item = self.items.get(&self.selected).map_or(&[][..], Vec::as_slice);
        let rest = item.get(self.position..).unwrap_or(&[]);
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        into[len..].fill(0);
        self.position = self.position.saturating_add(into.len());
    }

    /// Does the operation that the structure at the DMA address describes: control, length and address, big-endian.
    fn operate(&mut self) {
        let at = std::mem::take(&mut self.dma_address);
        let mut command = [0; 16];
        if self.memory.read(at, &mut command) != command.len() {
            return;
        }
        let word = |index: usize| u32::from_be_bytes(std::array::from_fn(|byte| command[index + byte]));
        let (control, len) = (word(0), word(4) as usize);
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        if control & control::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let mut failed = control & control::WRITE != 0;
        if control & control::READ != 0 {
            failed |= !self.copy_out(address, len);
        } else if control & control::SKIP != 0 {
            self.position = self.position.saturating_add(len);
        }
        let answer = if failed { control::ERROR } else { 0 };
        self.memory.write(at, &answer.to_be_bytes());
    }

    fn copy_out(&mut self, address: u64, len: usize) -> bool {
        let mut buffer = vec![0; len.min(PIECE)];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PIECE);
            self.take(&mut buffer[..piece]);
            let Some(to) = address.checked_add(done as u64) else { return false };
            if self.memory.write(to, &buffer[..piece]) != piece {
                return false;
            }
            done += piece;
        }
        true
    }
}

impl BusDevice for FwCfg {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            0 | 1 => {
                let mut byte = [0];
                self.take(&mut byte);
                u64::from(byte[0])
            }
            4..=11 => {
                let at = offset as usize - 4;
                let bytes = &DMA_SIGNATURE[at..(at + usize::from(size)).min(8)];
                bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match (offset, size) {
            (0, 2) => self.select(value as u16),
            (4, 4) => self.dma_address = self.dma_address & 0xffff_ffff | u64::from((value as u32).swap_bytes()) << 32,
            (8, 4) => {
                self.dma_address = self.dma_address & !0xffff_ffff | u64::from((value as u32).swap_bytes());
                self.operate();
            }
            _ => {}
        }
    }
}

/// Where the guest is in which item. The items are the board's, and are the same on the board that loads.
impl SaveState for FwCfg {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u16(self.selected);
        into.u64(self.position as u64);
        into.u64(self.dma_address);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.selected = from.u16()?;
        self.position = usize::try_from(from.u64()?).unwrap_or(usize::MAX);
        self.dma_address = from.u64()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ferro_guest::{Ram, Range, RangeKind};

    use super::*;

    fn device() -> (FwCfg, Arc<GuestMemory>) {
        let range = Range { start: 0, len: 0x2000, offset: 0, kind: RangeKind::Ram };
        let memory = Arc::new(GuestMemory::new(Ram::new(0x2000).unwrap(), &[range]).unwrap());
        let mut device = FwCfg::new(memory.clone());
        device.add_file("etc/one", vec![1, 2, 3]);
        device.add_file("bootorder", b"/disk\0".to_vec());
        (device, memory)
    }

    fn read(device: &mut FwCfg, key: u16, len: usize) -> Vec<u8> {
        device.write(0, 2, key.into());
        (0..len).map(|_| device.read(1, 1) as u8).collect()
    }

    #[test]
    fn items_are_read_byte_by_byte_and_end_in_zeros() {
        let (mut device, _) = device();
        assert_eq!(read(&mut device, 0, 6), *b"QEMU\0\0");
        assert_eq!(read(&mut device, 1, 4), [3, 0, 0, 0]);
        assert_eq!(read(&mut device, 0x7777, 2), [0, 0]);
        let directory = read(&mut device, 0x19, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..20], *b"\0\0\0\x03\0\x20\0\0etc/one\0");
        assert_eq!(directory[68..85], *b"\0\0\0\x06\0\x21\0\0bootorder");
        assert_eq!(read(&mut device, 0x21, 5), *b"/disk");
    }

    fn dma(device: &mut FwCfg, memory: &GuestMemory, control: u32, len: u32, address: u64) -> u32 {
        memory.write(0x100, &[&control.to_be_bytes()[..], &len.to_be_bytes(), &address.to_be_bytes()].concat());
        device.write(4, 4, 0);
        device.write(8, 4, u64::from(0x100_u32.swap_bytes()));
        memory.load::<u32>(0x100).unwrap().swap_bytes()
    }

    #[test]
    fn dma_selects_skips_and_copies() {
        let (mut device, memory) = device();
        assert_eq!(device.read(4, 4).swap_bytes() >> 32, u64::from(u32::from_be_bytes(*b"QEMU")));
        assert_eq!(dma(&mut device, &memory, 0x21_000a, 3, 0x1000), 0);
        assert_eq!(memory.load::<u32>(0x1000), Some(u32::from_le_bytes(*b"/di\0")));
        assert_eq!(dma(&mut device, &memory, 4, 1, 0), 0);
        assert_eq!(dma(&mut device, &memory, 2, 2, 0x1000), 0);
        assert_eq!(memory.load::<u16>(0x1000), Some(u16::from_le_bytes(*b"k\0")));
        assert_eq!(dma(&mut device, &memory, 2, 16, 0x1ff8), 1, "past the end of memory");
        assert_eq!(dma(&mut device, &memory, 0x20_0018, 1, 0x1000), 1, "items can't be written");
    }
}
