//! The virtio memory balloon (virtio 1.2, section 5.5) with free page reporting: pages that the guest gives up go back to
//! the host, and come again, zeroed, when it takes them back.

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{Chain, DeviceType, Queue, QueueError, VirtioDevice};

/// Gives guest memory back to the host.
pub trait MemoryReturn: Send {
    /// The guest doesn't use these bytes (whole pages) now; they read as zeros when it does again.
    fn give_back(&mut self, address: u64, len: u64);
}

const F_REPORTING: u64 = 1 << 5;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 2;
const PAGE: u64 = 4096;

/// The device.
pub struct Balloon {
    host: Box<dyn MemoryReturn>,
    target: u32,
    actual: u32,
}

impl Balloon {
    /// An empty balloon.
    pub fn new(host: Box<dyn MemoryReturn>) -> Self {
        Self { host, target: 0, actual: 0 }
    }

    /// Asks the guest to give up this many pages of 4 KiB in all; call it through [`super::VirtioPci::config_changed`].
    pub fn set_target(&mut self, pages: u32) {
        self.target = pages;
    }

    /// How many pages the guest says it has given up.
    pub fn actual(&self) -> u32 {
        self.actual
    }

    /// Page numbers, four bytes each.
    fn inflate(&mut self, chain: &Chain, memory: &GuestMemory) {
        let mut at = 0;
        let mut number = [0; 4];
        while chain.read(memory, at, &mut number) == number.len() {
            self.host.give_back(u64::from(u32::from_le_bytes(number)) * PAGE, PAGE);
            at += number.len() as u64;
        }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        F_REPORTING | F_DEFLATE_ON_OOM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128; 3]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.actual = 0;
    }

    fn read_config(&self, offset: usize) -> u8 {
        match offset {
            0..4 => self.target.to_le_bytes()[offset],
            4..8 => self.actual.to_le_bytes()[offset - 4],
            _ => 0,
        }
    }

    fn write_config(&mut self, offset: usize, value: u8) {
        if let 4..8 = offset {
            let mut bytes = self.actual.to_le_bytes();
            bytes[offset - 4] = value;
            self.actual = u32::from_le_bytes(bytes);
        }
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        let index = queue;
        let queue = &mut queues[queue];
        while let Some(chain) = queue.pop(memory)? {
            match index {
                INFLATE => self.inflate(&chain, memory),
                REPORTING => chain.each_writable(|address, len| self.host.give_back(address, u64::from(len))),
                _ => debug_assert_eq!(index, DEFLATE, "the transport knows how many queues there are"),
            }
            queue.push(memory, &chain, 0)?;
        }
        Ok(())
    }
}

/// The memory that the guest gave up is zeros in the RAM that is saved.
impl SaveState for Balloon {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u32(self.target);
        into.u32(self.actual);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.target = from.u32()?;
        self.actual = from.u32()?;
        Ok(())
    }
}
