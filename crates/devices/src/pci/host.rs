//! The functions that make the bus a PC's: the i440FX host bridge and the PIIX3 ISA bridge, as far as an operating
//! system that was booted without firmware looks at them.

use super::{ConfigSpace, Identity, PciFunction};

/// The i440FX host bridge (8086:1237).
pub struct HostBridge(ConfigSpace);

/// The PIIX3 ISA bridge (8086:7000).
pub struct IsaBridge(ConfigSpace);

fn identity(device: u16, class: u32) -> Identity {
    Identity { vendor: 0x8086, device, revision: 2, class, subsystem_vendor: 0x1af4, subsystem: 0x1100 }
}

impl Default for HostBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(identity(0x1237, 0x06_00_00));
        // Shadow RAM attributes.
        config.set_writable(0x59, &[0xff; 7]);
        Self(config)
    }
}

impl Default for IsaBridge {
    fn default() -> Self {
        let mut config = ConfigSpace::new(identity(0x7000, 0x06_01_00));
        config.set(0x0e, &[0x80]);
        // Routing of the four PCI interrupts to the 8259s: none.
        config.set(0x60, &[0x80; 4]);
        config.set_writable(0x60, &[0x8f; 4]);
        Self(config)
    }
}

macro_rules! without_windows {
    ($type:ty) => {
        impl PciFunction for $type {
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
    };
}

without_windows!(HostBridge);
without_windows!(IsaBridge);
