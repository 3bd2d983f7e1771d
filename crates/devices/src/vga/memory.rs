//! Video memory: a part of the VM's host memory that the guest may also see through the framebuffer's window, and which of
//! its pages were written.

use std::sync::Arc;

use ferro_guest::{GuestMemory, PAGE_SIZE};

/// Video memory.
pub struct VideoMemory {
    memory: Arc<GuestMemory>,
    offset: usize,
    len: usize,
    /// Writes of the guest's CPUs show in the dirty log.
    logged: bool,
}

/// Pages written since the last look.
pub(super) struct DirtyPages {
    pages: Vec<bool>,
    any: bool,
}

impl VideoMemory {
    /// Memory at an offset of the VM's host memory; a power of two of bytes, at least 256 KiB. `logged` says whether
    /// writes of CPUs through the window come to the dirty log of [`ferro_guest::Ram`]; where they don't, the whole
    /// picture is looked at each time.
    pub fn new(memory: Arc<GuestMemory>, offset: usize, len: usize, logged: bool) -> Self {
        memory.ram().arm_dirty_log(offset, len);
        Self { memory, offset, len, logged }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true; here because [`VideoMemory::len`] is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The byte at an index; beyond the end it begins anew.
    pub(super) fn byte(&self, index: usize) -> u8 {
        self.memory.ram().load(self.offset + index % self.len)
    }

    pub(super) fn set_byte(&self, index: usize, value: u8) {
        self.memory.ram().store(self.offset + index % self.len, value);
    }

    /// The four planes at a plane address.
    pub(super) fn planes(&self, address: usize) -> u32 {
        self.memory.ram().load(self.offset + address * 4 % self.len)
    }

    pub(super) fn set_planes(&self, address: usize, value: u32) {
        self.memory.ram().store(self.offset + address * 4 % self.len, value);
    }

    /// Copies bytes out; what is beyond the end is left as it is.
    pub(super) fn read(&self, index: usize, into: &mut [u8]) {
        let len = into.len().min(self.len.saturating_sub(index));
        if len > 0 {
            self.memory.ram().read(self.offset + index, &mut into[..len]);
        }
    }

    pub(super) fn clear(&self, len: usize) {
        self.memory.ram().fill(self.offset, len.min(self.len), 0);
    }

    /// The pages written since the last call, of the first `len` bytes.
    pub(super) fn take_dirty(&self, len: usize) -> DirtyPages {
        let len = len.min(self.len);
        let mut dirty = DirtyPages { pages: vec![!self.logged; len.div_ceil(PAGE_SIZE)], any: !self.logged };
        self.memory.ram().take_dirty(self.offset, len, |offset| {
            if let Some(page) = dirty.pages.get_mut((offset - self.offset) / PAGE_SIZE) {
                *page = true;
                dirty.any = true;
            }
        });
        dirty
    }
}

impl DirtyPages {
    /// Whether anything was written.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Whether something of this range was written; what is beyond the end counts.
    pub(super) fn touches(&self, index: usize, len: usize) -> bool {
        let last = (index + len.max(1) - 1) / PAGE_SIZE;
        (index / PAGE_SIZE..=last).any(|page| self.pages.get(page).copied().unwrap_or(true))
    }
}
