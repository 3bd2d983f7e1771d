//! The virtio PCI transport (virtio 1.2, section 4.1), modern only: one window with the common, notification, ISR and
//! device registers, another with MSI-X, around any [`VirtioDevice`].

use std::sync::Arc;

use ferro_guest::{GuestMemory, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

use super::{Queue, QueueError};
use crate::pci::{BarKind, ConfigSpace, Identity, MsiSink, Msix, PciFunction};
use crate::state;

/// What kind of device it is, by virtio's device IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Rng = 4,
    /// Memory balloon.
    Balloon = 5,
    /// Input device.
    Input = 18,
}

/// What makes a device of the transport.
pub trait VirtioDevice: Send {
    /// What it is.
    fn device_type(&self) -> DeviceType;
    /// The feature bits offered beyond those of the transport.
    fn features(&self) -> u64;
    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// The driver has agreed on these features and starts.
    fn start(&mut self, features: u64);
    /// Back to the state after power-on.
    fn reset(&mut self);
    /// One byte of the device's configuration registers; zero past their end.
    fn read_config(&self, offset: usize) -> u8;
    /// The driver writes one byte of them.
    fn write_config(&mut self, offset: usize, value: u8) {
        let _ = (offset, value);
    }
    /// The driver says that it made buffers available in a queue.
    ///
    /// # Errors
    /// A driver that breaks the rules: the device then needs a reset.
    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError>;
}

const F_INDIRECT: u64 = 1 << 28;
const F_EVENT_INDEX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 0x40;
const NO_VECTOR: u16 = 0xffff;

const MSIX_BAR: usize = 1;
const REGISTERS_BAR: usize = 4;
const WINDOW: u64 = 0x4000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Bytes between two queues' notification registers.
const NOTIFY_STRIDE: u32 = 4;

/// A virtio device as a PCI function.
pub struct VirtioPci<D> {
    device: D,
    config: ConfigSpace,
    msix: Msix,
    line: Arc<dyn InterruptLine>,
    memory: Arc<GuestMemory>,
    queues: Vec<Queue>,
    status: u8,
    feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    config_vector: u16,
    generation: u8,
    isr: u8,
}

fn class(device_type: DeviceType) -> u32 {
    match device_type {
        DeviceType::Net => 0x02_00_00,
        DeviceType::Block => 0x01_00_00,
        DeviceType::Console => 0x07_80_00,
        DeviceType::Rng | DeviceType::Balloon => 0x00_ff_00,
        DeviceType::Input => 0x09_80_00,
    }
}

/// A vendor capability that says where registers of one kind are.
fn location(kind: u8, offset: u64, len: u64, extra: Option<u32>) -> Vec<u8> {
    let mut body = vec![if extra.is_some() { 20 } else { 16 }, kind, REGISTERS_BAR as u8, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((len as u32).to_le_bytes());
    if let Some(extra) = extra {
        body.extend(extra.to_le_bytes());
    }
    body
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// A function that interrupts by MSI-X through `sink`, or by INTA# through `line`.
    pub fn new(device: D, memory: Arc<GuestMemory>, sink: Arc<dyn MsiSink>, line: Arc<dyn InterruptLine>) -> Self {
        let kind = device.device_type();
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1040 + kind as u16,
            revision: 1,
            class: class(kind),
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.set_interrupt_pin(1);
        let queues: Vec<_> = device.queue_sizes().into_iter().map(Queue::new).collect();
        config.add_bar(MSIX_BAR, BarKind::Memory32 { prefetchable: false }, Msix::WINDOW);
        config.add_bar(REGISTERS_BAR, BarKind::Memory64 { prefetchable: true }, WINDOW);
        for body in [
            location(1, 0, 0x1000, None),
            location(3, ISR, 0x1000, None),
            location(4, DEVICE, 0x1000, None),
            location(2, NOTIFY, 0x1000, Some(NOTIFY_STRIDE)),
        ] {
            config.add_capability(9, &body, &vec![0; body.len()]);
        }
        let msix = Msix::new(sink, &mut config, MSIX_BAR as u8, queues.len() as u16 + 1);
        Self {
            device,
            config,
            msix,
            line,
            memory,
            queues,
            status: 0,
            feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            config_vector: NO_VECTOR,
            generation: 0,
            isr: 0,
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    fn offered(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_INDIRECT | F_EVENT_INDEX
    }

    /// Whether a driver has brought the device up.
    pub fn is_running(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0 && self.status & STATUS_NEEDS_RESET == 0
    }

    /// Lets the device do something of its own accord (a frame came in, a key was typed), then interrupts as needed.
    /// Returns `None`, without calling, while no driver runs.
    pub fn act<T>(
        &mut self,
        act: impl FnOnce(&mut D, &mut [Queue], &GuestMemory) -> Result<T, QueueError>,
    ) -> Option<T> {
        if !self.is_running() {
            return None;
        }
        let result = act(&mut self.device, &mut self.queues, &self.memory);
        let value = result.and_then(|value| self.interrupt_for_queues().map(|()| value));
        match value {
            Ok(value) => Some(value),
            Err(_) => {
                self.fail();
                None
            }
        }
    }

    /// The device's configuration registers changed: tells the driver.
    pub fn config_changed(&mut self, change: impl FnOnce(&mut D)) {
        change(&mut self.device);
        self.generation = self.generation.wrapping_add(1);
        if self.is_running() {
            self.raise(2, self.config_vector);
        }
    }

    fn interrupt_for_queues(&mut self) -> Result<(), QueueError> {
        for index in 0..self.queues.len() {
            if self.queues[index].take_interrupt(&self.memory)? {
                self.raise(1, self.queues[index].vector);
            }
        }
        Ok(())
    }

    fn raise(&mut self, cause: u8, vector: u16) {
        if self.msix.is_enabled() {
            self.msix.notify(vector);
        } else {
            self.isr |= cause;
            self.update_line();
        }
    }

    fn update_line(&self) {
        self.line.set_level(self.isr != 0 && !self.msix.is_enabled() && !self.config.intx_disabled());
    }

    /// The driver broke the rules: the device stops until it is reset.
    fn fail(&mut self) {
        self.status |= STATUS_NEEDS_RESET;
        self.raise(2, self.config_vector);
    }

    fn notify_queue(&mut self, index: usize) {
        if index < self.queues.len() {
            self.act(|device, queues, memory| device.notify(index, queues, memory));
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        let mut value = value;
        if value & STATUS_FEATURES_OK != 0 && self.status & STATUS_FEATURES_OK == 0 {
            let acceptable = self.driver_features & !self.offered() == 0 && self.driver_features & F_VERSION_1 != 0;
            if !acceptable {
                value &= !STATUS_FEATURES_OK;
            }
        }
        if value & STATUS_DRIVER_OK != 0 && self.status & STATUS_DRIVER_OK == 0 {
            self.device.start(self.driver_features);
            let event_index = self.driver_features & F_EVENT_INDEX != 0;
            self.queues.iter_mut().for_each(|queue| queue.event_index = event_index);
        }
        self.status = value | self.status & STATUS_NEEDS_RESET;
    }

    fn reset_device(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(Queue::reset);
        self.status = 0;
        self.driver_features = 0;
        self.feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        self.config_vector = NO_VECTOR;
        self.isr = 0;
        self.update_line();
    }

    fn read_common(&self, offset: u64) -> u64 {
        let queue = self.queues.get(usize::from(self.queue_select));
        let of_queue = |read: fn(&Queue) -> u64| queue.map_or(0, read);
        match offset {
            0x00 => u64::from(self.feature_select),
            0x04 => u64::from(half(self.offered(), self.feature_select)),
            0x08 => u64::from(self.driver_feature_select),
            0x0c => u64::from(half(self.driver_features, self.driver_feature_select)),
            0x10 => u64::from(self.config_vector),
            0x12 => self.queues.len() as u64,
            0x14 => u64::from(self.status),
            0x15 => u64::from(self.generation),
            0x16 => u64::from(self.queue_select),
            0x18 => {
                of_queue(|queue| u64::from(if queue.ready { queue.size } else { queue.size.min(queue.max_size()) }))
            }
            0x1a => queue.map_or(u64::from(NO_VECTOR), |queue| u64::from(queue.vector)),
            0x1c => of_queue(|queue| u64::from(queue.ready)),
            0x1e => u64::from(self.queue_select),
            0x20 => of_queue(|queue| queue.descriptors),
            0x24 => of_queue(|queue| queue.descriptors >> 32),
            0x28 => of_queue(|queue| queue.driver),
            0x2c => of_queue(|queue| queue.driver >> 32),
            0x30 => of_queue(|queue| queue.device),
            0x34 => of_queue(|queue| queue.device >> 32),
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            0x00 => self.feature_select = value as u32,
            0x08 => self.driver_feature_select = value as u32,
            0x0c if self.status & STATUS_FEATURES_OK == 0 => match self.driver_feature_select {
                0 => self.driver_features = self.driver_features & !0xffff_ffff | value & 0xffff_ffff,
                1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
                _ => {}
            },
            0x10 => self.config_vector = self.valid_vector(value),
            0x14 => self.write_status(value as u8),
            0x16 => self.queue_select = value as u16,
            _ => self.write_queue(offset, size, value),
        }
    }

    fn valid_vector(&self, value: u64) -> u16 {
        if value < u64::from(self.msix.vectors()) { value as u16 } else { NO_VECTOR }
    }

    fn write_queue(&mut self, offset: u64, size: u8, value: u64) {
        let vector = self.valid_vector(value);
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if offset == 0x1a {
            queue.vector = vector;
            return;
        }
        // A queue in use keeps its place.
        if queue.ready {
            return;
        }
        match offset {
            0x18 => {
                let wanted = value as u16;
                if wanted.is_power_of_two() && wanted <= queue.max_size() {
                    queue.size = wanted;
                }
            }
            0x1c => queue.ready = value & 1 != 0,
            0x20..0x38 => {
                let register = match offset >> 3 & 3 {
                    0 => &mut queue.descriptors,
                    1 => &mut queue.driver,
                    _ => &mut queue.device,
                };
                *register = match (size, offset & 4) {
                    (8, _) => value,
                    (_, 0) => *register & !0xffff_ffff | value & 0xffff_ffff,
                    _ => *register & 0xffff_ffff | value << 32,
                };
            }
            _ => {}
        }
    }
}

/// One 32-bit half of a feature set.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

impl<D: VirtioDevice> PciFunction for VirtioPci<D> {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn write_config(&mut self, offset: usize, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.msix.config_written(&self.config);
        self.update_line();
    }

    fn read_bar(&mut self, bar: usize, offset: u64, size: u8) -> u64 {
        if bar == MSIX_BAR {
            return self.msix.read(offset, size);
        }
        match offset {
            0..ISR => self.read_common(offset),
            ISR..DEVICE => {
                let isr = std::mem::take(&mut self.isr);
                self.update_line();
                u64::from(isr)
            }
            DEVICE..NOTIFY => {
                let at = (offset - DEVICE) as usize;
                (0..usize::from(size))
                    .fold(0, |value, index| value | u64::from(self.device.read_config(at + index)) << (8 * index))
            }
            _ => 0,
        }
    }

    fn write_bar(&mut self, bar: usize, offset: u64, size: u8, value: u64) {
        if bar == MSIX_BAR {
            self.msix.write(offset, size, value);
            return;
        }
        match offset {
            0..ISR => self.write_common(offset, size, value),
            DEVICE..NOTIFY => {
                let at = (offset - DEVICE) as usize;
                for index in 0..usize::from(size) {
                    self.device.write_config(at + index, (value >> (8 * index)) as u8);
                }
            }
            NOTIFY.. => self.notify_queue(((offset - NOTIFY) / u64::from(NOTIFY_STRIDE)) as usize),
            _ => {}
        }
    }

    fn doorbells(&self) -> Vec<(usize, u64)> {
        (0..self.queues.len() as u64).map(|queue| (REGISTERS_BAR, NOTIFY + queue * u64::from(NOTIFY_STRIDE))).collect()
    }

    fn ring(&mut self) {
        (0..self.queues.len()).for_each(|queue| self.notify_queue(queue));
    }

    fn reset(&mut self) {
        self.reset_device();
        self.msix.reset();
    }
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Whether a vector is one that the driver could have set.
    fn is_vector(&self, vector: u16) -> bool {
        vector == NO_VECTOR || vector < self.msix.vectors()
    }

    fn load_registers(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.status = from.u8()?;
        self.feature_select = from.u32()?;
        self.driver_feature_select = from.u32()?;
        self.driver_features = from.u64()?;
        let agreed = self.status & STATUS_FEATURES_OK != 0;
        let offered = self.driver_features & !self.offered() == 0;
        state::check(!agreed || offered, "the features of a virtio device: the VM's device lacks some")?;
        self.queue_select = from.u16()?;
        self.config_vector = from.u16()?;
        state::check(self.is_vector(self.config_vector), "a virtio device's vector")?;
        self.generation = from.u8()?;
        self.isr = from.u8()?;
        state::check(self.isr < 4, "a virtio device's interrupt status")
    }
}

/// Requests that the driver has made available and that no call has taken yet are in its memory: they are found when the
/// doorbell is rung, or all of them are ([`crate::pci::PciBus::ring_all`]).
impl<D: VirtioDevice + SaveState> SaveState for VirtioPci<D> {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.config.save(into);
        self.msix.save(into);
        into.u8(self.status);
        into.u32(self.feature_select);
        into.u32(self.driver_feature_select);
        into.u64(self.driver_features);
        into.u16(self.queue_select);
        into.u16(self.config_vector);
        into.u8(self.generation);
        into.u8(self.isr);
        into.u16(self.queues.len() as u16);
        self.queues.iter().for_each(|queue| queue.save(into));
        state::save_part(&self.device, into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.config.load(from)?;
        self.msix.load(&self.config, from)?;
        self.load_registers(from)?;
        state::check(usize::from(from.u16()?) == self.queues.len(), "the number of virtqueues")?;
        self.queues.iter_mut().try_for_each(|queue| queue.load(from))?;
        let vectors = self.queues.iter().all(|queue| self.is_vector(queue.vector));
        state::check(vectors, "a virtqueue's vector")?;
        if self.status & STATUS_DRIVER_OK != 0 {
            self.device.start(self.driver_features);
        }
        state::load_part(&mut self.device, from)?;
        self.update_line();
        Ok(())
    }
}
