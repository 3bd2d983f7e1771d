//! QEMU's `luks` format as an image: options, secrets and preallocation. How the volume is read and written is in `crypto`.

use std::sync::Arc;

use super::open::encrypted;
use super::{Image, ImageSpec, OpenMode, Secrets};
use crate::crypto::{Luks, LuksOptions, LuksStorage, Secret};
use crate::qcow2::Preallocation;
use crate::{Error, FileStorage, Result, Storage};

/// Opens it.
pub(super) fn open(
    spec: &ImageSpec,
    mode: OpenMode,
    secrets: &Secrets,
    file: Arc<dyn Storage>,
    host: Option<Arc<FileStorage>>,
) -> Result<Image> {
    let mut options = spec.options.clone();
    let secret = match options.take("key-secret") {
        Some(id) => Some(secrets.get(&id)?),
        None if mode.no_io => None,
        None => {
            return Err(Error::Secret(format!(
                "{}: Parameter 'key-secret' is required for cipher: give the secret with --object secret,id=s,file=… and \
                 --image-opts driver=luks,key-secret=s,file.filename=…",
                spec.name
            )));
        }
    };
    options.finish()?;
    let volume = Arc::new(LuksStorage::open(Arc::clone(&file), secret, !mode.writable)?);
    Ok(encrypted(spec, volume, file, host))
}

/// Writes a new volume into `file`, which is empty.
pub(super) fn create(
    file: &Arc<dyn Storage>,
    size: u64,
    options: &LuksOptions,
    secret: &Secret,
    preallocation: Preallocation,
) -> Result<()> {
    LuksStorage::create(Arc::clone(file), size, options, secret)?;
    if matches!(preallocation, Preallocation::Falloc | Preallocation::Full) {
        file.allocate(Luks::new_len(options), size)?;
        file.flush()?;
    }
    Ok(())
}
