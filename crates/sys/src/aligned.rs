//! Heap memory that begins at a multiple of a power of two, as direct I/O wants it. Not an allocator.

use std::ops::{Deref, DerefMut};

/// Owned bytes whose first lies at an aligned address.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// What direct I/O asks of memory at most: a page.
    pub const ALIGNMENT: usize = 4096;

    /// `len` zero bytes, beginning at a multiple of [`AlignedBuffer::ALIGNMENT`].
    pub fn new(len: usize) -> Self {
        let storage = vec![0u8; len + Self::ALIGNMENT];
        let start = storage.as_ptr().align_offset(Self::ALIGNMENT);
        assert!(start < Self::ALIGNMENT, "a byte pointer can be aligned");
        Self { storage, start, len }
    }

    /// The number of bytes to which the buffer can be set by [`AlignedBuffer::set_len`].
    pub fn capacity(&self) -> usize {
        self.storage.len().saturating_sub(Self::ALIGNMENT)
    }

    /// Shortens the buffer, or lengthens it again up to what it was made with; the bytes stay what they were.
    ///
    /// # Panics
    /// If `len` exceeds [`AlignedBuffer::capacity`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer can't exceed its capacity");
        self.len = len;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_aligned_and_keeps_its_bytes() {
        let mut buffer = AlignedBuffer::new(10_000);
        assert_eq!(buffer.as_ptr() as usize % AlignedBuffer::ALIGNMENT, 0);
        buffer[9_999] = 7;
        buffer.set_len(100);
        assert_eq!(buffer.len(), 100);
        buffer.set_len(10_000);
        assert_eq!(buffer[9_999], 7);
        let moved = buffer;
        assert_eq!(moved.as_ptr() as usize % AlignedBuffer::ALIGNMENT, 0);
    }

    #[test]
    fn an_empty_buffer_is_empty() {
        assert!(AlignedBuffer::new(0).is_empty());
        assert!(AlignedBuffer::default().is_empty());
    }
}
