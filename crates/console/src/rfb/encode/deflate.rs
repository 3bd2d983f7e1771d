//! A zlib stream that goes on from rectangle to rectangle.

use flate2::{Compress, Compression, FlushCompress};

/// The stream, and the level of compression in force.
pub(super) struct Deflate {
    stream: Compress,
    level: u32,
}

impl Default for Deflate {
    fn default() -> Self {
        Self { stream: Compress::new(Compression::new(3), true), level: 3 }
    }
}

impl Deflate {
    /// Sets how hard it works from now on.
    pub(super) fn set_level(&mut self, level: u32) {
        // Once something has been compressed the level can't be changed on every implementation of zlib: the stream of
        // a client that asks too late keeps its level.
        if level != self.level && self.stream.total_in() == 0 {
            self.stream = Compress::new(Compression::new(level), true);
            self.level = level;
        }
    }

    /// Compresses bytes so that all of them can be read from what is written.
    pub(super) fn write(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        loop {
            out.reserve(bytes.len() / 4 + 64);
            let before = self.stream.total_in();
            let sent = self.stream.compress_vec(bytes, out, FlushCompress::Sync);
            debug_assert!(sent.is_ok(), "compressing into memory doesn't fail");
            let taken = (self.stream.total_in() - before) as usize;
            bytes = &bytes[taken.min(bytes.len())..];
            // Room that is left over says that nothing waits inside of the stream.
            if bytes.is_empty() && out.len() < out.capacity() || sent.is_err() {
                return;
            }
        }
    }
}
