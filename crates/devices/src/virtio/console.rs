//! The virtio console (virtio 1.2, section 5.3) with one port.

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{DeviceType, Queue, QueueError, VirtioDevice};

/// Takes what the guest prints.
pub trait ConsoleOutput: Send {
    /// Bytes in order.
    fn write(&mut self, bytes: &[u8]);
}

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The device.
pub struct Console {
    output: Box<dyn ConsoleOutput>,
}

impl Console {
    /// A console that prints to `output`.
    pub fn new(output: Box<dyn ConsoleOutput>) -> Self {
        Self { output }
    }

    /// Bytes typed at the console. Returns how many the guest had room for.
    ///
    /// # Errors
    /// A driver that breaks the rules.
    pub fn receive(&mut self, bytes: &[u8], queues: &mut [Queue], memory: &GuestMemory) -> Result<usize, QueueError> {
        let queue = &mut queues[RECEIVE];
        let mut done = 0;
        while done < bytes.len() {
            let Some(chain) = queue.pop(memory)? else { break };
            let written = chain.write(memory, 0, &bytes[done..]);
            queue.push(memory, &chain, written as u32)?;
            if written == 0 {
                return Err(QueueError::Request);
            }
            done += written;
        }
        Ok(done)
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64; 2]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn read_config(&self, _offset: usize) -> u8 {
        0
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        if queue != TRANSMIT {
            return Ok(());
        }
        let queue = &mut queues[TRANSMIT];
        while let Some(chain) = queue.pop(memory)? {
            let mut buffer = [0; 4096];
            let mut at = 0;
            loop {
                let read = chain.read(memory, at, &mut buffer);
                if read == 0 {
                    break;
                }
                self.output.write(&buffer[..read]);
                at += read as u64;
            }
            queue.push(memory, &chain, 0)?;
        }
        Ok(())
    }
}

/// Nothing: what it prints has left before the call that takes it returns.
impl SaveState for Console {
    const VERSION: u32 = 1;

    fn save(&self, _into: &mut StateWriter) {}

    fn load(&mut self, _version: u32, _from: &mut StateReader<'_>) -> Result<(), LoadError> {
        Ok(())
    }
}
