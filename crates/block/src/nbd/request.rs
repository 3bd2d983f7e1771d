//! What a request does to storage. Knows nothing of sockets.

use ferro_sys::AlignedBuffer;

use super::handshake::{ALLOCATION_DEPTH_ID, Agreement, BASE_ALLOCATION_ID};
use super::wire::{self, Request, command, command_flag, errno};
use crate::{Error, ExtentKind, Storage, WriteFlags, ZeroFlags};

/// Reads from this length on are looked at for holes first.
const WORTH_A_LOOK: u32 = 64 << 10;

/// A context's identifier and its extents (length, flags).
pub(super) type ContextExtents = (u32, Vec<(u32, u32)>);

/// How a request went.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// The buffer holds what was read.
    Data,
    /// What was to be read is all zeros.
    Hole,
    /// In each context.
    Status(Vec<ContextExtents>),
    /// The protocol's error number and words.
    Failed(u32, String),
}

/// Bytes of memory that a request needs.
pub(super) fn buffer_len(request: &Request) -> usize {
    match request.command {
        // Longer reads are refused.
        command::READ if request.len <= wire::MAX_TRANSFER => request.len as usize,
        command::WRITE => request.len as usize,
        _ => 0,
    }
}

/// Does it.
pub(super) fn perform(agreement: &Agreement<'_>, request: &Request, data: &mut AlignedBuffer) -> Outcome {
    if let Err((number, why)) = admit(agreement, request) {
        return Outcome::Failed(number, why.into());
    }
    let storage = &*agreement.export.storage;
    let (offset, len) = (request.offset, u64::from(request.len));
    let fua = request.flags & command_flag::FUA != 0;
    let done = match request.command {
        command::READ => {
            let may_skip = agreement.structured && request.flags & command_flag::DF == 0;
            if may_skip && request.len >= WORTH_A_LOOK && is_hole(storage, offset, len) {
                return Outcome::Hole;
            }
            return match storage.read_at(data, offset) {
                Ok(()) => Outcome::Data,
                Err(error) => failed(&error),
            };
        }
        command::WRITE => storage.write_vectored_at(&[std::io::IoSlice::new(data)], offset, WriteFlags { fua }),
        command::FLUSH => storage.flush(),
        command::TRIM => {
            let discarded = storage.discard(offset, len);
            if fua { discarded.and_then(|()| storage.flush()) } else { discarded }
        }
        command::WRITE_ZEROES => {
            let may_unmap = request.flags & command_flag::NO_HOLE == 0;
            let no_fallback = request.flags & command_flag::FAST_ZERO != 0;
            storage.write_zeroes(offset, len, ZeroFlags { may_unmap, no_fallback, fua })
        }
        command::BLOCK_STATUS => {
            return match status(agreement, request) {
                Ok(contexts) => Outcome::Status(contexts),
                Err(error) => failed(&error),
            };
        }
        // CACHE: whatever is worth keeping is kept.
        _ => Ok(()),
    };
    match done {
        Ok(()) => Outcome::Done,
        Err(error) => failed(&error),
    }
}

/// Refuses what must not reach storage.
fn admit(agreement: &Agreement<'_>, request: &Request) -> Result<(), (u32, &'static str)> {
    use command_flag::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
    let allowed = match request.command {
        command::READ => FUA | if agreement.structured { DF } else { 0 },
        command::WRITE | command::TRIM | command::FLUSH | command::CACHE => FUA,
        command::WRITE_ZEROES => FUA | NO_HOLE | FAST_ZERO,
        command::BLOCK_STATUS => FUA | REQ_ONE,
        _ => return Err((errno::EINVAL, "unknown command")),
    };
    if request.flags & !allowed != 0 {
        return Err((errno::EINVAL, "unsupported flags"));
    }
    let writes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if writes && agreement.export.is_read_only() {
        return Err((errno::EPERM, "the export is read-only"));
    }
    if request.command == command::FLUSH {
        return Ok(());
    }
    if request.command == command::READ && request.len > wire::MAX_TRANSFER {
        return Err((errno::EOVERFLOW, "the request is too long"));
    }
    let size = agreement.export.storage.size();
    if crate::check_range(request.offset, u64::from(request.len), size).is_err() {
        let number = if writes { errno::ENOSPC } else { errno::EINVAL };
        return Err((number, "the request runs past the end of the export"));
    }
    if request.command == command::BLOCK_STATUS {
        if !agreement.base_allocation && !agreement.allocation_depth {
            return Err((errno::EINVAL, "no context was selected"));
        }
        if request.len == 0 {
            return Err((errno::EINVAL, "an empty range has no status"));
        }
    }
    Ok(())
}

fn is_hole(storage: &dyn Storage, offset: u64, len: u64) -> bool {
    storage.extent_at(offset, len).is_ok_and(|extent| extent.len >= len && extent.kind.reads_as_zero())
}

/// The extents of a range in every context selected.
fn status(agreement: &Agreement<'_>, request: &Request) -> crate::Result<Vec<ContextExtents>> {
    let storage = &*agreement.export.storage;
    let limit = if request.flags & command_flag::REQ_ONE != 0 { 1 } else { wire::MAX_EXTENTS };
    let allocation = |kind: ExtentKind| match kind {
        ExtentKind::Data | ExtentKind::Compressed => 0,
        ExtentKind::Zero { allocated: true } => wire::STATE_ZERO,
        ExtentKind::Zero { allocated: false } | ExtentKind::Unallocated => wire::STATE_ZERO | wire::STATE_HOLE,
    };
    let mut base = Runs::new(limit);
    let mut depth = Runs::new(limit);
    let end = request.offset + u64::from(request.len);
    let mut at = request.offset;
    // Extents that say the same are joined, so there may be more than are sent; their number is bounded all the same.
    for _ in 0..16 * wire::MAX_EXTENTS {
        if at == end {
            break;
        }
        let extent = storage.extent_at(at, end - at)?;
        let len = extent.len.min(end - at) as u32;
        let layer = if extent.kind == ExtentKind::Unallocated { 0 } else { extent.depth + 1 };
        let more = base.add(len, allocation(extent.kind)) | depth.add(len, layer);
        at += u64::from(len);
        if !more {
            break;
        }
    }
    let mut contexts = Vec::new();
    if agreement.base_allocation {
        contexts.push((BASE_ALLOCATION_ID, base.runs));
    }
    if agreement.allocation_depth {
        contexts.push((ALLOCATION_DEPTH_ID, depth.runs));
    }
    Ok(contexts)
}

/// Extents in order, neighbours that say the same joined.
struct Runs {
    runs: Vec<(u32, u32)>,
    limit: usize,
    full: bool,
}

impl Runs {
    fn new(limit: usize) -> Self {
        Self { runs: Vec::new(), limit, full: false }
    }

    /// Adds an extent; false when there is no room for it and all that follow.
    fn add(&mut self, len: u32, flags: u32) -> bool {
        let has_room = self.runs.len() < self.limit;
        match self.runs.last_mut() {
            _ if self.full => {}
            Some(last) if last.1 == flags => last.0 += len,
            _ if has_room => self.runs.push((len, flags)),
            _ => self.full = true,
        }
        !self.full
    }
}

fn failed(error: &Error) -> Outcome {
    let number = match error {
        _ if error.is_out_of_space() => errno::ENOSPC,
        Error::ReadOnly(_) => errno::EPERM,
        Error::OutOfRange { .. } | Error::Invalid(_) => errno::EINVAL,
        Error::Unsupported(_) => errno::ENOTSUP,
        _ => errno::EIO,
    };
    tracing::warn!("an NBD request failed: {error}");
    Outcome::Failed(number, error.to_string())
}
