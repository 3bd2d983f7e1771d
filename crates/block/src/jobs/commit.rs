//! Moves changes between an overlay and what it lies on: `commit` writes them down into the backing image, `rebase` writes
//! up what a new backing image would show differently. The images' headers are the caller's business.

use ferro_sys::AlignedBuffer;

use super::{Watch, chunks};
use crate::{ExtentKind, Result, Storage, ZeroFlags};

const CHUNK: u64 = 1 << 20;

/// Writes everything that layers above `depth` hold (the overlay is layer 0) into `base`, which is as large as the overlay.
///
/// # Errors
/// Errors of either side.
pub fn commit(overlay: &dyn Storage, base: &dyn Storage, depth: u32, watch: &Watch) -> Result<()> {
    let threads = chunks::threads(8);
    chunks::for_each(overlay.size(), CHUNK, threads, watch, AlignedBuffer::default, |buffer, offset, len| {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let extent = overlay.extent_at(at, end - at)?;
            let run = extent.len.clamp(1, end - at);
            if extent.depth >= depth || extent.kind == ExtentKind::Unallocated {
            } else if extent.kind.reads_as_zero() {
                base.write_zeroes(at, run, ZeroFlags { may_unmap: true, ..ZeroFlags::default() })?;
            } else {
                load(overlay, buffer, at, run)?;
                base.write_at(buffer, at)?;
            }
            at += run;
        }
        Ok(())
    })
}

/// Writes into `overlay` what it shows of its backing image wherever `new` (shorter ones end in zeros) shows other data.
///
/// # Errors
/// Errors of either side.
pub fn rebase(overlay: &dyn Storage, new: Option<&dyn Storage>, watch: &Watch) -> Result<()> {
    let unit = u64::from(overlay.limits().allocation_unit).clamp(512, CHUNK);
    let threads = chunks::threads(8);
    let buffers = || (AlignedBuffer::default(), AlignedBuffer::default());
    chunks::for_each(overlay.size(), CHUNK, threads, watch, buffers, |(old, other), offset, len| {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let extent = overlay.extent_at(at, end - at)?;
            let run = extent.len.clamp(1, end - at);
            let own = extent.depth == 0 && extent.kind != ExtentKind::Unallocated;
            if !own {
                load(overlay, old, at, run)?;
                shown(new, other, at, run)?;
                let mut from = 0;
                while from < old.len() {
                    let position = at + from as u64;
                    let to = from + ((unit - position % unit) as usize).min(old.len() - from);
                    if old[from..to] != other[from..to] {
                        overlay.write_at(&old[from..to], position)?;
                    }
                    from = to;
                }
            }
            at += run;
        }
        Ok(())
    })
}

fn load(disk: &dyn Storage, buffer: &mut AlignedBuffer, offset: u64, len: u64) -> Result<()> {
    make_room(buffer, len);
    disk.read_at(buffer, offset)
}

/// What a backing image shows: its bytes, and zeros beyond its end.
fn shown(backing: Option<&dyn Storage>, buffer: &mut AlignedBuffer, offset: u64, len: u64) -> Result<()> {
    make_room(buffer, len);
    let there = backing.map_or(0, |backing| backing.size().saturating_sub(offset).min(len)) as usize;
    if let Some(backing) = backing
        && there > 0
    {
        backing.read_at(&mut buffer[..there], offset)?;
    }
    buffer[there..].fill(0);
    Ok(())
}

fn make_room(buffer: &mut AlignedBuffer, len: u64) {
    if buffer.capacity() < len as usize {
        *buffer = AlignedBuffer::new(CHUNK as usize);
    }
    buffer.set_len(len as usize);
}
