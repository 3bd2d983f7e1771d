//! What fuzz targets and the replay of their corpora call: each function takes any bytes and must return, in bounded time and
//! memory. With what chips are connected to meanwhile. Not part of the library's interface.

mod saved;
mod specimens;

use std::sync::{Arc, Mutex};

use ferro_guest::{BusDevice, Clock, GuestMemory, InterruptLine, NoInterrupt, Ram, Range, RangeKind};

use crate::dma::Dma;
use crate::fw_cfg::FwCfg;
use crate::i8042::{I8042, ResetLine};
use crate::ide::{IdeController, Position};
use crate::network::{FrameSink, Offloads};
use crate::pci::{ConfigPorts, HostBridge, IsaBridge, MsiSink, PciBus, PciFunction, PirqRouter, SharedFunction};
use crate::power::{PowerManagement, PowerRequest, PowerSwitch};
use crate::rtc::{Rtc, WallClock};
use crate::serial::{SerialOutput, Uart16550};
use crate::vga::{Surface, Vga, VideoMemory};
use crate::virtio::{
    Balloon, Block, Console, ConsoleOutput, Disk, DiskError, Entropy, MemoryReturn, Net, Rng, Tablet, VirtioDevice,
    VirtioPci,
};

pub use saved::{CHIPS, chip_state};

/// Everything that a chip can be connected to, doing nothing.
#[derive(Debug)]
pub struct Nothing;

impl Clock for Nothing {
    fn now(&self) -> u64 {
        123_456_789_012
    }
}
impl WallClock for Nothing {
    fn seconds(&self) -> i64 {
        1_800_000_000
    }
}
impl ResetLine for Nothing {
    fn reset(&self) {}
}
impl PowerSwitch for Nothing {
    fn request(&self, _request: PowerRequest) {}
}
impl SerialOutput for Nothing {
    fn send(&mut self, _byte: u8) {}
}
impl MsiSink for Nothing {
    fn send(&self, _address: u64, _data: u32) {}
}
impl FrameSink for Nothing {
    fn send(&mut self, _pair: usize, _packet: &[u8]) {}
    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }
}
impl ConsoleOutput for Nothing {
    fn write(&mut self, _bytes: &[u8]) {}
}
impl Entropy for Nothing {
    fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}
impl MemoryReturn for Nothing {
    fn give_back(&mut self, _address: u64, _len: u64) {}
}

/// A disk of so many bytes that checks what its device promises: every request is inside it.
#[derive(Debug)]
pub struct CheckedDisk(pub u64);

impl CheckedDisk {
    fn check(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.0), "{len} bytes at {offset} are outside");
        Ok(())
    }
}

impl Disk for CheckedDisk {
    fn size(&self) -> u64 {
        self.0
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.check(offset, into.len() as u64)?;
        // Every sector has other contents.
        into.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = (at ^ at >> 9) as u8);
        Ok(())
    }
    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.check(offset, from.len() as u64)
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.check(offset, len)
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, _may_unmap: bool) -> Result<(), DiskError> {
        self.check(offset, len)
    }
}

/// A mebibyte of guest memory.
///
/// # Panics
/// Without host memory for it.
pub fn memory() -> Arc<GuestMemory> {
    let ram = Ram::new(0x10_0000).expect("a mebibyte can be had");
    let range = Range { start: 0, len: 0x10_0000, offset: 0, kind: RangeKind::Ram };
    Arc::new(GuestMemory::new(ram, &[range]).expect("one range contradicts nothing"))
}

/// Accesses that one input can make at most.
const MAX_ACCESSES: usize = 20_000;

/// One access, as eight bytes of the input say it.
#[derive(Debug)]
struct Access {
    target: u8,
    write: bool,
    size: u8,
    offset: u64,
    value: u64,
}

/// The accesses that an input says.
fn accesses(bytes: &[u8]) -> impl Iterator<Item = Access> {
    bytes.chunks_exact(8).take(MAX_ACCESSES).map(|bytes| Access {
        target: bytes[0],
        write: bytes[1] & 1 != 0,
        size: 1 << (bytes[1] >> 1 & 3),
        offset: u64::from(u16::from_le_bytes([bytes[2], bytes[3]])),
        value: u64::from(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])) * 0x1_0000_0001,
    })
}

fn line() -> Arc<dyn InterruptLine> {
    Arc::new(NoInterrupt)
}

/// Accesses to the registers of every chip at fixed ports, and to configuration space.
pub fn registers(bytes: &[u8]) {
    let isa = IsaBridge::new(PirqRouter::new(std::array::from_fn(|_| line()), std::array::from_fn(|_| line())));
    let functions: Vec<(u8, SharedFunction)> =
        vec![(0, Arc::new(Mutex::new(HostBridge::default()))), (8, Arc::new(Mutex::new(isa)))];
    let mut chips: [(u64, Box<dyn BusDevice>); 7] = [
        (8, Box::new(Uart16550::new(line(), Box::new(Nothing)))),
        (2, Box::new(Rtc::new(line(), Arc::new(Nothing), Box::new(Nothing)))),
        (5, Box::new(I8042::new(Box::new(Nothing), line(), line()))),
        (0xe0, Box::<Dma>::default()),
        (12, Box::new(FwCfg::new(memory()))),
        (16, Box::new(PowerManagement::new(line(), Arc::new(Nothing), Box::new(Nothing)))),
        (8, Box::new(ConfigPorts::new(Arc::new(PciBus::new(functions))))),
    ];
    for Access { target, write, size, offset, value } in accesses(bytes) {
        let (span, chip) = &mut chips[usize::from(target) % 7];
        if write {
            chip.write(offset % *span, size, value);
        } else {
            chip.read(offset % *span, size);
        }
    }
}

fn access_windows(function: &mut dyn PciFunction, windows: &[(usize, u64)], bytes: &[u8]) {
    for Access { target, write, size, offset, value } in accesses(bytes) {
        let index = usize::from(target) % (windows.len() + 1);
        match (windows.get(index), write) {
            (Some((window, len)), true) => function.write_bar(*window, offset % len, size, value),
            (Some((window, len)), false) => _ = function.read_bar(*window, offset % len, size),
            (None, _) => function.write_config((offset % 256) as usize & !3, size.min(4), value as u32),
        }
    }
}

/// Accesses to an IDE controller with a disk and a CD-ROM drive; the beginning of the input is the guest's memory, where the
/// bus master finds its tables.
pub fn ide(bytes: &[u8]) {
    let memory = memory();
    let (tables, rest) = bytes.split_at(bytes.len().min(512));
    memory.write(0, tables);
    let mut ide = IdeController::new(memory, [line(), line()]);
    ide.attach_disk(Position { channel: 0, unit: 0 }, Box::new(CheckedDisk(1 << 20)), "disk");
    ide.attach_cdrom(Position { channel: 0, unit: 1 }, Some(Box::new(CheckedDisk(1 << 20))), "disc");
    access_windows(&mut ide, &[(6, 8), (6, 8), (6, 1), (7, 1), (4, 16)], rest);
}

/// Accesses to a VGA, which is drawn afterwards.
pub fn vga(bytes: &[u8]) {
    let mut vga = Vga::new(VideoMemory::new(memory(), 0x4_0000, 0x4_0000, true));
    let mut surface = Surface::default();
    for part in bytes.chunks(1024).take(16) {
        access_windows(&mut vga, &[(6, 0x1_0000), (7, 0x30), (7, 0x30), (8, 3), (2, 4096)], part);
        for rect in vga.update(&mut surface) {
            assert!(rect.x + rect.width <= surface.width() && rect.y + rect.height <= surface.height());
        }
        vga.contents();
    }
}

/// A virtio device whose driver's memory is the input: descriptors, rings, indirect tables and requests. Its first byte says
/// which device.
pub fn virtqueues(bytes: &[u8]) {
    let Some((kind, image)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => ring(Block::new(Box::new(CheckedDisk(1 << 20)), "x", 2), image),
        1 => ring(Net::new([2, 0, 0, 0, 0, 1], 1, Box::new(Nothing)), image),
        2 => ring(Console::new(Box::new(Nothing)), image),
        3 => ring(Rng::new(Box::new(Nothing)), image),
        4 => ring(Balloon::new(Box::new(Nothing)), image),
        _ => ring(Tablet::default(), image),
    }
}

/// Brings the device up with three queues of eight, whose parts lie 256 bytes apart, and rings for each.
fn ring<D: VirtioDevice>(device: D, image: &[u8]) {
    let memory = memory();
    memory.write(0, &image[..image.len().min(0x8_0000)]);
    let mut function = VirtioPci::new(device, memory, Arc::new(Nothing), line());
    bring_up(&mut function);
    for queue in 0..3 {
        function.write_bar(4, 0x3000 + 4 * queue, 2, queue);
    }
    function.act(|_, _, _| Ok(()));
    PciFunction::reset(&mut function);
}

/// Does what a driver does before its first request, with every feature that is offered.
fn bring_up<D: VirtioDevice>(function: &mut VirtioPci<D>) {
    for select in 0..2 {
        function.write_bar(4, 0x00, 4, select);
        let offered = function.read_bar(4, 0x04, 4);
        function.write_bar(4, 0x08, 4, select);
        function.write_bar(4, 0x0c, 4, offered);
    }
    function.write_bar(4, 0x14, 1, 0x0b);
    for queue in 0..3 {
        function.write_bar(4, 0x16, 2, queue);
        function.write_bar(4, 0x18, 2, 8);
        for (part, register) in [0x20, 0x28, 0x30].into_iter().enumerate() {
            function.write_bar(4, register, 8, 0x300 * queue + 0x100 * part as u64);
        }
        function.write_bar(4, 0x1c, 2, 1);
    }
    function.write_bar(4, 0x14, 1, 0x0f);
}
