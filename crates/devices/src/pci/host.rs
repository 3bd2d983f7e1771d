//! The i440FX host bridge (8086:1237; Intel 290549, chapter 3): its attribute registers say which parts of the firmware
//! area below 1 MiB are RAM. Changing the memory map accordingly is the board's business. There is no system management
//! RAM.

use ferro_guest::{LoadError, SaveState, StateReader, StateWriter};

use super::{ConfigSpace, Identity, PciFunction};

const ATTRIBUTES: usize = 0x59;
const SMRAM: usize = 0x72;

/// One stretch of the firmware area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The stretches of the firmware area that have attributes of their own, ordered by address: twelve of 16 KiB from
/// 0xC0000 on, and one of 64 KiB at 0xF0000.
pub const SEGMENTS: [Segment; 13] = segments();

const fn segments() -> [Segment; 13] {
    let mut all = [Segment { start: 0xf_0000, len: 0x1_0000 }; 13];
    let mut index = 0;
    while index < 12 {
        all[index] = Segment { start: 0xc_0000 + index as u64 * 0x4000, len: 0x4000 };
        index += 1;
    }
    all
}

/// Where a segment's accesses go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shadow {
    /// Reads go to RAM, not to the ROM.
    pub read: bool,
    /// Writes go to RAM.
    pub write: bool,
}

/// The bridge.
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: 0x06_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.set_writable(ATTRIBUTES, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        config.set(SMRAM, &[2]);
        config.set_writable(SMRAM, &[0x78]);
        Self(config)
    }
}

impl HostBridge {
    /// The attributes of [`SEGMENTS`].
    pub fn shadow(&self) -> [Shadow; 13] {
        let registers: [u8; 7] = self.0.get(ATTRIBUTES);
        std::array::from_fn(|index| {
            let bits = match index {
                12 => registers[0] >> 4,
                _ => registers[1 + index / 2] >> (4 * (index % 2)),
            };
            Shadow { read: bits & 1 != 0, write: bits & 2 != 0 }
        })
    }

    /// Makes the whole firmware area RAM, as firmware leaves it.
    pub fn shadow_all(&mut self) {
        self.0.set(ATTRIBUTES, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
    }
}

impl PciFunction for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }

    fn read_bar(&mut self, _bar: usize, _offset: u64, _size: u8) -> u64 {
        u64::MAX
    }

    fn write_bar(&mut self, _bar: usize, _offset: u64, _size: u8, _value: u64) {}

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The memory map follows once the bus is told: [`super::PciBus::loaded`].
impl SaveState for HostBridge {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.0.save(into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.0.load(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_belong_to_their_segments() {
        let mut bridge = HostBridge::default();
        assert!(bridge.shadow().iter().all(|shadow| !shadow.read && !shadow.write));
        bridge.write_config(0x59, 1, 0x10);
        bridge.write_config(0x5a, 2, 0x0230);
        let shadow = bridge.shadow();
        assert_eq!((SEGMENTS[12].start, shadow[12]), (0xf_0000, Shadow { read: true, write: false }));
        assert_eq!((SEGMENTS[1].start, shadow[1]), (0xc_4000, Shadow { read: true, write: true }));
        assert_eq!((SEGMENTS[2].start, shadow[2]), (0xc_8000, Shadow { read: false, write: true }));
        bridge.reset();
        assert!(!bridge.shadow()[12].read);
        bridge.shadow_all();
        assert!(bridge.shadow().iter().all(|shadow| shadow.read && shadow.write));
    }
}
