//! Compares two disks.

use std::sync::atomic::{AtomicU64, Ordering};

use ferro_sys::AlignedBuffer;

use super::{Watch, chunks, is_zero};
use crate::{Extent, Result, Storage};

const CHUNK: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// How two disks compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same bytes; a longer one's rest is zeros.
    Identical,
    /// The first sector that differs, by its offset in bytes.
    Content(u64),
    /// In strict mode: the first place where one has data allocated and the other hasn't.
    Allocation(u64),
}

/// Compares; `strict` compares what is allocated, too.
///
/// # Errors
/// Read errors.
pub fn compare(one: &dyn Storage, two: &dyn Storage, strict: bool, watch: &Watch) -> Result<Comparison> {
    let shared = one.size().min(two.size());
    let total = one.size().max(two.size());
    // The lowest difference found; chunks beyond it need no look.
    let content = AtomicU64::new(u64::MAX);
    let allocation = AtomicU64::new(u64::MAX);
    let buffers = || (AlignedBuffer::new(CHUNK as usize), AlignedBuffer::new(CHUNK as usize));
    let each = |buffers: &mut (AlignedBuffer, AlignedBuffer), offset: u64, len: u64| {
        if offset > content.load(Ordering::Relaxed) {
            return Ok(());
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let run = if at < shared {
                let rest = (end - at).min(shared - at);
                let (first, second) = (one.extent_at(at, rest)?, two.extent_at(at, rest)?);
                if strict && is_allocated(&first) != is_allocated(&second) {
                    allocation.fetch_min(at, Ordering::Relaxed);
                }
                both(one, two, buffers, at, (first, second), rest, &content)?
            } else {
                let longer = if one.size() > two.size() { one } else { two };
                beyond(longer, &mut buffers.0, at, end - at, &content)?
            };
            at += run;
        }
        Ok(())
    };
    chunks::for_each(total, CHUNK, chunks::threads(8), watch, buffers, each)?;
    let (content, allocation) = (content.into_inner(), allocation.into_inner());
    Ok(match (content, allocation) {
        (u64::MAX, u64::MAX) => Comparison::Identical,
        (_, allocation) if allocation <= content && allocation < u64::MAX => Comparison::Allocation(allocation),
        (content, _) => Comparison::Content(content),
    })
}

fn is_allocated(extent: &Extent) -> bool {
    !extent.kind.reads_as_zero()
}

/// Compares a run that both have; its length.
fn both(
    one: &dyn Storage,
    two: &dyn Storage,
    buffers: &mut (AlignedBuffer, AlignedBuffer),
    at: u64,
    extents: (Extent, Extent),
    rest: u64,
    content: &AtomicU64,
) -> Result<u64> {
    let run = extents.0.len.min(extents.1.len).clamp(1, rest);
    let zero = (extents.0.kind.reads_as_zero(), extents.1.kind.reads_as_zero());
    let (first, second) = buffers;
    first.set_len(run as usize);
    second.set_len(run as usize);
    match zero {
        (true, true) => {}
        (true, false) => return beyond(two, second, at, run, content),
        (false, true) => return beyond(one, first, at, run, content),
        (false, false) => {
            one.read_at(first, at)?;
            two.read_at(second, at)?;
            if first[..] != second[..] {
                let differs = first.iter().zip(second.iter()).position(|(one, two)| one != two).unwrap_or(0) as u64;
                let sector = (at + differs) / SECTOR * SECTOR;
                content.fetch_min(sector.max(at / SECTOR * SECTOR), Ordering::Relaxed);
            }
        }
    }
    Ok(run)
}

/// Holds a run against zeros; its length.
fn beyond(storage: &dyn Storage, buffer: &mut AlignedBuffer, at: u64, len: u64, content: &AtomicU64) -> Result<u64> {
    let extent = storage.extent_at(at, len)?;
    let run = extent.len.clamp(1, len);
    if extent.kind.reads_as_zero() {
        return Ok(run);
    }
    buffer.set_len(run as usize);
    storage.read_at(buffer, at)?;
    if !is_zero(buffer) {
        let differs = buffer.iter().position(|&byte| byte != 0).unwrap_or(0) as u64;
        content.fetch_min((at + differs) / SECTOR * SECTOR, Ordering::Relaxed);
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    fn compared(one: Vec<u8>, two: Vec<u8>) -> Comparison {
        let (one, two) = (MemoryStorage::from_bytes(one), MemoryStorage::from_bytes(two));
        compare(&one, &two, false, &Watch::new()).expect("compared")
    }

    #[test]
    fn the_first_difference_is_found() {
        let zeros = vec![0; 3 << 20];
        let mut other = zeros.clone();
        assert_eq!(compared(zeros.clone(), other.clone()), Comparison::Identical);
        (other[(2 << 20) + 700], other[(1 << 20) + 513]) = (1, 1);
        assert_eq!(compared(zeros.clone(), other.clone()), Comparison::Content((1 << 20) + 512));
        assert_eq!(compared(zeros[..1 << 20].to_vec(), other), Comparison::Content((1 << 20) + 512));
        assert_eq!(compared(zeros[..1 << 20].to_vec(), zeros), Comparison::Identical);
    }
}
