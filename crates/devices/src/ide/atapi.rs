//! CD-ROM drives: how packets and their data go through the unit's registers (ATA/ATAPI-6, section 9.8), and which of the
//! drive's commands a packet is. Their answers are in `answers`.

mod answers;

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::disc::Tray;
use super::identify;
use super::unit::{Port, Transfer};
use super::{DISC_SECTOR, error, status};
use crate::state;
use crate::virtio::Disk;

const PACKET: usize = 12;

/// Reasons for an interrupt, in the count register.
mod reason {
    pub(super) const COMMAND: u8 = 1;
    pub(super) const TO_HOST: u8 = 2;
    pub(super) const STATUS: u8 = 3;
}

/// Why a command failed: sense key, additional code and qualifier (MMC-3, annex A).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sense {
    key: u8,
    code: u8,
    qualifier: u8,
}

impl Sense {
    const NO_MEDIUM: Self = Self { key: 2, code: 0x3a, qualifier: 1 };
    const TRAY_OPEN: Self = Self { key: 2, code: 0x3a, qualifier: 2 };
    const READ_ERROR: Self = Self { key: 3, code: 0x11, qualifier: 0 };
    const BAD_COMMAND: Self = Self { key: 5, code: 0x20, qualifier: 0 };
    const OUT_OF_RANGE: Self = Self { key: 5, code: 0x21, qualifier: 0 };
    const BAD_FIELD: Self = Self { key: 5, code: 0x24, qualifier: 0 };
    const LOCKED: Self = Self { key: 5, code: 0x53, qualifier: 2 };
    const CHANGED: Self = Self { key: 6, code: 0x28, qualifier: 0 };
}

/// What a command gives the guest.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Bytes(Vec<u8>),
    Sectors { first: u64, count: u64 },
}

impl Answer {
    fn len(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Sectors { count, .. } => count * DISC_SECTOR as u64,
        }
    }
}

impl Answer {
    /// The longest answer made of bytes: the packets say their room in 16 bits.
    const MAX_BYTES: usize = 0xffff;

    fn save(&self, into: &mut StateWriter) {
        match self {
            Self::Nothing => into.u8(0),
            Self::Bytes(bytes) => {
                into.u8(1);
                into.bytes(bytes);
            }
            Self::Sectors { first, count } => {
                into.u8(2);
                into.u64(*first);
                into.u64(*count);
            }
        }
    }

    fn load(from: &mut StateReader<'_>) -> Result<Self, LoadError> {
        const ANSWER: LoadError = LoadError::Value("a CD-ROM drive's answer");
        match from.u8()? {
            0 => Ok(Self::Nothing),
            1 => Some(from.bytes()?)
                .filter(|bytes| (1..=Self::MAX_BYTES).contains(&bytes.len()))
                .map(|bytes| Self::Bytes(bytes.to_vec()))
                .ok_or(ANSWER),
            2 => {
                let (first, count) = (from.u64()?, from.u64()?);
                let limit = u64::from(u32::MAX);
                let possible = first <= limit && (1..=limit).contains(&count);
                if possible { Ok(Self::Sectors { first, count }) } else { Err(ANSWER) }
            }
            _ => Err(ANSWER),
        }
    }
}

/// A drive behind its unit's registers.
pub(super) struct Cdrom {
    pub(super) tray: Tray,
    serial: String,
    sense: Sense,
    mode: u8,
    answer: Answer,
    sent: u64,
    /// Bytes that the guest takes at a time.
    limit: usize,
    dma: bool,
}

impl Cdrom {
    pub(super) fn new(disc: Option<Box<dyn Disk>>, serial: &str) -> Self {
        Self {
            tray: Tray::new(disc),
            serial: serial.to_owned(),
            sense: Sense::default(),
            mode: 0,
            answer: Answer::Nothing,
            sent: 0,
            limit: 0,
            dma: false,
        }
    }

    pub(super) fn reset(&mut self) {
        self.answer = Answer::Nothing;
        self.sense = Sense::default();
        self.tray.locked = false;
    }

    pub(super) fn command(&mut self, port: &mut Port, command: u8) {
        self.answer = Answer::Nothing;
        self.sent = 0;
        match command {
            0xa0 => {
                let registers = &port.registers;
                self.dma = registers.features.now & 1 != 0;
                self.limit = match u16::from_le_bytes([registers.mid.now, registers.high.now]) {
                    0 | 0xffff => 0xfffe,
                    1 => 1,
                    limit => usize::from(limit & !1),
                };
                port.registers.count.set(reason::COMMAND);
                port.request(PACKET, false);
            }
            0xa1 => {
                port.buffer = identify::cdrom(&self.serial, self.mode);
                port.offer();
            }
            0xef if port.registers.features.now == 3 => {
                self.mode = port.registers.count.now;
                port.finish();
            }
            0xef | 0xe0..=0xe3 | 0xe6 => port.finish(),
            0xe5 => {
                port.registers.count.set(0xff);
                port.finish();
            }
            0x90 => {
                self.sign(port);
                port.finish();
                port.registers.error = 1;
            }
            // A host that takes it for a disk learns by the registers what it is.
            0xec => {
                self.sign(port);
                port.abort();
            }
            _ => port.abort(),
        }
    }

    fn sign(&self, port: &mut Port) {
        let registers = &mut port.registers;
        for (register, value) in [
            (&mut registers.count, 1),
            (&mut registers.low, 1),
            (&mut registers.mid, 0x14),
            (&mut registers.high, 0xeb),
        ] {
            register.set(value);
        }
    }

    /// The guest has written a packet.
    pub(super) fn packet_written(&mut self, port: &mut Port) {
        let packet: [u8; PACKET] = std::array::from_fn(|index| port.buffer.get(index).copied().unwrap_or(0));
        match self.execute(&packet) {
            Ok(answer) => {
                if packet[0] != 3 {
                    self.sense = Sense::default();
                }
                self.answer = answer;
                self.sent = 0;
                self.send(port);
            }
            Err(sense) => self.fail(port, sense),
        }
    }

    fn fail(&mut self, port: &mut Port, sense: Sense) {
        self.answer = Answer::Nothing;
        self.sense = sense;
        port.registers.count.set(reason::STATUS);
        port.fail(sense.key << 4 | if sense.key == 5 { error::ABORTED } else { 0 });
    }

    /// The bytes left of the answer under way.
    pub(super) fn remaining(&self) -> u64 {
        self.answer.len() - self.sent
    }

    fn send(&mut self, port: &mut Port) {
        let left = self.remaining();
        if left == 0 {
            self.answer = Answer::Nothing;
            self.sent = 0;
            port.registers.count.set(reason::STATUS);
            port.finish();
        } else if self.dma {
            port.registers.count.set(reason::TO_HOST);
            port.await_dma(Transfer::DmaIn);
        } else {
            let len = left.min(self.limit as u64) as usize;
            let mut buffer = std::mem::take(&mut port.buffer);
            buffer.resize(len, 0);
            let result = self.take(&mut buffer);
            port.buffer = buffer;
            match result {
                Ok(()) => {
                    port.registers.count.set(reason::TO_HOST);
                    port.registers.mid.set(len as u8);
                    port.registers.high.set((len >> 8) as u8);
                    port.offer();
                }
                Err(sense) => self.fail(port, sense),
            }
        }
    }

    /// The next bytes of the answer.
    fn take(&mut self, into: &mut [u8]) -> Result<(), Sense> {
        match &self.answer {
            Answer::Nothing => {}
            Answer::Bytes(bytes) => into.copy_from_slice(&bytes[self.sent as usize..][..into.len()]),
            Answer::Sectors { first, .. } => {
                let offset = first * DISC_SECTOR as u64 + self.sent;
                let disc = self.tray.disc().ok_or(Sense::NO_MEDIUM)?;
                // It may have been changed since the command began.
                if offset + into.len() as u64 > disc.size() {
                    return Err(Sense::CHANGED);
                }
                disc.read(offset, into).map_err(|_| Sense::READ_ERROR)?;
            }
        }
        self.sent += into.len() as u64;
        Ok(())
    }

    /// The guest has read the buffer.
    pub(super) fn buffer_read(&mut self, port: &mut Port) {
        if matches!(self.answer, Answer::Nothing) {
            // What IDENTIFY gave.
            port.transfer = Transfer::Idle;
            port.registers.status = status::READY | status::SEEK_COMPLETE;
        } else {
            self.send(port);
        }
    }

    pub(super) fn dma_read(&mut self, port: &mut Port, piece: &mut [u8]) -> Result<(), ()> {
        self.take(piece).map_err(|sense| self.fail(port, sense))
    }

    pub(super) fn dma_done(&mut self, port: &mut Port) {
        self.send(port);
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        self.tray.save(into);
        [self.sense.key, self.sense.code, self.sense.qualifier, self.mode].into_iter().for_each(|byte| into.u8(byte));
        self.answer.save(into);
        into.u64(self.sent);
        into.u16(self.limit as u16);
        into.bool(self.dma);
    }

    pub(super) fn load(&mut self, port: &Port, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.tray.load(from)?;
        self.sense = Sense { key: from.u8()?, code: from.u8()?, qualifier: from.u8()? };
        state::check(self.sense.key < 16, "a CD-ROM drive's sense key")?;
        self.mode = from.u8()?;
        self.answer = Answer::load(from)?;
        self.sent = from.u64()?;
        state::check(self.sent <= self.answer.len(), "how far a CD-ROM drive's answer has come")?;
        self.limit = from.u16()?.into();
        self.dma = from.bool()?;
        let possible = match port.transfer {
            Transfer::Idle => true,
            // Without an answer it is what IDENTIFY gave.
            Transfer::In => matches!(self.answer, Answer::Nothing) || (1..0xffff).contains(&self.limit),
            Transfer::Out => port.buffer.len() == PACKET && (1..0xffff).contains(&self.limit),
            Transfer::DmaIn => self.dma,
            Transfer::DmaOut => false,
        };
        state::check(possible, "a CD-ROM drive's packet under way")
    }

    fn execute(&mut self, packet: &[u8; PACKET]) -> Result<Answer, Sense> {
        // These work whatever happened to the medium.
        match packet[0] {
            0x03 => {
                let sense = std::mem::take(&mut self.sense);
                return Ok(answers::limited(answers::sense(sense), packet[4].into()));
            }
            0x12 => return Ok(answers::limited(answers::inquiry(), packet[4].into())),
            0x46 => return Ok(answers::limited(answers::configuration(packet, &self.tray), answers::word(packet, 7))),
            0x4a => return answers::event_status(packet, &mut self.tray),
            _ => {}
        }
        if self.tray.take_attention() {
            return Err(Sense::CHANGED);
        }
        match packet[0] {
            0x1b => return self.start_stop(packet[4]),
            0x1e => {
                self.tray.locked = packet[4] & 1 != 0;
                return Ok(Answer::Nothing);
            }
            0x5a => return answers::mode_sense(packet, self.tray.locked),
            0xbd => return Ok(answers::limited(answers::mechanism_status(&self.tray), answers::word(packet, 8))),
            0xbb => return Ok(Answer::Nothing),
            _ => {}
        }
        let sectors = self.tray.sectors();
        let sectors = sectors.ok_or(if self.tray.state().open { Sense::TRAY_OPEN } else { Sense::NO_MEDIUM })?;
        match packet[0] {
            0x00 => Ok(Answer::Nothing),
            0x25 => Ok(Answer::Bytes(answers::capacity(sectors))),
            0x28 => read(packet, answers::word(packet, 7) as u64, sectors),
            0xa8 => read(packet, answers::long(packet, 6), sectors),
            0xbe => match packet[9] & 0xf8 {
                0 => Ok(Answer::Nothing),
                0x10 => read(packet, answers::long(packet, 5) & 0xff_ffff, sectors),
                _ => Err(Sense::BAD_FIELD),
            },
            0x2b if answers::long(packet, 2) >= sectors => Err(Sense::OUT_OF_RANGE),
            0x2b => Ok(Answer::Nothing),
            0x42 => Ok(answers::limited(answers::subchannel(), answers::word(packet, 7))),
            0x43 => answers::contents(packet, sectors),
            0x51 => Ok(answers::limited(answers::disc_information(), answers::word(packet, 7))),
            _ => Err(Sense::BAD_COMMAND),
        }
    }

    fn start_stop(&mut self, how: u8) -> Result<Answer, Sense> {
        if how & 2 != 0 {
            let open = how & 1 == 0;
            if open && self.tray.locked {
                return Err(Sense::LOCKED);
            }
            self.tray.move_to(open);
        }
        Ok(Answer::Nothing)
    }
}

fn read(packet: &[u8; PACKET], count: u64, sectors: u64) -> Result<Answer, Sense> {
    let first = answers::long(packet, 2);
    match first.checked_add(count) {
        Some(end) if end <= sectors => Ok(if count == 0 { Answer::Nothing } else { Answer::Sectors { first, count } }),
        _ => Err(Sense::OUT_OF_RANGE),
    }
}
