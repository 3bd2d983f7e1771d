//! Disk images as a VM has them: opened by their description, with what is known of them beyond their bytes. Which drive
//! they are in is not known here.

use std::sync::Arc;

use ferro_block::image::{ImageSpec, OpenMode, Secrets};
use ferro_block::qcow2::{self, CreateOptions, Files, OpenOptions, Qcow2};
use ferro_block::{Error, FileOptions, FileStorage, Storage};

use crate::description::DiskDescription;

/// An open image.
#[derive(Clone)]
pub struct DiskImage {
    /// The disk in it.
    pub storage: Arc<dyn Storage>,
    /// The format's own side, if it is qcow2: it can hold snapshots.
    pub qcow2: Option<Arc<Qcow2>>,
    /// The format's name.
    pub format: String,
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
}

impl From<Arc<dyn Storage>> for DiskImage {
    fn from(storage: Arc<dyn Storage>) -> Self {
        Self { storage, qcow2: None, format: "raw".into() }
    }
}

impl DiskImage {
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
        if disk.snapshot && !disk.read_only {
            let overlay = thrown_away(image.storage);
            let overlay = overlay.map_err(|source| DiskError::Overlay { file: disk.file.clone(), source })?;
            return Ok(Self { storage: overlay.clone(), qcow2: Some(overlay), format });
        }
        Ok(Self { storage: image.storage, qcow2: image.qcow2, format })
    }
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
