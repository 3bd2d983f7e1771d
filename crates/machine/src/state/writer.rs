//! Writing the stream: header, records, end. What goes into the records is not known here.

use std::io::{self, Write};

use super::format::{Fingerprint, Kind, MAGIC, Section, VERSION, checksum};

/// A stream that is being written.
pub(super) struct StreamWriter<W> {
    into: W,
    records: u64,
    /// The checksum over the heads of all records so far.
    sum: u32,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream.
    pub(super) fn new(mut into: W, fingerprint: &Fingerprint) -> io::Result<Self> {
        let body = fingerprint.encode();
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend((body.len() as u32).to_le_bytes());
        head.extend(&body);
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        into.write_all(&head)?;
        Ok(Self { into, records: 0, sum: 0 })
    }

    fn record(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        assert!(body.len() <= kind.max_len() as usize, "a record of {} bytes", body.len());
        let sum = checksum(kind as u32, body);
        let head = [kind as u32, body.len() as u32, sum].map(u32::to_le_bytes).concat();
        self.sum = crc32c::crc32c_append(self.sum, &head);
        self.records += 1;
        self.into.write_all(&head)?;
        self.into.write_all(body)
    }

    /// Writes one chip's state.
    pub(super) fn section(&mut self, section: &Section) -> io::Result<()> {
        self.record(Kind::Section, &section.encode())
    }

    /// Writes pages of memory.
    pub(super) fn memory(&mut self, body: &[u8]) -> io::Result<()> {
        self.record(Kind::Memory, body)
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let mut body = self.records.to_le_bytes().to_vec();
        body.extend(self.sum.to_le_bytes());
        self.record(Kind::End, &body)?;
        self.into.flush()?;
        Ok(self.into)
    }
}
