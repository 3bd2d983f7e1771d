//! IDE as the PIIX3 has it: two channels of two units each at their traditional ports, ATA disks (ATA/ATAPI-6, T13 1410D)
//! and ATAPI CD-ROM drives (MMC-3), by programmed I/O and by bus-master DMA. The image behind a unit is a
//! [`Disk`](crate::virtio::Disk).

mod atapi;
mod bus_master;
mod channel;
mod controller;
mod disc;
mod disk;
mod identify;
mod unit;

pub use controller::{IdeController, Position};
pub use disc::{MediumState, TrayError};
pub use unit::UnitKind;

/// Bytes of a disk's sector.
const SECTOR: usize = 512;
/// Bytes of a disc's sector.
const DISC_SECTOR: usize = 2048;

/// Bits of the status register.
mod status {
    pub(super) const ERROR: u8 = 1;
    pub(super) const DATA_REQUEST: u8 = 8;
    pub(super) const SEEK_COMPLETE: u8 = 0x10;
    pub(super) const READY: u8 = 0x40;
}

/// Bits of the error register.
mod error {
    pub(super) const ABORTED: u8 = 4;
    pub(super) const NOT_FOUND: u8 = 0x10;
    pub(super) const UNCORRECTABLE: u8 = 0x40;
}
