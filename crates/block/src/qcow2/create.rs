//! Making a new image, and preallocating clusters in a new or grown one.

use std::ops::Range;
use std::sync::Arc;

use super::geometry::be64_bytes;
use super::header::{
    AUTOCLEAR_DATA_RAW, COMPAT_LAZY, CryptMethod, INCOMPAT_COMPRESSION, INCOMPAT_DATA_FILE, INCOMPAT_EXTENDED_L2,
    RawHeader,
};
use super::host::HostFile;
use super::image::Inner;
use super::open::{Crypt, assemble};
use super::options::{Compat, Compression, CreateOptions, EncryptionOptions, OpenOptions, Preallocation};
use super::refcount::Refcounts;
use super::state::State;
use crate::crypto::{Luks, Secret, SectorCipher};
use crate::{Error, Result, Storage};

/// How many clusters' worth of literal zeros are written at once, in bytes.
const FULL_STEP: u64 = 1 << 20;

/// Writes a new, empty image into `file`, whatever was there before.
///
/// # Errors
/// Options that don't go together, a missing secret, and errors of the files.
pub fn create(
    file: &Arc<dyn Storage>,
    data_file: Option<&Arc<dyn Storage>>,
    options: &CreateOptions,
    secret: Option<&Secret>,
) -> Result<()> {
    options.validate()?;
    if options.data_file.is_some() != data_file.is_some() {
        return Err(Error::Invalid("an external data file needs both its name and its storage".into()));
    }
    if options.encryption.is_some() && secret.is_none() {
        return Err(Error::Secret("Parameter 'encrypt.key-secret' is required for cipher".into()));
    }
    let mut header = new_header(options)?;
    // Names that find no room are refused before anything is lost.
    header.to_bytes()?;
    let file = HostFile::new(Arc::clone(file));
    match file.truncate(0) {
        Ok(()) | Err(Error::Unsupported(_)) => {}
        Err(error) => return Err(error),
    }
    let geometry = header.geometry();
    let bits = geometry.cluster_bits;
    let mut refcounts = Refcounts::new(geometry, vec![0; geometry.cluster_size() as usize / 8], 1 << bits, 8 << 20);
    // The header is at cluster 0, the refcount table behind it, then its first block.
    refcounts.place_block(&file, 0, 2)?;
    refcounts.add(&file, 0, 2, 1)?;
    refcounts.set_table(0, 2 << bits);
    let l1 = vec![0; geometry.l1_entries(header.size).max(1) as usize];
    let mut state = State::new(&file, header.clone(), l1, refcounts, 32 << 20);
    state.fresh = if file.len() == 0 { 0 } else { u64::MAX };
    // The L1 table has no place yet.
    state.metadata.clear();
    let l1_clusters = geometry.clusters(state.l1.len() as u64 * 8);
    let (l1_cluster, _) = state.allocate(&file, l1_clusters, true)?;
    file.write(&be64_bytes(&state.l1), l1_cluster << bits)?;
    header.l1_offset = l1_cluster << bits;
    let crypt = new_crypt(&file, &mut state, &mut header, options, secret)?;
    // The whole table is written, not just its first entry: a device may hold anything.
    file.write(&vec![0; geometry.cluster_size() as usize], 1 << bits)?;
    (state.header, state.stored_header) = (header.clone(), header.clone());
    state.map_metadata();
    let data_file = data_file.map(|data| HostFile::new(Arc::clone(data)));
    let image = assemble(file, data_file, None, state, crypt, &OpenOptions::default());
    image.commit()?;
    image.file.write(&header.to_bytes()?, 0)?;
    if let (Some(data), true) = (&image.data_file, options.data_file_raw) {
        data.truncate(header.size)?;
    }
    image.preallocate(0..header.size, options.preallocation)?;
    image.finish_writing()
}

fn new_header(options: &CreateOptions) -> Result<RawHeader> {
    let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
    let zstd = options.compression == Compression::Zstd;
    let header = RawHeader {
        version: if options.compat == Compat::V2 { 2 } else { 3 },
        cluster_bits: options.cluster_bits,
        size: options.size.next_multiple_of(512),
        crypt: match options.encryption {
            None => CryptMethod::None,
            Some(EncryptionOptions::Aes) => CryptMethod::Aes,
            Some(EncryptionOptions::Luks(_)) => CryptMethod::Luks,
        },
        l1_entries: 0,
        l1_offset: 0,
        reftable_offset: 1 << options.cluster_bits,
        reftable_clusters: 1,
        snapshot_count: 0,
        snapshots_offset: 0,
        incompatible: flag(options.data_file.is_some(), INCOMPAT_DATA_FILE)
            | flag(zstd, INCOMPAT_COMPRESSION)
            | flag(options.extended_l2, INCOMPAT_EXTENDED_L2),
        compatible: flag(options.lazy_refcounts, COMPAT_LAZY),
        autoclear: flag(options.data_file_raw, AUTOCLEAR_DATA_RAW),
        refcount_order: options.refcount_bits.trailing_zeros(),
        compression_type: u8::from(zstd),
        backing_file: options.backing_file.clone(),
        backing_format: options.backing_format.clone(),
        data_file: options.data_file.clone(),
        bitmaps: None,
        luks: None,
        extra: Vec::new(),
        unknown: Vec::new(),
    };
    let entries = header.geometry().l1_entries(header.size).max(1);
    if entries > super::geometry::MAX_L1_ENTRIES {
        return Err(Error::Invalid("Image size too large for this cluster size".into()));
    }
    Ok(RawHeader { l1_entries: entries as u32, ..header })
}

fn new_crypt(
    file: &HostFile,
    state: &mut State,
    header: &mut RawHeader,
    options: &CreateOptions,
    secret: Option<&Secret>,
) -> Result<Option<Arc<Crypt>>> {
    let (Some(encryption), Some(secret)) = (&options.encryption, secret) else { return Ok(None) };
    let cipher = match encryption {
        EncryptionOptions::Aes => SectorCipher::legacy_aes(secret)?,
        EncryptionOptions::Luks(luks) => {
            let len = Luks::new_len(luks);
            let (first, count) = state.allocate(file, state.geometry.clusters(len), true)?;
            let offset = first << state.geometry.cluster_bits;
            // Slots that aren't used must not hold what a device held before.
            let mut at = 0;
            while at < count << state.geometry.cluster_bits {
                file.write(&[0; 512], offset + at)?;
                at += 512;
            }
            header.luks = Some((offset, len));
            Luks::create(luks, secret, |bytes, at| file.write(bytes, offset + at))?.1
        }
    };
    Ok(Some(Arc::new(Crypt { cipher, physical: header.crypt == CryptMethod::Luks })))
}

impl Inner {
    /// Allocates every cluster of a guest range that isn't yet. Nobody else uses the range.
    pub(super) fn preallocate(&self, range: Range<u64>, how: Preallocation) -> Result<()> {
        if how == Preallocation::Off {
            return Ok(());
        }
        if how == Preallocation::Full || self.crypt.is_some() {
            return self.preallocate_full(range);
        }
        let geometry = self.geometry;
        let mut at = range.start & !(geometry.cluster_size() - 1);
        while at < range.end {
            let table_end = ((at >> geometry.l1_shift()) + 1) << geometry.l1_shift();
            let count = geometry.clusters(range.end.min(table_end) - at);
            let mut state = self.state();
            let table = state.l2_table_for_write(&self.file, at)?;
            let (first, count, fresh) = if self.data_file.is_some() {
                self.data().ensure(at + (count << geometry.cluster_bits))?;
                (at >> geometry.cluster_bits, count, true)
            } else {
                let ((first, count), fresh) = state.allocate_data(&self.file, count)?;
                (first, count, fresh)
            };
            let host = first << geometry.cluster_bits;
            if !fresh && state.geometry.version < 3 {
                // Without zero flags, only zeros hide what was there before.
                state.free_unused(&self.file, (first, count));
                drop(state);
                let end = range.end.min(at + (count << geometry.cluster_bits));
                self.preallocate_full(at.max(range.start)..end)?;
                at += count << geometry.cluster_bits;
                continue;
            }
            // A cluster that was used before reads as zeros through its flag.
            let shown = if fresh { (geometry.full_mask(), 0) } else { (0, geometry.full_mask()) };
            let shown = if geometry.extended_l2 { (0, 0) } else { shown };
            for index in 0..count {
                let guest = at + (index << geometry.cluster_bits);
                if !state.cluster_in(table, guest)?.is_unallocated() {
                    state.free_unused(&self.file, (first + index, u64::from(self.data_file.is_none())));
                    continue;
                }
                let cluster = super::entry::Cluster {
                    host: host + (index << geometry.cluster_bits),
                    copied: true,
                    data: shown.0,
                    zero: shown.1,
                    compressed: None,
                };
                state.set_cluster(table, guest, &cluster)?;
            }
            drop(state);
            if how == Preallocation::Falloc {
                self.data().storage().allocate(host, count << geometry.cluster_bits)?;
            }
            at += count << geometry.cluster_bits;
        }
        Ok(())
    }

    fn preallocate_full(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; FULL_STEP as usize];
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(FULL_STEP);
            self.write_guest(&[std::io::IoSlice::new(&zeros[..count as usize])], at)?;
            at += count;
        }
        Ok(())
    }
}
