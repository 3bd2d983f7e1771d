//! The virtio block device (virtio 1.2, section 5.2): reads, writes, flush, discard, write zeroes, serial number, several
//! queues. The disk behind it is a trait.

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{Chain, DeviceType, Queue, QueueError, VirtioDevice};

/// Why a disk request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// The medium failed.
    Io,
    /// The disk can't do this.
    Unsupported,
}

/// What the device keeps its sectors on. Offsets and lengths are in bytes and inside the disk.
pub trait Disk: Send {
    /// Bytes; a trailing partial sector isn't shown to the guest.
    fn size(&self) -> u64;
    /// Whether writes fail.
    fn is_read_only(&self) -> bool;
    /// Reads.
    ///
    /// # Errors
    /// The medium's failure, as for all of these.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// Writes.
    ///
    /// # Errors
    /// The medium's failure.
    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError>;
    /// Returns once everything written is on stable media.
    ///
    /// # Errors
    /// The medium's failure.
    fn flush(&mut self) -> Result<(), DiskError>;
    /// The contents don't matter any more.
    ///
    /// # Errors
    /// The medium's failure.
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), DiskError>;
    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// The medium's failure.
    fn write_zeroes(&mut self, offset: u64, len: u64, may_unmap: bool) -> Result<(), DiskError>;
}

const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// Data is moved in pieces of at most this many bytes.
const PIECE: usize = 256 << 10;
const MAX_SEGMENTS: u32 = 254;
const MAX_DISCARD_SECTORS: u32 = 1 << 21;
const MAX_DISCARD_RANGES: u32 = 32;

mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const MULTI_QUEUE: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// The device.
pub struct Block {
    disk: Box<dyn Disk>,
    serial: [u8; 20],
    queues: u16,
    config: [u8; 64],
    buffer: Vec<u8>,
}

impl Block {
    /// A device with `queues` request queues over `disk`; at most 20 bytes of `serial` are shown.
    pub fn new(disk: Box<dyn Disk>, serial: &str, queues: u16) -> Self {
        let mut id = [0; 20];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let mut device = Self { disk, serial: id, queues: queues.max(1), config: [0; 64], buffer: vec![0; PIECE] };
        device.fill_config();
        device
    }

    fn fill_config(&mut self) {
        let mut set = |at: usize, bytes: &[u8]| self.config[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, &(self.disk.size() / SECTOR).to_le_bytes());
        set(12, &MAX_SEGMENTS.to_le_bytes());
        set(20, &(SECTOR as u32).to_le_bytes());
        // Physical block of 8 sectors, aligned at 0, best I/O of one of those.
        set(24, &[3, 0, 1, 0]);
        set(28, &8_u32.to_le_bytes());
        set(34, &self.queues.to_le_bytes());
        set(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        set(40, &MAX_DISCARD_RANGES.to_le_bytes());
        set(44, &8_u32.to_le_bytes());
        set(48, &MAX_DISCARD_SECTORS.to_le_bytes());
        set(52, &MAX_DISCARD_RANGES.to_le_bytes());
        set(56, &[1]);
    }

    /// Shows the guest a size that changed below; call it through [`super::VirtioPci::config_changed`].
    pub fn update_size(&mut self) {
        self.fill_config();
    }

    /// Bytes of the range, if it's inside the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, u8> {
        let offset = sector.checked_mul(SECTOR).ok_or(IO_ERROR)?;
        let end = offset.checked_add(len).ok_or(IO_ERROR)?;
        let size = self.disk.size() / SECTOR * SECTOR;
        if end <= size { Ok(offset) } else { Err(IO_ERROR) }
    }

    /// Does one request and returns how many bytes were written to its buffers, the status byte included.
    fn serve(&mut self, chain: &Chain, memory: &GuestMemory) -> Result<u32, QueueError> {
        let mut header = [0; 16];
        if chain.read(memory, 0, &mut header) < header.len() || chain.writable_len() == 0 {
            return Err(QueueError::Request);
        }
        let [kind, _, low, high]: [u32; 4] =
            std::array::from_fn(|index| u32::from_le_bytes(std::array::from_fn(|byte| header[index * 4 + byte])));
        let sector = u64::from(low) | u64::from(high) << 32;
        let room = chain.writable_len() - 1;
        let (status, written) = match kind {
            request::IN => self.read(chain, memory, sector, room),
            request::OUT => (self.write(chain, memory, sector), 0),
            request::FLUSH => (status(self.disk.flush()), 0),
            request::GET_ID => {
                let len = room.min(self.serial.len() as u64) as usize;
                (OK, chain.write(memory, 0, &self.serial[..len]) as u32)
            }
            request::DISCARD | request::WRITE_ZEROES => (self.ranges(chain, memory, kind), 0),
            _ => (UNSUPPORTED, 0),
        };
        if chain.write(memory, room, &[status]) != 1 {
            return Err(QueueError::Address);
        }
        Ok(written + 1)
    }

    fn read(&mut self, chain: &Chain, memory: &GuestMemory, sector: u64, len: u64) -> (u8, u32) {
        let offset = match self.range(sector, len) {
            Ok(offset) if len.is_multiple_of(SECTOR) => offset,
            _ => return (IO_ERROR, 0),
        };
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PIECE as u64) as usize;
            let buffer = &mut self.buffer[..piece];
            if let Err(error) = self.disk.read(offset + done, buffer) {
                return (status(Err(error)), 0);
            }
            if chain.write(memory, done, buffer) != piece {
                return (IO_ERROR, 0);
            }
            done += piece as u64;
        }
        (OK, len as u32)
    }

    fn write(&mut self, chain: &Chain, memory: &GuestMemory, sector: u64) -> u8 {
        let len = chain.readable_len() - 16;
        let offset = match self.range(sector, len) {
            Ok(offset) if len.is_multiple_of(SECTOR) && !self.disk.is_read_only() => offset,
            _ => return IO_ERROR,
        };
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PIECE as u64) as usize;
            let buffer = &mut self.buffer[..piece];
            if chain.read(memory, 16 + done, buffer) != piece {
                return IO_ERROR;
            }
            if let Err(error) = self.disk.write(offset + done, buffer) {
                return status(Err(error));
            }
            done += piece as u64;
        }
        OK
    }

    /// Discard and write zeroes: a list of ranges of 16 bytes each.
    fn ranges(&mut self, chain: &Chain, memory: &GuestMemory, kind: u32) -> u8 {
        let len = chain.readable_len() - 16;
        if !len.is_multiple_of(16) || len > u64::from(MAX_DISCARD_RANGES) * 16 || self.disk.is_read_only() {
            return IO_ERROR;
        }
        for index in 0..len / 16 {
            let mut range = [0; 16];
            if chain.read(memory, 16 + index * 16, &mut range) != range.len() {
                return IO_ERROR;
            }
            let sector = u64::from_le_bytes(std::array::from_fn(|byte| range[byte]));
            let sectors = u32::from_le_bytes(std::array::from_fn(|byte| range[8 + byte]));
            let unmap = range[12] & 1 != 0;
            let bytes = u64::from(sectors) * SECTOR;
            let offset = match self.range(sector, bytes) {
                Ok(offset) if sectors <= MAX_DISCARD_SECTORS => offset,
                _ => return IO_ERROR,
            };
            let result = if kind == request::DISCARD {
                self.disk.discard(offset, bytes)
            } else {
                self.disk.write_zeroes(offset, bytes, unmap)
            };
            if result.is_err() {
                return status(result);
            }
        }
        OK
    }
}

fn status(result: Result<(), DiskError>) -> u8 {
    match result {
        Ok(()) => OK,
        Err(DiskError::Io) => IO_ERROR,
        Err(DiskError::Unsupported) => UNSUPPORTED,
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let common = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY | feature::MULTI_QUEUE;
        common | if self.disk.is_read_only() { feature::READ_ONLY } else { feature::DISCARD | feature::WRITE_ZEROES }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn read_config(&self, offset: usize) -> u8 {
        self.config.get(offset).copied().unwrap_or(0)
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        let queue = &mut queues[queue];
        while let Some(chain) = queue.pop(memory)? {
            let written = self.serve(&chain, memory)?;
            queue.push(memory, &chain, written)?;
        }
        Ok(())
    }
}

/// Nothing: a request is done before the call that takes it returns, and everything else is the disk's.
impl SaveState for Block {
    const VERSION: u32 = 1;

    fn save(&self, _into: &mut StateWriter) {}

    fn load(&mut self, _version: u32, _from: &mut StateReader<'_>) -> Result<(), LoadError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{descriptor, memory, offer, queue};
    use super::*;

    struct Bytes(Vec<u8>, bool);

    impl Disk for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn is_read_only(&self) -> bool {
            self.1
        }
        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
            into.copy_from_slice(&self.0[offset as usize..][..into.len()]);
            Ok(())
        }
        fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
            self.0[offset as usize..][..from.len()].copy_from_slice(from);
            Ok(())
        }
        fn flush(&mut self) -> Result<(), DiskError> {
            Ok(())
        }
        fn discard(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
            self.write_zeroes(offset, len, true)
        }
        fn write_zeroes(&mut self, offset: u64, len: u64, _: bool) -> Result<(), DiskError> {
            self.0[offset as usize..][..len as usize].fill(0);
            Ok(())
        }
    }

    /// Sends one request with the data at 0x5000 and returns its status.
    fn request(device: &mut Block, memory: &GuestMemory, kind: u32, sector: u64, len: u32, device_writes: bool) -> u8 {
        let mut queues = [queue()];
        memory.store(0x2002, 0_u16).unwrap();
        memory.store(0x4000, u64::from(kind)).unwrap();
        memory.store(0x4008, sector).unwrap();
        memory.store(0x6000, 0xee_u8).unwrap();
        descriptor(memory, 0x1000, 0, (0x4000, 16, 1, 1));
        descriptor(memory, 0x1000, 1, (0x5000, len, 1 | if device_writes { 2 } else { 0 }, 2));
        descriptor(memory, 0x1000, 2, (0x6000, 1, 2, 0));
        offer(memory, 0);
        device.notify(0, &mut queues, memory).unwrap();
        memory.load(0x6000).unwrap()
    }

    #[test]
    fn data_goes_to_the_disk_and_back() {
        let memory = memory();
        let mut device = Block::new(Box::new(Bytes(vec![0; 4096], false)), "serial-1", 1);
        memory.write(0x5000, &[0xab; 1024]);
        assert_eq!(request(&mut device, &memory, request::OUT, 2, 1024, false), OK);
        memory.write(0x5000, &[0; 1024]);
        assert_eq!(request(&mut device, &memory, request::IN, 3, 512, true), OK);
        assert_eq!(memory.load::<u16>(0x51fe), Some(0xabab));
        assert_eq!(request(&mut device, &memory, request::GET_ID, 0, 20, true), OK);
        assert_eq!(memory.load::<u64>(0x5000), Some(u64::from_le_bytes(*b"serial-1")));
    }

    #[test]
    fn requests_outside_the_disk_fail_and_change_nothing() {
        let memory = memory();
        let mut device = Block::new(Box::new(Bytes(vec![0; 4096], false)), "", 1);
        assert_eq!(request(&mut device, &memory, request::OUT, 7, 1024, false), IO_ERROR);
        assert_eq!(request(&mut device, &memory, request::IN, u64::MAX, 512, true), IO_ERROR);
        assert_eq!(request(&mut device, &memory, request::IN, 0, 100, true), IO_ERROR);
        assert_eq!(request(&mut device, &memory, 99, 0, 512, true), UNSUPPORTED);
        let mut read_only = Block::new(Box::new(Bytes(vec![0; 4096], true)), "", 1);
        assert_eq!(request(&mut read_only, &memory, request::OUT, 0, 512, false), IO_ERROR);
    }

    #[test]
    fn discard_takes_a_list_of_ranges() {
        let memory = memory();
        let mut device = Block::new(Box::new(Bytes(vec![9; 4096], false)), "", 1);
        memory.store(0x5000, 1_u64).unwrap();
        memory.store(0x5008, 2_u64).unwrap();
        assert_eq!(request(&mut device, &memory, request::DISCARD, 0, 16, false), OK);
        assert_eq!(request(&mut device, &memory, request::IN, 2, 512, true), OK);
        assert_eq!(memory.load::<u64>(0x5000), Some(0));
        memory.store(0x5000, 7_u64).unwrap();
        memory.store(0x5008, 2_u64).unwrap();
        assert_eq!(request(&mut device, &memory, request::DISCARD, 0, 16, false), IO_ERROR);
    }

    #[test]
    fn a_request_without_room_for_its_status_is_an_error_of_the_driver() {
        let memory = memory();
        let mut device = Block::new(Box::new(Bytes(vec![0; 4096], false)), "", 1);
        let mut queues = [queue()];
        descriptor(&memory, 0x1000, 0, (0x4000, 16, 0, 0));
        offer(&memory, 0);
        assert_eq!(device.notify(0, &mut queues, &memory), Err(QueueError::Request));
    }
}
