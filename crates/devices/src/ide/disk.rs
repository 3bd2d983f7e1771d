//! ATA disks: addressing by cylinders, by 28 and by 48 bits, reads and writes by sector, by multiple and by DMA.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::identify;
use super::unit::{Port, Transfer};
use super::{SECTOR, error, status};
use crate::state;
use crate::virtio::{Disk, DiskError};

/// Sectors of a multiple transfer at most.
pub(super) const MAX_MULTIPLE: u8 = 16;

/// The heads and sectors of an address by cylinders.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

const DEFAULT_GEOMETRY: Geometry = Geometry { heads: 16, sectors: 63 };

/// A disk behind its unit's registers.
pub(super) struct AtaDisk {
    disk: Box<dyn Disk>,
    serial: String,
    geometry: Geometry,
    multiple: u8,
    pub(super) write_cache: bool,
    /// The transfer mode that was set last.
    pub(super) mode: u8,
    /// The sector that the command under way comes to next, and how many are left.
    next: u64,
    left: u64,
    /// Sectors that one buffer takes.
    block: u64,
}

impl AtaDisk {
    pub(super) fn new(disk: Box<dyn Disk>, serial: &str) -> Self {
        Self {
            disk,
            serial: serial.to_owned(),
            geometry: DEFAULT_GEOMETRY,
            multiple: 0,
            write_cache: true,
            mode: 0,
            next: 0,
            left: 0,
            block: 1,
        }
    }

    pub(super) fn reset(&mut self) {
        self.left = 0;
        self.geometry = DEFAULT_GEOMETRY;
        self.multiple = 0;
    }

    /// The sectors that a guest sees; 48 bits of them at most.
    pub(super) fn sectors(&self) -> u64 {
        (self.disk.size() / SECTOR as u64).min((1 << 48) - 1)
    }

    pub(super) fn serial(&self) -> &str {
        &self.serial
    }

    pub(super) fn multiple(&self) -> u8 {
        self.multiple
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The bytes left of the command under way.
    pub(super) fn remaining(&self) -> u64 {
        self.left * SECTOR as u64
    }

    pub(super) fn command(&mut self, port: &mut Port, command: u8) {
        let wide = matches!(command, 0x24 | 0x25 | 0x29 | 0x34 | 0x35 | 0x39 | 0x42);
        match command {
            0x20 | 0x21 | 0x24 => self.read(port, wide, 1),
            0xc4 | 0x29 => self.with_multiple(port, |disk, port, block| disk.read(port, wide, block)),
            0x30 | 0x31 | 0x34 => self.write(port, wide, 1),
            0xc5 | 0x39 => self.with_multiple(port, |disk, port, block| disk.write(port, wide, block)),
            0xc8 | 0xc9 | 0x25 => self.start_dma(port, wide, Transfer::DmaIn),
            0xca | 0xcb | 0x35 => self.start_dma(port, wide, Transfer::DmaOut),
            0x40..=0x42 => {
                if self.start(port, wide).is_some() {
                    self.left = 0;
                    port.finish();
                }
            }
            0xec => {
                port.buffer = identify::disk(self);
                self.left = 0;
                port.offer();
            }
            0xc6 => self.set_multiple(port),
            0xef => self.set_features(port),
            0x91 => {
                self.geometry = Geometry { heads: (port.registers.device & 15) + 1, sectors: port.registers.count.now };
                port.finish();
            }
            0xe7 | 0xea => match self.disk.flush() {
                Ok(()) => port.finish(),
                Err(_) => port.fail(error::UNCORRECTABLE),
            },
            0x27 | 0xf8 => self.native_size(port, command == 0x27),
            0x90 => {
                port.registers.count.set(1);
                port.registers.low.set(1);
                port.registers.mid.set(0);
                port.registers.high.set(0);
                port.finish();
                port.registers.error = 1;
            }
            // Active, whatever it was told before.
            0xe5 | 0x98 => {
                port.registers.count.set(0xff);
                port.finish();
            }
            // Recalibrate, seek, power management.
            0x10..=0x1f | 0x70..=0x7f | 0xe0..=0xe3 | 0xe6 | 0x94..=0x97 => port.finish(),
            _ => port.abort(),
        }
    }

    /// Takes address and count from the registers; `None` once it has failed because they are outside the disk.
    fn start(&mut self, port: &mut Port, wide: bool) -> Option<()> {
        let registers = &port.registers;
        let [low, mid, high] = [registers.low, registers.mid, registers.high];
        let bytes = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        let first = if registers.device & 0x40 == 0 {
            let cylinder = bytes([mid.now, high.now, 0, 0, 0, 0, 0, 0]);
            let Geometry { heads, sectors } = self.geometry;
            let track = cylinder * u64::from(heads) + u64::from(registers.device & 15);
            (track * u64::from(sectors) + u64::from(low.now)).checked_sub(1)
        } else if wide {
            Some(bytes([low.now, mid.now, high.now, low.before, mid.before, high.before, 0, 0]))
        } else {
            Some(bytes([low.now, mid.now, high.now, registers.device & 15, 0, 0, 0, 0]))
        };
        let count = match (wide, registers.count.now, registers.count.before) {
            (true, 0, 0) => 0x1_0000,
            (true, now, before) => u64::from(now) | u64::from(before) << 8,
            (false, 0, _) => 0x100,
            (false, now, _) => u64::from(now),
        };
        match first.filter(|first| first + count <= self.sectors()) {
            Some(first) => {
                (self.next, self.left) = (first, count);
                Some(())
            }
            None => {
                port.fail(error::NOT_FOUND | error::ABORTED);
                None
            }
        }
    }

    fn with_multiple(&mut self, port: &mut Port, act: impl FnOnce(&mut Self, &mut Port, u64)) {
        match self.multiple {
            0 => port.abort(),
            block => act(self, port, u64::from(block)),
        }
    }

    fn read(&mut self, port: &mut Port, wide: bool, block: u64) {
        if self.start(port, wide).is_some() {
            self.block = block;
            self.fill_buffer(port);
        }
    }

    fn fill_buffer(&mut self, port: &mut Port) {
        let sectors = self.block.min(self.left);
        port.buffer.clear();
        port.buffer.resize(sectors as usize * SECTOR, 0);
        if self.disk.read(self.next * SECTOR as u64, &mut port.buffer).is_err() {
            self.medium_failed(port);
            return;
        }
        self.next += sectors;
        self.left -= sectors;
        port.offer();
    }

    /// The guest has read the buffer.
    pub(super) fn buffer_read(&mut self, port: &mut Port) {
        if self.left > 0 {
            self.fill_buffer(port);
        } else {
            port.transfer = Transfer::Idle;
            port.registers.status = status::READY | status::SEEK_COMPLETE;
        }
    }

    fn write(&mut self, port: &mut Port, wide: bool, block: u64) {
        if self.disk.is_read_only() {
            port.abort();
        } else if self.start(port, wide).is_some() {
            self.block = block;
            port.request((block.min(self.left) as usize) * SECTOR, false);
        }
    }

    /// The guest has filled the buffer.
    pub(super) fn buffer_written(&mut self, port: &mut Port) {
        let sectors = (port.buffer.len() / SECTOR) as u64;
        if self.disk.write(self.next * SECTOR as u64, &port.buffer).is_err() {
            self.medium_failed(port);
            return;
        }
        self.next += sectors;
        self.left -= sectors;
        if self.left > 0 {
            port.request(self.block.min(self.left) as usize * SECTOR, true);
        } else {
            self.written(port);
        }
    }

    /// Everything is written; without a write cache it has to be on stable media before the guest is told.
    fn written(&mut self, port: &mut Port) {
        if self.write_cache || self.disk.flush().is_ok() {
            port.finish();
        } else {
            port.fail(error::UNCORRECTABLE);
        }
    }

    fn start_dma(&mut self, port: &mut Port, wide: bool, transfer: Transfer) {
        if transfer == Transfer::DmaOut && self.disk.is_read_only() {
            port.abort();
        } else if self.start(port, wide).is_some() {
            port.await_dma(transfer);
        }
    }

    pub(super) fn dma_read(&mut self, port: &mut Port, piece: &mut [u8]) -> Result<(), ()> {
        let result = self.disk.read(self.next * SECTOR as u64, piece);
        self.dma_moved(port, piece.len(), result)
    }

    pub(super) fn dma_write(&mut self, port: &mut Port, piece: &[u8]) -> Result<(), ()> {
        let result = self.disk.write(self.next * SECTOR as u64, piece);
        self.dma_moved(port, piece.len(), result)
    }

    fn dma_moved(&mut self, port: &mut Port, len: usize, result: Result<(), DiskError>) -> Result<(), ()> {
        if result.is_err() {
            self.medium_failed(port);
            return Err(());
        }
        let sectors = (len / SECTOR) as u64;
        self.next += sectors;
        self.left -= sectors;
        Ok(())
    }

    pub(super) fn dma_done(&mut self, port: &mut Port) {
        if port.transfer == Transfer::DmaOut {
            self.written(port);
        } else {
            port.finish();
        }
    }

    fn medium_failed(&mut self, port: &mut Port) {
        self.left = 0;
        port.fail(error::UNCORRECTABLE);
    }

    fn set_multiple(&mut self, port: &mut Port) {
        let count = port.registers.count.now;
        if count <= MAX_MULTIPLE && (count == 0 || count.is_power_of_two()) {
            self.multiple = count;
            port.finish();
        } else {
            port.abort();
        }
    }

    fn set_features(&mut self, port: &mut Port) {
        match port.registers.features.now {
            0x02 => self.write_cache = true,
            0x82 => self.write_cache = false,
            // Transfer modes: every one that is announced.
            0x03 => self.mode = port.registers.count.now,
            // Power management, look-ahead, reverting to defaults: nothing that could be seen.
            0x05 | 0x42 | 0x55 | 0x66 | 0x85 | 0xaa | 0xc2 | 0xcc => {}
            _ => {
                port.abort();
                return;
            }
        }
        port.finish();
    }

    fn native_size(&mut self, port: &mut Port, wide: bool) {
        let last = self.sectors().saturating_sub(1);
        let last = if wide { last } else { last.min(0x0fff_ffff) };
        let bytes = last.to_le_bytes();
        let registers = &mut port.registers;
        for (register, index) in [(&mut registers.low, 0), (&mut registers.mid, 1), (&mut registers.high, 2)] {
            register.now = bytes[index];
            register.before = if wide { bytes[index + 3] } else { 0 };
        }
        if !wide {
            registers.device = registers.device & 0xf0 | bytes[3] & 15;
        }
        port.finish();
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        [self.geometry.heads, self.geometry.sectors, self.multiple, self.mode]
            .into_iter()
            .for_each(|byte| into.u8(byte));
        into.bool(self.write_cache);
        [self.next, self.left, self.block].into_iter().for_each(|number| into.u64(number));
    }

    pub(super) fn load(&mut self, port: &Port, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.geometry = Geometry { heads: from.u8()?, sectors: from.u8()? };
        state::check((1..=16).contains(&self.geometry.heads), "an IDE disk's geometry")?;
        self.multiple = from.u8()?;
        let multiple = self.multiple == 0 || self.multiple.is_power_of_two() && self.multiple <= MAX_MULTIPLE;
        state::check(multiple, "an IDE disk's sectors of a multiple transfer")?;
        self.mode = from.u8()?;
        self.write_cache = from.bool()?;
        for number in [&mut self.next, &mut self.left, &mut self.block] {
            *number = from.u64()?;
        }
        state::check(self.fits(port), "an IDE disk's command under way: the disk may be another")
    }

    /// Whether what is left of the command, and what is in the buffer, lies on the disk.
    fn fits(&self, port: &Port) -> bool {
        // The most that 16 bits count.
        if self.left > 0x1_0000 || !(1..=u64::from(MAX_MULTIPLE)).contains(&self.block) {
            return false;
        }
        let inside = self.next.checked_add(self.left).is_some_and(|end| end <= self.sectors());
        let block = (self.block.min(self.left) as usize) * SECTOR;
        match port.transfer {
            Transfer::Idle => true,
            // Read already, or what IDENTIFY gave, in which case nothing is left.
            Transfer::In => self.left == 0 || inside,
            Transfer::Out => inside && port.buffer.len() == block && block > 0,
            Transfer::DmaIn | Transfer::DmaOut => inside,
        }
    }
}
