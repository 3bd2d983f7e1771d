//! What a chip is written against: access from the bus, an interrupt line, a clock, and its saved state. No chip, no
//! bus and no board is here.

/// A chip's registers as the bus sees them: ports and MMIO alike, relative to where the board put it.
///
/// What a guest does wrong is the chip's business (it ignores, or returns all ones, or raises an error bit): these
/// calls can't fail and must not panic, whatever the offset and the value.
pub trait BusDevice: Send {
    /// Reads `size` (1, 2, 4 or 8) bytes at `offset`; the result is in the low bytes.
    fn read(&mut self, offset: u64, size: u8) -> u64;
    /// Writes the low `size` (1, 2, 4 or 8) bytes of `value` at `offset`.
    fn write(&mut self, offset: u64, size: u8, value: u64);
}

/// One interrupt input of an interrupt controller, as the chip that drives it sees it.
pub trait InterruptLine: Send + Sync {
    /// Drives the line high or low. Setting the level it has already does nothing.
    fn set_level(&self, high: bool);

    /// Drives the line high and low again: one edge.
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

/// A line that goes nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoInterrupt;

impl InterruptLine for NoInterrupt {
    fn set_level(&self, _high: bool) {}
}

/// The VM's own time, which stands still while the VM is stopped.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the VM was first started. Never goes back.
    fn now(&self) -> u64;
}

/// Why saved state could not be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The section ends early.
    #[error("saved state ends in the middle of a value")]
    Short,
    /// The section goes on after its last value.
    #[error("saved state has {0} bytes too many")]
    Long(usize),
    /// The section was written by a version that this one can't read.
    #[error("saved state has version {found}, this build reads up to {known}")]
    Version {
        /// The version in the section.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// A value is impossible.
    #[error("saved state has an impossible value for {0}")]
    Value(&'static str),
}

/// State that goes into one section of a saved VM.
pub trait SaveState {
    /// The version of the format that [`SaveState::save`] writes, from 1.
    const VERSION: u32;
    /// Writes everything that a guest could observe.
    fn save(&self, into: &mut StateWriter);
    /// Takes over what `save` of this or an older version wrote.
    ///
    /// # Errors
    /// Bytes that no `save` wrote. The chip is then in any state: the caller discards it.
    fn load(&mut self, version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError>;
}

/// [`SaveState`] behind a trait object: what a board holds of its chips to make sections of them.
pub trait StateSection: Send {
    /// The version of the format that is written.
    fn version(&self) -> u32;
    /// The section's bytes.
    fn save_section(&self) -> Vec<u8>;
    /// Takes over a section's bytes.
    ///
    /// # Errors
    /// A version that isn't known, bytes that no chip of this kind wrote, and bytes that go on after the last value. The
    /// chip is then in any state.
    fn load_section(&mut self, version: u32, bytes: &[u8]) -> Result<(), LoadError>;
}

impl<T: SaveState + Send> StateSection for T {
    fn version(&self) -> u32 {
        T::VERSION
    }

    fn save_section(&self) -> Vec<u8> {
        let mut writer = StateWriter::new();
        self.save(&mut writer);
        writer.finish()
    }

    fn load_section(&mut self, version: u32, bytes: &[u8]) -> Result<(), LoadError> {
        if version == 0 || version > T::VERSION {
            return Err(LoadError::Version { found: version, known: T::VERSION });
        }
        let mut reader = StateReader::new(bytes);
        self.load(version, &mut reader)?;
        reader.finish()
    }
}

/// Collects the bytes of one section, little-endian.
#[derive(Debug, Default)]
pub struct StateWriter {
    bytes: Vec<u8>,
}

impl StateWriter {
    /// An empty section.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends a flag as one byte.
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends a flag, and eight bytes if there is a value.
    pub fn optional(&mut self, value: Option<u64>) {
        self.bool(value.is_some());
        value.into_iter().for_each(|value| self.u64(value));
    }

    /// Appends a length (four bytes) and the bytes.
    ///
    /// # Panics
    /// More than `u32::MAX` bytes, which no chip has.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).expect("a chip's state fits four gigabytes"));
        self.bytes.extend(value);
    }

    /// The section.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads one section back.
#[derive(Debug)]
pub struct StateReader<'a> {
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Reads from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(LoadError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// The section ends before it, as for all of these.
    pub fn u8(&mut self) -> Result<u8, LoadError> {
        Ok(self.take::<1>()?[0])
    }

    /// A flag: a byte that must be 0 or 1.
    ///
    /// # Errors
    /// Also another value.
    pub fn bool(&mut self) -> Result<bool, LoadError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(LoadError::Value("a flag")),
        }
    }

    /// Two bytes.
    ///
    /// # Errors
    /// The section ends before it.
    pub fn u16(&mut self) -> Result<u16, LoadError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// The section ends before it.
    pub fn u32(&mut self) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// The section ends before it.
    pub fn u64(&mut self) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A flag, and eight bytes if it is set.
    ///
    /// # Errors
    /// The section ends before it, or the flag isn't one.
    pub fn optional(&mut self) -> Result<Option<u64>, LoadError> {
        if self.bool()? { self.u64().map(Some) } else { Ok(None) }
    }

    /// Bytes with their length before them.
    ///
    /// # Errors
    /// The section ends before it.
    pub fn bytes(&mut self) -> Result<&'a [u8], LoadError> {
        let len = self.u32()? as usize;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(LoadError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// Says that nothing more is expected.
    ///
    /// # Errors
    /// Bytes that nobody read.
    pub fn finish(self) -> Result<(), LoadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(LoadError::Long(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_reads_back_as_written_and_notices_damage() {
        let mut writer = StateWriter::new();
        writer.u8(1);
        writer.bool(true);
        writer.u16(0x203);
        writer.u32(4);
        writer.u64(5);
        writer.bytes(b"six");
        let bytes = writer.finish();
        let mut reader = StateReader::new(&bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.bool(), Ok(true));
        assert_eq!(reader.u16(), Ok(0x203));
        assert_eq!(reader.u32(), Ok(4));
        assert_eq!(reader.u64(), Ok(5));
        assert_eq!(reader.bytes(), Ok(b"six".as_slice()));
        assert_eq!(reader.u8(), Err(LoadError::Short));
        assert_eq!(reader.finish(), Ok(()));
        assert_eq!(StateReader::new(&[7]).bool(), Err(LoadError::Value("a flag")));
        assert_eq!(StateReader::new(&[9, 0, 0, 0, 1]).bytes(), Err(LoadError::Short));
        assert_eq!(StateReader::new(&[1]).finish(), Err(LoadError::Long(1)));
    }

    struct Chip(Option<u64>);

    impl SaveState for Chip {
        const VERSION: u32 = 2;

        fn save(&self, into: &mut StateWriter) {
            into.optional(self.0);
        }

        fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
            self.0 = from.optional()?;
            Ok(())
        }
    }

    #[test]
    fn a_chip_behind_a_trait_object_checks_version_and_length() {
        let saved: Box<dyn StateSection> = Box::new(Chip(Some(7)));
        let bytes = saved.save_section();
        let mut other = Chip(None);
        assert_eq!(other.load_section(saved.version(), &bytes), Ok(()));
        assert_eq!(other.0, Some(7));
        assert_eq!(other.load_section(1, &[0]), Ok(()), "an older version is the chip's own business");
        assert_eq!(other.load_section(3, &bytes), Err(LoadError::Version { found: 3, known: 2 }));
        assert_eq!(other.load_section(0, &bytes), Err(LoadError::Version { found: 0, known: 2 }));
        assert_eq!(other.load_section(2, &[0, 0]), Err(LoadError::Long(1)));
        assert_eq!(other.load_section(2, &bytes[..5]), Err(LoadError::Short));
    }
}
