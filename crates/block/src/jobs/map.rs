//! What is where in a disk: its extents, joined where nothing tells them apart.

use crate::{Extent, ExtentKind, Result, Storage};

/// A run of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// Where it begins in the disk.
    pub start: u64,
    /// What it is.
    pub extent: Extent,
}

/// Calls `each` for all runs within `start..end`.
///
/// # Errors
/// Damaged metadata, and what `each` says.
pub fn map(disk: &dyn Storage, start: u64, end: u64, mut each: impl FnMut(MapEntry) -> Result<()>) -> Result<()> {
    let end = end.min(disk.size());
    let mut at = start;
    let mut last: Option<MapEntry> = None;
    while at < end {
        let mut extent = disk.extent_at(at, end - at)?;
        extent.len = extent.len.clamp(1, end - at);
        match &mut last {
            Some(entry) if continues(entry, &extent) => entry.extent.len += extent.len,
            _ => {
                if let Some(entry) = last.replace(MapEntry { start: at, extent }) {
                    each(entry)?;
                }
            }
        }
        at += extent.len;
    }
    last.map_or(Ok(()), each)
}

fn continues(entry: &MapEntry, next: &Extent) -> bool {
    let last = &entry.extent;
    let follows = match (last.file_offset, next.file_offset) {
        (Some(last_offset), Some(next_offset)) => last_offset.checked_add(last.len) == Some(next_offset),
        (None, None) => true,
        _ => false,
    };
    last.kind == next.kind && last.depth == next.depth && follows
}

/// How many units of `unit` bytes have data in them.
///
/// # Errors
/// Damaged metadata.
pub fn allocated_clusters(disk: &dyn Storage, unit: u64) -> Result<u64> {
    let mut count = 0;
    // The first unit that isn't counted yet.
    let mut next = 0;
    let mut entries = |entry: MapEntry| {
        if matches!(entry.extent.kind, ExtentKind::Data | ExtentKind::Compressed) {
            let first = (entry.start / unit).max(next);
            let end = (entry.start + entry.extent.len).div_ceil(unit);
            count += end.saturating_sub(first);
            next = next.max(end);
        }
        Ok(())
    };
    map(disk, 0, disk.size(), &mut entries)?;
    Ok(count)
}
