//! What the stream of a VM's state is made of: a header with the fingerprint of the board, then records, each with its
//! kind, length and checksum (CRC-32C), up to a last one that counts and sums them all. All numbers are little-endian.
//! Reading and writing are not here.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::StateError;

pub(super) const MAGIC: [u8; 8] = *b"FERRO-VM";
/// The version of the format of header and records. Sections have versions of their own.
pub(super) const VERSION: u32 = 1;
/// Longest header.
pub(super) const MAX_HEADER: u32 = 1 << 16;
/// Bytes of a record before its body: kind, length and checksum.
pub(super) const RECORD_HEAD: usize = 12;
/// Longest body of a section's record.
pub(super) const MAX_SECTION: u32 = 16 << 20;
/// Most sections.
pub(super) const MAX_SECTIONS: usize = 4096;
/// Bytes in all sections at most.
pub(super) const MAX_SECTIONS_BYTES: usize = 64 << 20;
/// Longest body of a record of memory.
pub(super) const MAX_MEMORY: u32 = 2 << 20;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The state of one chip.
    Section = 1,
    /// Pages of memory.
    Memory = 2,
    /// The end: how many records came before, and the checksum over their heads.
    End = 3,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        [Self::Section, Self::Memory, Self::End].into_iter().find(|kind| *kind as u32 == number)
    }

    /// The longest body.
    pub(super) fn max_len(self) -> u32 {
        match self {
            Self::Section => MAX_SECTION,
            Self::Memory => MAX_MEMORY,
            Self::End => END_LEN,
        }
    }
}

/// Bytes in the body of the last record.
pub(super) const END_LEN: u32 = 12;

/// Bytes of a record's head that its checksum covers, beside the body: kind and length.
pub(super) fn checksum(kind: u32, body: &[u8]) -> u32 {
    let mut head = [0; 8];
    head[..4].copy_from_slice(&kind.to_le_bytes());
    head[4..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

/// What must be the same for a state to be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// `kvm` or `soft`.
    pub(crate) accelerator: String,
    /// The CPUs' model.
    pub(crate) cpu: String,
    /// How many of them.
    pub(crate) vcpus: u32,
    /// Bytes of RAM.
    pub(crate) ram: u64,
    /// Bytes of the firmware's ROM.
    pub(crate) rom: u64,
    /// Bytes of video memory.
    pub(crate) video: u64,
    /// The chips, by the names of their sections.
    pub(crate) chips: Vec<String>,
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}

impl Fingerprint {
    /// Bytes of host memory.
    pub(super) fn memory(&self) -> u64 {
        self.ram + self.rom + self.video
    }

    /// Says what differs in a saved VM, if anything does.
    ///
    /// # Errors
    /// The first difference, in words, with what to do where something can be done.
    pub(super) fn check(&self, saved: &Self) -> Result<(), StateError> {
        let different = |text: String| Err(StateError::Different(text));
        if saved.ram != self.ram {
            let (was, is) = (mebibytes(saved.ram), mebibytes(self.ram));
            return different(format!("it has {was} MiB of memory, this one {is} MiB: start it with --memory {was}M"));
        }
        if saved.vcpus != self.vcpus {
            let (was, is) = (saved.vcpus, self.vcpus);
            return different(format!("it has {was} vCPUs, this one {is}: start it with --cpus {was}"));
        }
        if saved.accelerator != self.accelerator {
            let (was, is) = (&saved.accelerator, &self.accelerator);
            return different(format!("it ran on {was}, this one on {is}: start it with --accel {was}"));
        }
        if saved.cpu != self.cpu {
            return different(format!("it has the CPU '{}', this one '{}'", saved.cpu, self.cpu));
        }
        if saved.rom != self.rom {
            return different("it has other firmware (--firmware, --kernel)".into());
        }
        if saved.video != self.video {
            return different("the one has a VGA, the other doesn't (--vga, --kernel)".into());
        }
        if let Some(missing) = saved.chips.iter().find(|chip| !self.chips.contains(chip)) {
            return different(format!("it has {missing}, which this one lacks: start it with the same devices"));
        }
        if let Some(more) = self.chips.iter().find(|chip| !saved.chips.contains(chip)) {
            return different(format!("it lacks {more}, which this one has: start it with the same devices"));
        }
        Ok(())
    }

    /// The header's body.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut into = StateWriter::new();
        // First: that much must be understood of any later version.
        into.bytes(env!("CARGO_PKG_VERSION").as_bytes());
        into.bytes(self.accelerator.as_bytes());
        into.bytes(self.cpu.as_bytes());
        into.u32(self.vcpus);
        for bytes in [self.ram, self.rom, self.video] {
            into.u64(bytes);
        }
        into.u32(self.chips.len() as u32);
        self.chips.iter().for_each(|chip| into.bytes(chip.as_bytes()));
        into.finish()
    }

    /// Reads the header's body of this version.
    pub(super) fn decode(body: &[u8]) -> Result<Self, LoadError> {
        let mut from = StateReader::new(body);
        text(&mut from)?;
        let (accelerator, cpu, vcpus) = (text(&mut from)?, text(&mut from)?, from.u32()?);
        let (ram, rom, video) = (from.u64()?, from.u64()?, from.u64()?);
        if [ram, rom, video].iter().any(|bytes| bytes >> 48 != 0) {
            return Err(LoadError::Value("the amount of memory"));
        }
        let count = from.u32()? as usize;
        if count > MAX_SECTIONS {
            return Err(LoadError::Value("the number of chips"));
        }
        let chips = (0..count).map(|_| text(&mut from)).collect::<Result<_, _>>()?;
        from.finish()?;
        Ok(Self { accelerator, cpu, vcpus, ram, rom, video, chips })
    }

    /// Who wrote a header of any version.
    pub(super) fn writer(body: &[u8]) -> Option<String> {
        text(&mut StateReader::new(body)).ok()
    }
}

fn text(from: &mut StateReader<'_>) -> Result<String, LoadError> {
    let bytes = from.bytes()?;
    // It goes into messages.
    let printable = bytes.len() <= 256 && bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    if !printable {
        return Err(LoadError::Value("a name"));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// The state of one chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// Which kind of chip, and where: `serial@3f8`, `vcpu`.
    pub(crate) name: String,
    /// Which one of those that share the name.
    pub(crate) instance: u32,
    /// The version of the bytes' format.
    pub(crate) version: u32,
    /// What the chip wrote.
    pub(crate) bytes: Vec<u8>,
}

impl Section {
    /// The record's body.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut into = StateWriter::new();
        into.bytes(self.name.as_bytes());
        into.u32(self.instance);
        into.u32(self.version);
        into.bytes(&self.bytes);
        into.finish()
    }

    /// Reads a record's body.
    pub(super) fn decode(body: &[u8]) -> Result<Self, LoadError> {
        let mut from = StateReader::new(body);
        let (name, instance, version) = (text(&mut from)?, from.u32()?, from.u32()?);
        let bytes = from.bytes()?.to_vec();
        from.finish()?;
        Ok(Self { name, instance, version, bytes })
    }
}
