//! Opens an image with everything that it needs. What the formats do then is theirs.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Cache, Format, ImageSpec, Protocol, Secrets, Window, probe};
use crate::nbd::NbdStorage;
use crate::qcow2::{Files, Header, OpenOptions, Qcow2};
use crate::{Error, FileOptions, FileStorage, Result, Storage};

/// The most images in a backing chain.
const MAX_CHAIN: usize = 200;

/// How an image is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMode {
    /// Writes are wanted.
    pub writable: bool,
    /// Use of the host's page cache.
    pub cache: Cache,
    /// Let others write meanwhile (`-U`).
    pub force_share: bool,
    /// Open the backing chain too.
    pub backing: bool,
    /// Only metadata is wanted: encrypted images need no key.
    pub no_io: bool,
    /// The image is going to be checked: damage is no reason not to open it.
    pub for_check: bool,
}

impl OpenMode {
    /// Reads, with the backing chain.
    pub const READ: Self = Self {
        writable: false,
        cache: Cache::Writeback,
        force_share: false,
        backing: true,
        no_io: false,
        for_check: false,
    };
    /// Writes, with the backing chain.
    pub const WRITE: Self = Self { writable: true, ..Self::READ };
}

/// An open image.
pub struct Image {
    /// What it was opened as.
    pub spec: ImageSpec,
    /// Its format, given or found out.
    pub format: Format,
    /// The disk in it.
    pub storage: Arc<dyn Storage>,
    /// The bytes it lies in.
    pub file: Arc<dyn Storage>,
    /// The name of the file that data lies in: the image's own, or its external data file's.
    pub data_name: String,
    /// The format's own side, if it is qcow2.
    pub qcow2: Option<Arc<Qcow2>>,
    /// The format's own side, if it is LUKS.
    pub luks: Option<Arc<crate::crypto::LuksStorage>>,
    /// The next image of the backing chain, if it was opened.
    pub backing: Option<Box<Image>>,
    /// As the image's header names it, and as it was found.
    pub backing_name: Option<(String, String)>,
    /// The backing image's format by the header.
    pub backing_format: Option<String>,
    /// The host file, if it is one.
    pub host: Option<Arc<FileStorage>>,
    /// Whether the disk is encrypted.
    pub encrypted: bool,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("spec", &self.spec).field("format", &self.format).finish_non_exhaustive()
    }
}

impl Image {
    /// The image and all below it, top first.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |image| image.backing.as_deref())
    }

    /// Writes everything back. Dropping does so too, but can't say what went wrong.
    ///
    /// # Errors
    /// Errors of the files.
    pub fn close(mut self) -> Result<()> {
        let storage = std::mem::replace(&mut self.storage, Arc::new(crate::MemoryStorage::new(0)));
        if !storage.is_read_only() {
            storage.flush()?;
        }
        drop(storage);
        match self.qcow2.take().map(Arc::try_unwrap) {
            Some(Ok(qcow2)) => qcow2.close(),
            // Somebody else holds it, and the last holder closes it.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

/// Opens an image.
///
/// # Errors
/// What isn't there, isn't allowed, is locked by others, damaged, or wants a secret that isn't given.
pub fn open(spec: &ImageSpec, mode: OpenMode, secrets: &Secrets) -> Result<Image> {
    open_at(spec, mode, secrets, &mut Vec::new())
}

/// The bytes that an image lies in, and the host file that they are in, if it is one.
pub(super) type Opened = (Arc<dyn Storage>, Option<Arc<FileStorage>>);

/// Opens the bytes that an image lies in.
pub(super) fn open_protocol(protocol: &Protocol, mode: OpenMode, format: bool) -> Result<Opened> {
    match protocol {
        Protocol::File(path) => {
            let options = FileOptions {
                writable: mode.writable,
                format,
                direct: mode.cache.is_direct(),
                write_through: mode.cache.writes_through(),
                no_flush: mode.cache == Cache::Unsafe,
                force_share: mode.force_share,
                unlocked: false,
            };
            let file = Arc::new(FileStorage::open(path, options)?);
            Ok((Arc::clone(&file) as Arc<dyn Storage>, Some(file)))
        }
        Protocol::Nbd(address) => Ok((Arc::new(NbdStorage::open(address.clone(), mode.writable)?), None)),
    }
}

fn open_at(spec: &ImageSpec, mode: OpenMode, secrets: &Secrets, above: &mut Vec<PathBuf>) -> Result<Image> {
    let format = match spec.format {
        Some(format) => format,
        None => {
            // Without locks, and through the cache: this only looks at the first bytes.
            let look = match &spec.protocol {
                Protocol::File(path) => {
                    let options = FileOptions { unlocked: true, ..FileOptions::default() };
                    Arc::new(FileStorage::open(path, options)?) as Arc<dyn Storage>
                }
                Protocol::Nbd(_) => open_protocol(&spec.protocol, OpenMode::READ, false)?.0,
            };
            probe(&*look)?
        }
    };
    if let Some(path) = spec.path() {
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        if above.contains(&path) {
            return Err(Error::Invalid(format!("{}: the backing chain is a loop", spec.name)));
        }
        above.push(path);
    }
    if above.len() > MAX_CHAIN {
        return Err(Error::Invalid(format!("a backing chain has more than {MAX_CHAIN} images")));
    }
    let (file, host) = open_protocol(&spec.protocol, mode, format != Format::Raw)?;
    match format {
        Format::Raw => open_raw(spec, file, host),
        Format::Qcow2 => open_qcow2(spec, mode, secrets, file, host, above),
        Format::Luks => super::luks::open(spec, mode, secrets, file, host),
    }
}

fn plain(spec: &ImageSpec, format: Format, storage: Arc<dyn Storage>, file: Arc<dyn Storage>) -> Image {
    Image {
        spec: spec.clone(),
        format,
        storage,
        file,
        data_name: spec.name.clone(),
        qcow2: None,
        luks: None,
        backing: None,
        backing_name: None,
        backing_format: None,
        host: None,
        encrypted: false,
    }
}

/// The image that an open LUKS volume is.
pub(super) fn encrypted(
    spec: &ImageSpec,
    volume: Arc<crate::crypto::LuksStorage>,
    file: Arc<dyn Storage>,
    host: Option<Arc<FileStorage>>,
) -> Image {
    let storage = Arc::clone(&volume) as Arc<dyn Storage>;
    Image { host, encrypted: true, luks: Some(volume), ..plain(spec, Format::Luks, storage, file) }
}

fn open_raw(spec: &ImageSpec, file: Arc<dyn Storage>, host: Option<Arc<FileStorage>>) -> Result<Image> {
    let mut options = spec.options.clone();
    let offset = options.take_size("offset")?;
    let size = options.take_size("size")?;
    options.finish()?;
    let storage = if offset.is_some() || size.is_some() {
        let offset = offset.unwrap_or(0);
        let size = size.unwrap_or_else(|| file.size().saturating_sub(offset));
        Arc::new(Window::new(Arc::clone(&file), offset, size)?)
    } else {
        Arc::clone(&file)
    };
    Ok(Image { host, ..plain(spec, Format::Raw, storage, file) })
}

fn open_qcow2(
    spec: &ImageSpec,
    mode: OpenMode,
    secrets: &Secrets,
    file: Arc<dyn Storage>,
    host: Option<Arc<FileStorage>>,
    above: &mut Vec<PathBuf>,
) -> Result<Image> {
    let in_file = |error: Error| match error {
        Error::Corrupt { format, problem } => Error::Corrupt { format, problem: format!("{problem} ({})", spec.name) },
        other => other,
    };
    let header = crate::qcow2::probe(&*file).map_err(in_file)?;
    let mut options = spec.options.clone();
    let key = options.take("encrypt.key-secret");
    options.take("encrypt.format");
    let secret = match key {
        Some(id) => Some(secrets.get(&id)?.clone()),
        None if header.needs_secret && !mode.no_io => {
            return Err(Error::Secret(format!(
                "{}: Parameter 'encrypt.key-secret' is required for cipher: the image is encrypted, give the secret \
                 with --object secret,id=s,file=… and --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=…",
                spec.name
            )));
        }
        None => None,
    };
    let lazy_refcounts = options.take_switch("lazy-refcounts")?;
    for tuning in ["l2-cache-size", "refcount-cache-size", "cache-size", "l2-cache-entry-size", "cache-clean-interval"]
    {
        options.take(tuning);
    }
    let mut below = options.take_below("backing");
    let data_file_option = options.take_below("data-file").take("filename").or_else(|| options.take("data-file"));
    options.finish()?;
    let (data_file, data_name) = data_file(spec, mode, &header, data_file_option)?;
    let backing_name = header.backing_file.clone();
    let format = header.backing_format.as_deref().map(str::parse::<Format>).transpose();
    let found = backing_name.as_deref().map(|name| Ok((name.to_string(), spec.relative(name, None)?))).transpose();
    let mut backing = None;
    if mode.backing
        && let Some((_, mut found)) = found.as_ref().map_err(clone_error)?.clone()
    {
        found.format = format?.or(found.format);
        found.options.merge(std::mem::take(&mut below));
        let mode = OpenMode { writable: false, for_check: false, ..mode };
        let opened = open_at(&found, mode, secrets, above).map_err(|error| backing_error(&found, error))?;
        backing = Some(Box::new(opened));
    }
    let options = OpenOptions {
        read_only: !mode.writable,
        secret,
        no_io: mode.no_io,
        repair_dirty: mode.writable && !mode.for_check,
        for_check: mode.for_check,
        lazy_refcounts,
        ..OpenOptions::default()
    };
    let files =
        Files { file: Arc::clone(&file), data_file, backing: backing.as_ref().map(|image| Arc::clone(&image.storage)) };
    let qcow2 = Arc::new(Qcow2::open(files, &options).map_err(in_file)?);
    Ok(Image {
        spec: spec.clone(),
        format: Format::Qcow2,
        storage: Arc::clone(&qcow2) as Arc<dyn Storage>,
        file,
        data_name,
        qcow2: Some(qcow2),
        luks: None,
        backing,
        backing_name: found.ok().flatten().map(|(name, found)| (name, found.name)),
        backing_format: header.backing_format,
        host,
        encrypted: header.needs_secret,
    })
}

fn clone_error(error: &Error) -> Error {
    Error::Invalid(error.to_string())
}

/// Says that it is the backing file that can't be opened.
fn backing_error(found: &ImageSpec, error: Error) -> Error {
    match error {
        Error::File { path, operation, source } => {
            Error::File { path, operation: format!("{operation} backing file"), source }
        }
        Error::Invalid(why) => Error::Invalid(format!("Could not open backing file {}: {why}", found.name)),
        other => other,
    }
}

fn data_file(
    spec: &ImageSpec,
    mode: OpenMode,
    header: &Header,
    option: Option<String>,
) -> Result<(Option<Arc<dyn Storage>>, String)> {
    if !header.needs_data_file {
        return Ok((None, spec.name.clone()));
    }
    let found = match (option, &header.data_file) {
        (Some(name), _) => ImageSpec::from_name(&name, None)?,
        (None, Some(name)) => spec.relative(name, None)?,
        (None, None) => {
            return Err(Error::Invalid(format!("{}: 'data-file' is required for this image", spec.name)));
        }
    };
    Ok((Some(open_protocol(&found.protocol, mode, true)?.0), found.name))
}
