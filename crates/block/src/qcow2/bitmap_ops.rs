//! Persistent bitmaps of an open image: changing them, marking them as in use before the first write, storing them when
//! the image is closed.

use super::bitmap::{Bitmap, Chunk, load_table};
use super::geometry::{OFFSET_MASK, be64_bytes};
use super::header::{AUTOCLEAR_BITMAPS, BitmapsExtension};
use super::image::{Alone, Inner, Qcow2};
use super::report::BitmapInfo;
use super::state::{Run, State};
use crate::{Error, Result};

impl State {
    fn bitmap(&mut self, name: &str) -> Result<&mut Bitmap> {
        let found = self.bitmaps.iter_mut().find(|bitmap| bitmap.name == name);
        found.ok_or_else(|| Error::Invalid(format!("Dirty bitmap '{name}' not found")))
    }

    fn usable_bitmap(&mut self, name: &str) -> Result<&mut Bitmap> {
        let bitmap = self.bitmap(name)?;
        if bitmap.inconsistent {
            let advice = "Try block-dirty-bitmap-remove to delete this bitmap from disk";
            return Err(Error::Invalid(format!("Bitmap '{name}' is inconsistent and cannot be used. {advice}")));
        }
        Ok(bitmap)
    }
}

impl Inner {
    /// Says in the file, durably, that what is stored of the bitmaps is out of date.
    pub(super) fn mark_bitmaps_in_use(&self, state: &mut State) -> Result<()> {
        if state.bitmaps_in_use {
            return Ok(());
        }
        if let Some(extension) = state.stored_header.bitmaps {
            let mut directory = vec![0; extension.directory_size as usize];
            self.file.read(&mut directory, extension.directory_offset)?;
            set_in_use(&mut directory, extension.count);
            self.file.write(&directory, extension.directory_offset)?;
            self.file.flush()?;
        }
        state.bitmaps_in_use = true;
        Ok(())
    }

    /// Writes the bitmaps to new places if they have changed, and has the header name them.
    pub(super) fn store_bitmaps(&self, alone: &Alone<'_>) -> Result<()> {
        let mut state = self.state();
        if !state.bitmaps_in_use {
            return Ok(());
        }
        let old = self.stored_bitmap_clusters(&state);
        let mut new: Vec<Run> = Vec::new();
        let mut bitmaps = state.bitmaps.clone();
        let extension = match self.write_bitmaps(&mut state, &mut bitmaps, &mut new) {
            Ok(extension) => extension,
            Err(error) => {
                new.into_iter().for_each(|run| state.free_unused(&self.file, run));
                return Err(error);
            }
        };
        drop(state);
        self.commit_with(&alone.committing, true)?;
        let mut state = self.state();
        let mut header = state.stored_header.clone();
        header.bitmaps = extension;
        header.autoclear = header.autoclear & !AUTOCLEAR_BITMAPS | u64::from(extension.is_some());
        (state.header.bitmaps, state.header.autoclear) = (header.bitmaps, header.autoclear);
        self.store_header(&mut state, header)?;
        self.file.flush()?;
        let bits = state.geometry.cluster_bits;
        old.into_iter().for_each(|(first, count)| state.release(first << bits, count));
        state.bitmaps = bitmaps;
        state.bitmaps_in_use = false;
        Ok(())
    }

    fn write_bitmaps(
        &self,
        state: &mut State,
        bitmaps: &mut [Bitmap],
        new: &mut Vec<Run>,
    ) -> Result<Option<BitmapsExtension>> {
        if bitmaps.is_empty() {
            return Ok(None);
        }
        let geometry = state.geometry;
        let mut place = |state: &mut State, bytes: &[u8]| -> Result<u64> {
            let run = state.allocate(&self.file, geometry.clusters(bytes.len() as u64), true)?;
            new.push(run);
            self.file.write(bytes, run.0 << geometry.cluster_bits)?;
            Ok(run.0 << geometry.cluster_bits)
        };
        for bitmap in bitmaps.iter_mut().filter(|bitmap| !bitmap.inconsistent) {
            let (entries, chunks) = bitmap.stored_chunks();
            let mut table = vec![0u64; entries as usize];
            for (index, chunk) in chunks {
                let Some(entry) = table.get_mut(index as usize) else { continue };
                *entry = match chunk {
                    Chunk::Ones => 1,
                    Chunk::Bits(bits) => place(state, bits)?,
                };
            }
            let offset = if table.is_empty() { 0 } else { place(state, &be64_bytes(&table))? };
            bitmap.table = (offset, table.len() as u32);
        }
        let mut directory = Vec::new();
        bitmaps.iter().for_each(|bitmap| bitmap.push_entry(&mut directory, false));
        let directory_offset = place(state, &directory)?;
        let directory_size = directory.len() as u64;
        Ok(Some(BitmapsExtension { count: bitmaps.len() as u32, directory_size, directory_offset }))
    }

    /// The host clusters of the bitmaps in the file, but those of inconsistent bitmaps that stay.
    fn stored_bitmap_clusters(&self, state: &State) -> Vec<Run> {
        let Some(extension) = state.stored_header.bitmaps else { return Vec::new() };
        let geometry = state.geometry;
        let run = |host: u64, bytes: u64| (host >> geometry.cluster_bits, geometry.clusters(bytes));
        let mut runs = vec![run(extension.directory_offset, extension.directory_size)];
        let mut directory = vec![0; extension.directory_size as usize];
        let stored = self
            .file
            .read(&mut directory, extension.directory_offset)
            .and_then(|()| super::bitmap::parse_directory(&directory, extension.count, &geometry, self.size()));
        for bitmap in stored.unwrap_or_default() {
            let kept = state.bitmaps.iter().any(|other| other.inconsistent && other.name == bitmap.name);
            if kept || bitmap.table.0 == 0 {
                continue;
            }
            runs.push(run(bitmap.table.0, u64::from(bitmap.table.1) * 8));
            let table = load_table(&self.file, &bitmap).unwrap_or_default();
            let clusters = table.iter().map(|entry| entry & OFFSET_MASK).filter(|&host| host != 0);
            runs.extend(clusters.map(|host| run(host, 1)));
        }
        runs
    }

    fn change_bitmaps(&self, change: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        let _alone = self.alone_to_write()?;
        let mut state = self.state();
        if state.header.version < 3 {
            return Err(Error::Unsupported("Cannot store dirty bitmaps in qcow2 v2 files".into()));
        }
        self.mark_bitmaps_in_use(&mut state)?;
        change(&mut state)
    }
}

/// Sets the in-use flag of every entry of a directory that was found to be valid.
fn set_in_use(directory: &mut [u8], count: u32) {
    let mut at = 0;
    for _ in 0..count {
        if at + 24 > directory.len() {
            return;
        }
        directory[at + 15] |= 1;
        let name_len = super::geometry::be16(directory, at + 18) as usize;
        let extra_len = super::geometry::be32(directory, at + 20) as usize;
        at += (24 + name_len).saturating_add(extra_len).next_multiple_of(8);
    }
}

impl Qcow2 {
    /// The persistent bitmaps.
    pub fn bitmaps(&self) -> Vec<BitmapInfo> {
        self.0.state().bitmaps.iter().map(Bitmap::info).collect()
    }

    /// Adds a bitmap; it records writes from now on. The granularity is in bytes; without one, the cluster size but at
    /// least 4 KiB and at most 64 KiB is taken.
    ///
    /// # Errors
    /// A name that is taken or too long, a granularity that is no power of two between 512 and 2 GiB, version 2.
    pub fn bitmap_add(&self, name: &str, granularity: Option<u64>) -> Result<()> {
        let granularity = granularity.unwrap_or(self.0.geometry.cluster_size().clamp(4096, 65536));
        if !granularity.is_power_of_two() {
            return Err(Error::Invalid("Granularity must be a power of two".into()));
        }
        let (bits, size) = (self.0.geometry.cluster_bits, self.0.size());
        self.0.change_bitmaps(|state| {
            if state.bitmap(name).is_ok() {
                return Err(Error::Invalid(format!("Bitmap already exists: {name}")));
            }
            state.bitmaps.push(Bitmap::new(name, granularity.trailing_zeros(), bits, size)?);
            Ok(())
        })
    }

    /// Removes a bitmap.
    ///
    /// # Errors
    /// No such bitmap, errors of the file.
    pub fn bitmap_remove(&self, name: &str) -> Result<()> {
        self.0.change_bitmaps(|state| {
            state.bitmap(name)?;
            state.bitmaps.retain(|bitmap| bitmap.name != name);
            Ok(())
        })
    }

    /// Clears every bit.
    ///
    /// # Errors
    /// No such bitmap, or an inconsistent one.
    pub fn bitmap_clear(&self, name: &str) -> Result<()> {
        self.0.change_bitmaps(|state| {
            state.usable_bitmap(name)?.clear();
            Ok(())
        })
    }

    /// Starts or stops recording.
    ///
    /// # Errors
    /// No such bitmap, or an inconsistent one.
    pub fn bitmap_set_enabled(&self, name: &str, enabled: bool) -> Result<()> {
        self.0.change_bitmaps(|state| {
            state.usable_bitmap(name)?.auto = enabled;
            Ok(())
        })
    }

    /// Adds `source`'s bits (a bitmap of `from`, or of this image) to `target`.
    ///
    /// # Errors
    /// No such bitmap, or an inconsistent one.
    pub fn bitmap_merge(&self, target: &str, from: Option<&Qcow2>, source: &str) -> Result<()> {
        let bits = from.unwrap_or(self).0.state().usable_bitmap(source)?.clone();
        self.0.change_bitmaps(|state| {
            state.usable_bitmap(target)?.merge(&bits);
            Ok(())
        })
    }

    /// The dirty ranges of a bitmap between `offset` and `offset + len`, ascending: (offset, len) in bytes.
    ///
    /// # Errors
    /// No such bitmap, or an inconsistent one.
    pub fn bitmap_ranges(&self, name: &str, offset: u64, len: u64) -> Result<Vec<(u64, u64)>> {
        Ok(self.0.state().usable_bitmap(name)?.ranges(offset, len))
    }
}
