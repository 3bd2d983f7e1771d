//! The metadata file as pages that are replaced whole: each page has two slots, written in turn and checked by sequence
//! number and checksum, so that a torn write leaves the older page. Knows nothing of what the pages hold.

use std::collections::BTreeSet;

/// Size of a slot in bytes.
pub(crate) const SLOT: usize = 4096;
/// Bytes of a page that hold content: what the header leaves.
pub(crate) const BODY: usize = SLOT - HEADER;
const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"FERROMM\x01";

/// The metadata file can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The file ends before its last page.
    #[error("the mirror's metadata file has {0} bytes and should have {1}")]
    Short(usize, usize),
    /// Neither slot of a page is whole.
    #[error("page {0} of the mirror's metadata is damaged in both copies")]
    Damaged(usize),
    /// The metadata belong to a mirror of another size.
    #[error("the metadata are for a device of {0} bytes, this one has {1}")]
    Size(u64, u64),
}

struct Page {
    body: Vec<u8>,
    sequence: u64,
    slot: usize,
}

/// All pages, in memory, and which of them changed since they were last written.
pub(crate) struct Pages {
    pages: Vec<Page>,
    dirty: BTreeSet<usize>,
}

impl Pages {
    pub(crate) fn new(count: usize) -> Self {
        let pages = (0..count).map(|_| Page { body: vec![0; BODY], sequence: 1, slot: 0 }).collect();
        Self { pages, dirty: BTreeSet::new() }
    }

    /// Reads `count` pages from a whole metadata file.
    pub(crate) fn load(file: &[u8], count: usize) -> Result<Self, MetadataError> {
        if file.len() < count * 2 * SLOT {
            return Err(MetadataError::Short(file.len(), count * 2 * SLOT));
        }
        let mut pages = Vec::with_capacity(count);
        for (index, pair) in file.chunks_exact(2 * SLOT).take(count).enumerate() {
            let newest = [0, 1]
                .into_iter()
                .filter_map(|slot| Some((check(&pair[slot * SLOT..][..SLOT], index)?, slot)))
                .max()
                .ok_or(MetadataError::Damaged(index))?;
            let (sequence, slot) = newest;
            pages.push(Page { body: pair[slot * SLOT + HEADER..][..BODY].to_vec(), sequence, slot });
        }
        Ok(Self { pages, dirty: BTreeSet::new() })
    }

    /// The whole file, as a new mirror begins with it.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut file = vec![0; self.pages.len() * 2 * SLOT];
        for (index, page) in self.pages.iter().enumerate() {
            file[(index * 2 + page.slot) * SLOT..][..SLOT].copy_from_slice(&encode(index, page));
        }
        file
    }

    pub(crate) fn body(&self, page: usize) -> &[u8] {
        &self.pages[page].body
    }

    pub(crate) fn body_mut(&mut self, page: usize) -> &mut [u8] {
        self.dirty.insert(page);
        &mut self.pages[page].body
    }

    /// What has to be written, as (offset, bytes), each into the older slot. The caller writes and flushes all of it
    /// before it asks again.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|index| {
                let page = &mut self.pages[index];
                page.sequence += 1;
                page.slot ^= 1;
                (((index * 2 + page.slot) * SLOT) as u64, encode(index, page))
            })
            .collect()
    }
}

fn encode(index: usize, page: &Page) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&page.sequence.to_le_bytes());
    bytes.extend_from_slice(&(index as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&page.body);
    let sum = crc32fast::hash(&bytes);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The sequence number of a whole slot.
fn check(slot: &[u8], index: usize) -> Option<u64> {
    let mut blank = slot.to_vec();
    blank[24..28].fill(0);
    let word = |at: usize| slot[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let whole =
        &slot[..8] == MAGIC && word(16) == Some(index as u64) && slot[24..28] == crc32fast::hash(&blank).to_le_bytes();
    whole.then(|| word(8)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_page_leaves_the_older_one() {
        let mut pages = Pages::new(2);
        let mut file = pages.image();
        pages.body_mut(1)[..3].copy_from_slice(b"one");
        for (offset, bytes) in pages.take_dirty() {
            file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        pages.body_mut(1)[..3].copy_from_slice(b"two");
        let write = pages.take_dirty();
        assert_eq!(write.len(), 1);
        for torn in [1, 20, 512, 3584] {
            let mut file = file.clone();
            file[write[0].0 as usize..][..torn].copy_from_slice(&write[0].1[..torn]);
            let body = Pages::load(&file, 2).unwrap().body(1)[..3].to_vec();
            // What is behind the torn part was the same: then the page is whole.
            assert!(body == b"one" || torn >= 512 && body == b"two", "{torn}");
        }
        file[write[0].0 as usize..][..SLOT].copy_from_slice(&write[0].1);
        assert_eq!(&Pages::load(&file, 2).unwrap().body(1)[..3], b"two");
        file[2 * SLOT..].fill(9);
        assert_eq!(Pages::load(&file, 2).err(), Some(MetadataError::Damaged(1)));
        assert!(matches!(Pages::load(&file[..100], 2), Err(MetadataError::Short(..))));
    }
}
