//! A clone's disks: whole copies, and overlays over what was the source's disk. QEMU's locks on the images keep VMs from
//! writing meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferro_block::image::{CreateRequest, Format, Image, ImageSpec, KeyValues, OpenMode, Secrets, create, open};
use ferro_block::jobs::{CopyOptions, Target, Watch, copy};

use super::{CloneError, Disk};

fn image(path: &Path) -> impl Fn(ferro_block::Error) -> CloneError + '_ {
    |error| CloneError::Image(path.into(), error)
}

fn file<'a>(path: &'a Path, what: &'static str) -> impl Fn(std::io::Error) -> CloneError + 'a {
    move |error| CloneError::File(path.into(), what, error)
}

fn spec(path: &Path, format: Option<Format>) -> Result<ImageSpec, CloneError> {
    ImageSpec::from_name(&path.display().to_string(), format).map_err(image(path))
}

fn opened(disk: &Disk, mode: OpenMode) -> Result<Image, CloneError> {
    let wrong = image(&disk.source);
    let format = disk.format.as_deref().map(str::parse).transpose().map_err(&wrong)?;
    let mut spec = spec(&disk.source, format)?;
    let image = open(&spec, mode, &Secrets::default()).map_err(&wrong)?;
    if image.format == Format::Qcow2 || mode.force_share {
        return Ok(image);
    }
    // Who only reads a raw image lets others write to it: that nobody does is sure only for who might write.
    spec.format = Some(image.format);
    drop(image);
    open(&spec, OpenMode { writable: true, ..mode }, &Secrets::default()).map_err(wrong)
}

/// Makes an empty image; nothing may be there.
fn make(path: &Path, size: u64, options: KeyValues) -> Result<(), CloneError> {
    // Also where a link leads nowhere.
    if fs::symlink_metadata(path).is_ok() {
        return Err(CloneError::Exists(path.into()));
    }
    let request = CreateRequest { spec: spec(path, Some(Format::Qcow2))?, format: Format::Qcow2, size, options };
    create(&request, &Secrets::default()).map_err(image(path))
}

/// What is in `folder` stays there when the power fails.
fn settle(path: &Path) -> Result<(), CloneError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let sync = |path: &Path| fs::File::open(path)?.sync_all();
    sync(path).and_then(|()| sync(folder)).map_err(file(path, "write"))
}

/// Copies a disk, or a snapshot in it, with all that is below it.
pub(super) fn copy_whole(disk: &Disk, snapshot: Option<&str>) -> Result<(), CloneError> {
    let wrong = image(&disk.source);
    // A snapshot doesn't change while the VM runs.
    let source = opened(disk, OpenMode { force_share: snapshot.is_some(), ..OpenMode::READ })?;
    let storage = match (snapshot, &source.qcow2) {
        (None, _) => Arc::clone(&source.storage),
        (Some(name), Some(qcow2)) => qcow2.open_snapshot(name).map_err(&wrong)?,
        (Some(_), None) => {
            let why = "the format has no snapshots".to_owned();
            return Err(wrong(ferro_block::Error::Unsupported(why)));
        }
    };
    make(&disk.target, storage.size(), KeyValues::default())?;
    let result = (|| {
        let wrong = image(&disk.target);
        let target = open(&spec(&disk.target, Some(Format::Qcow2))?, OpenMode::WRITE, &Secrets::default());
        let target = target.map_err(&wrong)?;
        let options = CopyOptions { target_is_zero: true, ..CopyOptions::default() };
        copy(&*storage, Target { storage: &*target.storage, compress: None }, options, &Watch::new())
            .map_err(&wrong)?;
        target.close().map_err(&wrong)?;
        resemble(&disk.source, &disk.target)?;
        settle(&disk.target)
    })();
    if result.is_err() {
        // Half an image must not be taken for a whole one.
        let _ = fs::remove_file(&disk.target);
    }
    result
}

/// Gives an image the owner and the rights of another.
fn resemble(model: &Path, path: &Path) -> Result<(), CloneError> {
    let metadata = fs::metadata(model).map_err(file(model, "look at"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o777)).map_err(file(path, "protect"))?;
    let made = fs::metadata(path).map_err(file(path, "look at"))?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        chown(path, Some(metadata.uid()), Some(metadata.gid())).map_err(file(path, "give away"))?;
    }
    Ok(())
}

/// The first free name for a base beside an image.
fn base_name(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let end = path.extension().map(|end| format!(".{}", end.to_string_lossy())).unwrap_or_default();
    let names = (1..u32::MAX).map(|number| path.with_file_name(format!("{stem}.base-{number}{end}")));
    names.into_iter().find(|name| fs::symlink_metadata(name).is_err()).unwrap_or_default()
}

/// Lets source and clone share what the source has: at every moment the source's name leads to a whole disk.
pub(super) fn link(vm: &str, disk: &Disk) -> Result<(), CloneError> {
    if let Some(format) = disk.format.as_deref().filter(|format| *format != "qcow2") {
        return Err(CloneError::Format(vm.into(), disk.source.clone(), format.into()));
    }
    let path = disk.source.canonicalize().map_err(file(&disk.source, "find"))?;
    if !fs::metadata(&path).map_err(file(&path, "look at"))?.is_file() {
        return Err(CloneError::NoFile(vm.into(), path.display().to_string()));
    }
    // Held to the end: no VM begins to write.
    let source = opened(disk, OpenMode::READ)?;
    if source.qcow2.as_ref().is_some_and(|qcow2| !qcow2.snapshots().is_empty()) {
        return Err(CloneError::Snapshots(path));
    }
    let base = base_name(&path);
    let overlay = base.with_extension("overlay");
    fs::hard_link(&path, &base).map_err(file(&base, "make"))?;
    let made = (|| {
        let over = |target: &Path| {
            let beside = target.parent().and_then(|folder| folder.canonicalize().ok()).as_deref() == base.parent();
            let name = base.file_name().filter(|_| beside).map_or(base.clone(), PathBuf::from);
            let mut options = KeyValues::default();
            options.insert("backing_file", name.display().to_string());
            options.insert("backing_fmt", source.format.name());
            make(target, source.storage.size(), options)?;
            resemble(&path, target)?;
            settle(target)
        };
        over(&overlay)?;
        over(&disk.target).inspect_err(|error| {
            if !matches!(error, CloneError::Exists(_)) {
                // It was ours.
                let _ = fs::remove_file(&disk.target);
            }
        })
    })();
    let made = made.and_then(|()| {
        fs::rename(&overlay, &path).map_err(file(&path, "replace")).inspect_err(|_| {
            let _ = fs::remove_file(&disk.target);
        })
    });
    if let Err(error) = made {
        // The source is where it was.
        let _ = fs::remove_file(&overlay);
        let _ = fs::remove_file(&base);
        return Err(error);
    }
    let mode = fs::metadata(&base).map_err(file(&base, "look at"))?.mode() & 0o555;
    fs::set_permissions(&base, fs::Permissions::from_mode(mode)).map_err(file(&base, "protect"))?;
    settle(&path)
}
