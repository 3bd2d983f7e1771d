//! The virtio network card (virtio 1.2, section 5.1): one receive and one transmit queue, whole Ethernet frames, no
//! offloads. The network behind it is a trait.

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{DeviceType, Queue, QueueError, VirtioDevice};
use crate::state;

/// Takes the frames that the guest sends.
pub trait FrameSink: Send {
    /// One Ethernet frame, without checksum. A frame that can't be taken is lost, as on a real network.
    fn send(&mut self, frame: &[u8]);
}

const F_MAC: u64 = 1 << 5;
const F_STATUS: u64 = 1 << 16;
const HEADER: usize = 12;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZE: u16 = 256;
/// The longest frame that a guest may send.
const MAX_FRAME: usize = 65_550;

/// The device.
pub struct Net {
    mac: [u8; 6],
    link: bool,
    sink: Box<dyn FrameSink>,
    frame: Vec<u8>,
}

impl Net {
    /// A card with this address whose frames go to `sink`.
    pub fn new(mac: [u8; 6], sink: Box<dyn FrameSink>) -> Self {
        Self { mac, link: true, sink, frame: vec![0; MAX_FRAME] }
    }

    /// Whether the cable is plugged in.
    pub fn has_link(&self) -> bool {
        self.link
    }

    /// Plugs the cable in or out; call it through [`super::VirtioPci::config_changed`].
    pub fn set_link(&mut self, up: bool) {
        self.link = up;
    }

    /// A frame for the guest. Returns whether there was a buffer for it.
    ///
    /// # Errors
    /// A driver that breaks the rules.
    pub fn receive(&mut self, frame: &[u8], queues: &mut [Queue], memory: &GuestMemory) -> Result<bool, QueueError> {
        if !self.link {
            return Ok(true);
        }
        let queue = &mut queues[RECEIVE];
        let Some(chain) = queue.pop(memory)? else { return Ok(false) };
        let mut header = [0; HEADER];
        // num_buffers.
        header[10] = 1;
        let fits = chain.writable_len() >= (HEADER + frame.len()) as u64;
        let mut written = 0;
        if fits {
            written = chain.write(memory, 0, &header);
            written += chain.write(memory, HEADER as u64, frame);
            if written != HEADER + frame.len() {
                return Err(QueueError::Address);
            }
        }
        queue.push(memory, &chain, written as u32)?;
        Ok(true)
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        F_MAC | F_STATUS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn read_config(&self, offset: usize) -> u8 {
        match offset {
            0..6 => self.mac[offset],
            6 => u8::from(self.link),
            _ => 0,
        }
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        if queue != TRANSMIT {
            return Ok(());
        }
        let queue = &mut queues[TRANSMIT];
        while let Some(chain) = queue.pop(memory)? {
            let len = chain.readable_len().saturating_sub(HEADER as u64) as usize;
            // Too short for an Ethernet header, or too long for any network: dropped.
            if (14..=MAX_FRAME).contains(&len) && self.link {
                let read = chain.read(memory, HEADER as u64, &mut self.frame[..len]);
                if read != len {
                    return Err(QueueError::Address);
                }
                self.sink.send(&self.frame[..len]);
            }
            queue.push(memory, &chain, 0)?;
        }
        Ok(())
    }
}

/// The address that the guest knows stays its own, whatever the VM that loads was started with.
impl SaveState for Net {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.bytes(&self.mac);
        into.bool(self.link);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        state::load_bytes(&mut self.mac, "a network card's address", from)?;
        self.link = from.bool()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::queue::tests::{descriptor, memory, offer, queue};
    use super::*;

    struct Frames(Arc<Mutex<Vec<Vec<u8>>>>);

    impl FrameSink for Frames {
        fn send(&mut self, frame: &[u8]) {
            self.0.lock().unwrap().push(frame.to_vec());
        }
    }

    #[test]
    fn frames_go_both_ways_behind_their_header() {
        let (memory, frames) = (memory(), Arc::new(Mutex::new(vec![])));
        let mut card = Net::new([2, 0, 0, 0, 0, 1], Box::new(Frames(frames.clone())));
        let mut queues = [queue(), queue()];
        assert!(!card.receive(&[1; 60], &mut queues, &memory).unwrap());
        descriptor(&memory, 0x1000, 0, (0x5000, 100, 2, 0));
        offer(&memory, 0);
        assert!(card.receive(&[7; 60], &mut queues, &memory).unwrap());
        assert_eq!(memory.load::<u16>(0x500a), Some(1));
        assert_eq!(memory.load::<u8>(0x500c + 59), Some(7));
        assert_eq!(memory.load::<u32>(0x3008), Some(72));

        let mut queues = [queue(), queue()];
        memory.store(0x2002, 0_u16).unwrap();
        descriptor(&memory, 0x1000, 0, (0x5000, 12 + 20, 0, 0));
        offer(&memory, 0);
        card.notify(TRANSMIT, &mut queues, &memory).unwrap();
        assert_eq!(*frames.lock().unwrap(), [vec![7; 20]]);
    }
}
