//! The PIIX3's IDE function (8086:7010; Intel 290550, section 2.6): two channels at their traditional ports, and the
//! bus-master registers behind a base address register.

use std::sync::Arc;

use ferro_guest::{GuestMemory, InterruptLine};

use super::atapi::Cdrom;
use super::channel::Channel;
use super::disc::{MediumState, TrayError};
use super::disk::AtaDisk;
use super::unit::{Kind, Unit, UnitKind};
use crate::pci::{BarKind, ConfigSpace, FixedWindow, Identity, PciFunction};
use crate::virtio::Disk;

const MASTER_BAR: usize = 4;
const MASTER_PORTS: u64 = 16;
const TIMING: usize = 0x40;
/// The channels' ports: command block, control block, and the windows' numbers.
const PORTS: [(u64, u64, usize); 2] = [(0x1f0, 0x3f6, 6), (0x170, 0x376, 8)];

/// Where a unit is: channel 0 or 1, unit 0 or 1 of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Primary (0) or secondary (1).
    pub channel: usize,
    /// Master (0) or slave (1).
    pub unit: usize,
}

impl Position {
    /// The unit with this number, 0 to 3; others wrap around.
    pub fn from_index(index: u8) -> Self {
        Self { channel: usize::from(index >> 1 & 1), unit: usize::from(index & 1) }
    }
}

/// The function.
pub struct IdeController {
    config: ConfigSpace,
    memory: Arc<GuestMemory>,
    channels: [Channel; 2],
}

impl IdeController {
    /// A controller without units, whose channels interrupt by these lines.
    pub fn new(memory: Arc<GuestMemory>, lines: [Arc<dyn InterruptLine>; 2]) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            class: 0x01_01_80,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(MASTER_BAR, BarKind::Io, MASTER_PORTS);
        // Both channels decode their ports.
        config.set(TIMING, &[0, 0x80, 0, 0x80]);
        config.set_writable(TIMING, &[0xff; 16]);
        Self { config, memory, channels: lines.map(Channel::new) }
    }

    /// Puts a disk somewhere; at most 20 bytes of `serial` are shown.
    pub fn attach_disk(&mut self, at: Position, disk: Box<dyn Disk>, serial: &str) {
        self.attach(at, Kind::Disk(AtaDisk::new(disk, serial)));
    }

    /// Puts a CD-ROM drive somewhere, with a disc in it or empty.
    pub fn attach_cdrom(&mut self, at: Position, disc: Option<Box<dyn Disk>>, serial: &str) {
        self.attach(at, Kind::Cdrom(Cdrom::new(disc, serial)));
    }

    fn attach(&mut self, at: Position, kind: Kind) {
        self.channels[at.channel & 1].units[at.unit & 1] = Some(Unit::new(kind));
    }

    /// What is there.
    pub fn unit(&self, at: Position) -> Option<UnitKind> {
        self.channels[at.channel & 1].units[at.unit & 1].as_ref().map(|unit| match unit.kind {
            Kind::Disk(_) => UnitKind::Disk,
            Kind::Cdrom(_) => UnitKind::Cdrom,
        })
    }

    fn cdrom<T>(&mut self, at: Position, act: impl FnOnce(&mut Cdrom) -> T) -> Result<T, TrayError> {
        let channel = &mut self.channels[at.channel & 1];
        let result = match channel.units[at.unit & 1].as_mut().map(|unit| &mut unit.kind) {
            Some(Kind::Cdrom(cdrom)) => Ok(act(cdrom)),
            _ => Err(TrayError::NoDrive),
        };
        channel.unit_changed();
        result
    }

    /// The state of a drive's tray, lock and medium.
    ///
    /// # Errors
    /// No CD-ROM drive is there.
    pub fn medium(&mut self, at: Position) -> Result<MediumState, TrayError> {
        self.cdrom(at, |cdrom| cdrom.tray.state())
    }

    /// Opens the tray and takes the disc out, as somebody at the drive's button would; `force` does it though the guest has
    /// locked the tray. Without, the guest is asked to let it go.
    ///
    /// # Errors
    /// No drive is there, or the guest has locked it.
    pub fn eject(&mut self, at: Position, force: bool) -> Result<Option<Box<dyn Disk>>, TrayError> {
        self.cdrom(at, |cdrom| cdrom.tray.eject(force))?
    }

    /// Puts a disc into the tray, in place of the one that may be there, and closes it.
    ///
    /// # Errors
    /// No drive is there, or the guest has locked it.
    pub fn insert(&mut self, at: Position, disc: Box<dyn Disk>, force: bool) -> Result<(), TrayError> {
        self.cdrom(at, |cdrom| cdrom.tray.insert(disc, force))?
    }
}

impl PciFunction for IdeController {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn fixed_windows(&self) -> Vec<FixedWindow> {
        if !self.config.decodes_ports() {
            return vec![];
        }
        let windows = PORTS.into_iter().enumerate().filter(|&(channel, _)| {
            let [timing] = self.config.get(TIMING + 1 + 2 * channel);
            timing & 0x80 != 0
        });
        let windows = windows.flat_map(|(_, (command, control, bar))| {
            [(command, 8, bar), (control, 1, bar + 1)].map(|(start, len, bar)| FixedWindow {
                start,
                len,
                io: true,
                bar,
            })
        });
        windows.collect()
    }

    fn read_bar(&mut self, bar: usize, offset: u64, size: u8) -> u64 {
        match bar {
            MASTER_BAR => {
                let channel = &self.channels[(offset >> 3) as usize & 1];
                let byte = |index| u64::from(channel.master.read((offset & 7) + index)) << (8 * index);
                (0..u64::from(size)).fold(0, |value, index| value | byte(index))
            }
            6 => self.channels[0].read(offset, size),
            8 => self.channels[1].read(offset, size),
            7 => self.channels[0].alternate_status(),
            9 => self.channels[1].alternate_status(),
            _ => u64::MAX,
        }
    }

    fn write_bar(&mut self, bar: usize, offset: u64, size: u8, value: u64) {
        let memory = &self.memory;
        match bar {
            MASTER_BAR => self.channels[(offset >> 3) as usize & 1].write_master(offset & 7, size, value, memory),
            6 => self.channels[0].write(offset, size, value, memory),
            8 => self.channels[1].write(offset, size, value, memory),
            7 => self.channels[0].write_control(value as u8),
            9 => self.channels[1].write_control(value as u8),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.channels.iter_mut().for_each(Channel::reset);
    }
}
