//! Machine state, stored like guest data beyond the end of the disk, where only snapshots keep it.

use super::image::{Inner, Qcow2};
use crate::{Error, Result};
use std::io::IoSlice;

impl Inner {
    /// The guest offset at which machine state begins.
    fn vmstate_start(&self) -> u64 {
        self.geometry.l1_entries(self.size()) << self.geometry.l1_shift()
    }

    /// Where a range of machine state lies.
    fn vmstate_range(&self, offset: u64, len: u64) -> Result<u64> {
        let end = offset.checked_add(len).and_then(|end| end.checked_add(self.vmstate_start()));
        match end {
            Some(end) if end <= i64::MAX as u64 => Ok(self.vmstate_start() + offset),
            _ => Err(Error::Invalid("machine state is too large".into())),
        }
    }

    /// Gives the machine state of the active tables back. The caller has the image for itself.
    pub(super) fn discard_vmstate(&self) -> Result<()> {
        let mut state = self.state();
        let first = self.geometry.l1_entries(self.size()) as usize;
        if first >= state.l1.len() {
            return Ok(());
        }
        let gone = state.l1[first..].to_vec();
        for index in first..state.l1.len() {
            if state.l1[index] != 0 {
                state.set_l1(index, 0);
            }
        }
        state.release_references(&self.file, &gone)?;
        state.map_metadata();
        Ok(())
    }
}

impl Qcow2 {
    /// Reads machine state: that of the snapshot applied last, or what was written since.
    ///
    /// # Errors
    /// Errors of the file.
    pub fn vmstate_read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let guest = self.0.vmstate_range(offset, buffer.len() as u64)?;
        let _ticket = self.0.gate.enter();
        self.0.read_guest_buffer(buffer, guest)
    }

    /// Gives back the space of machine state that no snapshot holds: what was written for one that wasn't made, or that of
    /// the snapshot applied last.
    ///
    /// # Errors
    /// Errors of the file.
    pub fn vmstate_discard(&self) -> Result<()> {
        let alone = self.0.alone_to_write()?;
        let done = self.0.discard_vmstate();
        self.0.settle_flags(&alone).and(done)
    }

    /// Writes machine state beyond the end of the disk, for the next snapshot.
    ///
    /// # Errors
    /// Errors of the file, and more machine state than the format can hold.
    pub fn vmstate_write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let inner = &self.0;
        inner.check_writable()?;
        let guest = inner.vmstate_range(offset, data.len() as u64)?;
        {
            let _ticket = inner.gate.enter();
            let entries = inner.geometry.l1_entries(guest + data.len() as u64);
            inner.state().grow_l1(&inner.file, entries)?;
            inner.write_guest(&[IoSlice::new(data)], guest)?;
        }
        inner.relieve()
    }
}
