//! Split virtqueues (virtio 1.2, section 2.7): taking descriptor chains that the driver offers, giving them back, and
//! deciding whether to interrupt. Whatever the driver writes, no call loops without bound or reads outside its memory.

use ferro_guest::{GuestMemory, LoadError, StateReader, StateWriter};

use crate::state;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL_NO_INTERRUPT: u16 = 1;
/// More than this in one chain is refused: the limit that Linux's drivers stay far below.
const MAX_CHAIN_BYTES: u64 = 1 << 30;

/// How a driver broke the rules; the device then needs a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A ring or a descriptor lies outside the guest's memory.
    #[error("a ring or descriptor table lies outside memory")]
    Address,
    /// A chain loops, is too long, or points at descriptors that don't exist.
    #[error("a descriptor chain is malformed")]
    Chain,
    /// More buffers were made available than the ring holds.
    #[error("the available ring overran")]
    Overrun,
    /// A request lacks a part that its type must have.
    #[error("a request is malformed")]
    Request,
}

/// A run of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: u64,
    len: u32,
}

/// A chain of buffers: first those that the device reads, then those that it writes.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// Calls `each(address, part of the range's bytes, len)` for the pieces of `[offset, offset + len)`.
fn pieces(segments: &[Segment], offset: u64, len: usize, mut each: impl FnMut(u64, usize, usize) -> bool) -> usize {
    let (mut skip, mut done) = (offset, 0);
    for segment in segments {
        let size = u64::from(segment.len);
        if skip >= size {
            skip -= size;
            continue;
        }
        let part = ((size - skip) as usize).min(len - done);
        if part == 0 {
            break;
        }
        if !each(segment.address.wrapping_add(skip), done, part) {
            break;
        }
        done += part;
        skip = 0;
    }
    done
}

impl Chain {
    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        total(&self.writable)
    }

    /// Calls `each` with the address and length of every writable buffer.
    pub fn each_writable(&self, mut each: impl FnMut(u64, u32)) {
        self.writable.iter().for_each(|segment| each(segment.address, segment.len));
    }

    /// Copies readable bytes from `offset` on; returns how many there were.
    pub fn read(&self, memory: &GuestMemory, offset: u64, into: &mut [u8]) -> usize {
        let len = into.len();
        pieces(&self.readable, offset, len, |address, at, part| memory.read(address, &mut into[at..at + part]) == part)
    }

    /// Copies `from` into the writable bytes from `offset` on; returns how many there was room for.
    pub fn write(&self, memory: &GuestMemory, offset: u64, from: &[u8]) -> usize {
        pieces(&self.writable, offset, from.len(), |address, at, part| {
            memory.write(address, &from[at..at + part]) == part
        })
    }
}

/// One virtqueue as the transport and the device share it.
#[derive(Debug, Clone)]
pub struct Queue {
    max_size: u16,
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) vector: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub(super) event_index: bool,
    next_available: u16,
    next_used: u16,
    /// The used index when an interrupt was last considered.
    signalled: u16,
}

impl Queue {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ready: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            vector: u16::MAX,
            event_index: false,
            next_available: 0,
            next_used: 0,
            signalled: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        into.u16(self.size);
        into.bool(self.ready);
        [self.descriptors, self.driver, self.device].into_iter().for_each(|address| into.u64(address));
        into.u16(self.vector);
        into.bool(self.event_index);
        [self.next_available, self.next_used, self.signalled].into_iter().for_each(|index| into.u16(index));
    }

    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.size = from.u16()?;
        state::check(self.size.is_power_of_two() && self.size <= self.max_size, "the size of a virtqueue")?;
        self.ready = from.bool()?;
        for address in [&mut self.descriptors, &mut self.driver, &mut self.device] {
            *address = from.u64()?;
        }
        self.vector = from.u16()?;
        self.event_index = from.bool()?;
        for index in [&mut self.next_available, &mut self.next_used, &mut self.signalled] {
            *index = from.u16()?;
        }
        Ok(())
    }

    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    /// Whether the driver has made the queue ready.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes the next chain that the driver has made available.
    ///
    /// # Errors
    /// A driver that breaks the rules.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, QueueError> {
        if !self.ready {
            return Ok(None);
        }
        let available: u16 = memory.load(self.driver.wrapping_add(2)).ok_or(QueueError::Address)?;
        let waiting = available.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(QueueError::Overrun);
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        let slot = self.driver.wrapping_add(4 + 2 * u64::from(self.next_available % self.size));
        let head = memory.load(slot).ok_or(QueueError::Address)?;
        self.next_available = self.next_available.wrapping_add(1);
        if self.event_index {
            let event = self.device.wrapping_add(4 + 8 * u64::from(self.size));
            memory.store(event, self.next_available).ok_or(QueueError::Address)?;
            // Told before the next look at what is available, or the driver could stay silent about what comes between.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
        self.walk(memory, head).map(Some)
    }

    /// Takes the last `count` chains that were taken, and not given back, as not taken. The driver has been asked to tell
    /// when there are more.
    pub fn unpop(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    fn walk(&self, memory: &GuestMemory, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, ..Chain::default() };
        let (mut table, mut count, mut index) = (self.descriptors, self.size, head);
        let (mut steps, mut indirect, mut bytes) = (0_u32, false, 0_u64);
        loop {
            steps += 1;
            if index >= count || steps > u32::from(self.size) + 1 {
                return Err(QueueError::Chain);
            }
            let at = table.wrapping_add(16 * u64::from(index));
            let address: u64 = memory.load(at).ok_or(QueueError::Address)?;
            let len: u32 = memory.load(at + 8).ok_or(QueueError::Address)?;
            let flags: u16 = memory.load(at + 12).ok_or(QueueError::Address)?;
            let next: u16 = memory.load(at + 14).ok_or(QueueError::Address)?;
            if flags & INDIRECT != 0 {
                if indirect || flags & NEXT != 0 || !len.is_multiple_of(16) || len == 0 {
                    return Err(QueueError::Chain);
                }
                indirect = true;
                (table, index) = (address, 0);
                count = u16::try_from(len / 16).map_err(|_| QueueError::Chain)?.min(self.size);
                continue;
            }
            bytes += u64::from(len);
            if bytes > MAX_CHAIN_BYTES {
                return Err(QueueError::Chain);
            }
            let segment = Segment { address, len };
            if flags & WRITE != 0 {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(QueueError::Chain);
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
    }

    /// Gives a chain back, `written` bytes of which the device filled.
    ///
    /// # Errors
    /// A used ring outside memory.
    pub fn push(&mut self, memory: &GuestMemory, chain: &Chain, written: u32) -> Result<(), QueueError> {
        let slot = self.device.wrapping_add(4 + 8 * u64::from(self.next_used % self.size));
        memory.store(slot, u32::from(chain.head)).ok_or(QueueError::Address)?;
        memory.store(slot.wrapping_add(4), written).ok_or(QueueError::Address)?;
        self.next_used = self.next_used.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        memory.store(self.device.wrapping_add(2), self.next_used).ok_or(QueueError::Address)
    }

    /// Whether chains were given back since the last call and the driver wants to be interrupted for them.
    ///
    /// # Errors
    /// An available ring outside memory.
    pub fn take_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if !self.ready || self.next_used == self.signalled {
            return Ok(false);
        }
        let old = std::mem::replace(&mut self.signalled, self.next_used);
        // The used index must be visible before the driver's wish is read, or both sides may sleep.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if self.event_index {
            let at = self.driver.wrapping_add(4 + 2 * u64::from(self.size));
            let event: u16 = memory.load(at).ok_or(QueueError::Address)?;
            let passed = self.next_used.wrapping_sub(event).wrapping_sub(1);
            return Ok(passed < self.next_used.wrapping_sub(old));
        }
        let flags: u16 = memory.load(self.driver).ok_or(QueueError::Address)?;
        Ok(flags & AVAIL_NO_INTERRUPT == 0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ferro_guest::{Ram, Range, RangeKind};

    use super::*;

    pub(crate) fn memory() -> GuestMemory {
        let ram = Ram::new(0x10_0000).unwrap();
        GuestMemory::new(ram, &[Range { start: 0, len: 0x10_0000, offset: 0, kind: RangeKind::Ram }]).unwrap()
    }

    pub(crate) fn queue() -> Queue {
        let mut queue = Queue::new(8);
        (queue.ready, queue.descriptors, queue.driver, queue.device) = (true, 0x1000, 0x2000, 0x3000);
        queue
    }

    pub(crate) fn descriptor(memory: &GuestMemory, table: u64, index: u64, what: (u64, u32, u16, u16)) {
        let at = table + 16 * index;
        memory.store(at, what.0).unwrap();
        memory.store(at + 8, what.1).unwrap();
        memory.store(at + 12, what.2).unwrap();
        memory.store(at + 14, what.3).unwrap();
    }

    pub(crate) fn offer(memory: &GuestMemory, head: u16) {
        let index: u16 = memory.load(0x2002).unwrap();
        memory.store(0x2004 + 2 * u64::from(index % 8), head).unwrap();
        memory.store(0x2002, index.wrapping_add(1)).unwrap();
    }

    #[test]
    fn a_chain_is_taken_filled_and_given_back() {
        let (memory, mut queue) = (memory(), queue());
        descriptor(&memory, 0x1000, 0, (0x4000, 4, NEXT, 3));
        descriptor(&memory, 0x1000, 3, (0x5000, 2, NEXT | WRITE, 1));
        descriptor(&memory, 0x1000, 1, (0x6000, 8, WRITE, 0));
        memory.write(0x4000, b"abcd");
        offer(&memory, 0);
        let chain = queue.pop(&memory).unwrap().unwrap();
        assert_eq!((chain.readable_len(), chain.writable_len()), (4, 10));
        let mut bytes = [0; 8];
        assert_eq!(chain.read(&memory, 1, &mut bytes), 3);
        assert_eq!(&bytes[..3], b"bcd");
        assert_eq!(chain.write(&memory, 1, b"xyz"), 3);
        assert_eq!(memory.load::<u8>(0x5001), Some(b'x'));
        assert_eq!(memory.load::<u16>(0x6000), Some(u16::from_le_bytes(*b"yz")));
        queue.push(&memory, &chain, 4).unwrap();
        assert_eq!(memory.load::<u16>(0x3002), Some(1));
        assert!(queue.take_interrupt(&memory).unwrap());
        assert!(!queue.take_interrupt(&memory).unwrap());
        assert!(queue.pop(&memory).unwrap().is_none());
    }

    #[test]
    fn indirect_tables_are_followed_once() {
        let (memory, mut queue) = (memory(), queue());
        descriptor(&memory, 0x1000, 0, (0x8000, 32, INDIRECT, 0));
        descriptor(&memory, 0x8000, 0, (0x4000, 4, NEXT, 1));
        descriptor(&memory, 0x8000, 1, (0x4100, 4, WRITE, 0));
        offer(&memory, 0);
        assert_eq!(queue.pop(&memory).unwrap().unwrap().writable_len(), 4);
        descriptor(&memory, 0x8000, 0, (0x8000, 16, INDIRECT, 1));
        offer(&memory, 0);
        assert_eq!(queue.pop(&memory).unwrap_err(), QueueError::Chain);
    }

    #[test]
    fn loops_overruns_and_wild_addresses_are_refused() {
        let (memory, mut queue) = (memory(), queue());
        descriptor(&memory, 0x1000, 0, (0x4000, 1, NEXT, 0));
        offer(&memory, 0);
        assert_eq!(queue.pop(&memory).unwrap_err(), QueueError::Chain);
        offer(&memory, 8);
        assert_eq!(queue.pop(&memory).unwrap_err(), QueueError::Chain);
        memory.store(0x2002, 100_u16).unwrap();
        assert_eq!(queue.pop(&memory).unwrap_err(), QueueError::Overrun);
        queue.driver = 1 << 40;
        assert_eq!(queue.pop(&memory).unwrap_err(), QueueError::Address);
    }

    #[test]
    fn the_event_index_suppresses_interrupts() {
        let (memory, mut queue) = (memory(), queue());
        queue.event_index = true;
        descriptor(&memory, 0x1000, 0, (0x4000, 4, WRITE, 0));
        memory.store(0x2004 + 16, 1_u16).unwrap();
        for expected in [false, true, false] {
            offer(&memory, 0);
            let chain = queue.pop(&memory).unwrap().unwrap();
            queue.push(&memory, &chain, 0).unwrap();
            assert_eq!(queue.take_interrupt(&memory).unwrap(), expected);
        }
    }
}
