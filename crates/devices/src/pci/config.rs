//! The 256 bytes of a function's configuration space: identity, base address registers and the list of capabilities,
//! each byte with a mask of what the guest may write.

use ferro_guest::{LoadError, StateReader, StateWriter};

use crate::state;

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass and programming interface, from high to low byte of 24 bits.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a base address register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Without side effects on reads.
        prefetchable: bool,
    },
    /// Memory anywhere; takes the next register too.
    Memory64 {
        /// Without side effects on reads.
        prefetchable: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Bar {
    kind: BarKind,
    size: u64,
}

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const COMMAND_IO: u8 = 1;
const COMMAND_MEMORY: u8 = 2;
const COMMAND_MASTER: u8 = 4;
const COMMAND_NO_INTX: u8 = 4;
const FIRST_CAPABILITY: u8 = 0x40;

/// The registers.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    bars: [Option<Bar>; 6],
    last_capability: Option<u8>,
    next_free: u8,
}

impl ConfigSpace {
    /// A function without base address registers and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            bars: [None; 6],
            last_capability: None,
            next_free: FIRST_CAPABILITY,
        };
        space.set(0x00, &identity.vendor.to_le_bytes());
        space.set(0x02, &identity.device.to_le_bytes());
        space.set(0x08, &[identity.revision]);
        space.set(0x09, &identity.class.to_le_bytes()[..3]);
        space.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.set(0x2e, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND] = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER;
        space.writable[COMMAND + 1] = COMMAND_NO_INTX;
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Sets bytes as the function's maker would, whatever the guest may write.
    ///
    /// # Panics
    /// Past the end.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest write the bits of `mask` from `offset` on.
    ///
    /// # Panics
    /// Past the end.
    pub fn set_writable(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Bytes as the guest reads them.
    ///
    /// # Panics
    /// Past the end.
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|index| self.bytes[offset + index])
    }

    /// Says that the function raises INTA# to INTD# (1 to 4).
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.bytes[INTERRUPT_PIN] = pin;
    }

    /// Sets what firmware tells the operating system about the interrupt's wiring.
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.bytes[INTERRUPT_LINE] = line;
    }

    /// Whether the function's INTx# is disabled by the guest.
    pub fn intx_disabled(&self) -> bool {
        self.bytes[COMMAND + 1] & COMMAND_NO_INTX != 0
    }

    /// Whether the guest lets the function decode ports.
    pub fn decodes_ports(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_IO != 0
    }

    /// Whether the guest lets the function decode memory.
    pub fn decodes_memory(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MEMORY != 0
    }

    /// Adds a base address register of `size` bytes, a power of two of at least 16 (4 for ports).
    ///
    /// # Panics
    /// A size that isn't such a power of two, which is a mistake in the function.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) {
        assert!(size.is_power_of_two() && size >= 4, "a window's size is a power of two");
        self.bars[index] = Some(Bar { kind, size });
        let flags = match kind {
            BarKind::Io => 1,
            BarKind::Memory32 { prefetchable } => u8::from(prefetchable) << 3,
            BarKind::Memory64 { prefetchable } => 4 | u8::from(prefetchable) << 3,
        };
        let at = BARS + index * 4;
        self.bytes[at] = flags;
        let mask = !(size - 1);
        let low_bits = if kind == BarKind::Io { 3 } else { 15 };
        self.set_writable(at, &(mask as u32 & !low_bits).to_le_bytes());
        if let BarKind::Memory64 { .. } = kind {
            self.set_writable(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
    }

    /// The kind and size of a base address register.
    pub fn bar(&self, index: usize) -> Option<(BarKind, u64)> {
        self.bars[index].map(|bar| (bar.kind, bar.size))
    }

    /// Where the guest put a window; `None` while its decoding is off or the address is zero.
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        let bar = self.bars[index]?;
        let at = BARS + index * 4;
        let low = u32::from_le_bytes(self.get(at));
        let (enable, address) = match bar.kind {
            BarKind::Io => (COMMAND_IO, u64::from(low & !3)),
            BarKind::Memory32 { .. } => (COMMAND_MEMORY, u64::from(low & !15)),
            BarKind::Memory64 { .. } => {
                (COMMAND_MEMORY, u64::from(low & !15) | u64::from(u32::from_le_bytes(self.get(at + 4))) << 32)
            }
        };
        (self.bytes[COMMAND] & enable != 0 && address != 0).then_some(address)
    }

    /// Puts a window somewhere and switches its decoding on, as firmware would.
    pub fn assign_bar(&mut self, index: usize, address: u64) {
        let Some(bar) = self.bars[index] else { return };
        let at = BARS + index * 4;
        let flags = self.bytes[at] & 15;
        self.set(at, &(address as u32 | u32::from(flags)).to_le_bytes());
        if let BarKind::Memory64 { .. } = bar.kind {
            self.set(at + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.bytes[COMMAND] |= if bar.kind == BarKind::Io { COMMAND_IO } else { COMMAND_MEMORY };
    }

    /// Adds a capability: `body` follows its ID and next pointer, `mask` says what of the body the guest may write.
    /// Returns the offset of the body.
    ///
    /// # Panics
    /// When the space is full, which is a mistake in the function.
    pub fn add_capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> usize {
        let at = self.next_free;
        let len = body.len() + 2;
        self.next_free = u8::try_from((usize::from(at) + len).next_multiple_of(4)).expect("capabilities fit");
        match self.last_capability.replace(at) {
            Some(last) => self.bytes[usize::from(last) + 1] = at,
            None => {
                self.bytes[CAPABILITIES] = at;
                self.bytes[STATUS] |= 0x10;
            }
        }
        let at = usize::from(at);
        self.bytes[at] = id;
        self.set(at + 2, body);
        self.set_writable(at + 2, mask);
        at + 2
    }

    /// A guest's read of 1, 2 or 4 bytes.
    pub fn read(&self, offset: usize, size: u8) -> u32 {
        (0..usize::from(size)).fold(0, |value, index| {
            value | u32::from(self.bytes.get(offset + index).copied().unwrap_or(0xff)) << (8 * index)
        })
    }

    /// A guest's write of 1, 2 or 4 bytes.
    pub fn write(&mut self, offset: usize, size: u8, value: u32) {
        for index in 0..usize::from(size) {
            let Some(byte) = self.bytes.get_mut(offset + index) else { return };
            let mask = self.writable[offset + index];
            *byte = *byte & !mask | (value >> (8 * index)) as u8 & mask;
        }
    }
}

impl ConfigSpace {
    /// Writes what the guest reads.
    pub fn save(&self, into: &mut StateWriter) {
        into.bytes(&self.bytes);
    }

    /// Takes over what the guest wrote.
    ///
    /// # Errors
    /// Bits differ that the guest can't have written: it was another function's space, with other capabilities or windows.
    pub fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        let mut bytes = self.bytes;
        state::load_bytes(&mut bytes, "PCI configuration space", from)?;
        let fixed = bytes.iter().zip(&self.bytes).zip(&self.writable);
        let same = fixed.into_iter().all(|((new, old), mask)| (new ^ old) & !mask == 0);
        state::check(same, "what a PCI function is: the VM has another device there")?;
        self.bytes = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 2,
        })
    }

    #[test]
    fn sizing_a_window_shows_its_mask() {
        let mut space = space();
        space.add_bar(4, BarKind::Memory64 { prefetchable: true }, 0x4000);
        space.write(0x20, 4, u32::MAX);
        space.write(0x24, 4, u32::MAX);
        assert_eq!((space.read(0x20, 4), space.read(0x24, 4)), (0xffff_c00c, u32::MAX));
        space.write(0x20, 4, 0x8000_0000);
        space.write(0x24, 4, 1);
        assert_eq!(space.bar_address(4), None, "decoding is off");
        space.write(4, 2, 2);
        assert_eq!(space.bar_address(4), Some(0x1_8000_0000));
    }

    #[test]
    fn identity_cannot_be_written_and_capabilities_are_chained() {
        let mut space = space();
        space.write(0, 4, 0);
        assert_eq!(space.read(0, 4), 0x1042_1af4);
        assert_eq!(space.read(9, 1) | space.read(0xa, 2) << 8, 0x01_00_00);
        let first = space.add_capability(9, &[1, 2, 3], &[0, 0, 0xff]);
        let second = space.add_capability(0x11, &[4], &[0]);
        assert_eq!((space.read(0x34, 1), space.read(first - 1, 1)), (0x40, second as u32 - 2));
        space.write(first, 4, u32::MAX);
        assert_eq!(space.read(first, 4) & 0xff_ffff, 0xff_0201);
    }
}
