//! One unit of a channel: its registers, and the transfer that is under way. What the commands do is in `disk` for disks
//! and in `atapi` for CD-ROM drives.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::atapi::Cdrom;
use super::disk::AtaDisk;
use super::{error, status};
use crate::state;

/// What kind of unit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitKind {
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
}

/// A register that remembers what was written before: 48-bit commands take both.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deep {
    pub(super) now: u8,
    pub(super) before: u8,
}

impl Deep {
    fn write(&mut self, value: u8) {
        self.before = std::mem::replace(&mut self.now, value);
    }

    pub(super) fn set(&mut self, value: u8) {
        *self = Self { now: value, before: 0 };
    }

    fn save(self, into: &mut StateWriter) {
        into.u8(self.now);
        into.u8(self.before);
    }

    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        *self = Self { now: from.u8()?, before: from.u8()? };
        Ok(())
    }
}

/// The registers of the command block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Registers {
    pub(super) features: Deep,
    pub(super) count: Deep,
    pub(super) low: Deep,
    pub(super) mid: Deep,
    pub(super) high: Deep,
    pub(super) device: u8,
    pub(super) error: u8,
    pub(super) status: u8,
}

impl Registers {
    fn save(&self, into: &mut StateWriter) {
        for register in [self.features, self.count, self.low, self.mid, self.high] {
            register.save(into);
        }
        [self.device, self.error, self.status].into_iter().for_each(|register| into.u8(register));
    }

    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        for register in [&mut self.features, &mut self.count, &mut self.low, &mut self.mid, &mut self.high] {
            register.load(from)?;
        }
        for register in [&mut self.device, &mut self.error, &mut self.status] {
            *register = from.u8()?;
        }
        Ok(())
    }
}

/// Data between the buffer and the data port, or by DMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// None.
    Idle,
    /// The guest reads the buffer.
    In,
    /// The guest fills the buffer.
    Out,
    /// Waits for the bus master; the device writes to memory.
    DmaIn,
    /// Waits for the bus master; the device reads memory.
    DmaOut,
}

impl Transfer {
    /// All of them; the place is the number in a saved state.
    const ALL: [Self; 5] = [Self::Idle, Self::In, Self::Out, Self::DmaIn, Self::DmaOut];
}

/// Whose commands they are.
pub(super) enum Kind {
    Disk(AtaDisk),
    Cdrom(Cdrom),
}

/// The part of a unit that its commands act on.
pub(super) struct Port {
    pub(super) registers: Registers,
    pub(super) transfer: Transfer,
    pub(super) buffer: Vec<u8>,
    pub(super) position: usize,
    /// The unit asserts its interrupt.
    pub(super) interrupt: bool,
}

impl Port {
    /// The command is done.
    pub(super) fn finish(&mut self) {
        self.transfer = Transfer::Idle;
        self.registers.error = 0;
        self.registers.status = status::READY | status::SEEK_COMPLETE;
        self.interrupt = true;
    }

    /// The command failed with these bits in the error register.
    pub(super) fn fail(&mut self, bits: u8) {
        self.transfer = Transfer::Idle;
        self.registers.error = bits;
        self.registers.status = status::READY | status::ERROR;
        self.interrupt = true;
    }

    /// There is no such command, or not so.
    pub(super) fn abort(&mut self) {
        self.fail(error::ABORTED);
    }

    /// Has the guest read what is in the buffer.
    pub(super) fn offer(&mut self) {
        self.position = 0;
        self.transfer = Transfer::In;
        self.registers.status = status::READY | status::SEEK_COMPLETE | status::DATA_REQUEST;
        self.interrupt = true;
    }

    /// Has the guest fill the buffer with `len` bytes.
    pub(super) fn request(&mut self, len: usize, interrupt: bool) {
        self.buffer.clear();
        self.buffer.resize(len, 0);
        self.position = 0;
        self.transfer = Transfer::Out;
        self.registers.status = status::READY | status::SEEK_COMPLETE | status::DATA_REQUEST;
        self.interrupt |= interrupt;
    }

    /// Waits for the bus master.
    pub(super) fn await_dma(&mut self, transfer: Transfer) {
        self.transfer = transfer;
        self.registers.status = status::READY | status::SEEK_COMPLETE | status::DATA_REQUEST;
    }
}

impl Port {
    /// No buffer is longer: a packet command's answer, whose length registers have 16 bits.
    const MAX_BUFFER: usize = 0xfffe;

    fn save(&self, into: &mut StateWriter) {
        self.registers.save(into);
        into.u8(self.transfer as u8);
        // What was in it once is of no use to anybody.
        let buffered = matches!(self.transfer, Transfer::In | Transfer::Out);
        into.bytes(if buffered { &self.buffer } else { &[] });
        into.u32(if buffered { self.position as u32 } else { 0 });
        into.bool(self.interrupt);
    }

    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        const BUFFER: &str = "the buffer of an IDE unit";
        self.registers.load(from)?;
        let transfer = Transfer::ALL.get(usize::from(from.u8()?)).copied();
        self.transfer = transfer.ok_or(LoadError::Value("an IDE unit's transfer"))?;
        let buffer = from.bytes()?;
        state::check(buffer.len() <= Self::MAX_BUFFER, BUFFER)?;
        self.buffer = buffer.to_vec();
        self.position = from.u32()? as usize;
        let room = match self.transfer {
            Transfer::In | Transfer::Out => self.position < self.buffer.len(),
            _ => self.buffer.is_empty() && self.position == 0,
        };
        state::check(room, BUFFER)?;
        self.interrupt = from.bool()?;
        Ok(())
    }
}

/// A unit.
pub(super) struct Unit {
    pub(super) kind: Kind,
    pub(super) port: Port,
}

impl Unit {
    pub(super) fn new(kind: Kind) -> Self {
        let port = Port {
            registers: Registers::default(),
            transfer: Transfer::Idle,
            buffer: vec![],
            position: 0,
            interrupt: false,
        };
        let mut unit = Self { kind, port };
        unit.reset();
        unit
    }

    /// The state after a reset: the registers tell what kind of unit it is (ATA/ATAPI-6, section 9.12).
    pub(super) fn reset(&mut self) {
        let packet = matches!(self.kind, Kind::Cdrom(_));
        self.port.transfer = Transfer::Idle;
        self.port.interrupt = false;
        self.port.registers = Registers::default();
        let registers = &mut self.port.registers;
        registers.count.set(1);
        registers.low.set(1);
        registers.error = 1;
        if packet {
            registers.mid.set(0x14);
            registers.high.set(0xeb);
        } else {
            registers.status = status::READY | status::SEEK_COMPLETE;
        }
        match &mut self.kind {
            Kind::Disk(disk) => disk.reset(),
            Kind::Cdrom(cdrom) => cdrom.reset(),
        }
    }

    pub(super) fn write_register(&mut self, index: u64, value: u8) {
        let registers = &mut self.port.registers;
        match index {
            1 => registers.features.write(value),
            2 => registers.count.write(value),
            3 => registers.low.write(value),
            4 => registers.mid.write(value),
            5 => registers.high.write(value),
            6 => registers.device = value,
            _ => {}
        }
    }

    /// `deep` shows what was written before.
    pub(super) fn read_register(&self, index: u64, deep: bool) -> u8 {
        let registers = &self.port.registers;
        let shown = |register: Deep| if deep { register.before } else { register.now };
        match index {
            1 => registers.error,
            2 => shown(registers.count),
            3 => shown(registers.low),
            4 => shown(registers.mid),
            5 => shown(registers.high),
            6 => registers.device | 0xa0,
            _ => registers.status,
        }
    }

    pub(super) fn command(&mut self, command: u8) {
        self.port.transfer = Transfer::Idle;
        self.port.interrupt = false;
        match &mut self.kind {
            Kind::Disk(disk) => disk.command(&mut self.port, command),
            // The one command that doesn't end with an interrupt.
            Kind::Cdrom(_) if command == 0x08 => self.reset(),
            Kind::Cdrom(cdrom) => cdrom.command(&mut self.port, command),
        }
    }

    /// The guest's read of the data port.
    pub(super) fn read_data(&mut self, size: usize) -> u64 {
        if self.port.transfer != Transfer::In {
            return 0;
        }
        let rest = &self.port.buffer[self.port.position..];
        let len = size.min(rest.len());
        let value = rest[..len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        self.port.position += len;
        if self.port.position == self.port.buffer.len() {
            match &mut self.kind {
                Kind::Disk(disk) => disk.buffer_read(&mut self.port),
                Kind::Cdrom(cdrom) => cdrom.buffer_read(&mut self.port),
            }
        }
        value
    }

    /// The guest's write to the data port.
    pub(super) fn write_data(&mut self, size: usize, value: u64) {
        if self.port.transfer != Transfer::Out {
            return;
        }
        let rest = &mut self.port.buffer[self.port.position..];
        let len = size.min(rest.len());
        rest[..len].copy_from_slice(&value.to_le_bytes()[..len]);
        self.port.position += len;
        if self.port.position == self.port.buffer.len() {
            match &mut self.kind {
                Kind::Disk(disk) => disk.buffer_written(&mut self.port),
                Kind::Cdrom(cdrom) => cdrom.packet_written(&mut self.port),
            }
        }
    }

    /// How many bytes the DMA under way moves, and whether to memory.
    pub(super) fn dma(&self) -> Option<(u64, bool)> {
        let to_memory = match self.port.transfer {
            Transfer::DmaIn => true,
            Transfer::DmaOut => false,
            _ => return None,
        };
        let len = match &self.kind {
            Kind::Disk(disk) => disk.remaining(),
            Kind::Cdrom(cdrom) => cdrom.remaining(),
        };
        Some((len, to_memory))
    }

    /// Moves a piece of the DMA under way; an error has ended the command.
    pub(super) fn dma_piece(&mut self, piece: &mut [u8], to_memory: bool) -> Result<(), ()> {
        match &mut self.kind {
            Kind::Disk(disk) if to_memory => disk.dma_read(&mut self.port, piece),
            Kind::Disk(disk) => disk.dma_write(&mut self.port, piece),
            Kind::Cdrom(cdrom) => cdrom.dma_read(&mut self.port, piece),
        }
    }

    /// The DMA has moved everything.
    pub(super) fn dma_done(&mut self) {
        match &mut self.kind {
            Kind::Disk(disk) => disk.dma_done(&mut self.port),
            Kind::Cdrom(cdrom) => cdrom.dma_done(&mut self.port),
        }
    }

    /// The bus master couldn't reach memory.
    pub(super) fn dma_failed(&mut self) {
        self.port.abort();
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.bool(matches!(self.kind, Kind::Cdrom(_)));
        self.port.save(into);
        match &self.kind {
            Kind::Disk(disk) => disk.save(into),
            Kind::Cdrom(cdrom) => cdrom.save(into),
        }
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        let cdrom = from.bool()?;
        state::check(cdrom == matches!(self.kind, Kind::Cdrom(_)), "which IDE units there are: the VM has others")?;
        self.port.load(from)?;
        match &mut self.kind {
            Kind::Disk(disk) => disk.load(&self.port, from),
            Kind::Cdrom(cdrom) => cdrom.load(&self.port, from),
        }
    }
}
