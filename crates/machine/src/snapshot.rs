//! Snapshots of the whole VM in its qcow2 disks: the state of the VM in one of them, a snapshot of the same name in all
//! that can be written. What the state consists of is not known here, nor who asks for it.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ferro_block::qcow2::{NewSnapshot, Qcow2, SnapshotInfo};
use ferro_guest::Clock;
use ferro_hypervisor::VmClock;

use crate::control::Control;
use crate::monitor::Drive;
use crate::state::{Keeper, LoadFailure, Progress, StateError};

/// How much is written to or read from an image at once.
const BUFFER: usize = 4 << 20;

/// Why a snapshot can't be made, taken back or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// A disk could be written to behind the snapshot's back.
    #[error(
        "Device '{0}' is writable but does not support snapshots: its image has to be qcow2 (ferro img convert -O qcow2), \
         or readonly=on"
    )]
    Unsupported(String),
    /// There is nowhere to put it.
    #[error("No block device can accept snapshots: the VM needs a disk whose image is qcow2 and can be written")]
    NoDisk,
    /// There is no such drive.
    #[error("Device '{0}' not found")]
    NoDevice(String),
    /// A disk that was named for the state isn't among the snapshot's disks.
    #[error("Device '{0}' is to hold the VM's state but is not one of the snapshot's disks")]
    NotAmong(String),
    /// It is there already, and wasn't to be replaced.
    #[error("Snapshot '{0}' already exists in one or more devices")]
    Exists(String),
    /// It isn't there.
    #[error("Device '{device}' does not have the requested snapshot '{tag}'")]
    Missing {
        /// The drive.
        device: String,
        /// The snapshot.
        tag: String,
    },
    /// It is one of disks only.
    #[error("This is a disk-only snapshot. Revert to it offline using ferro img snapshot -a")]
    DiskOnly,
    /// The state isn't taken.
    #[error("Error while {doing} the VM's state: {source}")]
    State {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: StateError,
    },
    /// A disk refuses.
    #[error("Error while {doing} snapshot on '{device}': {source}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// The drive.
        device: String,
        /// Why not.
        source: ferro_block::Error,
    },
    /// The VM has lost its state, and only another one can take its place.
    #[error(
        "{0}; the VM is stopped, since what it has now is neither the one nor the other: load another snapshot, or end it"
    )]
    Broken(Box<SnapshotError>),
}

impl From<StateError> for SnapshotError {
    fn from(source: StateError) -> Self {
        Self::State { doing: "loading", source }
    }
}

/// Which disks a snapshot is of; as monitors name them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// The disk that holds the VM's state; the first one if not given.
    pub(crate) vmstate: Option<String>,
    /// The disks; all that can be written if not given.
    pub(crate) devices: Option<Vec<String>>,
}

/// A disk that takes part.
struct Target {
    device: String,
    image: Arc<Qcow2>,
}

impl Target {
    /// By its name, or else by its number.
    fn find(&self, tag: &str) -> Option<SnapshotInfo> {
        let all = self.image.snapshots();
        all.iter().find(|found| found.name == tag).or_else(|| all.iter().find(|found| found.id == tag)).cloned()
    }

    fn error(&self, doing: &'static str) -> impl FnOnce(ferro_block::Error) -> SnapshotError {
        let device = self.device.clone();
        move |source| SnapshotError::Disk { doing, device, source }
    }
}

/// The disks that take part: the one with the VM's state is `vmstate`.
struct Targets {
    all: Vec<Target>,
    vmstate: usize,
}

impl Targets {
    fn vmstate(&self) -> &Target {
        &self.all[self.vmstate]
    }

    /// The snapshot on every disk, in their order.
    fn find(&self, tag: &str) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let missing = |target: &Target| SnapshotError::Missing { device: target.device.clone(), tag: tag.to_owned() };
        let one = |target: &Target| target.find(tag).ok_or_else(|| missing(target));
        self.all.iter().map(one).collect()
    }
}

/// Makes and takes back the snapshots of one VM.
pub(crate) struct Snapshots {
    keeper: Keeper,
    control: Arc<Control>,
    clock: Arc<VmClock>,
    drives: Arc<[Drive]>,
}

impl Snapshots {
    /// Of a VM with these drives.
    pub(crate) fn new(keeper: Keeper, control: Arc<Control>, clock: Arc<VmClock>, drives: Arc<[Drive]>) -> Self {
        Self { keeper, control, clock, drives }
    }

    fn targets(&self, scope: &Scope) -> Result<Targets, SnapshotError> {
        let chosen: Vec<&Drive> = match &scope.devices {
            None => self.drives.iter().filter(|drive| drive.is_writable()).collect(),
            Some(names) => {
                let find = |name: &String| self.drives.iter().find(|drive| drive.name == *name);
                let find = |name| find(name).ok_or_else(|| SnapshotError::NoDevice(name.clone()));
                names.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        let target = |drive: &Drive| {
            let image = drive.qcow2().filter(|_| drive.is_writable());
            let image = image.ok_or_else(|| SnapshotError::Unsupported(drive.name.clone()))?;
            Ok(Target { device: drive.name.clone(), image })
        };
        let all = chosen.into_iter().map(target).collect::<Result<Vec<_>, SnapshotError>>()?;
        if all.is_empty() {
            return Err(SnapshotError::NoDisk);
        }
        let vmstate = match &scope.vmstate {
            None => 0,
            Some(name) => {
                let at = all.iter().position(|target| target.device == *name);
                at.ok_or_else(|| SnapshotError::NotAmong(name.clone()))?
            }
        };
        Ok(Targets { all, vmstate })
    }

    /// Saves the VM under this name and lets it go on. Snapshots of the same name are replaced if `replace` says so. If it
    /// fails, nothing is left of it.
    ///
    /// # Errors
    /// Disks that can't, and whatever fails.
    pub(crate) fn save(
        &self,
        tag: &str,
        scope: &Scope,
        replace: bool,
        progress: &Progress,
    ) -> Result<(), SnapshotError> {
        let targets = self.targets(scope)?;
        let old: Vec<_> = targets.all.iter().map(|target| target.find_named(tag)).collect();
        if !replace && old.iter().any(Option::is_some) {
            return Err(SnapshotError::Exists(tag.to_owned()));
        }
        let _still = self.control.keep_still();
        let image = &targets.vmstate().image;
        let size = self.write_state(image, progress).map_err(|error| {
            // What is left of it takes space until the next snapshot, no more.
            let _ = image.vmstate_discard();
            SnapshotError::State { doing: "saving", source: error }
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let snapshot = |size| NewSnapshot {
            name: tag.to_owned(),
            date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
            date_nsec: now.subsec_nanos(),
            vm_clock_nsec: self.clock.now(),
            vm_state_size: size,
            icount: None,
        };
        let mut made: Vec<(&Target, String)> = vec![];
        for (index, target) in targets.all.iter().enumerate() {
            let size = if index == targets.vmstate { size } else { 0 };
            match target.image.snapshot_create(&snapshot(size)) {
                Ok(info) => made.push((target, info.id)),
                Err(source) => {
                    for (target, id) in made {
                        let _ = target.image.snapshot_delete(&id);
                    }
                    let _ = image.vmstate_discard();
                    return Err(target.error("creating")(source));
                }
            }
        }
        // The new one is whole: now the old one may go.
        for (target, old) in targets.all.iter().zip(old) {
            if let Some(old) = old {
                target.image.snapshot_delete(&old.id).map_err(target.error("deleting the old"))?;
            }
        }
        Ok(())
    }

    /// Writes the VM's state; its size in bytes.
    fn write_state(&self, image: &Arc<Qcow2>, progress: &Progress) -> Result<u64, StateError> {
        let writer = StateOnDisk { image: image.clone(), at: 0, size: u64::MAX };
        let mut writer = BufWriter::with_capacity(BUFFER, writer);
        self.keeper.save(&mut writer, progress)?;
        let writer = writer.into_inner().map_err(|error| StateError::Io(error.into_error()))?;
        Ok(writer.at)
    }

    /// Takes the VM back to this snapshot, and its disks with it; it goes on if it ran before.
    ///
    /// # Errors
    /// As for [`Keeper::load`]: the VM is as it was, but for [`SnapshotError::Broken`].
    pub(crate) fn load(&self, tag: &str, scope: &Scope, progress: &Progress) -> Result<(), SnapshotError> {
        let targets = self.targets(scope)?;
        let found = targets.find(tag)?;
        let size = found[targets.vmstate].vm_state_size;
        if size == 0 {
            return Err(SnapshotError::DiskOnly);
        }
        let still = self.control.keep_still();
        let target = targets.vmstate();
        let image = target.image.open_snapshot(&found[targets.vmstate].id).map_err(target.error("opening"))?;
        let state = || BufReader::with_capacity(BUFFER, StateOnDisk { image: image.clone(), at: 0, size });
        let sections = self.keeper.check(state())?;
        let disks = || {
            for (index, (target, snapshot)) in targets.all.iter().zip(&found).enumerate() {
                if let Err(source) = target.image.snapshot_apply(&snapshot.id) {
                    let error = target.error("going back to a")(source);
                    return Err(if index == 0 { LoadFailure::Untouched(error) } else { LoadFailure::Broken(error) });
                }
            }
            Ok(())
        };
        let sizes: Vec<_> = self.drives.iter().map(Drive::size).collect();
        match self.keeper.load(&sections, disks, state(), progress) {
            Ok(()) => {
                // A disk that was resized since has its old size again.
                let resized = self.drives.iter().zip(sizes).filter(|(drive, size)| drive.size() != *size);
                resized.for_each(|(drive, _)| drive.follow_size());
                // The state lies in the snapshot: the disk itself needs none.
                let _ = targets.vmstate().image.vmstate_discard();
                still.set_broken(false);
                Ok(())
            }
            Err(LoadFailure::Untouched(error)) => Err(error),
            Err(LoadFailure::Broken(error)) => {
                still.set_broken(true);
                Err(SnapshotError::Broken(Box::new(error)))
            }
        }
    }

    /// Deletes a snapshot from all disks that have it.
    ///
    /// # Errors
    /// No disk has it, and whatever fails.
    pub(crate) fn delete(&self, tag: &str, scope: &Scope) -> Result<(), SnapshotError> {
        let targets = self.targets(scope)?;
        let mut any = false;
        for target in &targets.all {
            if let Some(found) = target.find(tag) {
                target.image.snapshot_delete(&found.id).map_err(target.error("deleting"))?;
                any = true;
            }
        }
        if any {
            return Ok(());
        }
        Err(SnapshotError::Missing { device: targets.vmstate().device.clone(), tag: tag.to_owned() })
    }

    /// The snapshots that all disks have.
    ///
    /// # Errors
    /// Disks that can't have any.
    pub(crate) fn list(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let targets = self.targets(&Scope::default())?;
        let everywhere =
            |found: &SnapshotInfo| targets.all.iter().all(|target| target.find_named(&found.name).is_some());
        Ok(targets.vmstate().image.snapshots().into_iter().filter(everywhere).collect())
    }
}

impl Target {
    fn find_named(&self, tag: &str) -> Option<SnapshotInfo> {
        self.image.snapshots().into_iter().find(|found| found.name == tag)
    }
}

/// The place for a VM's state in an image.
struct StateOnDisk {
    image: Arc<Qcow2>,
    at: u64,
    size: u64,
}

fn as_io(error: ferro_block::Error) -> io::Error {
    io::Error::other(error)
}

impl Write for StateOnDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.image.vmstate_write(self.at, bytes).map_err(as_io)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for StateOnDisk {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(usize::try_from(self.size - self.at).unwrap_or(usize::MAX));
        self.image.vmstate_read(self.at, &mut into[..len]).map_err(as_io)?;
        self.at += len as u64;
        Ok(len)
    }
}
