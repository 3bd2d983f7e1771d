//! The drives of a VM by their names: what is in them, and changing that.

use std::sync::{Arc, Mutex};

use ferro_block::image::{self, ImageSpec, OpenMode, Secrets};
use ferro_block::jobs::Watch;
use ferro_block::qcow2::Qcow2;
use ferro_block::throttle::{Rate, ThrottleOptions};
use ferro_console::monitor::{BlockInfo, BlockThrottle, Event, ImageInfo, OperationError, Reply};
use ferro_devices::ide::TrayError;
use ferro_devices::virtio::{Block, VirtioPci};

use super::operator::{Operator, failed};
use crate::bus::{Shared, lock};
use crate::description::DiskDescription;
use crate::image::{DiskError, DiskImage};

/// How a drive is attached.
pub(crate) enum DriveKind {
    /// A virtio disk.
    Virtio(Shared<VirtioPci<Block>>),
    /// An IDE disk.
    Disk,
    /// A CD-ROM drive at this IDE unit.
    Cdrom(u8),
}

/// What is in a drive.
pub(crate) struct Medium {
    file: String,
    image: DiskImage,
    limits: BlockThrottle,
}

impl Medium {
    fn new(file: String, image: DiskImage) -> Self {
        Self { file, image, limits: BlockThrottle::default() }
    }
}

/// A drive of the board.
pub(crate) struct Drive {
    /// As QEMU names it: `virtio0`, `ide0-hd0`, `ide1-cd0`.
    pub(crate) name: String,
    pub(crate) kind: DriveKind,
    pub(crate) read_only: bool,
    medium: Mutex<Option<Medium>>,
}

impl Drive {
    /// A drive with the image that was opened for it, if it isn't empty.
    pub(crate) fn new(name: String, kind: DriveKind, description: &DiskDescription, image: Option<DiskImage>) -> Self {
        let medium = Mutex::new(image.map(|image| Medium::new(description.file.clone(), image)));
        let read_only = description.read_only || matches!(kind, DriveKind::Cdrom(_));
        Self { name, kind, read_only, medium }
    }

    /// Whether its guest can change what is in it.
    pub(crate) fn is_writable(&self) -> bool {
        !self.read_only && lock(&self.medium).is_some()
    }

    /// The image in it, if that is qcow2.
    pub(crate) fn qcow2(&self) -> Option<Arc<Qcow2>> {
        lock(&self.medium).as_ref().and_then(|medium| medium.image.qcow2())
    }

    /// Bytes of what is in it.
    pub(crate) fn size(&self) -> u64 {
        lock(&self.medium).as_ref().map_or(0, |medium| medium.image.storage.size())
    }

    /// Has the device show the size that the image has now.
    pub(crate) fn follow_size(&self) {
        if let DriveKind::Virtio(device) = &self.kind {
            lock(device).config_changed(Block::update_size);
        }
    }

    /// Whether the image in it lies on another.
    fn has_below(&self) -> bool {
        lock(&self.medium).as_ref().is_some_and(|medium| medium.image.below().is_some())
    }

    /// Whether it is a virtio disk.
    pub(crate) fn is_virtio(&self) -> bool {
        matches!(self.kind, DriveKind::Virtio(_))
    }
}

type Result = std::result::Result<Reply, OperationError>;

fn tray(error: TrayError) -> OperationError {
    failed(error)
}

impl Operator {
    fn drive(&self, name: &str) -> std::result::Result<&Drive, OperationError> {
        self.drives.iter().find(|drive| drive.name == name).ok_or_else(|| OperationError::no_device(name))
    }

    pub(super) fn query_block(&self) -> Reply {
        let drives = self.drives.iter().map(|drive| {
            let state = if let DriveKind::Cdrom(unit) = drive.kind { self.handle.medium(unit).ok() } else { None };
            let medium = lock(&drive.medium);
            let inserted = medium.as_ref().map(|medium| ImageInfo {
                filename: medium.file.clone(),
                format: medium.image.format.clone(),
                virtual_size: medium.image.storage.size(),
                backing_filename: medium.image.below(),
            });
            BlockInfo {
                device: drive.name.clone(),
                qdev: drive.name.clone(),
                removable: matches!(drive.kind, DriveKind::Cdrom(_)),
                locked: state.is_some_and(|state| state.locked),
                tray_open: state.map(|state| state.open),
                inserted,
                read_only: drive.read_only,
                throttle: medium.as_ref().map(|medium| medium.limits).unwrap_or_default(),
            }
        });
        Reply::Block(drives.collect())
    }

    fn cdrom(&self, name: &str) -> std::result::Result<(&Drive, u8), OperationError> {
        match self.drive(name)? {
            drive @ Drive { kind: DriveKind::Cdrom(unit), .. } => Ok((drive, *unit)),
            drive => Err(OperationError::new(format!("Device '{}' is not removable", drive.name))),
        }
    }

    pub(super) fn eject(&self, name: &str, force: bool) -> Result {
        let (drive, unit) = self.cdrom(name)?;
        self.handle.eject(unit, force).map_err(tray)?;
        *lock(&drive.medium) = None;
        self.subscribers.tell(&Event::TrayMoved { device: name.to_owned(), open: true });
        Ok(Reply::Done)
    }

    pub(super) fn change_medium(&self, name: &str, file: &str, format: Option<&str>, force: bool) -> Result {
        let (drive, unit) = self.cdrom(name)?;
        let told = |error: ferro_block::Error| OperationError::new(format!("cannot open {file}: {error}"));
        let format = format.map(str::parse).transpose().map_err(told)?;
        let spec = ImageSpec::from_name(file, format).map_err(told)?;
        let opened = image::open(&spec, OpenMode::READ, &Secrets::default()).map_err(told)?;
        let image = DiskImage::from(opened.storage).with_format(opened.format.to_string());
        self.handle.insert(unit, file, image.storage.clone(), force).map_err(tray)?;
        *lock(&drive.medium) = Some(Medium::new(file.to_owned(), image));
        for open in [true, false] {
            self.subscribers.tell(&Event::TrayMoved { device: name.to_owned(), open });
        }
        Ok(Reply::Done)
    }

    pub(super) fn resize(&self, name: &str, size: u64) -> Result {
        let drive = self.drive(name)?;
        let medium = lock(&drive.medium);
        let Some(medium) = medium.as_ref() else {
            return Err(OperationError::new(format!("Device '{name}' has no medium")));
        };
        let DriveKind::Virtio(device) = &drive.kind else {
            return Err(OperationError::new(format!("Device '{name}' can't change its size: only virtio disks can")));
        };
        if size < medium.image.storage.size() {
            return Err(OperationError::new(format!(
                "Device '{name}' can only grow: shrinking would cut the guest's data off"
            )));
        }
        medium.image.storage.set_size(size).map_err(failed)?;
        lock(device).config_changed(Block::update_size);
        Ok(Reply::Done)
    }

    /// Writes what a drive's overlay holds into the image below it; of all drives that have one: `all`.
    pub(super) fn commit(&self, name: &str, watch: &Watch) -> Result {
        let chosen: Vec<&Drive> = match name {
            "all" => self.drives.iter().filter(|drive| drive.is_writable() && drive.has_below()).collect(),
            name => vec![self.drive(name)?],
        };
        let still = self.control.keep_still();
        for drive in chosen {
            let told = |error: DiskError| OperationError::new(format!("'commit' error for '{}': {error}", drive.name));
            if drive.read_only {
                return Err(OperationError::new(format!("'commit' error for '{}': it is read-only", drive.name)));
            }
            let mut medium = lock(&drive.medium);
            let medium = medium.as_mut().ok_or_else(|| told(DiskError::NoOverlay))?;
            medium.image.commit(watch).map_err(|error| {
                if matches!(error, DiskError::Lost { .. }) {
                    still.set_broken(true);
                }
                told(error)
            })?;
        }
        Ok(Reply::Done)
    }

    /// Puts an overlay on a drive.
    pub(super) fn snapshot_drive(&self, name: &str, file: &str, format: Option<&str>, reuse: bool) -> Result {
        let drive = self.drive(name)?;
        if !drive.is_writable() {
            return Err(OperationError::new(format!("Device '{name}' is read-only")));
        }
        let _still = self.control.keep_still();
        let mut medium = lock(&drive.medium);
        let medium = medium.as_mut().ok_or_else(|| OperationError::new(format!("Device '{name}' has no medium")))?;
        medium.image.put_overlay(file, format, reuse).map_err(failed)?;
        file.clone_into(&mut medium.file);
        Ok(Reply::Done)
    }

    /// Sets a drive's limits; they are its medium's, and gone with that.
    pub(super) fn throttle(&self, name: &str, limits: BlockThrottle) -> Result {
        let drive = self.drive(name)?;
        let both = |[total, read, write]: [u64; 3]| total > 0 && (read > 0 || write > 0);
        if both(limits.bytes) || both(limits.operations) {
            let told = "bps/iops/max total values and read/write values cannot be used at the same time";
            return Err(OperationError::new(told));
        }
        let mut medium = lock(&drive.medium);
        let medium = medium.as_mut().ok_or_else(|| OperationError::new(format!("Device '{name}' has no medium")))?;
        // A tenth of a second's worth may go at once, as in QEMU.
        let rate = |per_second: u64| (per_second > 0).then(|| Rate { per_second, burst: (per_second / 10).max(1) });
        let ([bytes, bytes_read, bytes_written], [requests, reads, writes]) =
            (limits.bytes.map(rate), limits.operations.map(rate));
        medium.image.limit(ThrottleOptions { requests, reads, writes, bytes, bytes_read, bytes_written });
        medium.limits = limits;
        Ok(Reply::Done)
    }

    /// Starts a job that does what [`Operator::commit`] does.
    pub(super) fn start_commit_job(self: &Arc<Self>, id: &str, device: String) -> Result {
        self.drive(&device)?;
        let operator = self.clone();
        self.jobs.start(id, "commit", move |progress| {
            let _turn = lock(&operator.turn);
            let watch = Watch::new();
            let done = operator.commit(&device, &watch).map(drop);
            progress.set(watch.progress());
            done
        })?;
        Ok(Reply::Done)
    }
}
