//! A disk with a volatile cache: what wasn't flushed may be lost at a crash, sector by sector.

use crate::Rng;

/// What a crash leaves whole.
pub(crate) const SECTOR: usize = 512;

pub(crate) struct Disk {
    /// What reads see.
    pub(crate) view: Vec<u8>,
    platter: Vec<u8>,
    cache: Vec<(u64, usize, Vec<u8>)>,
    written: u64,
}

impl Disk {
    pub(crate) fn new(content: Vec<u8>) -> Self {
        Self { view: content.clone(), platter: content, cache: Vec::new(), written: 0 }
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: Vec<u8>) {
        self.view[offset..offset + bytes.len()].copy_from_slice(&bytes);
        self.written += 1;
        self.cache.push((self.written, offset, bytes));
    }

    /// Bits rot.
    pub(crate) fn corrupt(&mut self, offset: usize) {
        self.view[offset] ^= 1;
        self.platter[offset] ^= 1;
    }

    /// What a flush that begins now will cover.
    pub(crate) fn mark(&self) -> u64 {
        self.written
    }

    /// A flush is done.
    pub(crate) fn flush(&mut self, mark: u64) {
        let covered = self.cache.iter().take_while(|w| w.0 <= mark).count();
        for (_, offset, bytes) in self.cache.drain(..covered) {
            self.platter[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Power is lost while `running` writes were under way.
    pub(crate) fn crash(&mut self, running: Vec<(usize, Vec<u8>)>, rng: &mut Rng) {
        let cached = std::mem::take(&mut self.cache).into_iter().map(|(_, offset, bytes)| (offset, bytes));
        // Most crashes tear; some lose everything and some nothing.
        let mood = rng.below(4);
        for (offset, bytes) in cached.chain(running) {
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if mood == 0 || mood > 1 && rng.one_in(2) {
                    self.platter[offset + n * SECTOR..][..sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.view.clone_from(&self.platter);
    }
}
