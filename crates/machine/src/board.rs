//! Building the board from a description: each chip by a small function, wired to its interrupt, its backend and its
//! place on the bus.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ferro_block::Storage;
use ferro_devices::i8042::I8042;
use ferro_devices::pci::{ConfigPorts, HostBridge, IsaBridge, MsiSink, PciBus, SharedFunction};
use ferro_devices::power::PowerManagement;
use ferro_devices::rtc::{Rtc, WallClock};
use ferro_devices::serial::Uart16550;
use ferro_devices::virtio::{
    Balloon, Block, Console, Entropy, FrameSink, MemoryReturn, Net, Rng, VirtioDevice, VirtioPci,
};
use ferro_guest::{BusDevice, Clock, GuestMemory};
use ferro_hypervisor::{Vm, VmClock};

use crate::bus::{MachineBus, Shared, lock};
use crate::control::{Control, Switch};
use crate::description::{DiskDescription, MacAddress};
use crate::disk::StorageDisk;
use crate::layout;
use crate::serial::{Outgoing, Sender};

/// A disk as the board gets it: described, and opened.
pub(crate) struct OpenDisk {
    pub(crate) description: DiskDescription,
    pub(crate) storage: Arc<dyn Storage>,
}

/// A network card as the board gets it.
pub(crate) struct OpenNet {
    pub(crate) mac: MacAddress,
    pub(crate) sink: Box<dyn FrameSink>,
}

/// The parts of a board that others reach after it is built.
pub(crate) struct Board {
    pub(crate) bus: Arc<MachineBus>,
    pub(crate) pci: Arc<PciBus>,
    pub(crate) serial: Shared<Uart16550>,
    pub(crate) serial_out: Arc<Outgoing>,
    pub(crate) console: Option<(Shared<VirtioPci<Console>>, Arc<Outgoing>)>,
    pub(crate) rtc: Shared<Rtc>,
    pub(crate) cards: Vec<Shared<VirtioPci<Net>>>,
    /// The PCI numbers of the functions whose work is worth a thread.
    pub(crate) busy: Vec<u8>,
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

/// Collects PCI functions in slot order.
struct Slots {
    vm: Arc<dyn Vm>,
    functions: Vec<(u8, SharedFunction)>,
    next: u8,
}

impl Slots {
    fn add(&mut self, slot: u8, function: SharedFunction) {
        self.functions.push((slot << 3, function));
    }

    fn add_virtio<D: VirtioDevice + 'static>(&mut self, device: D) -> Shared<VirtioPci<D>> {
        let slot = self.next;
        self.next += 1;
        let gsi = layout::pci_interrupt(slot);
        let sink = Arc::new(Messages(self.vm.clone()));
        let mut function = VirtioPci::new(device, self.vm.memory().clone(), sink, self.vm.line(gsi));
        ferro_devices::pci::PciFunction::config_mut(&mut function).set_interrupt_line(gsi as u8);
        let function = Arc::new(Mutex::new(function));
        self.add(slot, function.clone());
        function
    }
}

fn virtio_disk(slots: &mut Slots, index: usize, disk: OpenDisk) {
    let OpenDisk { description, storage } = disk;
    let serial = description.serial.clone().unwrap_or_else(|| format!("disk{index}"));
    let backend = StorageDisk::new(description.file, storage, description.read_only);
    slots.add_virtio(Block::new(Box::new(backend), &serial, description.queues));
}

/// The chips at fixed ports, and the range of each.
struct Ports(Vec<(Range<u64>, Shared<dyn BusDevice>)>);

impl Ports {
    fn add<D: BusDevice + 'static>(&mut self, range: Range<u64>, device: D) -> Shared<D> {
        let device = Arc::new(Mutex::new(device));
        self.0.push((range, device.clone()));
        device
    }
}

/// The keyboard controller's command port.
struct CommandPort(Shared<I8042>);

impl BusDevice for CommandPort {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        lock(&self.0).read(offset + 4, size)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        lock(&self.0).write(offset + 4, size, value);
    }
}

/// Wires everything.
///
/// # Errors
/// No random numbers from the host.
pub(crate) fn build(
    vm: &Arc<dyn Vm>,
    control: &Arc<Control>,
    disks: Vec<OpenDisk>,
    nets: Vec<OpenNet>,
    has_console: bool,
) -> std::io::Result<Board> {
    let clock: Arc<dyn Clock> = vm.clock().clone();
    let repeats = matches!(**vm.clock(), VmClock::Instructions(_));
    let (wall, entropy): (Box<dyn WallClock>, Box<dyn Entropy>) = if repeats {
        (Box::new(RepeatingTime(clock.clone())), Box::new(RepeatingEntropy(0)))
    } else {
        (Box::new(HostTime), Box::new(HostEntropy(File::open("/dev/urandom")?)))
    };
    let mut slots = Slots { vm: vm.clone(), functions: vec![], next: 2 };
    slots.add(0, Arc::new(Mutex::new(HostBridge::default())));
    slots.add(1, Arc::new(Mutex::new(IsaBridge::default())));
    for (index, disk) in disks.into_iter().enumerate() {
        virtio_disk(&mut slots, index, disk);
    }
    let cards = nets.into_iter().map(|net| slots.add_virtio(Net::new(net.mac.0, net.sink))).collect();
    let busy = slots.functions[2..].iter().map(|(number, _)| *number).collect();
    let console = has_console.then(|| {
        let outgoing = Arc::new(Outgoing::default());
        (slots.add_virtio(Console::new(Box::new(Sender(outgoing.clone())))), outgoing)
    });
    slots.add_virtio(Rng::new(entropy));
    slots.add_virtio(Balloon::new(Box::new(FreePages(vm.memory().clone()))));
    let pci = Arc::new(PciBus::new(slots.functions));

    let mut ports = Ports(vec![]);
    let serial_out = Arc::new(Outgoing::default());
    let sender = Box::new(Sender(serial_out.clone()));
    let serial_ports = layout::COM1_PORT..layout::COM1_PORT + 8;
    let serial = ports.add(serial_ports, Uart16550::new(vm.line(layout::COM1_IRQ), sender));
    ports.add(0xcf8..0xd00, ConfigPorts::new(pci.clone()));
    let power_ports = u64::from(layout::POWER_PORTS)..u64::from(layout::POWER_PORTS) + 16;
    let switch = Box::new(Switch(control.clone()));
    ports.add(power_ports, PowerManagement::new(vm.line(layout::SCI), clock.clone(), switch));
    let rtc = ports.add(0x70..0x72, Rtc::new(vm.line(layout::RTC_IRQ), clock, wall));
    // Its data port, and four above it its command port; what is between belongs to others.
    let keyboard = ports.add(0x60..0x61, I8042::new(Box::new(Switch(control.clone()))));
    ports.0.push((0x64..0x65, Arc::new(Mutex::new(CommandPort(keyboard)))));
    let bus = Arc::new(MachineBus::new(ports.0, pci.clone()));
    Ok(Board { bus, pci, serial, serial_out, console, rtc, cards, busy })
}
