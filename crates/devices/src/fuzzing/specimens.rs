//! Chips as the tests of saved states drive them: each with surroundings of its own (memory, time, interrupt lines) that can
//! be made the same for a second one, and a way to read random accesses that gets it into the middle of things.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ferro_guest::{BusDevice, Clock, GuestMemory, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

use super::{Access, CheckedDisk, Nothing, memory};
use crate::debug_port::{DebugPort, DebugSink};
use crate::dma::Dma;
use crate::fw_cfg::FwCfg;
use crate::i8042::I8042;
use crate::ide::{IdeController, Position};
use crate::pci::{ConfigPorts, HostBridge, IsaBridge, MsiSink, PciBus, PciFunction, PirqRouter, PowerFunction};
use crate::power::PowerManagement;
use crate::ps2::{Buttons, Key};
use crate::reset::{PortA, ResetControl};
use crate::rtc::{Rtc, WallClock};
use crate::serial::Uart16550;
use crate::sound::Ac97;
use crate::vga::{Surface, Vga, VideoMemory};
use crate::virtio::{Balloon, Block, Console, Net, Rng, Tablet, VirtioDevice, VirtioPci};

/// A chip with its surroundings.
pub(super) trait Specimen {
    /// Does what the access says; what was read.
    fn access(&mut self, access: &Access) -> u64;
    fn save(&self) -> Vec<u8>;
    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError>;
    fn surroundings(&self) -> &Surroundings;

    /// The levels of its interrupt lines.
    fn lines(&self) -> u64 {
        self.surroundings().lines.load(Ordering::Relaxed)
    }

    /// What stands for all messages that it sent since it was made, or since they were forgotten.
    fn messages(&self) -> u64 {
        self.surroundings().messages.load(Ordering::Relaxed)
    }

    fn forget_messages(&self) {
        self.surroundings().messages.store(0, Ordering::Relaxed);
    }

    /// Has the same memory and time as another.
    fn share_surroundings(&self, other: &dyn Specimen) {
        let (to, from) = (self.surroundings(), other.surroundings());
        to.now.store(from.now.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut bytes = vec![0; MEMORY];
        from.memory.read(0, &mut bytes);
        to.memory.write(0, &bytes);
    }
}

const MEMORY: usize = 0x10_0000;

/// What a chip is connected to.
#[derive(Clone)]
pub(super) struct Surroundings {
    memory: Arc<GuestMemory>,
    now: Arc<AtomicU64>,
    lines: Arc<AtomicU64>,
    messages: Arc<AtomicU64>,
}

/// One line, by its bit.
struct Line(Arc<AtomicU64>, u32);

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        if high {
            self.0.fetch_or(1 << self.1, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!(1 << self.1), Ordering::Relaxed);
        }
    }
}

struct Time(Arc<AtomicU64>);

impl Clock for Time {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl WallClock for Time {
    fn seconds(&self) -> i64 {
        1_800_000_000 + (self.now() / 1_000_000_000) as i64
    }
}

struct Messages(Arc<AtomicU64>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        let mut hasher = DefaultHasher::new();
        (self.0.load(Ordering::Relaxed), address, data).hash(&mut hasher);
        self.0.store(hasher.finish(), Ordering::Relaxed);
    }
}

impl DebugSink for Nothing {
    fn line(&mut self, _text: &str) {}
}

impl Surroundings {
    fn new() -> Self {
        let memory = memory();
        // Addresses, lengths and flags that are plausible often enough.
        let mut mixed = 1_u64;
        for address in (0..0x4_0000).step_by(8) {
            mixed = mixed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            memory.store(address, (mixed >> 7) & 0x8003_00ff_0003_ffff).expect("it is memory");
        }
        Self { memory, now: Arc::new(AtomicU64::new(5_000_000_123)), lines: Arc::default(), messages: Arc::default() }
    }

    fn line(&self, number: u32) -> Arc<dyn InterruptLine> {
        Arc::new(Line(self.lines.clone(), number))
    }

    fn time(&self) -> Time {
        Time(self.now.clone())
    }
}

struct Tested<T> {
    chip: T,
    access: fn(&mut T, &Access) -> u64,
    surroundings: Surroundings,
}

impl<T: SaveState> Specimen for Tested<T> {
    fn access(&mut self, access: &Access) -> u64 {
        // Up to a quarter of a second.
        self.surroundings.now.fetch_add(u64::from(access.target) << 20, Ordering::Relaxed);
        (self.access)(&mut self.chip, access)
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = StateWriter::new();
        self.chip.save(&mut writer);
        writer.finish()
    }

    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.chip.load(T::VERSION, from)
    }

    fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }
}

/// How many there are.
pub(super) const KINDS: u8 = 21;

/// The chip with this number, as it is after power-on.
pub(super) fn specimen(kind: u8) -> Box<dyn Specimen> {
    let around = Surroundings::new();
    let line = |number| around.line(number);
    match kind {
        0 => tested(Uart16550::new(line(0), Box::new(Nothing)), uart, &around),
        1 => tested(Rtc::new(line(0), Arc::new(around.time()), Box::new(around.time())), rtc, &around),
        2 => tested(I8042::new(Box::new(Nothing), line(0), line(1)), i8042, &around),
        3 => tested(Dma::default(), port::<_, 0xe0>, &around),
        4 => tested(fw_cfg(&around), port::<_, 12>, &around),
        5 => tested(ResetControl::new(Box::new(Nothing)), port::<_, 1>, &around),
        6 => tested(PortA::new(Box::new(Nothing)), port::<_, 1>, &around),
        7 => tested(DebugPort::new(Box::new(Nothing)), port::<_, 1>, &around),
        8 => tested(config_ports(), port::<_, 8>, &around),
        9 => tested(HostBridge::default(), |bridge, access| function(bridge, access, &[]), &around),
        10 => tested(isa_bridge(&around), |bridge, access| function(bridge, access, &[]), &around),
        11 => tested(power(&around), power_access, &around),
        12 => tested(ide(&around), ide_access, &around),
        13 => tested(Vga::new(VideoMemory::new(around.memory.clone(), 0x4_0000, 0x4_0000, true)), vga, &around),
        14 => tested(Ac97::new(around.memory.clone(), line(0)), sound, &around),
        15 => virtio(Block::new(Box::new(CheckedDisk(1 << 20)), "x", 2), |_, _| {}, &around),
        16 => virtio(Net::new([2, 0, 0, 0, 0, 1], 1, Box::new(Nothing)), receive_frame, &around),
        17 => virtio(Console::new(Box::new(Nothing)), receive_text, &around),
        18 => virtio(Rng::new(Box::new(Nothing)), |_, _| {}, &around),
        19 => virtio(Balloon::new(Box::new(Nothing)), set_target, &around),
        _ => virtio(Tablet::default(), point, &around),
    }
}

fn tested<T: SaveState + 'static>(
    chip: T,
    access: fn(&mut T, &Access) -> u64,
    surroundings: &Surroundings,
) -> Box<dyn Specimen> {
    Box::new(Tested { chip, access, surroundings: surroundings.clone() })
}

fn port<T: BusDevice, const SPAN: u64>(chip: &mut T, access: &Access) -> u64 {
    let offset = access.offset % SPAN;
    if access.write {
        chip.write(offset, access.size, access.value);
        return 0;
    }
    chip.read(offset, access.size)
}

/// Accesses to a function's windows, and to its configuration space; the command register stays on.
fn function(chip: &mut dyn PciFunction, access: &Access, windows: &[(usize, u64)]) -> u64 {
    let &Access { target, write, size, offset, value } = access;
    match (windows.get(usize::from(target) % (windows.len() + 1)), write) {
        (Some((window, len)), true) => chip.write_bar(*window, offset % len, size, value),
        (Some((window, len)), false) => return chip.read_bar(*window, offset % len, size),
        (None, true) => chip.write_config((offset % 256) as usize & !3, size.min(4), value as u32),
        (None, false) => return chip.read_config((offset % 256) as usize & !3, size.min(4)).into(),
    }
    0
}

fn uart(chip: &mut Uart16550, access: &Access) -> u64 {
    match access.target % 16 {
        0 => chip.receive_break(),
        1 | 2 => chip.receive(&access.value.to_le_bytes()[..usize::from(access.size)]),
        _ => return port::<_, 8>(chip, access),
    }
    chip.room() as u64
}

fn rtc(chip: &mut Rtc, access: &Access) -> u64 {
    chip.advance();
    // The registers that mean something, most of the time.
    if access.offset & 1 == 0 && access.target & 3 != 0 {
        chip.write(0, 1, access.value % 14);
    }
    port::<_, 2>(chip, access) ^ chip.deadline().unwrap_or(1)
}

fn i8042(chip: &mut I8042, access: &Access) -> u64 {
    const KEYS: [&str; 4] = ["a", "up", "pause", "ctrl"];
    const COMMANDS: [u8; 16] =
        [0xed, 0xf0, 0xf3, 0xf2, 0xf4, 0xf5, 0xe9, 0xeb, 0xf3, 200, 100, 80, 0xf0, 0xf8, 0xfa, 0xfc];
    let byte = u64::from(COMMANDS[access.value as usize % COMMANDS.len()]);
    match access.target % 8 {
        0 => {
            let name = KEYS[access.value as usize % 4];
            return Key::from_name(name).is_some_and(|key| chip.key(key, access.write)).into();
        }
        1 => {
            let [dx, dy, wheel, bits, ..] = access.value.to_le_bytes().map(|byte| byte as i8);
            let buttons = Buttons { left: bits & 1 != 0, side: bits & 2 != 0, ..Buttons::default() };
            chip.move_mouse(dx.into(), dy.into(), (wheel & 3).into(), buttons);
        }
        // A command to the keyboard, one to the mouse, and its parameter.
        2 => chip.write(0, 1, byte),
        3 => {
            chip.write(4, 1, 0xd4);
            chip.write(0, 1, byte);
        }
        4 => chip.write(0, 1, access.value & 3),
        5 => return chip.read(0, 1),
        _ => return port::<_, 5>(chip, access),
    }
    u64::from(chip.lamps())
}

fn fw_cfg(around: &Surroundings) -> FwCfg {
    let mut chip = FwCfg::new(around.memory.clone());
    chip.add_file("etc/one", (0..200).collect());
    chip
}

fn config_ports() -> ConfigPorts {
    ConfigPorts::new(Arc::new(PciBus::new(vec![(0, Arc::new(Mutex::new(HostBridge::default())))])))
}

fn isa_bridge(around: &Surroundings) -> IsaBridge {
    let direct = std::array::from_fn(|wire| around.line(wire as u32));
    let router = PirqRouter::new(direct, std::array::from_fn(|irq| around.line(16 + irq as u32)));
    router.line(2, 0).set_level(true);
    IsaBridge::new(router)
}

fn power(around: &Surroundings) -> PowerFunction {
    let clock = Arc::new(around.time());
    PowerFunction::new(PowerManagement::new(around.line(0), clock, Box::new(Nothing)))
}

fn power_access(chip: &mut PowerFunction, access: &Access) -> u64 {
    if access.target.is_multiple_of(16) {
        chip.registers().press_power_button();
    }
    function(chip, access, &[(6, 0x40), (6, 0x10)]) ^ chip.fixed_windows().first().map_or(0, |window| window.start)
}

fn ide(around: &Surroundings) -> IdeController {
    let mut chip = IdeController::new(around.memory.clone(), [around.line(0), around.line(1)]);
    chip.attach_disk(Position { channel: 0, unit: 0 }, Box::new(CheckedDisk(1 << 20)), "disk");
    chip.attach_cdrom(Position { channel: 0, unit: 1 }, Some(Box::new(CheckedDisk(1 << 20))), "disc");
    chip.attach_cdrom(Position { channel: 1, unit: 0 }, None, "empty");
    chip
}

fn ide_access(chip: &mut IdeController, access: &Access) -> u64 {
    const COMMANDS: [u8; 16] =
        [0x20, 0x24, 0x25, 0x30, 0x34, 0x35, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xec, 0xa0, 0xa0, 0xa0, 0xa1];
    const PACKETS: [u8; 14] = [0x00, 0x03, 0x12, 0x25, 0x28, 0x28, 0x28, 0x4a, 0x5a, 0xa8, 0xbe, 0xbd, 0x1b, 0x1e];
    let bytes = access.value.to_le_bytes();
    let place = Position { channel: 0, unit: 1 };
    match access.target % 32 {
        // A command to a sector that is there, often enough.
        0..4 => {
            chip.write_bar(6, 6, 1, 0x40 | u64::from(access.write) << 4);
            (1..5).for_each(|register| chip.write_bar(6, register, 1, (bytes[register as usize % 4] & 0x1f).into()));
            chip.write_bar(6, 5, 1, 0);
            chip.write_bar(6, 7, 1, COMMANDS[access.offset as usize % 16].into());
        }
        // A packet to the drive, and the beginning of its answer.
        4..14 => {
            chip.write_bar(6, 6, 1, 0x10);
            let limit = [0, bytes[0], 0, 0, 2, 0, access.size, 0];
            (1..6).for_each(|register| chip.write_bar(6, register, 1, limit[register as usize].into()));
            chip.write_bar(6, 1, 1, u64::from(access.write));
            chip.write_bar(6, 7, 1, 0xa0);
            let mut packet = [0; 12];
            packet[0] = PACKETS[access.offset as usize % 14];
            (packet[5], packet[8], packet[4]) = (bytes[0] & 0x1f, bytes[1] & 3, bytes[2]);
            packet.chunks(2).for_each(|pair| chip.write_bar(6, 0, 2, u16::from_le_bytes([pair[0], pair[1]]).into()));
            return (0..access.offset % 700).fold(0, |all, _| all ^ chip.read_bar(6, 0, 2));
        }
        // The data port a few times.
        14..20 if access.write => (0..access.offset % 300).for_each(|_| chip.write_bar(6, 0, 4, access.value)),
        14..20 => {
            return (0..access.offset % 300).fold(0, |all, _| all ^ chip.read_bar(6, 0, access.size.min(4)));
        }
        20..22 => {
            chip.write_bar(4, 4, 4, access.value & 0x3_fffc);
            chip.write_bar(4, 0, 1, u64::from(access.write) << 3 | 1);
        }
        22 => {
            chip.write_bar(4, 0, 1, 0);
            // The disc is the board's: both chips have it in the end.
            let ejected = chip.eject(place, access.write);
            return ejected.is_ok_and(|disc| disc.is_some_and(|disc| chip.insert(place, disc, true).is_ok())).into();
        }
        23 => return chip.insert(place, Box::new(CheckedDisk(0x10_0000)), access.write).is_ok().into(),
        _ => return function(chip, access, &[(6, 8), (6, 8), (7, 1), (4, 16), (8, 8), (9, 1)]),
    }
    0
}

fn vga(chip: &mut Vga, access: &Access) -> u64 {
    match access.target % 32 {
        0 => {
            let mut surface = Surface::default();
            chip.invalidate();
            chip.update(&mut surface);
            let mut hasher = DefaultHasher::new();
            for y in 0..surface.height() {
                surface.row(y).hash(&mut hasher);
            }
            hasher.finish()
        }
        1 => {
            // A mode that is plausible.
            for (register, value) in [(1, access.offset % 40 * 8), (2, access.value % 300), (3, 8), (4, 0x41)] {
                chip.write_bar(8, 0, 2, register);
                chip.write_bar(8, 1, 2, value);
            }
            0
        }
        _ => function(chip, access, &[(6, 0x1_0000), (7, 0x30), (7, 0x30), (8, 3), (2, 4096)]),
    }
}

fn sound(chip: &mut Ac97, access: &Access) -> u64 {
    match access.target % 16 {
        0..4 => {
            let mut frames = [[0; 2]; 64];
            chip.play(&mut frames);
            let mut hasher = DefaultHasher::new();
            frames.hash(&mut hasher);
            hasher.finish()
        }
        4 => {
            chip.write_bar(0, 0x2a, 2, 1);
            chip.write_bar(0, 0x2c, 2, access.value & 0xffff);
            chip.write_bar(0, 0x02, 2, 0);
            chip.write_bar(0, 0x18, 2, 0x0808);
            chip.write_bar(1, 0x10, 4, access.value & 0x3_ffff);
            chip.write_bar(1, 0x15, 1, access.offset);
            chip.write_bar(1, 0x1b, 1, 0x1d);
            0
        }
        _ => function(chip, access, &[(1, 0x40), (1, 0x40), (0, 0x80)]),
    }
}

/// A virtio device whose driver has brought it up with three queues of eight.
fn virtio<D: VirtioDevice + SaveState + 'static>(
    device: D,
    act: fn(&mut VirtioPci<D>, &Access),
    around: &Surroundings,
) -> Box<dyn Specimen> {
    let sink = Arc::new(Messages(around.messages.clone()));
    let mut chip = VirtioPci::new(device, around.memory.clone(), sink, around.line(0));
    super::bring_up(&mut chip);
    let tested = VirtioTested { tested: Tested { chip, access: virtio_access, surroundings: around.clone() }, act };
    Box::new(tested)
}

/// A virtio device, and what comes to it from its other side.
struct VirtioTested<D> {
    tested: Tested<VirtioPci<D>>,
    act: fn(&mut VirtioPci<D>, &Access),
}

impl<D: VirtioDevice + SaveState> Specimen for VirtioTested<D> {
    fn access(&mut self, access: &Access) -> u64 {
        match access.target % 16 {
            0 => (self.act)(&mut self.tested.chip, access),
            1 => self.tested.chip.ring(),
            // The driver makes a buffer available, or doesn't want to hear of it.
            2..5 => {
                let (queue, entry) = (access.offset % 3, access.value & 0xffff);
                let driver = 0x300 * queue + 0x100;
                let memory = &self.tested.surroundings.memory;
                let next = memory.load::<u16>(driver + 2).unwrap_or(0);
                memory.store(driver + 4 + 2 * u64::from(next % 8), (entry % 8) as u16);
                memory.store(driver + 2, next.wrapping_add(1));
                memory.store(driver, u16::from(access.write));
                self.tested.chip.write_bar(4, 0x3000 + 4 * queue, 2, queue);
            }
            5 if access.write => super::bring_up(&mut self.tested.chip),
            _ => return self.tested.access(access),
        }
        0
    }

    fn save(&self) -> Vec<u8> {
        self.tested.save()
    }

    fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.tested.load(from)
    }

    fn surroundings(&self) -> &Surroundings {
        &self.tested.surroundings
    }
}

fn virtio_access<D: VirtioDevice>(chip: &mut VirtioPci<D>, access: &Access) -> u64 {
    function(chip, access, &[(4, 0x40), (4, 0x4000), (1, 0x80), (1, 0x1000)])
}

fn receive_frame(chip: &mut VirtioPci<Net>, access: &Access) {
    if access.write {
        chip.config_changed(|card| card.set_link(access.value & 3 != 0));
    } else {
        chip.act(|card, queues, memory| {
            card.receive(0, &mut [access.value as u8; 90][..30 + usize::from(access.size)], queues, memory)
        });
    }
}

fn receive_text(chip: &mut VirtioPci<Console>, access: &Access) {
    chip.act(|console, queues, memory| console.receive(&access.value.to_le_bytes(), queues, memory));
}

fn set_target(chip: &mut VirtioPci<Balloon>, access: &Access) {
    chip.config_changed(|balloon| balloon.set_target(access.value as u32));
}

fn point(chip: &mut VirtioPci<Tablet>, access: &Access) {
    let at = (access.offset as u16, access.value as u16);
    let buttons = Buttons { left: access.write, right: access.size == 4, ..Buttons::default() };
    chip.act(|tablet, queues, memory| tablet.point(at, i32::from(access.size) - 2, buttons, queues, memory));
}
