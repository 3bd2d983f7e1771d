//! Building the board from a description: each chip by a small function, wired to its interrupt, its backend and its
//! place on the bus.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ferro_devices::debug_port::{self, DebugPort, DebugSink};
use ferro_devices::dma::Dma;
use ferro_devices::fw_cfg;
use ferro_devices::i8042::I8042;
use ferro_devices::ide::{IdeController, Position};
use ferro_devices::network::FrameSink;
use ferro_devices::pci::{
    ConfigPorts, HostBridge, IsaBridge, MsiSink, PciBus, PciFunction, PirqRouter, PowerFunction, SharedFunction,
};
use ferro_devices::power::PowerManagement;
use ferro_devices::reset::{self, PortA, ResetControl};
use ferro_devices::rtc::{Rtc, WallClock};
use ferro_devices::serial::Uart16550;
use ferro_devices::sound::Ac97;
use ferro_devices::vga::{self, Vga, VideoMemory};
use ferro_devices::virtio::{
    Balloon, Block, Console, Disk, Entropy, MemoryReturn, Net, Rng, Tablet, VirtioDevice, VirtioPci,
};
use ferro_guest::{BusDevice, Clock, GuestMemory, SaveState};
use ferro_hypervisor::{Vm, VmClock};
use tracing::debug;

use crate::boot::AcpiBoard;
use crate::boot_order::BootDevice;
use crate::bus::{MachineBus, Shared, lock};
use crate::control::{Control, Switch};
use crate::description::{DiskDescription, DiskInterface, MacAddress, SerialTarget, VmDescription};
use crate::disk::StorageDisk;
use crate::firmware::{Bootable, Firmware, Told, configure, set_up_cmos};
use crate::image::DiskImage;
use crate::layout::{self, Arena};
use crate::memory_map::{MemoryMap, VideoWindow};
use crate::monitor::{Drive, DriveKind};
use crate::network::Card;
use crate::serial::{Outgoing, Sender};
use crate::sound::AudioTarget;
use crate::state::NamedChip;

/// A disk as the board gets it: described, and opened unless it is an empty drive.
pub(crate) struct OpenDisk {
    pub(crate) description: DiskDescription,
    pub(crate) image: Option<DiskImage>,
}

impl OpenDisk {
    /// What a chip gets of it.
    fn backend(&self) -> Option<Box<dyn Disk>> {
        let DiskDescription { file, read_only, .. } = &self.description;
        let storage = self.image.as_ref()?.storage.clone();
        Some(Box::new(StorageDisk::new(file.clone(), storage, *read_only)))
    }
}

/// A network card as the board gets it.
pub(crate) struct OpenNet {
    pub(crate) mac: MacAddress,
    /// Pairs of queues.
    pub(crate) queues: u16,
    pub(crate) sink: Box<dyn FrameSink>,
}

/// The parts of a board that others reach after it is built.
pub(crate) struct Board {
    pub(crate) acpi: AcpiBoard,
    pub(crate) bus: Arc<MachineBus>,
    pub(crate) pci: Arc<PciBus>,
    bridge: Shared<HostBridge>,
    pub(crate) power: Shared<PowerFunction>,
    pub(crate) ide: Shared<IdeController>,
    pub(crate) vga: Option<Shared<Vga>>,
    pub(crate) keyboard: Shared<I8042>,
    pub(crate) sound: Option<Shared<Ac97>>,
    pub(crate) tablet: Option<Shared<VirtioPci<Tablet>>>,
    map: Arc<MemoryMap>,
    pub(crate) serial: Shared<Uart16550>,
    pub(crate) serial_out: Arc<Outgoing>,
    pub(crate) balloon: Shared<VirtioPci<Balloon>>,
    pub(crate) drives: Arc<[Drive]>,
    pub(crate) console: Option<(Shared<VirtioPci<Console>>, Arc<Outgoing>)>,
    pub(crate) rtc: Shared<Rtc>,
    pub(crate) cards: Vec<Card>,
    /// The PCI numbers of the functions whose work is worth a thread.
    pub(crate) busy: Vec<u8>,
    /// Every chip with the name of its section in a saved VM.
    pub(crate) chips: Vec<NamedChip>,
}

struct HostTime;

impl WallClock for HostTime {
    fn seconds(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
    }
}

/// The VM's clock taken for the time of day: of a VM whose runs repeat.
struct RepeatingTime(Arc<dyn Clock>);

impl WallClock for RepeatingTime {
    fn seconds(&self) -> i64 {
        // 2026-01-01 00:00 UTC.
        const BEGIN: i64 = 1_767_225_600;
        BEGIN + (self.0.now() / 1_000_000_000) as i64
    }
}

struct Messages(Arc<dyn Vm>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.signal_msi(address, data);
    }
}

/// The host's random numbers.
struct HostEntropy(File);

impl Entropy for HostEntropy {
    fn fill(&mut self, buffer: &mut [u8]) {
        use std::io::Read;
        // The kernel's generator doesn't run dry; should it be taken away, the guest gets zeros and its own mixing.
        let _ = self.0.read_exact(buffer);
    }
}

/// The same bytes in every run (SplitMix64's).
struct RepeatingEntropy(u64);

impl Entropy for RepeatingEntropy {
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

struct FreePages(Arc<GuestMemory>);

impl MemoryReturn for FreePages {
    fn give_back(&mut self, address: u64, len: u64) {
        const PAGE: u64 = ferro_guest::PAGE_SIZE as u64;
        let Some(found) = self.0.find(address) else { return };
        let len = len.min(found.len) / PAGE * PAGE;
        if address.is_multiple_of(PAGE) && found.kind == ferro_guest::RangeKind::Ram {
            // Memory that the host doesn't take back stays as it is, which is allowed.
            let _ = self.0.ram().discard(found.offset, len as usize);
        }
    }
}

/// PCI functions with their places and interrupts.
struct Slots {
    vm: Arc<dyn Vm>,
    router: Arc<PirqRouter>,
    functions: Vec<(u8, SharedFunction)>,
    chips: Vec<NamedChip>,
    next: u8,
}

impl Slots {
    fn new(vm: &Arc<dyn Vm>) -> Self {
        let direct = std::array::from_fn(|wire| vm.line(layout::PCI_IRQ + wire as u32));
        let router = PirqRouter::new(direct, std::array::from_fn(|irq| vm.line(irq as u32)));
        Self { vm: vm.clone(), router, functions: vec![], chips: vec![], next: layout::FIRST_FREE_SLOT }
    }

    /// Adds a function; `name` is what its section in a saved VM is called, together with its place.
    fn add<F: PciFunction + SaveState + 'static>(
        &mut self,
        name: &str,
        (slot, function): (u8, u8),
        device: F,
    ) -> Shared<F> {
        let device = Arc::new(Mutex::new(device));
        self.functions.push((slot << 3 | function, device.clone()));
        self.chips.push((format!("{name}@{slot:x}.{function}"), device.clone()));
        device
    }

    fn add_virtio<D: VirtioDevice + SaveState + 'static>(
        &mut self,
        name: &str,
        device: D,
    ) -> (u8, Shared<VirtioPci<D>>) {
        let slot = self.next;
        self.next += 1;
        let sink = Arc::new(Messages(self.vm.clone()));
        let line = self.router.line(slot, 0);
        let mut function = VirtioPci::new(device, self.vm.memory().clone(), sink, line);
        function.config_mut().set_interrupt_line((layout::PCI_IRQ + PirqRouter::wire(slot, 0) as u32) as u8);
        (slot, self.add(name, (slot, 0), function))
    }

    fn add_card(&mut self, net: OpenNet) -> Card {
        Card::Virtio(self.add_virtio("virtio-net", Net::new(net.mac.0, net.queues, net.sink)).1)
    }

    /// Adds IDE with its disks and CD-ROM drives, and the virtio disks; says what can be booted from, in their order.
    fn add_disks(&mut self, disks: Vec<OpenDisk>) -> (Shared<IdeController>, Vec<Bootable>, Vec<Drive>) {
        let lines = [layout::IDE_IRQ, layout::IDE_IRQ + 1].map(|irq| self.vm.line(irq));
        let mut ide = IdeController::new(self.vm.memory().clone(), lines);
        let (mut bootable, mut drives) = (vec![], vec![]);
        for (index, disk) in in_order_of_units(disks).into_iter().enumerate() {
            let backend = disk.backend();
            let OpenDisk { description, image } = disk;
            let serial = description.serial.clone().unwrap_or_else(|| format!("disk{index}"));
            let drive = |name, kind| Drive::new(name, kind, &description, image);
            let (kind, path) = match backend {
                Some(backend) if description.interface == DiskInterface::Virtio => {
                    let (slot, disk) = self.add_virtio("virtio-blk", Block::new(backend, &serial, description.queues));
                    let name = format!("virtio{}", drives.iter().filter(|drive: &&Drive| drive.is_virtio()).count());
                    drives.push(drive(name, DriveKind::Virtio(disk)));
                    (BootDevice::Disk, format!("/pci@i0cf8/scsi@{slot:x}/disk@0,0"))
                }
                backend => {
                    let at = free_unit(&ide, description.unit, description.cdrom);
                    let (kind, letters) = match backend {
                        Some(backend) if !description.cdrom => {
                            ide.attach_disk(at, backend, &serial);
                            (DriveKind::Disk, "hd")
                        }
                        disc => {
                            ide.attach_cdrom(at, disc, &serial);
                            (DriveKind::Cdrom((2 * at.channel + at.unit) as u8), "cd")
                        }
                    };
                    drives.push(drive(format!("ide{}-{letters}{}", at.channel, at.unit), kind));
                    let boot = if description.cdrom { BootDevice::Cdrom } else { BootDevice::Disk };
                    (boot, format!("/pci@i0cf8/ide@1,1/drive@{}/disk@{}", at.channel, at.unit))
                }
            };
            bootable.push(Bootable { kind, path });
        }
        (self.add("ide", (layout::ISA_SLOT, 1), ide), bootable, drives)
    }
}

/// Disks whose IDE unit is given come first, so that the others find what is free.
fn in_order_of_units(mut disks: Vec<OpenDisk>) -> Vec<OpenDisk> {
    disks.sort_by_key(|disk| disk.description.unit.is_none());
    disks
}

/// The unit given, or the first free one; for CD-ROM drives from the secondary master on.
fn free_unit(ide: &IdeController, given: Option<u8>, cdrom: bool) -> Position {
    let from = if cdrom { 2 } else { 0 };
    let free = |index: &u8| ide.unit(Position::from_index(*index)).is_none();
    let index = given.or_else(|| (from..from + 4).find(free));
    Position::from_index(index.expect("the description has four units at most"))
}

/// The chips at fixed ports, the range of each, and their sections in a saved VM.
#[derive(Default)]
struct Ports {
    ranges: Vec<(Range<u64>, Shared<dyn BusDevice>)>,
    chips: Vec<NamedChip>,
}

impl Ports {
    fn add<D: BusDevice + SaveState + 'static>(&mut self, name: &str, range: Range<u64>, device: D) -> Shared<D> {
        let device = Arc::new(Mutex::new(device));
        self.chips.push((format!("{name}@{:x}", range.start), device.clone()));
        self.ranges.push((range, device.clone()));
        device
    }

    /// Another range of a chip's ports: it sees their numbers from `base` on.
    fn add_part<D: BusDevice + 'static>(&mut self, range: Range<u64>, device: &Shared<D>, base: u64) {
        self.ranges.push((range, Arc::new(Mutex::new(Part { device: device.clone(), base }))));
    }

    /// What resets a PC and what firmware probes for.
    fn add_legacy(&mut self, control: &Arc<Control>) {
        let switch = || Box::new(Switch(control.clone()));
        self.add("port-a", port(reset::PORT_A), PortA::new(switch()));
        // Before the configuration ports, in whose range it is.
        self.add("reset", port(reset::RESET_CONTROL), ResetControl::new(switch()));
        let dma = Arc::new(Mutex::new(Dma::default()));
        self.chips.push(("dma".into(), dma.clone()));
        for range in Dma::PORTS {
            let base = range.start;
            self.add_part(range, &dma, base);
        }
        self.add("debug", port(debug_port::PORT), DebugPort::new(Box::new(FirmwareLog)));
    }
}

/// The range of one port.
fn port(number: u16) -> Range<u64> {
    u64::from(number)..u64::from(number) + 1
}

/// A part of a chip's ports.
struct Part<D> {
    device: Shared<D>,
    base: u64,
}

impl<D: BusDevice> BusDevice for Part<D> {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        lock(&self.device).read(self.base + offset, size)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        lock(&self.device).write(self.base + offset, size, value);
    }
}

/// What firmware says while it works.
struct FirmwareLog;

impl DebugSink for FirmwareLog {
    fn line(&mut self, text: &str) {
        debug!(target: "firmware", "{text}");
    }
}

/// What the board is built from.
pub(crate) struct Plan<'a> {
    pub(crate) vm: &'a Arc<dyn Vm>,
    pub(crate) control: &'a Arc<Control>,
    pub(crate) description: &'a VmDescription,
    pub(crate) arena: Arena,
    pub(crate) firmware: Option<&'a Firmware>,
}

impl Plan<'_> {
    /// What the ACPI tables say of the board.
    fn acpi(&self) -> AcpiBoard {
        AcpiBoard { vcpus: self.description.cpus, vga: self.description.has_vga() }
    }

    /// The time of day, and random numbers.
    fn surroundings(&self) -> std::io::Result<(Box<dyn WallClock>, Box<dyn Entropy>)> {
        let clock = self.vm.clock();
        Ok(if matches!(**clock, VmClock::Instructions(_)) {
            (Box::new(RepeatingTime(clock.clone())), Box::new(RepeatingEntropy(0)))
        } else {
            (Box::new(HostTime), Box::new(HostEntropy(File::open("/dev/urandom")?)))
        })
    }

    fn add_vga(&self, slots: &mut Slots) -> Option<Shared<Vga>> {
        let Arena { video, .. } = self.arena;
        // KVM doesn't tell of the CPUs' writes.
        let logged = self.vm.accelerator() != "kvm";
        let memory = || {
            let memory = self.vm.memory().clone();
            VideoMemory::new(memory, self.arena.video_offset() as usize, video as usize, logged)
        };
        (video > 0).then(|| slots.add("vga", (layout::VGA_SLOT, 0), Vga::new(memory())))
    }

    fn add_sound(&self, slots: &mut Slots) -> Option<Shared<Ac97>> {
        (self.description.audio != AudioTarget::None).then(|| {
            let slot = slots.next;
            slots.next += 1;
            let line = slots.router.line(slot, 0);
            let mut card = Ac97::new(self.vm.memory().clone(), line);
            card.config_mut().set_interrupt_line((layout::PCI_IRQ + PirqRouter::wire(slot, 0) as u32) as u8);
            slots.add("ac97", (slot, 0), card)
        })
    }

    /// Wires everything.
    ///
    /// # Errors
    /// No random numbers from the host.
    pub(crate) fn build(&self, disks: Vec<OpenDisk>, nets: Vec<OpenNet>) -> std::io::Result<Board> {
        let vm = self.vm;
        let clock: Arc<dyn Clock> = vm.clock().clone();
        let (wall, entropy) = self.surroundings()?;
        let switch = || Box::new(Switch(self.control.clone()));
        let mut slots = Slots::new(vm);
        let bridge = slots.add("host-bridge", (0, 0), HostBridge::default());
        let router = slots.router.clone();
        slots.add("isa-bridge", (layout::ISA_SLOT, 0), IsaBridge::new(router));
        let power = PowerManagement::new(vm.line(layout::SCI), clock.clone(), switch());
        let power = slots.add("power", (layout::ISA_SLOT, 3), PowerFunction::new(power));
        let first = slots.next;
        let (ide, bootable, drives) = slots.add_disks(disks);
        let cards = nets.into_iter().map(|net| slots.add_card(net)).collect();
        let busy = (first..slots.next).map(|slot| slot << 3).collect();
        let console = (self.description.console != SerialTarget::None).then(|| {
            let outgoing = Arc::new(Outgoing::default());
            (slots.add_virtio("virtio-console", Console::new(Box::new(Sender(outgoing.clone())))).1, outgoing)
        });
        slots.add_virtio("virtio-rng", Rng::new(entropy));
        let (_, balloon) = slots.add_virtio("virtio-balloon", Balloon::new(Box::new(FreePages(vm.memory().clone()))));
        let vga = self.add_vga(&mut slots);
        let window = vga.clone().map(|function| VideoWindow {
            number: layout::VGA_SLOT << 3,
            function,
            bar: vga::FRAMEBUFFER_BAR,
        });
        let sound = self.add_sound(&mut slots);
        // The last: the others are where they are without it.
        let tablet = self.description.tablet.then(|| slots.add_virtio("virtio-tablet", Tablet::default()).1);
        let map = MemoryMap::new(vm.clone(), self.arena, bridge.clone(), window);
        let pci = Arc::new(PciBus::new(slots.functions));
        pci.observe(map.clone());

        let mut ports = Ports::default();
        ports.add_legacy(self.control);
        let serial_out = Arc::new(Outgoing::default());
        let sender = Box::new(Sender(serial_out.clone()));
        let serial_ports = layout::COM1_PORT..layout::COM1_PORT + 8;
        let serial = ports.add("serial", serial_ports, Uart16550::new(vm.line(layout::COM1_IRQ), sender));
        ports.add("pci-config", 0xcf8..0xd00, ConfigPorts::new(pci.clone()));
        let rtc = ports.add("rtc", 0x70..0x72, Rtc::new(vm.line(layout::RTC_IRQ), clock, wall));
        set_up_cmos(&mut lock(&rtc), self.arena.ram, self.description.cpus, &self.description.boot);
        // Its data port, and four above it its command port; what is between belongs to others.
        let [key_line, mouse_line] = [layout::KEYBOARD_IRQ, layout::MOUSE_IRQ].map(|irq| vm.line(irq));
        let keyboard = ports.add("i8042", 0x60..0x61, I8042::new(switch(), key_line, mouse_line));
        ports.add_part(0x64..0x65, &keyboard, 4);
        if let Some(firmware) = self.firmware {
            let order = &self.description.boot;
            let told = Told { memory: self.arena.ram, acpi: self.acpi(), order, bootable: &bootable };
            let range = u64::from(fw_cfg::PORT)..u64::from(fw_cfg::PORT + fw_cfg::PORTS);
            ports.add("fw-cfg", range, configure(firmware, &told, vm.memory().clone()));
        }
        let chips = [slots.chips, ports.chips].concat();
        let bus = Arc::new(MachineBus::new(ports.ranges, pci.clone(), map.clone()));
        Ok(Board {
            acpi: self.acpi(),
            bus,
            pci,
            bridge,
            power,
            ide,
            vga,
            keyboard,
            sound,
            tablet,
            map,
            serial,
            serial_out,
            balloon,
            drives: drives.into(),
            console,
            rtc,
            cards,
            busy,
            chips,
        })
    }
}

impl Board {
    /// Every chip's state after power-on, and with it the memory map.
    pub(crate) fn reset(&self) {
        self.pci.reset();
        lock(&self.keyboard).reset();
        self.map.update();
    }

    /// Leaves the board as firmware would: RAM where firmware was, every window at an address.
    pub(crate) fn set_up(&self) {
        lock(&self.bridge).shadow_all();
        lock(&self.power).place(layout::POWER_PORTS);
        self.pci.assign(layout::PCI_MEMORY_START, layout::PCI_PORT_START);
        self.map.update();
    }
}
