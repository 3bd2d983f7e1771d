//! Writing: in place where a cluster is ours alone, else into newly allocated clusters, many at once, completed with what
//! was there before (copy on write). Data goes to the file without the lock; tables refer to it only afterwards.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};

use super::buffers::{gather, part, total};
use super::compression;
use super::entry::{Cluster, CompressedCluster};
use super::image::Inner;
use super::state::{Run, State};
use crate::{Error, Result};

/// How the next part of a write is done.
enum Plan {
    /// Over data that is ours alone.
    InPlace { host: u64, len: u64 },
    /// Into clusters that tables will then refer to.
    Allocate(Allocation),
}

/// Clusters that are being filled.
struct Allocation {
    /// The guest offset of the first cluster.
    guest: u64,
    /// How many clusters, adjacent in guest and host.
    count: u64,
    /// The host offset of the first cluster.
    host: u64,
    /// What was allocated for it, to be given back on failure: nothing if the host cluster was ours already.
    new: Option<Run>,
    /// The guest range that is to be valid in the end: what is written, and the copied edges around it.
    valid: Range<u64>,
    /// The host clusters read as zeros now.
    fresh: bool,
    /// The host cluster belonged to the guest cluster before, and its other subclusters stay as they are.
    reused: bool,
}

/// Says that guest clusters are about to change, and that they don't any more when dropped.
pub(super) struct InFlight<'a> {
    inner: &'a Inner,
    clusters: Range<u64>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if let Some(index) = state.in_flight.iter().position(|clusters| *clusters == self.clusters) {
            state.in_flight.swap_remove(index);
        }
        drop(state);
        self.inner.changed.notify_all();
    }
}

impl Inner {
    /// The lock, once none of these guest clusters is about to change.
    pub(super) fn settled(&self, clusters: &Range<u64>) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while state.is_in_flight(clusters) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Says that guest clusters are about to change.
    pub(super) fn fly<'a>(&'a self, state: &mut State, clusters: Range<u64>) -> InFlight<'a> {
        state.in_flight.push(clusters.clone());
        InFlight { inner: self, clusters }
    }

    fn clusters_of(&self, guest: u64, len: u64) -> Range<u64> {
        let bits = self.geometry.cluster_bits;
        guest >> bits..(guest + len).div_ceil(1 << bits)
    }

    /// Writes all of `buffers` from `guest` on. The caller is inside the gate and has checked the range.
    pub(super) fn write_guest(&self, buffers: &[IoSlice<'_>], guest: u64) -> Result<()> {
        let len = total(buffers);
        let mut done = 0;
        while done < len {
            let at = guest + done;
            let clusters = self.clusters_of(at, len - done);
            let mut state = self.settled(&clusters);
            state.check_writable()?;
            let plan = self.plan(&mut state, at, len - done)?;
            match plan {
                Plan::InPlace { host, len } => {
                    // Encrypted sectors may have to be read first, so nobody else may write beside us.
                    let clusters = self.clusters_of(at, len);
                    let flight = self.crypt.is_some().then(|| self.fly(&mut state, clusters));
                    drop(state);
                    self.write_data(&part(buffers, done, len), host, at)?;
                    drop(flight);
                    done += len;
                }
                Plan::Allocate(allocation) => {
                    let last = allocation.guest + (allocation.count << self.geometry.cluster_bits);
                    let count = last.min(guest + len) - at;
                    let clusters = self.clusters_of(allocation.guest, last - allocation.guest);
                    let flight = self.fly(&mut state, clusters);
                    drop(state);
                    let result = self.fill(&allocation, &part(buffers, done, count), at);
                    self.finish(&allocation, result)?;
                    drop(flight);
                    done += count;
                }
            }
        }
        Ok(())
    }

    fn plan(&self, state: &mut State, guest: u64, len: u64) -> Result<Plan> {
        let geometry = state.geometry;
        let size = geometry.cluster_size();
        let end = guest + len;
        let first = guest - geometry.in_cluster(guest);
        let cluster = state.cluster(&self.file, guest)?;
        let in_place = |cluster: &Cluster, start: u64| {
            let from = guest.saturating_sub(start).min(size);
            let mask = geometry.touched_mask(from, (end - start).min(size));
            cluster.copied && cluster.has_host() && cluster.data & mask == mask
        };
        let table_end = ((guest >> geometry.l1_shift()) + 1) << geometry.l1_shift();
        let stop = end.min(table_end);
        if in_place(&cluster, first) {
            let mut next = first + size;
            while next < stop {
                let other = state.cluster(&self.file, next)?;
                if !in_place(&other, next) || other.host != cluster.host + (next - first) {
                    break;
                }
                next += size;
            }
            let host = cluster.host + (guest - first);
            let len = next.min(stop) - guest;
            state.check_writable_place(&self.file, host, len)?;
            return Ok(Plan::InPlace { host, len });
        }
        if self.crypt.is_some() && self.crypt_missing() {
            return Err(Error::Secret("a secret is needed to write to an encrypted image".into()));
        }
        // The table first: clusters without a table to refer to them would be lost on failure.
        state.l2_table_for_write(&self.file, guest)?;
        if cluster.copied && cluster.has_host() {
            return self.plan_reuse(state, &cluster, guest, end.min(first + size));
        }
        let mut count = 1;
        while first + count * size < stop {
            let next = first + count * size;
            let other = state.cluster(&self.file, next)?;
            if other.copied && other.has_host() {
                break;
            }
            count += 1;
        }
        self.plan_new(state, guest, end, count)
    }

    /// The host cluster is ours, but some of its subclusters hold no data yet.
    fn plan_reuse(&self, state: &mut State, cluster: &Cluster, guest: u64, end: u64) -> Result<Plan> {
        let geometry = state.geometry;
        let first = guest - geometry.in_cluster(guest);
        state.check_writable_place(&self.file, cluster.host, geometry.cluster_size())?;
        let sub = 1u64 << geometry.subcluster_bits();
        let holds_data = |at: u64| cluster.data >> ((at - first) >> geometry.subcluster_bits()) & 1 != 0;
        let start = if holds_data(guest) { guest } else { guest & !(sub - 1) };
        let stop = if holds_data(end - 1) { end } else { end.next_multiple_of(sub) };
        let allocation = Allocation {
            guest: first,
            count: 1,
            host: cluster.host,
            new: None,
            valid: start..stop,
            fresh: false,
            reused: true,
        };
        Ok(Plan::Allocate(allocation))
    }

    fn plan_new(&self, state: &mut State, guest: u64, end: u64, count: u64) -> Result<Plan> {
        let geometry = state.geometry;
        let (size, bits) = (geometry.cluster_size(), geometry.cluster_bits);
        let first = guest - geometry.in_cluster(guest);
        let (run, fresh) = if self.data_file.is_some() {
            self.data().ensure(first + count * size)?;
            ((first >> bits, count), false)
        } else {
            state.allocate_data(&self.file, count)?
        };
        let count = run.1;
        let end = end.min(first + count * size);
        let last = (end - 1) & !(size - 1);
        let edge = |state: &mut State, start: u64, outside: u32, part: u64, whole: u64| -> Result<u64> {
            let old = state.cluster(&self.file, start)?;
            let copies = old.compressed.is_some() || old.data & outside != 0;
            Ok(if copies { whole } else { part })
        };
        let sub = 1u64 << geometry.subcluster_bits();
        // What a cluster has outside of the written part decides how much of it has to be copied.
        let head_outside = geometry.full_mask() & !geometry.touched_mask(guest - first, (end - first).min(size));
        let tail_outside = geometry.full_mask() & !geometry.touched_mask(guest.saturating_sub(last), end - last);
        let start = edge(state, first, head_outside, guest & !(sub - 1), first)?;
        let stop = edge(state, last, tail_outside, end.next_multiple_of(sub), last + size)?;
        let host = run.0 << bits;
        let new = self.data_file.is_none().then_some(run);
        Ok(Plan::Allocate(Allocation { guest: first, count, host, new, valid: start..stop, fresh, reused: false }))
    }

    /// Writes data and edges into an allocation.
    fn fill(&self, allocation: &Allocation, data: &[IoSlice<'_>], guest: u64) -> Result<()> {
        let end = guest + total(data);
        let head = self.edge(allocation, allocation.valid.start..guest)?;
        let tail = self.edge(allocation, end..allocation.valid.end)?;
        let mut slices = Vec::with_capacity(data.len() + 2);
        slices.extend(head.as_deref().map(IoSlice::new));
        slices.extend(data.iter().map(|slice| IoSlice::new(slice)));
        slices.extend(tail.as_deref().map(IoSlice::new));
        let start = guest - head.as_ref().map_or(0, |head| head.len() as u64);
        self.write_data(&slices, allocation.host + (start - allocation.guest), start)
    }

    /// What has to be written beside the data: nothing where the file holds the right zeros already.
    fn edge(&self, allocation: &Allocation, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(None);
        }
        let zero = self.reads_as_zero(range.start, len)?;
        if zero && allocation.fresh && self.crypt.is_none() {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        if !zero {
            self.read_guest_buffer(&mut bytes, range.start)?;
        }
        Ok(Some(bytes))
    }

    /// Makes the tables refer to an allocation that was filled, or gives it back.
    fn finish(&self, allocation: &Allocation, result: Result<()>) -> Result<()> {
        let mut state = self.state();
        let linked = result.and_then(|()| self.link(&mut state, allocation));
        if let (Err(_), Some(run)) = (&linked, allocation.new) {
            state.free_unused(&self.file, run);
        }
        linked
    }

    fn link(&self, state: &mut State, allocation: &Allocation) -> Result<()> {
        let geometry = state.geometry;
        let size = geometry.cluster_size();
        let table = state.l2_table_for_write(&self.file, allocation.guest)?;
        for index in 0..allocation.count {
            let guest = allocation.guest + index * size;
            let old = state.cluster_in(table, guest)?;
            let from = allocation.valid.start.saturating_sub(guest).min(size);
            let to = (allocation.valid.end - guest).min(size);
            let mask = geometry.touched_mask(from, to);
            let kept = if allocation.reused { old.data } else { 0 };
            let new = Cluster {
                host: allocation.host + index * size,
                copied: true,
                data: kept | mask,
                zero: old.zero & !mask,
                compressed: None,
            };
            state.set_cluster(table, guest, &new)?;
            if allocation.new.is_some() {
                state.release_cluster(&old);
            }
        }
        Ok(())
    }

    /// Writes to the file that holds data, encrypting if needed. `guest` is where the data belong.
    fn write_data(&self, slices: &[IoSlice<'_>], host: u64, guest: u64) -> Result<()> {
        let Some(crypt) = &self.crypt else { return self.data().write_vectored(slices, host) };
        let position = if crypt.physical { host } else { guest };
        let len = total(slices);
        let before = position % 512;
        let mut bytes = Vec::with_capacity((before + len + 512) as usize);
        if before != 0 {
            bytes = self.read_sector(host - before, position - before)?;
            bytes.truncate(before as usize);
        }
        bytes.extend(gather(slices));
        let end = bytes.len() % 512;
        if end != 0 {
            // Relative to the data, so below 0 if all lies in one sector.
            let offset = ((bytes.len() - end) as u64).wrapping_sub(before);
            let sector = self.read_sector(host.wrapping_add(offset), position.wrapping_add(offset))?;
            bytes.extend_from_slice(&sector[end..]);
        }
        crypt.cipher.encrypt(&mut bytes, position - before)?;
        self.data().write(&bytes, host - before)
    }

    fn read_sector(&self, host: u64, position: u64) -> Result<Vec<u8>> {
        let mut sector = vec![0; 512];
        self.data().read(&mut sector, host)?;
        if let Some(crypt) = &self.crypt {
            crypt.cipher.decrypt(&mut sector, position)?;
        }
        Ok(sector)
    }

    /// Stores whole clusters in compressed form. The caller is inside the gate and has checked the range.
    pub(super) fn write_compressed_guest(&self, data: &[u8], guest: u64) -> Result<()> {
        let size = self.geometry.cluster_size();
        for (index, piece) in data.chunks(size as usize).enumerate() {
            let at = guest + index as u64 * size;
            let padded;
            let whole = if piece.len() as u64 == size {
                piece
            } else {
                padded = [piece, &vec![0; size as usize - piece.len()]].concat();
                &padded
            };
            match compression::compress(self.compression, whole) {
                Some(packed) => self.store_compressed(&packed, at)?,
                None => self.write_guest(&[IoSlice::new(piece)], at)?,
            }
        }
        Ok(())
    }

    fn store_compressed(&self, packed: &[u8], guest: u64) -> Result<()> {
        let clusters = self.clusters_of(guest, 1);
        let mut state = self.settled(&clusters);
        state.check_writable()?;
        state.l2_table_for_write(&self.file, guest)?;
        let place = state.allocate_bytes(&self.file, packed.len() as u64)?;
        let flight = self.fly(&mut state, clusters);
        drop(state);
        let written = self.file.write(packed, place.host);
        let mut state = self.state();
        let linked = written.and_then(|()| {
            let table = state.l2_table_for_write(&self.file, guest)?;
            let old = state.cluster_in(table, guest)?;
            state.set_cluster(table, guest, &Cluster { compressed: Some(place), ..Cluster::default() })?;
            state.release_cluster(&old);
            Ok(())
        });
        if linked.is_err() {
            let (host, count) = place.host_clusters(&state.geometry);
            let first = host >> state.geometry.cluster_bits;
            state.compressed_room = 0..0;
            state.free_unused(&self.file, (first, count));
        }
        drop(state);
        drop(flight);
        linked
    }
}

impl State {
    /// Allocates `len` bytes for compressed data, beside earlier ones where there is room.
    fn allocate_bytes(&mut self, file: &super::host::HostFile, len: u64) -> Result<CompressedCluster> {
        let bits = self.geometry.cluster_bits;
        let room = self.compressed_room.clone();
        let left = room.end - room.start;
        // A narrow reference count may be at its maximum: then the rest of that cluster stays unused.
        if left >= len && self.refcounts.add(file, room.start >> bits, 1, 1).is_ok() {
            self.compressed_room = room.start + len..room.end;
            return Ok(CompressedCluster { host: room.start, len: sectors(room.start, len) });
        }
        let (cluster, _) = self.allocate(file, 1, true)?;
        let host = cluster << bits;
        let end = host + self.geometry.cluster_size();
        // Continue from the end of the last cluster into the one that follows it.
        let adjacent = left > 0 && left < len && host == room.end;
        if adjacent && self.refcounts.add(file, room.start >> bits, 1, 1).is_ok() {
            self.compressed_room = room.start + len..end;
            return Ok(CompressedCluster { host: room.start, len: sectors(room.start, len) });
        }
        self.compressed_room = host + len..end;
        Ok(CompressedCluster { host, len: sectors(host, len) })
    }
}

/// Bytes from `host` to the end of the sector in which `len` bytes end.
fn sectors(host: u64, len: u64) -> u64 {
    (host + len).next_multiple_of(512) - host
}
