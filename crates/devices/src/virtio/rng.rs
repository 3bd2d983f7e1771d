//! The virtio entropy device (virtio 1.2, section 5.4).

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{DeviceType, Queue, QueueError, VirtioDevice};

/// Where random bytes come from.
pub trait Entropy: Send {
    /// Fills the buffer.
    fn fill(&mut self, buffer: &mut [u8]);
}

/// The most that one request gets.
const MAX_REQUEST: u64 = 64 << 10;

/// The device.
pub struct Rng {
    source: Box<dyn Entropy>,
}

impl Rng {
    /// A device that hands out what `source` gives.
    pub fn new(source: Box<dyn Entropy>) -> Self {
        Self { source }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn read_config(&self, _offset: usize) -> u8 {
        0
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        let queue = &mut queues[queue];
        while let Some(chain) = queue.pop(memory)? {
            let mut bytes = vec![0; chain.writable_len().min(MAX_REQUEST) as usize];
            self.source.fill(&mut bytes);
            let written = chain.write(memory, 0, &bytes);
            queue.push(memory, &chain, written as u32)?;
        }
        Ok(())
    }
}

/// Nothing: it remembers nothing.
impl SaveState for Rng {
    const VERSION: u32 = 1;

    fn save(&self, _into: &mut StateWriter) {}

    fn load(&mut self, _version: u32, _from: &mut StateReader<'_>) -> Result<(), LoadError> {
        Ok(())
    }
}
