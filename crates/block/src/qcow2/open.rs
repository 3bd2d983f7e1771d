//! Opening an image: from bytes to an [`Inner`] whose header, tables, snapshots, bitmaps and key have been validated; and
//! finishing it again. Not how its files were found.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use super::gate::Gate;
use super::geometry::{be32, corrupt};
use super::header::{CryptMethod, INCOMPAT_CORRUPT, INCOMPAT_DIRTY, MAX_HEADER, RawHeader};
use super::host::HostFile;
use super::image::{Files, Inner, Qcow2};
use super::options::{Compression, OpenOptions, Repair};
use super::state::State;
use super::{bitmap, snapshot};
use crate::crypto::{Luks, Secret, SectorCipher};
use crate::{Error, Result, Storage};

/// How the image's data are encrypted.
pub(super) struct Crypt {
    pub(super) cipher: SectorCipher,
    /// Sectors are numbered by where they lie in the file, not by where the guest sees them.
    pub(super) physical: bool,
}

/// What the beginning of an image says, enough to find the files it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes the guest sees.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size in bytes.
    pub cluster_bits: u32,
    /// The backing file's name.
    pub backing_file: Option<String>,
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// Whether an external data file is needed.
    pub needs_data_file: bool,
    /// The external data file's name, where the image has one stored.
    pub data_file: Option<String>,
    /// Whether a secret is needed to read or write.
    pub needs_secret: bool,
    /// Whether reference counts have to be rebuilt before the image is written.
    pub is_dirty: bool,
    /// Whether the image is marked as damaged.
    pub is_corrupt: bool,
}

impl Header {
    pub(super) fn of(raw: &RawHeader) -> Self {
        Self {
            size: raw.size,
            version: raw.version,
            cluster_bits: raw.cluster_bits,
            backing_file: raw.backing_file.clone(),
            backing_format: raw.backing_format.clone(),
            needs_data_file: raw.has_data_file(),
            data_file: raw.data_file.clone(),
            needs_secret: raw.crypt != CryptMethod::None,
            is_dirty: raw.incompatible & INCOMPAT_DIRTY != 0,
            is_corrupt: raw.incompatible & INCOMPAT_CORRUPT != 0,
        }
    }
}

/// Reads what is needed to find the backing file and the data file, and whether a secret is needed.
///
/// # Errors
/// What isn't a qcow2 image, and errors of the file.
pub fn probe(file: &dyn Storage) -> Result<Header> {
    Ok(Header::of(&read_header(file)?))
}

/// Reads and validates the header.
pub(super) fn read_header(file: &dyn Storage) -> Result<RawHeader> {
    let mut start = [0; 24];
    if file.size() < start.len() as u64 {
        return Err(Error::Invalid("Image is not in qcow2 format".into()));
    }
    file.read_at(&mut start, 0)?;
    let cluster = 1usize.checked_shl(be32(&start, 20)).unwrap_or(0).clamp(512, MAX_HEADER);
    let mut bytes = vec![0; cluster.min(usize::try_from(file.size()).unwrap_or(usize::MAX))];
    file.read_at(&mut bytes, 0)?;
    RawHeader::parse(&bytes)
}

/// Opens an image.
pub(super) fn open(files: Files, options: &OpenOptions) -> Result<Qcow2> {
    let mut header = read_header(&*files.file)?;
    if header.incompatible & INCOMPAT_CORRUPT != 0 && !options.read_only && !options.for_check {
        return Err(corrupt("Image is corrupt; cannot be opened read/write"));
    }
    if !options.read_only && files.file.is_read_only() {
        return Err(Error::ReadOnly("the file under a qcow2 image".into()));
    }
    let data_file = match (header.has_data_file(), files.data_file) {
        (true, Some(file)) => Some(HostFile::new(file)),
        (true, None) => return Err(Error::Invalid("'data-file' is required for this image".into())),
        (false, Some(_)) => {
            return Err(Error::Invalid("'data-file' can only be set for images with an external data file".into()));
        }
        (false, None) => None,
    };
    let file = HostFile::new(files.file);
    if !options.read_only {
        header.clear_unknown_autoclear();
    }
    let crypt = load_crypt(&file, &header, options)?;
    let mut state = State::load(&file, header, options.l2_cache_bytes, options.refcount_cache_bytes)?;
    match snapshot::load(&file, &state.header) {
        Ok(snapshots) => state.snapshots = snapshots,
        Err(error) if options.for_check => tracing::warn!(%error, "cannot read the snapshots"),
        Err(error) => return Err(error),
    }
    match bitmap::load(&file, &state.header) {
        Ok(bitmaps) => state.bitmaps = bitmaps,
        Err(error) if options.for_check || options.read_only => tracing::warn!(%error, "cannot read the bitmaps"),
        Err(error) => return Err(error),
    }
    let image = Qcow2(Arc::new(assemble(file, data_file, files.backing, state, crypt, options)));
    image.0.begin_writing(options)?;
    Ok(image)
}

/// An image from its parts.
pub(super) fn assemble(
    file: HostFile,
    data_file: Option<HostFile>,
    backing: Option<Arc<dyn Storage>>,
    state: State,
    crypt: Option<Arc<Crypt>>,
    options: &OpenOptions,
) -> Inner {
    let stored_lazy = state.header.compatible & super::header::COMPAT_LAZY != 0;
    Inner {
        file,
        data_file,
        data_file_raw: state.header.data_file_raw(),
        backing: RwLock::new(backing),
        names_backing: AtomicBool::new(state.header.backing_file.is_some()),
        geometry: state.geometry,
        compression: if state.header.compression_type == 1 { Compression::Zstd } else { Compression::Zlib },
        crypt,
        read_only: options.read_only,
        closed: AtomicBool::new(false),
        lazy_refcounts: state.header.version >= 3 && options.lazy_refcounts.unwrap_or(stored_lazy),
        refcount_cache_bytes: options.refcount_cache_bytes,
        size: AtomicU64::new(state.header.size),
        state: Mutex::new(state),
        changed: Condvar::new(),
        gate: Arc::new(Gate::default()),
        committing: Mutex::new(()),
        decompressed: Mutex::new(None),
    }
}

fn load_crypt(file: &HostFile, header: &RawHeader, options: &OpenOptions) -> Result<Option<Arc<Crypt>>> {
    let secret = |secret: &Option<Secret>| {
        secret.clone().ok_or_else(|| Error::Secret("Parameter 'encrypt.key-secret' is required for cipher".into()))
    };
    let cipher = match header.crypt {
        CryptMethod::None => return Ok(None),
        _ if options.no_io => SectorCipher::locked(),
        CryptMethod::Aes => SectorCipher::legacy_aes(&secret(&options.secret)?)?,
        CryptMethod::Luks => {
            let luks = Luks::parse(&luks_bytes(file, header)?)?;
            let (offset, _) = header.luks.unwrap_or_default();
            luks.unlock(&secret(&options.secret)?, |bytes, at| file.read(bytes, offset.saturating_add(at)))?
        }
    };
    Ok(Some(Arc::new(Crypt { cipher, physical: header.crypt == CryptMethod::Luks })))
}

/// The LUKS header itself, without key material.
pub(super) fn luks_bytes(file: &HostFile, header: &RawHeader) -> Result<Vec<u8>> {
    let Some((offset, _)) = header.luks else { return Err(corrupt("LUKS encryption without its header")) };
    let mut bytes = vec![0; Luks::HEADER_LEN];
    file.read(&mut bytes, offset)?;
    Ok(bytes)
}

impl Inner {
    /// What has to be done before the first write: repair, and clearing what isn't kept up.
    fn begin_writing(&self, options: &OpenOptions) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let dirty = self.state().header.incompatible & INCOMPAT_DIRTY != 0;
        if dirty && !options.for_check {
            if !options.repair_dirty {
                return Err(corrupt("reference counts have to be repaired before the image can be written"));
            }
            let report = self.check(Repair::All)?;
            if report.corruptions > report.corruptions_fixed || report.check_errors > 0 {
                return Err(corrupt("reference counts could not be repaired"));
            }
        }
        let mut state = self.state();
        if state.header.autoclear != state.stored_header.autoclear {
            let mut header = state.stored_header.clone();
            header.autoclear = state.header.autoclear;
            self.store_header(&mut state, header)?;
        }
        let raw_size = self.size();
        drop(state);
        if let (Some(data), true) = (&self.data_file, self.data_file_raw) {
            data.ensure(raw_size)?;
        }
        Ok(())
    }

    /// Writes everything back before the image is left.
    pub(super) fn finish_writing(&self) -> Result<()> {
        if self.read_only || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let alone = self.alone();
        self.mark_corrupt_if_broken()?;
        self.store_bitmaps(&alone)?;
        self.settle(&alone.committing)?;
        self.file.trim()?;
        match &self.data_file {
            Some(data) => data.trim(),
            None => Ok(()),
        }
    }

    /// Sets the corrupt bit of an image in which damage was found while writing.
    fn mark_corrupt_if_broken(&self) -> Result<()> {
        let mut state = self.state();
        if state.broken.is_none() || state.header.version < 3 {
            return Ok(());
        }
        let mut header = state.stored_header.clone();
        header.incompatible |= INCOMPAT_CORRUPT;
        state.header.incompatible |= INCOMPAT_CORRUPT;
        self.store_header(&mut state, header)?;
        self.file.flush()
    }
}
