//! The drives of a VM by their names: what is in them, and changing that.

use std::sync::{Arc, Mutex};

use ferro_block::Storage;
use ferro_block::image::{self, ImageSpec, OpenMode, Secrets};
use ferro_console::monitor::{BlockInfo, BlockThrottle, Event, ImageInfo, OperationError, Reply};
use ferro_devices::ide::TrayError;
use ferro_devices::virtio::{Block, VirtioPci};

use super::operator::{Operator, failed};
use crate::bus::{Shared, lock};
use crate::description::DiskDescription;

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
    format: String,
    storage: Arc<dyn Storage>,
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
    pub(crate) fn new(
        name: String,
        kind: DriveKind,
        description: &DiskDescription,
        storage: Option<Arc<dyn Storage>>,
    ) -> Self {
        let format = description.format.clone().unwrap_or_else(|| "raw".into());
        let medium = Mutex::new(storage.map(|storage| Medium { file: description.file.clone(), format, storage }));
        let read_only = description.read_only || matches!(kind, DriveKind::Cdrom(_));
        Self { name, kind, read_only, medium }
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
                format: medium.format.clone(),
                virtual_size: medium.storage.size(),
                backing_filename: None,
            });
            BlockInfo {
                device: drive.name.clone(),
                qdev: drive.name.clone(),
                removable: matches!(drive.kind, DriveKind::Cdrom(_)),
                locked: state.is_some_and(|state| state.locked),
                tray_open: state.map(|state| state.open),
                inserted,
                read_only: drive.read_only,
                throttle: BlockThrottle::default(),
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
        let (storage, format) = (opened.storage, opened.format.to_string());
        self.handle.insert(unit, file, storage.clone(), force).map_err(tray)?;
        *lock(&drive.medium) = Some(Medium { file: file.to_owned(), format, storage });
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
        if size < medium.storage.size() {
            return Err(OperationError::new(format!(
                "Device '{name}' can only grow: shrinking would cut the guest's data off"
            )));
        }
        medium.storage.set_size(size).map_err(failed)?;
        lock(device).config_changed(Block::update_size);
        Ok(Reply::Done)
    }
}
