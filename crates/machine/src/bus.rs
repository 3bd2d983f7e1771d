//! The bus of a running VM: takes the vCPUs' accesses to the device at that port or address. Which devices there are is
//! the board's business.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use ferro_devices::pci::PciBus;
use ferro_guest::BusDevice;
use ferro_hypervisor::Bus;

use crate::memory_map::MemoryMap;

/// A device as the bus and the rest of the board share it.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

/// The state behind a device's lock; a panic elsewhere leaves it as good as it was.
pub(crate) fn lock<T: ?Sized>(device: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    device.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub(crate) struct MachineBus {
    ports: Vec<(Range<u64>, Shared<dyn BusDevice>)>,
    pci: Arc<PciBus>,
    map: Arc<MemoryMap>,
}

impl MachineBus {
    /// A bus with these devices at their ports, and a PCI bus; writes under the firmware's ROM go to `map`.
    pub(crate) fn new(ports: Vec<(Range<u64>, Shared<dyn BusDevice>)>, pci: Arc<PciBus>, map: Arc<MemoryMap>) -> Self {
        Self { ports, pci, map }
    }

    /// The PCI bus behind it.
    pub(crate) fn pci(&self) -> &PciBus {
        &self.pci
    }

    fn port(&self, port: u64) -> Option<(&Mutex<dyn BusDevice>, u64)> {
        let (range, device) = self.ports.iter().find(|(range, _)| range.contains(&port))?;
        Some((device, port - range.start))
    }
}

/// All ones in `size` bytes: what nobody answers.
fn floating(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl Bus for MachineBus {
    fn port_read(&self, port: u16, size: u8) -> u32 {
        let value = match self.port(port.into()) {
            Some((device, offset)) => Some(lock(device).read(offset, size)),
            None => self.pci.read(true, port.into(), size),
        };
        value.unwrap_or_else(|| floating(size)) as u32
    }

    fn port_write(&self, port: u16, size: u8, value: u32) {
        match self.port(port.into()) {
            Some((device, offset)) => lock(device).write(offset, size, value.into()),
            None => {
                self.pci.write(true, port.into(), size, value.into());
            }
        }
    }

    fn mmio_read(&self, address: u64, size: u8) -> u64 {
        self.pci.read(false, address, size).unwrap_or_else(|| floating(size))
    }

    fn mmio_write(&self, address: u64, size: u8, value: u64) {
        if !self.pci.write(false, address, size, value) {
            self.map.write_under_rom(address, size, value);
        }
    }
}
