//! The virtio network card (virtio 1.2, section 5.1): pairs of receive and transmit queues and a control queue; checksums and
//! segmentation left to the network behind it where that can do them. That network is a trait.

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{Chain, DeviceType, Queue, QueueError, VirtioDevice};
use crate::network::{FrameSink, HEADER, MAX_FRAME, Offloads, check_header};
use crate::state;

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_GUEST_OFFLOADS: u64 = 1 << 2;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_MERGE: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_CONTROL: u64 = 1 << 17;
const F_MULTIQUEUE: u64 = 1 << 22;
const GUEST_OFFLOADS: u64 = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;

const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;
/// Pairs of queues that a card can have.
pub const MAX_PAIRS: u16 = 8;
/// Packets sent before others have their turn at the card.
const BURST: usize = 256;

/// The device.
pub struct Net {
    mac: [u8; 6],
    link: bool,
    sink: Box<dyn FrameSink>,
    /// Pairs of queues that there are.
    pairs: u16,
    /// Pairs that the driver uses.
    active: u16,
    /// The features that the driver agreed on.
    features: u64,
    /// Those of [`GUEST_OFFLOADS`] that the driver wants now.
    takes: u64,
    refused: u64,
    packet: Vec<u8>,
}

fn receive_queue(pair: u16) -> usize {
    2 * usize::from(pair)
}

fn transmit_queue(pair: u16) -> usize {
    receive_queue(pair) + 1
}

fn feature(wanted: bool, bits: u64) -> u64 {
    if wanted { bits } else { 0 }
}

impl Net {
    /// A card with this address and `pairs` (1 to [`MAX_PAIRS`]) pairs of queues, whose packets go to `sink`.
    pub fn new(mac: [u8; 6], pairs: u16, sink: Box<dyn FrameSink>) -> Self {
        Self {
            mac,
            link: true,
            sink,
            pairs: pairs.clamp(1, MAX_PAIRS),
            active: 1,
            features: 0,
            takes: 0,
            refused: 0,
            packet: vec![0; HEADER + MAX_FRAME],
        }
    }

    /// Whether the cable is plugged in.
    pub fn has_link(&self) -> bool {
        self.link
    }

    /// Plugs the cable in or out; call it through [`super::VirtioPci::config_changed`].
    pub fn set_link(&mut self, up: bool) {
        self.link = up;
    }

    /// Packets dropped because of what their headers said.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn agreed(&self, bit: u64) -> bool {
        self.features & bit != 0
    }

    /// What the driver may leave to the network.
    fn gives(&self) -> Offloads {
        Offloads {
            checksum: self.agreed(F_CSUM),
            tso4: self.agreed(F_HOST_TSO4),
            tso6: self.agreed(F_HOST_TSO6),
            ecn: self.agreed(F_HOST_ECN),
        }
    }

    /// What the network may leave to the driver.
    fn takes(&self) -> Offloads {
        let has = |bit| self.takes & bit != 0;
        Offloads {
            checksum: has(F_GUEST_CSUM),
            tso4: has(F_GUEST_TSO4),
            tso6: has(F_GUEST_TSO6),
            ecn: has(F_GUEST_ECN),
        }
    }

    fn set_takes(&mut self, takes: u64) {
        self.takes = takes;
        let takes = self.takes();
        self.sink.guest_takes(takes);
    }

    /// A packet for the guest ([`HEADER`] bytes, then a frame), by a pair of queues or by another where the driver doesn't use
    /// that many. Returns whether there was room for it, or it had to be dropped; where not, [`FrameSink::has_room`] says
    /// when to try again.
    ///
    /// # Errors
    /// A driver that breaks the rules.
    pub fn receive(
        &mut self,
        pair: usize,
        packet: &mut [u8],
        queues: &mut [Queue],
        memory: &GuestMemory,
    ) -> Result<bool, QueueError> {
        let queue = &mut queues[receive_queue((pair % usize::from(self.active)) as u16)];
        if !self.link || !queue.is_ready() {
            return Ok(true);
        }
        // From before the driver changed its mind.
        if check_header(packet, self.takes()).is_err() {
            self.refused += 1;
            return Ok(true);
        }
        let merge = self.features & F_MERGE != 0;
        let (mut chains, mut room) = (vec![], 0_u64);
        while room < packet.len() as u64 {
            let Some(chain) = queue.pop(memory)? else {
                queue.unpop(chains.len() as u16);
                return Ok(false);
            };
            room += chain.writable_len();
            chains.push(chain);
            if !merge || chains.len() == usize::from(QUEUE_SIZE) {
                break;
            }
        }
        let fits = room >= packet.len() as u64;
        packet[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut rest: &[u8] = if fits { packet } else { &[] };
        for chain in &chains {
            let part = rest.len().min(usize::try_from(chain.writable_len()).unwrap_or(usize::MAX));
            if chain.write(memory, 0, &rest[..part]) != part {
                return Err(QueueError::Address);
            }
            queue.push(memory, chain, part as u32)?;
            rest = &rest[part..];
        }
        Ok(true)
    }

    /// Sends what waits in every pair, as far as the network is ready for it. Returns whether more waits that could go on at
    /// once.
    ///
    /// # Errors
    /// A driver that breaks the rules.
    pub fn transmit(&mut self, queues: &mut [Queue], memory: &GuestMemory) -> Result<bool, QueueError> {
        let mut more = false;
        for pair in 0..self.active {
            more |= self.transmit_pair(pair, queues, memory)?;
        }
        Ok(more)
    }

    fn transmit_pair(&mut self, pair: u16, queues: &mut [Queue], memory: &GuestMemory) -> Result<bool, QueueError> {
        let queue = &mut queues[transmit_queue(pair)];
        for _ in 0..BURST {
            if !self.sink.is_ready(pair.into()) {
                return Ok(false);
            }
            let Some(chain) = queue.pop(memory)? else { return Ok(false) };
            self.send(pair, &chain, memory)?;
            queue.push(memory, &chain, 0)?;
        }
        Ok(true)
    }

    fn send(&mut self, pair: u16, chain: &Chain, memory: &GuestMemory) -> Result<(), QueueError> {
        let len = chain.readable_len();
        // Too short for an Ethernet header, or too long for any network: dropped.
        if !((HEADER + 14) as u64..=(HEADER + MAX_FRAME) as u64).contains(&len) || !self.link {
            return Ok(());
        }
        let agreed = self.gives();
        let packet = &mut self.packet[..len as usize];
        if chain.read(memory, 0, packet) != packet.len() {
            return Err(QueueError::Address);
        }
        if check_header(packet, agreed).is_ok() {
            self.sink.send(pair.into(), packet);
        } else {
            self.refused += 1;
        }
        Ok(())
    }

    /// The queue of commands: behind as many pairs as the driver knows of.
    fn control_queue(&self) -> usize {
        receive_queue(if self.agreed(F_MULTIQUEUE) { self.pairs } else { 1 })
    }

    fn control(&mut self, queue: &mut Queue, memory: &GuestMemory) -> Result<(), QueueError> {
        while let Some(chain) = queue.pop(memory)? {
            let mut command = [0; 10];
            let len = chain.read(memory, 0, &mut command);
            let done = self.command(&command[..len]);
            if chain.write(memory, 0, &[u8::from(!done)]) != 1 {
                return Err(QueueError::Request);
            }
            queue.push(memory, &chain, 1)?;
        }
        Ok(())
    }

    /// Section 5.1.6.5: class, command, value.
    fn command(&mut self, command: &[u8]) -> bool {
        const MULTIQUEUE: u8 = 4;
        const SET_OFFLOADS: u8 = 5;
        match *command {
            [MULTIQUEUE, 0, low, high, ..] => {
                let pairs = u16::from_le_bytes([low, high]);
                let possible = self.agreed(F_MULTIQUEUE) && (1..=self.pairs).contains(&pairs);
                if possible {
                    self.active = pairs;
                }
                possible
            }
            [SET_OFFLOADS, 0, a, b, c, d, e, f, g, h] => {
                let takes = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let possible = self.agreed(F_GUEST_OFFLOADS) && takes & !(self.features & GUEST_OFFLOADS) == 0;
                if possible {
                    self.set_takes(takes);
                }
                possible
            }
            _ => false,
        }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        let offloads = self.sink.offloads();
        F_MAC
            | F_STATUS
            | F_CONTROL
            | F_MERGE
            | feature(self.pairs > 1, F_MULTIQUEUE)
            | feature(offloads.checksum, F_CSUM | F_GUEST_CSUM | F_GUEST_OFFLOADS)
            | feature(offloads.tso4, F_HOST_TSO4 | F_GUEST_TSO4)
            | feature(offloads.tso6, F_HOST_TSO6 | F_GUEST_TSO6)
            | feature(offloads.ecn, F_HOST_ECN | F_GUEST_ECN)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; receive_queue(self.pairs)];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn start(&mut self, features: u64) {
        self.features = features;
        self.active = 1;
        self.set_takes(features & GUEST_OFFLOADS);
    }

    fn reset(&mut self) {
        self.start(0);
    }

    fn read_config(&self, offset: usize) -> u8 {
        match offset {
            0..6 => self.mac[offset],
            6 => u8::from(self.link),
            8 => self.pairs as u8,
            _ => 0,
        }
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        let pair = (queue / 2) as u16;
        if queue == self.control_queue() {
            return self.control(&mut queues[queue], memory);
        }
        if pair >= self.active {
            return Ok(());
        }
        if queue.is_multiple_of(2) {
            self.sink.has_room(pair.into());
            return Ok(());
        }
        // What is more than a burst waits for nobody else here.
        while self.transmit_pair(pair, queues, memory)? {}
        Ok(())
    }
}

/// The address that the guest knows stays its own, whatever the VM that loads was started with.
impl SaveState for Net {
    const VERSION: u32 = 2;

    fn save(&self, into: &mut StateWriter) {
        into.bytes(&self.mac);
        into.bool(self.link);
        into.u16(self.active);
        into.u64(self.takes);
        into.u64(self.refused);
    }

    fn load(&mut self, version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        state::load_bytes(&mut self.mac, "a network card's address", from)?;
        self.link = from.bool()?;
        if version < 2 {
            return Ok(());
        }
        self.active = from.u16()?;
        let pairs = if self.agreed(F_MULTIQUEUE) { self.pairs } else { 1 };
        state::check((1..=pairs).contains(&self.active), "the queues that a network card's driver uses")?;
        let takes = from.u64()?;
        state::check(takes & !(self.features & GUEST_OFFLOADS) == 0, "the offloads of a network card's driver")?;
        self.set_takes(takes);
        self.refused = from.u64()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
