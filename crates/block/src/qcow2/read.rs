//! Reading: where a guest range lies, and how its bytes get from there into the caller's buffers.

use std::io::IoSliceMut;
use std::sync::{Arc, PoisonError};

use super::buffers::{ReadCursor, scatter};
use super::compression;
use super::entry::{CompressedCluster, Kind};
use super::geometry::corrupt;
use super::image::Inner;
use super::state::State;
use crate::{Extent, ExtentKind, Result};

/// Where a run of guest bytes comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Not in this image.
    Unallocated,
    /// Zeros; with the host offset of space that is allocated nevertheless.
    Zero(Option<u64>),
    /// At this host offset.
    Data(u64),
    /// Within the data that this compressed cluster expands to.
    Compressed(CompressedCluster),
}

impl Inner {
    /// Where the bytes at `guest` come from, and how many of the `len` bytes come from there in one piece.
    pub(super) fn map(&self, state: &mut State, guest: u64, len: u64) -> Result<(Source, u64)> {
        let geometry = state.geometry;
        let table_end = ((guest >> geometry.l1_shift()) + 1) << geometry.l1_shift();
        let end = guest.saturating_add(len).min(table_end);
        let Some(table) = state.l2_table(&self.file, guest)? else {
            return Ok((Source::Unallocated, end - guest));
        };
        let sub_bits = geometry.subcluster_bits();
        let sub_size = 1u64 << sub_bits;
        let (mut at, mut found) = (guest, None);
        while at < end {
            let cluster = state.cluster_in(table, at)?;
            let in_cluster = geometry.in_cluster(at);
            let mut offset = in_cluster;
            while offset < geometry.cluster_size() && at < end {
                let source = match cluster.kind((offset >> sub_bits) as u32) {
                    Kind::Unallocated => Source::Unallocated,
                    Kind::Zero => Source::Zero(cluster.has_host().then_some(cluster.host + offset)),
                    Kind::Data => Source::Data(cluster.host + offset),
                    Kind::Compressed => {
                        Source::Compressed(cluster.compressed.unwrap_or(CompressedCluster { host: 0, len: 0 }))
                    }
                };
                let first = *found.get_or_insert(source);
                if !continues(first, at - guest, source) {
                    return Ok((first, at - guest));
                }
                let step = if matches!(source, Source::Compressed(_)) {
                    geometry.cluster_size() - offset
                } else {
                    sub_size - (offset & (sub_size - 1))
                };
                offset += step;
                at += step;
            }
        }
        Ok((found.unwrap_or(Source::Unallocated), end - guest))
    }

    /// Fills the cursor's buffers with `len` bytes from `guest` on. The caller is inside the gate.
    pub(super) fn read_guest(&self, cursor: &mut ReadCursor<'_>, mut guest: u64, len: u64) -> Result<()> {
        let end = guest + len;
        while guest < end {
            let (source, run) = self.map(&mut self.state(), guest, end - guest)?;
            let mut pieces = cursor.take(run);
            match source {
                Source::Zero(_) => pieces.iter_mut().for_each(|piece| piece.fill(0)),
                Source::Unallocated => self.read_backing(pieces, guest)?,
                Source::Data(host) => self.read_data(pieces, host, guest, run)?,
                Source::Compressed(compressed) => {
                    let geometry = self.geometry;
                    let bytes = self.decompress(compressed)?;
                    scatter(&bytes[geometry.in_cluster(guest) as usize..], &mut pieces);
                }
            }
            guest += run;
        }
        Ok(())
    }

    /// As [`Inner::read_guest`], into one buffer.
    pub(super) fn read_guest_buffer(&self, buffer: &mut [u8], guest: u64) -> Result<()> {
        let len = buffer.len() as u64;
        self.read_guest(&mut ReadCursor::new(&mut [IoSliceMut::new(buffer)]), guest, len)
    }

    fn read_backing(&self, pieces: Vec<&mut [u8]>, guest: u64) -> Result<()> {
        let backing = self.backing();
        // Machine state lies beyond the disk: no backing file shows through there.
        let size = backing.as_ref().map_or(0, |backing| backing.size()).min(self.size());
        let mut there = size.saturating_sub(guest);
        let mut wanted = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let count = there.min(piece.len() as u64) as usize;
            let (data, rest) = piece.split_at_mut(count);
            rest.fill(0);
            there -= count as u64;
            if !data.is_empty() {
                wanted.push(IoSliceMut::new(data));
            }
        }
        match backing {
            Some(backing) if !wanted.is_empty() => backing.read_vectored_at(&mut wanted, guest),
            _ => Ok(()),
        }
    }

    fn read_data(&self, mut pieces: Vec<&mut [u8]>, host: u64, guest: u64, len: u64) -> Result<()> {
        let Some(crypt) = &self.crypt else {
            let mut slices: Vec<_> = pieces.into_iter().map(IoSliceMut::new).collect();
            return self.data().read_vectored(&mut slices, host);
        };
        let position = if crypt.physical { host } else { guest };
        if position.is_multiple_of(512) && len.is_multiple_of(512) && pieces.len() == 1 {
            self.data().read(pieces[0], host)?;
            crypt.cipher.decrypt(pieces[0], position)?;
            return Ok(());
        }
        let before = position % 512;
        let mut bytes = vec![0; (before + len).next_multiple_of(512) as usize];
        self.data().read(&mut bytes, host - before)?;
        crypt.cipher.decrypt(&mut bytes, position - before)?;
        scatter(&bytes[before as usize..], &mut pieces);
        Ok(())
    }

    /// A whole cluster that is stored in compressed form. The last one is kept, as small reads come in sequence.
    fn decompress(&self, cluster: CompressedCluster) -> Result<Arc<Vec<u8>>> {
        if let Some((host, bytes)) = &*self.decompressed.lock().unwrap_or_else(PoisonError::into_inner)
            && *host == cluster.host
        {
            return Ok(Arc::clone(bytes));
        }
        let mut data = vec![0; cluster.len as usize];
        self.file.read(&mut data, cluster.host)?;
        let mut bytes = vec![0; self.geometry.cluster_size() as usize];
        compression::decompress(self.compression, &data, &mut bytes)
            .map_err(|problem| corrupt(format!("compressed cluster at {:#x}: {problem}", cluster.host)))?;
        let bytes = Arc::new(bytes);
        *self.decompressed.lock().unwrap_or_else(PoisonError::into_inner) = Some((cluster.host, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Whether a guest range is known to read as zeros, without reading data.
    pub(super) fn reads_as_zero(&self, guest: u64, len: u64) -> Result<bool> {
        let (mut at, end) = (guest, guest + len);
        while at < end {
            let (source, run) = self.map(&mut self.state(), at, end - at)?;
            let zero = match source {
                Source::Zero(_) => true,
                Source::Unallocated => match self.backing() {
                    Some(backing) => at >= backing.size().min(self.size()),
                    None => true,
                },
                _ => false,
            };
            if !zero {
                return Ok(false);
            }
            at += run;
        }
        Ok(true)
    }

    /// [`crate::Storage::extent_at`], for a range within the disk.
    pub(super) fn extent(&self, guest: u64, len: u64) -> Result<Extent> {
        let _ticket = self.gate.enter();
        let (source, mut run) = self.map(&mut self.state(), guest, len)?;
        // Tables end runs; go on as long as nothing changes.
        while run < len && !matches!(source, Source::Compressed(_)) {
            let (next, more) = self.map(&mut self.state(), guest + run, len - run)?;
            if !continues(source, run, next) {
                break;
            }
            run += more;
        }
        let shown = |host: u64| self.crypt.is_none().then_some(host);
        let extent = |kind, file_offset| Extent { len: run, kind, file_offset, depth: 0 };
        match source {
            Source::Data(host) => Ok(extent(ExtentKind::Data, shown(host))),
            Source::Zero(host) => Ok(extent(ExtentKind::Zero { allocated: host.is_some() }, host.and_then(shown))),
            Source::Compressed(_) => Ok(extent(ExtentKind::Compressed, None)),
            Source::Unallocated => {
                let Some(backing) = self.backing() else { return Ok(extent(ExtentKind::Unallocated, None)) };
                let there = backing.size().saturating_sub(guest).min(run);
                if there == 0 {
                    return Ok(extent(ExtentKind::Unallocated, None));
                }
                let below = backing.extent_at(guest, there)?;
                Ok(Extent { depth: below.depth + 1, ..below })
            }
        }
    }
}

/// Whether `next`, found `distance` bytes after `first`, belongs to the same run.
fn continues(first: Source, distance: u64, next: Source) -> bool {
    match (first, next) {
        (Source::Unallocated, Source::Unallocated) => true,
        (Source::Zero(None), Source::Zero(None)) => true,
        (Source::Zero(Some(first)), Source::Zero(Some(next))) | (Source::Data(first), Source::Data(next)) => {
            first + distance == next
        }
        (Source::Compressed(_), Source::Compressed(_)) => distance == 0,
        _ => false,
    }
}
