//! Disks and CD-ROM drives, and the text that describes one.

use std::str::FromStr;

use super::{DescriptionError, refuse, split_options, switch};

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskInterface {
    /// A virtio block device.
    #[default]
    Virtio,
    /// An IDE disk.
    Ide,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDescription {
    /// The image: a file name, or anything that `ferro img` takes as one. Empty for a CD-ROM drive without a disc.
    pub file: String,
    /// The image's format; found out if not given.
    pub format: Option<String>,
    /// How it is attached; a CD-ROM drive is always on IDE.
    pub interface: DiskInterface,
    /// It is a CD-ROM drive, with this in it or empty.
    pub cdrom: bool,
    /// Which of the four IDE units it is (0 to 3: primary master and slave, secondary master and slave); the first free
    /// one if not given, for a CD-ROM from the secondary master on.
    pub unit: Option<u8>,
    /// Writes fail.
    pub read_only: bool,
    /// Writes are thrown away at the end.
    pub snapshot: bool,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// Request queues (virtio), 1 to 16.
    pub queues: u16,
}

impl DiskDescription {
    /// A virtio disk on an image.
    fn new(file: String) -> Self {
        Self {
            file,
            format: None,
            interface: DiskInterface::default(),
            cdrom: false,
            unit: None,
            read_only: false,
            snapshot: false,
            serial: None,
            queues: 1,
        }
    }

    /// A CD-ROM drive with an image of a disc in it.
    pub fn cdrom(file: String) -> Self {
        let format = Some("raw".into());
        Self { format, cdrom: true, read_only: true, interface: DiskInterface::Ide, ..Self::new(file) }
    }

    /// A CD-ROM drive without a disc.
    pub fn empty_cdrom() -> Self {
        Self::cdrom(String::new())
    }

    /// A CD-ROM drive by what a flag says: an image, or `none` for an empty drive.
    pub fn cdrom_from_flag(value: &str) -> Self {
        if value == "none" { Self::empty_cdrom() } else { Self::cdrom(value.to_owned()) }
    }

    /// Whether it is a CD-ROM drive without a disc.
    pub fn is_empty(&self) -> bool {
        self.cdrom && self.file.is_empty()
    }
}

impl FromStr for DiskDescription {
    type Err = DescriptionError;

    /// `FILE[,format=F][,if=virtio|ide][,unit=N][,media=cdrom][,readonly=on][,snapshot=on][,serial=S][,queues=N]`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = split_options(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let file = first.strip_prefix("file=").unwrap_or(&first).to_owned();
        if file.is_empty() {
            return refuse(text, "a disk begins with its image: FILE[,format=…][,if=…][,readonly=on]");
        }
        let mut disk = Self::new(file);
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                return refuse(&part, "a disk's options are KEY=VALUE; a comma in a file name is written ,,");
            };
            match key {
                "format" => disk.format = Some(value.to_owned()),
                "if" if value == "virtio" => disk.interface = DiskInterface::Virtio,
                "if" if value == "ide" => disk.interface = DiskInterface::Ide,
                "if" => return refuse(value, "a disk's interface is virtio or ide"),
                "unit" => match value.parse() {
                    Ok(unit @ 0..=3) => disk.unit = Some(unit),
                    _ => return refuse(value, "an IDE unit is 0 to 3"),
                },
                "media" if value == "disk" => {}
                "media" if value == "cdrom" => {
                    disk = Self { unit: disk.unit, ..Self::cdrom(disk.file) };
                }
                "media" => return refuse(value, "a medium is disk or cdrom"),
                "readonly" | "read-only" => disk.read_only = switch(value)?,
                "snapshot" => disk.snapshot = switch(value)?,
                "serial" if value.len() <= 20 => disk.serial = Some(value.to_owned()),
                "serial" => return refuse(value, "a serial number has at most 20 bytes"),
                "queues" => {
                    disk.queues = match value.parse() {
                        Ok(queues @ 1..=16) => queues,
                        _ => return refuse(value, "a disk has 1 to 16 queues"),
                    };
                }
                _ => {
                    return refuse(
                        key,
                        "a disk's options are format, if, unit, media, readonly, snapshot, serial and queues",
                    );
                }
            }
        }
        Ok(disk)
    }
}
