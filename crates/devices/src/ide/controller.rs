//! The PIIX3's IDE function (8086:7010; Intel 290550, section 2.6): two channels at their traditional ports, and the
//! bus-master registers behind a base address register.

use std::sync::Arc;

use ferro_guest::{GuestMemory, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

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

/// Commands that wait for the guest or the bus master are saved in the middle; no other ever is. The images behind the units
/// are the board's: those that it loads into have to be the same.
impl SaveState for IdeController {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.config.save(into);
        self.channels.iter().for_each(|channel| channel.save(into));
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.config.load(from)?;
        self.channels.iter_mut().try_for_each(|channel| channel.load(from))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use ferro_guest::{Ram, Range, RangeKind};

    use super::*;
    use crate::virtio::DiskError;

    /// Bytes that several hold.
    #[derive(Clone)]
    struct Bytes(Arc<Mutex<Vec<u8>>>);

    impl Bytes {
        /// Each sector of 512 bytes is filled with its number.
        fn numbered(sectors: usize) -> Self {
            Self(Arc::new(Mutex::new((0..sectors * 512).map(|at| (at / 512) as u8).collect())))
        }
    }

    impl Disk for Bytes {
        fn size(&self) -> u64 {
            self.0.lock().unwrap().len() as u64
        }
        fn is_read_only(&self) -> bool {
            false
        }
        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
            into.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..into.len()]);
            Ok(())
        }
        fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
            self.0.lock().unwrap()[offset as usize..][..from.len()].copy_from_slice(from);
            Ok(())
        }
        fn flush(&mut self) -> Result<(), DiskError> {
            Ok(())
        }
        fn discard(&mut self, _offset: u64, _len: u64) -> Result<(), DiskError> {
            Ok(())
        }
        fn write_zeroes(&mut self, _offset: u64, _len: u64, _may_unmap: bool) -> Result<(), DiskError> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Level(AtomicBool);

    impl InterruptLine for Level {
        fn set_level(&self, high: bool) {
            self.0.store(high, Ordering::Relaxed);
        }
    }

    const DISK: Position = Position { channel: 0, unit: 0 };
    const DISC: Position = Position { channel: 1, unit: 0 };

    struct Board {
        ide: IdeController,
        memory: Arc<GuestMemory>,
        disk: Bytes,
        lines: [Arc<Level>; 2],
    }

    /// A disk of 300 sectors, and a disc of 16.
    fn board() -> Board {
        let range = Range { start: 0, len: 0x4_0000, offset: 0, kind: RangeKind::Ram };
        let memory = Arc::new(GuestMemory::new(Ram::new(0x4_0000).unwrap(), &[range]).unwrap());
        let lines: [Arc<Level>; 2] = Default::default();
        let mut ide =
            IdeController::new(memory.clone(), lines.each_ref().map(|line| line.clone() as Arc<dyn InterruptLine>));
        let disk = Bytes::numbered(300);
        ide.attach_disk(DISK, Box::new(disk.clone()), "serial-1");
        ide.attach_cdrom(DISC, Some(Box::new(Bytes::numbered(64))), "disc");
        Board { ide, memory, disk, lines }
    }

    impl Board {
        /// Writes features, count, the address from low to high, device and command.
        fn command(&mut self, bar: usize, registers: [u8; 7]) -> u8 {
            for (index, value) in registers.into_iter().enumerate() {
                self.ide.write_bar(bar, index as u64 + 1, 1, value.into());
            }
            self.ide.read_bar(bar + 1, 0, 1) as u8
        }

        fn words(&mut self, bar: usize, bytes: usize) -> Vec<u8> {
            (0..bytes / 2).flat_map(|_| (self.ide.read_bar(bar, 0, 2) as u16).to_le_bytes()).collect()
        }

        fn packet(&mut self, packet: &[u8], limit: u16) -> u8 {
            let [low, high] = limit.to_le_bytes();
            assert_eq!(self.command(8, [0, 0, 0, low, high, 0, 0xa0]) & 0x89, 8);
            let mut padded = packet.to_vec();
            padded.resize(12, 0);
            for pair in padded.chunks(2) {
                self.ide.write_bar(8, 0, 2, u64::from(u16::from_le_bytes([pair[0], pair[1]])));
            }
            self.ide.read_bar(8, 7, 1) as u8
        }
    }

    #[test]
    fn a_disk_says_what_it_is_and_what_isnt_there_says_nothing() {
        let mut board = board();
        assert_eq!(board.command(6, [0, 0, 0, 0, 0, 0, 0xec]) & 0x89, 8);
        assert!(board.lines[0].0.load(Ordering::Relaxed));
        let said = board.words(6, 512);
        assert_eq!(&said[20..28], b"esirla1-", "text has its bytes swapped");
        assert_eq!(u16::from_le_bytes([said[120], said[121]]), 300);
        assert_eq!(board.ide.read_bar(6, 7, 1) & 0x89, 0);
        assert!(!board.lines[0].0.load(Ordering::Relaxed), "reading the status takes the interrupt back");
        board.ide.write_bar(6, 6, 1, 0x10);
        assert_eq!((board.ide.read_bar(6, 7, 1), board.ide.read_bar(6, 0, 2)), (0, 0), "no slave");
    }

    #[test]
    fn sectors_are_addressed_by_cylinders_by_28_and_by_48_bits() {
        let mut board = board();
        for (registers, first) in [
            ([0, 1, 1, 0, 0, 0x00, 0x20], 0),
            ([0, 1, 3, 0, 0, 0x01, 0x20], 63 + 2),
            ([0, 2, 200, 0, 0, 0x40, 0x20], 200),
        ] {
            assert_eq!(board.command(6, registers) & 0x89, 8, "{registers:?}");
            assert_eq!(board.words(6, 512), vec![first; 512]);
            if registers[1] == 2 {
                assert_eq!(board.words(6, 512), vec![first + 1; 512]);
            }
            assert_eq!(board.ide.read_bar(6, 7, 1) & 0x89, 0);
        }
        // What is written first are the high halves.
        (1..6).for_each(|register| board.ide.write_bar(6, register, 1, 0));
        assert_eq!(board.command(6, [0, 1, 43, 1, 0, 0x40, 0x24]) & 0x89, 8);
        assert_eq!(board.words(6, 512), vec![43; 512], "299 in a byte");
        board.ide.write_bar(6, 3, 1, 1);
        assert_eq!(board.command(6, [0, 1, 43, 1, 0, 0x40, 0x24]) & 0x89, 1, "16 million sectors further");
        assert_eq!(board.command(6, [0, 2, 43, 1, 0, 0x40, 0x20]) & 0x89, 1, "past the end");
        assert_eq!(board.ide.read_bar(6, 1, 1), 0x14);
    }

    #[test]
    fn data_is_written_by_sectors_and_by_multiples() {
        let mut board = board();
        assert_eq!(board.command(6, [0, 4, 0, 0, 0, 0x40, 0xc5]) & 1, 1, "no multiple is set");
        assert_eq!(board.command(6, [0, 2, 0, 0, 0, 0x40, 0xc6]) & 1, 0);
        for (command, value) in [(0x30, 0xaa), (0xc5, 0xbb)] {
            board.command(6, [0, 3, 10, 0, 0, 0x40, command]);
            (0..3 * 128).for_each(|_| board.ide.write_bar(6, 0, 4, u64::from(value) * 0x0101_0101));
            assert_eq!(board.ide.read_bar(6, 7, 1) & 0x89, 0);
            let bytes = board.disk.0.lock().unwrap();
            assert!(bytes[10 * 512..13 * 512].iter().all(|byte| *byte == value) && bytes[13 * 512] == 13);
        }
    }

    #[test]
    fn the_bus_master_moves_sectors_by_its_table() {
        let mut board = board();
        // Two sectors to two places that don't end where sectors do.
        board.memory.store(0x1000, 0x8000_u64 | 700 << 32).unwrap();
        board.memory.store(0x1008, 0x9000_u64 | 324 << 32 | 1 << 63).unwrap();
        board.ide.write_bar(4, 4, 4, 0x1000);
        board.command(6, [0, 2, 5, 0, 0, 0x40, 0xc8]);
        assert!(!board.lines[0].0.load(Ordering::Relaxed));
        board.ide.write_bar(4, 0, 1, 9);
        assert_eq!(board.ide.read_bar(4, 2, 1) & 7, 4, "done, with an interrupt");
        assert!(board.lines[0].0.load(Ordering::Relaxed));
        let mut bytes = [0; 1024];
        board.memory.read(0x8000, &mut bytes[..700]);
        board.memory.read(0x9000, &mut bytes[700..]);
        assert_eq!((bytes[511], bytes[512], bytes[1023]), (5, 6, 6));
        board.ide.write_bar(4, 0, 1, 0);
        board.ide.write_bar(4, 2, 1, 6);
        // A table that is too short.
        board.memory.store(0x1000, 0x8000_u64 | 512 << 32 | 1 << 63).unwrap();
        board.ide.write_bar(4, 0, 1, 1);
        board.command(6, [0, 2, 20, 0, 0, 0x40, 0xca]);
        assert_eq!(board.ide.read_bar(4, 2, 1) & 7, 6);
        assert_eq!(board.ide.read_bar(6, 7, 1) & 0x89, 1);
    }

    #[test]
    fn a_disc_is_read_in_the_pieces_that_the_host_wants() {
        let mut board = board();
        assert_eq!(board.ide.read_bar(8, 5, 1) << 8 | board.ide.read_bar(8, 4, 1), 0xeb14);
        assert_eq!(board.packet(&[0x25], 8) & 0x89, 8);
        assert_eq!(board.words(8, 8), [0, 0, 0, 15, 0, 0, 8, 0]);
        assert_eq!(board.packet(&[0x28, 0, 0, 0, 0, 3, 0, 0, 2], 2048) & 0x89, 8);
        assert_eq!((board.ide.read_bar(8, 2, 1), board.ide.read_bar(8, 5, 1)), (2, 8));
        assert_eq!(board.words(8, 2048)[..], [[12; 512], [13; 512], [14; 512], [15; 512]].concat());
        assert_eq!(board.ide.read_bar(8, 7, 1) & 0x89, 8);
        assert_eq!(board.words(8, 2048)[0], 16);
        assert_eq!((board.ide.read_bar(8, 7, 1) & 0x89, board.ide.read_bar(8, 2, 1)), (0, 3));
        assert_eq!(board.packet(&[0x28, 0, 0, 0, 0, 15, 0, 0, 2], 2048) & 1, 1);
        assert_eq!(board.packet(&[3, 0, 0, 0, 18], 18) & 0x89, 8);
        let sense = board.words(8, 18);
        assert_eq!((sense[2], sense[12]), (5, 0x21));
    }

    #[test]
    fn discs_change_and_locked_trays_stay_shut() {
        let mut board = board();
        assert_eq!(board.packet(&[0x1e, 0, 0, 0, 1], 0) & 1, 0);
        assert!(matches!(board.ide.eject(DISC, false), Err(TrayError::Locked)));
        assert_eq!(board.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8) & 0x89, 8);
        assert_eq!(board.words(8, 8)[4..6], [1, 2], "the guest is asked to let it go");
        assert_eq!(board.packet(&[0x1e], 0) & 1, 0);
        assert!(matches!(board.ide.eject(DISC, false), Ok(Some(_))));
        assert_eq!(board.packet(&[0], 0) & 1, 1);
        board.ide.insert(DISC, Box::new(Bytes::numbered(8)), false).unwrap();
        assert_eq!(board.packet(&[0], 0) & 1, 1, "told once that it changed");
        assert_eq!(board.packet(&[0], 0) & 1, 0);
        assert_eq!(board.packet(&[0x1b, 0, 0, 0, 2], 0) & 1, 0);
        assert_eq!(board.ide.medium(DISC), Ok(MediumState { inserted: true, open: true, locked: false }));
        assert_eq!(board.packet(&[0x1b, 0, 0, 0, 3], 0) & 1, 0);
        assert!(matches!(board.ide.eject(DISK, true), Err(TrayError::NoDrive)));
    }

    #[test]
    fn a_soft_reset_shows_the_signatures() {
        let mut board = board();
        board.command(6, [0, 1, 0, 0, 0, 0x40, 0x30]);
        board.ide.write_bar(7, 0, 1, 4);
        board.ide.write_bar(7, 0, 1, 2);
        let signature: Vec<u64> = (1..6).map(|register| board.ide.read_bar(6, register, 1)).collect();
        assert_eq!(signature, [1, 1, 1, 0, 0]);
        board.command(6, [0, 1, 0, 0, 0, 0x40, 0xec]);
        assert!(!board.lines[0].0.load(Ordering::Relaxed), "interrupts are off");
    }
}
