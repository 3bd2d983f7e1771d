//! Disk images as a VM has them: opened by their description, limited in their speed, and with overlays put on them and
//! written down into what is below while the VM exists. Which drive they are in is not known here.

use std::path::Path;
use std::sync::Arc;

use ferro_block::image::{Format, ImageSpec, OpenMode, Secrets};
use ferro_block::jobs::{self, Watch};
use ferro_block::qcow2::{self, CreateOptions, Files, OpenOptions, Qcow2};
use ferro_block::throttle::{Throttle, ThrottleGroup, ThrottleOptions};
use ferro_block::{Error, FileOptions, FileStorage, Storage, Switch};

use crate::description::DiskDescription;

/// An open image. Its clones are the same image.
#[derive(Clone)]
pub struct DiskImage {
    /// The disk in it, as a drive uses it: what is put on it, or limits it, is in the way.
    pub storage: Arc<dyn Storage>,
    /// The format's name.
    pub format: String,
    throttle: Arc<Throttle>,
    switch: Arc<Switch>,
    top: Top,
}

/// The image on top.
#[derive(Clone, Default)]
struct Top {
    /// What it is called; nothing if it is gone with the process.
    spec: Option<ImageSpec>,
    /// The format's own side, if it is qcow2: it can hold snapshots.
    qcow2: Option<Arc<Qcow2>>,
    below: Option<Below>,
}

/// What an overlay lies on.
#[derive(Clone)]
struct Below {
    spec: ImageSpec,
    /// Where it is open to be written, too; otherwise only the overlay reads it.
    writable: Option<Arc<dyn Storage>>,
}

/// Why a disk's image can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened.
    #[error("cannot open the disk {file}: {source}")]
    Open {
        /// The image.
        file: String,
        /// Why.
        source: Error,
    },
    /// The overlay that takes the writes can't be made.
    #[error("cannot make an overlay for {file}: {source}")]
    Overlay {
        /// The image.
        file: String,
        /// Why.
        source: Error,
    },
    /// There is nothing below it.
    #[error("its image has nothing below it that could be written to")]
    NoOverlay,
    /// What it holds can't be written down.
    #[error("cannot commit into {file}: {source}")]
    Commit {
        /// The image below.
        file: String,
        /// Why.
        source: Error,
    },
    /// What is below can't be opened any more.
    #[error("{file}, which is below the disk, can't be opened any more, and the VM is stopped: {source}")]
    Lost {
        /// The image below.
        file: String,
        /// Why.
        source: Error,
    },
    /// The overlay's name is taken.
    #[error("{0} is there already: choose another name, or say that it is to be taken as it is (-n, mode=existing)")]
    Exists(String),
    /// Overlays have one format.
    #[error("an overlay's format is qcow2, not {0}")]
    Format(String),
    /// The image below has no name that an overlay could refer to.
    #[error("its image is gone with the VM (snapshot=on): commit it first")]
    Nameless,
}

impl From<Arc<dyn Storage>> for DiskImage {
    fn from(storage: Arc<dyn Storage>) -> Self {
        Self::new(storage, "raw".into(), Top::default())
    }
}

impl DiskImage {
    fn new(storage: Arc<dyn Storage>, format: String, top: Top) -> Self {
        let switch = Arc::new(Switch::new(storage));
        let throttle = Arc::new(Throttle::new(switch.clone(), ThrottleOptions::default()));
        Self { storage: throttle.clone(), format, throttle, switch, top }
    }

    /// Opens a disk's image as it is described.
    ///
    /// # Errors
    /// What isn't there, isn't allowed, is locked by others or damaged.
    pub fn open(disk: &DiskDescription) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open { file: disk.file.clone(), source };
        let format = disk.format.as_deref().map(str::parse).transpose().map_err(failed)?;
        let spec = ImageSpec::from_name(&disk.file, format).map_err(failed)?;
        let mode = if disk.read_only || disk.snapshot { OpenMode::READ } else { OpenMode::WRITE };
        let image = ferro_block::image::open(&spec, mode, &Secrets::default()).map_err(failed)?;
        let format = image.format.to_string();
        let spec = ImageSpec { format: Some(image.format), ..spec };
        if disk.snapshot && !disk.read_only {
            let overlay = thrown_away(image.storage);
            let overlay = overlay.map_err(|source| DiskError::Overlay { file: disk.file.clone(), source })?;
            let top = Top { spec: None, qcow2: Some(overlay.clone()), below: Some(Below { spec, writable: None }) };
            return Ok(Self::new(overlay, format, top));
        }
        let below = image.backing.as_ref().map(|below| {
            let spec = ImageSpec { format: Some(below.format), ..below.spec.clone() };
            Below { spec, writable: None }
        });
        let top = Top { spec: Some(spec), qcow2: image.qcow2.clone(), below };
        Ok(Self::new(image.storage.clone(), format, top))
    }

    /// The same image with another format's name: one that was opened elsewhere.
    pub(crate) fn with_format(self, format: String) -> Self {
        Self { format, ..self }
    }

    /// The format's own side, if it is qcow2.
    pub(crate) fn qcow2(&self) -> Option<Arc<Qcow2>> {
        self.top.qcow2.clone()
    }

    /// The name of the image below, if there is one.
    pub(crate) fn below(&self) -> Option<String> {
        self.top.below.as_ref().map(|below| below.spec.name.clone())
    }

    /// Sets the limits.
    /// Its requests count among those of a group.
    pub(crate) fn join(&self, group: &Arc<ThrottleGroup>) {
        self.throttle.join(group.clone());
    }

    /// Sets its own limits.
    pub(crate) fn limit(&self, options: ThrottleOptions) {
        self.throttle.set(options);
    }

    /// Writes what the image on top holds into the one below it, and empties it. The VM is kept still. The image below stays
    /// open to be written.
    ///
    /// # Errors
    /// There is nothing below, somebody else uses it, and whatever fails. After [`DiskError::Lost`] the disk isn't whole.
    pub(crate) fn commit(&mut self, watch: &Watch) -> Result<(), DiskError> {
        let (Some(overlay), Some(below)) = (self.top.qcow2.clone(), self.top.below.as_mut()) else {
            return Err(DiskError::NoOverlay);
        };
        let file = below.spec.name.clone();
        let failed = |source| DiskError::Commit { file: file.clone(), source };
        overlay.flush().map_err(failed)?;
        let base = match &below.writable {
            Some(base) => base.clone(),
            None => {
                let base = open_to_write(&overlay, &below.spec)?;
                below.writable.insert(base).clone()
            }
        };
        if base.size() < overlay.size() {
            base.set_size(overlay.size()).map_err(failed)?;
        }
        jobs::commit(&*overlay, &*base, 1, watch).map_err(failed)?;
        base.flush().map_err(failed)?;
        overlay.make_empty().map_err(failed)
    }

    /// Puts a new qcow2 overlay on the image, into which is written from now on, or with `reuse` one that is there. The VM is
    /// kept still.
    ///
    /// # Errors
    /// A name that is taken, another format, and whatever fails; the disk is as it was then.
    pub(crate) fn put_overlay(&mut self, file: &str, format: Option<&str>, reuse: bool) -> Result<(), DiskError> {
        if let Some(format) = format.filter(|format| *format != Format::Qcow2.name()) {
            return Err(DiskError::Format(format.to_owned()));
        }
        let below = self.top.spec.clone().ok_or(DiskError::Nameless)?;
        let failed = |source| DiskError::Overlay { file: below.name.clone(), source };
        let current = self.switch.current();
        current.flush().map_err(failed)?;
        let spec = ImageSpec::from_name(file, Some(Format::Qcow2)).map_err(failed)?;
        let overlay = if reuse {
            let mode = OpenMode { backing: false, ..OpenMode::WRITE };
            let image = ferro_block::image::open(&spec, mode, &Secrets::default()).map_err(failed)?;
            let overlay = image.qcow2.clone().ok_or_else(|| DiskError::Format(image.format.to_string()))?;
            overlay.replace_backing(Some(current.clone()));
            overlay
        } else {
            new_overlay(Path::new(file), &below, &current).map_err(|error| match error {
                Error::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                    DiskError::Exists(file.to_owned())
                }
                error => failed(error),
            })?
        };
        self.switch.replace(overlay.clone());
        let below = Some(Below { spec: below, writable: Some(current) });
        self.top = Top { spec: Some(spec), qcow2: Some(overlay), below };
        self.format = Format::Qcow2.to_string();
        Ok(())
    }
}

/// Opens what an overlay lies on to be written. Readers keep writers out, so the overlay lets go of it first.
fn open_to_write(overlay: &Qcow2, spec: &ImageSpec) -> Result<Arc<dyn Storage>, DiskError> {
    let file = spec.name.clone();
    overlay.replace_backing(None);
    match ferro_block::image::open(spec, OpenMode::WRITE, &Secrets::default()) {
        Ok(image) => {
            overlay.replace_backing(Some(image.storage.clone()));
            Ok(image.storage)
        }
        Err(source) => {
            let again = ferro_block::image::open(spec, OpenMode::READ, &Secrets::default());
            let image = again.map_err(|source| DiskError::Lost { file: file.clone(), source })?;
            overlay.replace_backing(Some(image.storage));
            Err(DiskError::Commit { file, source })
        }
    }
}

/// A new image at `path` that refers to the one below by its absolute name.
fn new_overlay(path: &Path, below: &ImageSpec, current: &Arc<dyn Storage>) -> Result<Arc<Qcow2>, Error> {
    let told = |operation: &str, source| Error::File { path: path.into(), operation: operation.into(), source };
    std::fs::File::create_new(path).map_err(|source| told("create", source))?;
    let name = match below.path() {
        Some(path) => std::path::absolute(path).map_err(|source| told("find", source))?.display().to_string(),
        None => below.name.clone(),
    };
    let options = FileOptions { writable: true, format: true, ..FileOptions::default() };
    let file: Arc<dyn Storage> = Arc::new(FileStorage::open(path, options)?);
    let options = CreateOptions {
        size: current.size(),
        backing_file: Some(name),
        backing_format: below.format.map(|format| format.to_string()),
        ..CreateOptions::default()
    };
    qcow2::create(&file, None, &options, None)?;
    let files = Files { file, data_file: None, backing: Some(current.clone()) };
    Ok(Arc::new(Qcow2::open(files, &OpenOptions::default())?))
}

/// An image over `backing` that takes the writes and is gone with the process: its file has no name any more.
fn thrown_away(backing: Arc<dyn Storage>) -> Result<Arc<Qcow2>, Error> {
    let told = |source| Error::File { path: std::env::temp_dir(), operation: "make a file in".into(), source };
    let named = tempfile::Builder::new().prefix("ferro-snapshot-").tempfile().map_err(told)?;
    let options =
        FileOptions { writable: true, format: true, no_flush: true, unlocked: true, ..FileOptions::default() };
    let file: Arc<dyn Storage> = Arc::new(FileStorage::open(named.path(), options)?);
    let options = CreateOptions { size: backing.size(), ..CreateOptions::default() };
    qcow2::create(&file, None, &options, None)?;
    let files = Files { file, data_file: None, backing: Some(backing) };
    Ok(Arc::new(Qcow2::open(files, &OpenOptions::default())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(folder: &Path, text: &str) -> DiskDescription {
        format!("{}/{text}", folder.display()).parse().unwrap()
    }

    fn begins(storage: &dyn Storage) -> [u8; 4] {
        let mut bytes = [0; 4];
        storage.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn on_disk(folder: &Path, name: &str) -> [u8; 4] {
        std::fs::read(folder.join(name)).unwrap()[..4].try_into().unwrap()
    }

    #[test]
    fn what_would_be_thrown_away_can_be_kept_as_often_as_one_likes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base"), [1; 1 << 20]).unwrap();
        let mut image = DiskImage::open(&disk(folder.path(), "base,format=raw,snapshot=on")).unwrap();
        let drive = image.storage.clone();
        for byte in [2, 3, 4] {
            drive.write_at(&[byte; 4], 0).unwrap();
            assert_eq!(on_disk(folder.path(), "base"), [byte - 1; 4]);
            image.commit(&Watch::new()).unwrap();
            assert_eq!(on_disk(folder.path(), "base"), [byte; 4]);
            assert_eq!(begins(&*drive), [byte; 4]);
        }
        drive.write_at(&[9; 4], 4096).unwrap();
        drop((image, drive));
        assert_eq!(std::fs::read(folder.path().join("base")).unwrap()[4096], 1, "the rest is thrown away");
    }

    #[test]
    fn a_snapshot_in_an_overlay_outlives_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base"), [1; 1 << 20]).unwrap();
        let mut image = DiskImage::open(&disk(folder.path(), "base,format=raw,snapshot=on")).unwrap();
        let drive = image.storage.clone();
        let overlay = image.qcow2().unwrap();
        drive.write_at(&[2; 4], 0).unwrap();
        let named = |name: &str| qcow2::NewSnapshot { name: name.into(), ..qcow2::NewSnapshot::default() };
        overlay.snapshot_create(&named("s")).unwrap();
        drive.write_at(&[3; 4], 0).unwrap();
        image.commit(&Watch::new()).unwrap();
        assert_eq!((begins(&*drive), on_disk(folder.path(), "base")), ([3; 4], [3; 4]));
        overlay.snapshot_apply("s").unwrap();
        assert_eq!(begins(&*drive), [2; 4]);
        let report = overlay.check(qcow2::Repair::None).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
    }

    #[test]
    fn what_others_use_is_not_committed_into() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("raw"), [1; 1 << 20]).unwrap();
        let mut base = DiskImage::open(&disk(folder.path(), "raw,format=raw")).unwrap();
        base.put_overlay(&folder.path().join("base").display().to_string(), None, false).unwrap();
        drop(base);
        let mut image = DiskImage::open(&disk(folder.path(), "base,snapshot=on")).unwrap();
        let other = DiskImage::open(&disk(folder.path(), "base,readonly=on")).unwrap();
        image.storage.write_at(&[2; 4], 0).unwrap();
        assert!(matches!(image.commit(&Watch::new()), Err(DiskError::Commit { .. })));
        assert_eq!(begins(&*image.storage), [2; 4], "it has what it had");
        let mut rest = [0; 4];
        image.storage.read_at(&mut rest, 1000).unwrap();
        assert_eq!(rest, [1; 4], "and what is below");
        drop(other);
        image.commit(&Watch::new()).unwrap();
        assert_eq!(begins(&*image.storage), [2; 4]);
        assert_eq!(on_disk(folder.path(), "raw"), [1; 4], "one step down, no more");
        let mut plain = DiskImage::from(image.storage.clone());
        assert!(matches!(plain.commit(&Watch::new()), Err(DiskError::NoOverlay)));
    }

    #[test]
    fn an_overlay_takes_what_is_written_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("base"), [1; 1 << 20]).unwrap();
        let mut image = DiskImage::open(&disk(folder.path(), "base,format=raw")).unwrap();
        let drive = image.storage.clone();
        image.put_overlay(&path("over"), Some("qcow2"), false).unwrap();
        drive.write_at(&[2; 4], 0).unwrap();
        assert_eq!((begins(&*drive), on_disk(folder.path(), "base")), ([2; 4], [1; 4]));
        assert!(matches!(image.put_overlay(&path("over"), None, false), Err(DiskError::Exists(_))));
        assert!(matches!(image.put_overlay(&path("x"), Some("raw"), false), Err(DiskError::Format(_))));
        image.put_overlay(&path("second"), None, false).unwrap();
        drive.write_at(&[3; 4], 4096).unwrap();
        assert_eq!(image.below(), Some(path("over")));
        image.commit(&Watch::new()).unwrap();
        drive.flush().unwrap();
        drop((image, drive));
        // As another process finds it: by names in the images.
        let again = DiskImage::open(&disk(folder.path(), "second")).unwrap();
        let mut both = [0; 4097];
        again.storage.read_at(&mut both, 0).unwrap();
        assert_eq!((both[0], both[4], both[4096]), (2, 1, 3));
        drop(again);
        let over = DiskImage::open(&disk(folder.path(), "over")).unwrap();
        over.storage.read_at(&mut both, 0).unwrap();
        assert_eq!((both[0], both[4096]), (2, 3), "committed");
    }
}
