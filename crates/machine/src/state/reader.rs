//! Reading the stream: every length is bounded and every checksum compared before anything is believed. What is in the
//! records is looked at, but goes nowhere from here.

use std::io::{self, Read};

use super::StateError;
use super::format::{
    END_LEN, Fingerprint, Kind, MAGIC, MAX_HEADER, MAX_SECTIONS, MAX_SECTIONS_BYTES, RECORD_HEAD, Section, VERSION,
    checksum,
};
use super::memory::Chunk;

/// A record that was read.
pub(super) enum Record<'a> {
    /// One chip's state.
    Section(Section),
    /// Pages of memory.
    Memory(Chunk<'a>),
    /// There are no more.
    End,
}

/// A stream that is being read.
pub(super) struct StreamReader<R> {
    from: R,
    fingerprint: Fingerprint,
    body: Vec<u8>,
    records: u64,
    sum: u32,
}

/// Fills `into`; a stream that ends in the middle is damaged.
fn fill(from: &mut impl Read, into: &mut [u8]) -> Result<(), StateError> {
    from.read_exact(into).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StateError::Damaged("it ends early"),
        _ => StateError::Io(error),
    })
}

impl<R: Read> StreamReader<R> {
    /// Reads the header.
    pub(super) fn new(mut from: R) -> Result<Self, StateError> {
        let mut head = [0; 16];
        fill(&mut from, &mut head).map_err(|error| match error {
            StateError::Damaged(_) => StateError::Foreign,
            other => other,
        })?;
        let (magic, rest) = head.split_at(8);
        if magic != MAGIC {
            return Err(StateError::Foreign);
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| rest[at + index]));
        let (version, len) = (word(0), word(4));
        if len > MAX_HEADER {
            return Err(StateError::Damaged("its header is too long"));
        }
        let mut body = vec![0; len as usize + 4];
        fill(&mut from, &mut body)?;
        let (body, sum) = body.split_at(len as usize);
        if crc32c::crc32c_append(crc32c::crc32c(&head), body).to_le_bytes() != sum {
            return Err(StateError::Damaged("the checksum of its header is wrong"));
        }
        if version != VERSION {
            let by = Fingerprint::writer(body).unwrap_or_else(|| "of another version".into());
            return Err(StateError::Newer { found: version, known: VERSION, by });
        }
        let fingerprint = Fingerprint::decode(body).map_err(|_| StateError::Damaged("its header makes no sense"))?;
        Ok(Self { from, fingerprint, body: vec![], records: 0, sum: 0 })
    }

    /// Of what VM it is.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Reads the next record.
    pub(super) fn next(&mut self) -> Result<Record<'_>, StateError> {
        let mut head = [0; RECORD_HEAD];
        fill(&mut self.from, &mut head)?;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| head[at + index]));
        let (number, len, sum) = (word(0), word(4), word(8));
        let kind = Kind::from_number(number).ok_or(StateError::Damaged("it has a record of no known kind"))?;
        if len > kind.max_len() {
            return Err(StateError::Damaged("a record is too long"));
        }
        self.body.resize(len as usize, 0);
        fill(&mut self.from, &mut self.body)?;
        if checksum(number, &self.body) != sum {
            return Err(StateError::Damaged("a checksum is wrong"));
        }
        let (records, before) = (self.records, self.sum);
        self.records += 1;
        self.sum = crc32c::crc32c_append(self.sum, &head);
        match kind {
            Kind::Section => {
                let section = Section::decode(&self.body);
                section.map(Record::Section).map_err(|_| StateError::Damaged("a section makes no sense"))
            }
            Kind::Memory => {
                let pages = self.fingerprint.memory() / ferro_guest::PAGE_SIZE as u64;
                Chunk::decode(&self.body, pages).map(Record::Memory).map_err(StateError::Damaged)
            }
            Kind::End => {
                let mut expected = records.to_le_bytes().to_vec();
                expected.extend(before.to_le_bytes());
                if len != END_LEN || self.body != expected {
                    return Err(StateError::Damaged("records are missing"));
                }
                Ok(Record::End)
            }
        }
    }

    /// Reads to the end: the sections, for as much memory as a board can have, and nothing of the memory but that it is
    /// whole.
    pub(super) fn sections(mut self) -> Result<Vec<Section>, StateError> {
        let (mut sections, mut bytes) = (Vec::<Section>::new(), 0);
        loop {
            match self.next()? {
                Record::Section(section) => {
                    bytes += section.bytes.len();
                    let twice =
                        sections.iter().any(|other| (&other.name, other.instance) == (&section.name, section.instance));
                    if twice || sections.len() == MAX_SECTIONS || bytes > MAX_SECTIONS_BYTES {
                        return Err(StateError::Damaged("it has too many sections"));
                    }
                    sections.push(section);
                }
                Record::Memory(_) => {}
                Record::End => return Ok(sections),
            }
        }
    }
}

/// Reads any bytes as a stream for a VM with a megabyte of memory: see [`super::fuzzing`].
pub(super) fn fuzz(bytes: &[u8]) {
    let Ok(reader) = StreamReader::new(bytes) else { return };
    let _ = reader.sections();
    let ram = ferro_guest::Ram::new(1 << 20).expect("a megabyte can be had");
    let Ok(mut reader) = StreamReader::new(bytes) else { return };
    if reader.fingerprint().memory() == ram.len() as u64 {
        let mut loader = super::memory::Loader::new(&ram);
        while let Ok(record) = reader.next() {
            match record {
                Record::Memory(chunk) if loader.apply(&chunk).is_err() => return,
                Record::End => {
                    let _ = loader.finish();
                    return;
                }
                _ => {}
            }
        }
    }
}
