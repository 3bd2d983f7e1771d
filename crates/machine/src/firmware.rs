//! Booting through firmware: finding its files, and what the board tells it, in CMOS memory and over the firmware
//! configuration device. Of the firmware itself nothing is here: any BIOS made for QEMU's PC does, such as SeaBIOS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferro_devices::fw_cfg::{FwCfg, key};
use ferro_devices::rtc::Rtc;
use ferro_guest::GuestMemory;

use crate::boot::{AcpiBoard, AcpiFiles};
use crate::boot_order::{BootDevice, BootOrder};
use crate::layout::{self, MemoryType};

/// Where distributions put SeaBIOS, by preference.
const PLACES: [&str; 3] =
    ["/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/share/seabios/bios.bin"];
/// The video BIOS's name, in the folder of the firmware or in those of [`PLACES`].
const VIDEO_BIOS: &str = "vgabios-stdvga.bin";
/// Sizes that are possible: what is shown below 1 MiB at least, and what leaves room for the interrupt controllers.
const SIZES: std::ops::RangeInclusive<usize> = 0x1_0000..=0x10_0000;

/// Why there is no firmware to boot.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// None was given, and none is where it usually is.
    #[error(
        "there is no PC firmware in /usr/share/seabios or /usr/share/qemu: install the package seabios, or give one with --firmware FILE"
    )]
    Missing,
    /// It can't be read.
    #[error("cannot read the firmware {path}: {source}; install the package seabios, or give another with --firmware FILE", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// It is no PC firmware.
    #[error("the firmware {path} has {len} bytes: PC firmware is a multiple of 64 KiB, at most 1 MiB", path = path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        len: usize,
    },
}

/// The firmware's files.
#[derive(Debug, Clone)]
pub(crate) struct Firmware {
    pub(crate) image: Vec<u8>,
    pub(crate) video_bios: Option<Vec<u8>>,
}

impl Firmware {
    /// Reads the firmware: the file given, or the one found.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, FirmwareError> {
        let found = || PLACES.iter().map(Path::new).find(|path| path.exists());
        let path = given.or_else(found).ok_or(FirmwareError::Missing)?;
        let image = std::fs::read(path).map_err(|source| FirmwareError::Read { path: path.to_owned(), source })?;
        if !SIZES.contains(&image.len()) || image.len() % 0x1_0000 != 0 {
            return Err(FirmwareError::Size { path: path.to_owned(), len: image.len() });
        }
        let folders = std::iter::once(path).chain(PLACES.iter().map(Path::new)).filter_map(Path::parent);
        let video_bios = folders.map(|folder| folder.join(VIDEO_BIOS)).find_map(|path| std::fs::read(path).ok());
        Ok(Self { image, video_bios })
    }
}

/// A disk or CD-ROM by the name that firmware knows it by: an Open Firmware path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootable {
    pub(crate) kind: BootDevice,
    pub(crate) path: String,
}

/// What firmware is told of the board.
pub(crate) struct Told<'a> {
    pub(crate) memory: u64,
    pub(crate) acpi: AcpiBoard,
    pub(crate) order: &'a BootOrder,
    pub(crate) bootable: &'a [Bootable],
}

/// Fills the firmware configuration device.
pub(crate) fn configure(firmware: &Firmware, told: &Told<'_>, memory: Arc<GuestMemory>) -> FwCfg {
    let mut device = FwCfg::new(memory);
    let cpus = told.acpi.vcpus as u16;
    device.add_item(key::RAM_SIZE, told.memory.to_le_bytes().to_vec());
    device.add_item(key::CPUS, cpus.to_le_bytes().to_vec());
    device.add_item(key::MAX_CPUS, cpus.to_le_bytes().to_vec());
    device.add_item(key::BOOT_MENU, u16::from(told.order.menu).to_le_bytes().to_vec());
    device.add_item(key::IRQ0_OVERRIDE, vec![1]);
    device.add_file("etc/e820", e820(told.memory));
    let AcpiFiles { tables, root, loader } = AcpiFiles::new(told.acpi);
    device.add_file(AcpiFiles::TABLES, tables);
    device.add_file(AcpiFiles::ROOT, root);
    device.add_file("etc/table-loader", loader);
    device.add_file("bootorder", boot_order(told));
    if let Some(wait) = told.order.menu_wait.filter(|_| told.order.menu) {
        device.add_file("etc/boot-menu-wait", u64::from(wait).to_le_bytes().to_vec());
    }
    if let Some(video_bios) = firmware.video_bios.clone().filter(|_| told.acpi.vga) {
        // By the VGA's vendor and device.
        device.add_file("pci1234,1111.rom", video_bios);
    }
    device
}

/// RAM and what is taken of it, as firmware is told: it makes the guest's map of it.
fn e820(memory: u64) -> Vec<u8> {
    let low = memory.min(layout::PCI_HOLE_START);
    let mut map = vec![(0, low, MemoryType::Usable)];
    if memory > low {
        map.push((layout::ABOVE_4G, memory - low, MemoryType::Usable));
    }
    let bytes = map.into_iter().flat_map(|(start, len, kind): (u64, u64, MemoryType)| {
        [&start.to_le_bytes()[..], &len.to_le_bytes(), &(kind as u32).to_le_bytes()].concat()
    });
    bytes.collect()
}

fn boot_order(told: &Told<'_>) -> Vec<u8> {
    let paths = told.order.devices.iter().flat_map(|kind| {
        told.bootable.iter().filter(move |bootable| bootable.kind == *kind).map(|bootable| bootable.path.as_str())
    });
    let mut text = paths.collect::<Vec<_>>().join("\n").into_bytes();
    text.push(0);
    text
}

/// Fills the CMOS memory as a PC's set-up would.
pub(crate) fn set_up_cmos(rtc: &mut Rtc, memory: u64, cpus: u32, order: &BootOrder) {
    let mut word = |at: u8, value: u64| {
        rtc.set_memory(at, value as u8);
        rtc.set_memory(at + 1, (value >> 8) as u8);
    };
    let low = memory.min(layout::PCI_HOLE_START);
    let kibibytes = (low.saturating_sub(layout::HIGH_START) >> 10).min(0xffff);
    word(0x15, 640);
    word(0x17, kibibytes);
    word(0x30, kibibytes);
    word(0x34, (low.saturating_sub(16 << 20) >> 16).min(0xffff));
    let above = (memory - low) >> 16;
    word(0x5b, above);
    rtc.set_memory(0x5d, (above >> 16) as u8);
    // A coprocessor, a mouse, no floppy drives.
    rtc.set_memory(0x14, 6);
    rtc.set_memory(0x5f, (cpus - 1) as u8);
    let nibble = |index: usize| match order.devices.get(index) {
        Some(BootDevice::Disk) => 2,
        Some(BootDevice::Cdrom) => 3,
        None => 0,
    };
    rtc.set_memory(0x3d, nibble(0) | nibble(1) << 4);
    // No look for a floppy disk's signature.
    rtc.set_memory(0x38, 1 | nibble(2) << 4);
}
