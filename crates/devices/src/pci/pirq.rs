//! The PIIX3 ISA bridge (8086:7000; Intel 290550, section 2.2) and the wires of the four PCI interrupts through it: each
//! goes to an input of the I/O APIC of its own, and to the ISA interrupt that the bridge's routing registers name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ferro_guest::{InterruptLine, LoadError, SaveState, StateReader, StateWriter};

use super::{ConfigSpace, Identity, PciFunction};

const ROUTES: usize = 0x60;
const UNROUTED: u8 = 0x80;
/// ISA interrupts that the chip doesn't route to: timer, keyboard, cascade, clock, coprocessor.
const NOT_ROUTABLE: u16 = 1 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 13;

struct Wires {
    /// How many functions drive each wire now.
    drivers: [u32; 4],
    routes: [u8; 4],
}

/// Joins the functions' interrupt pins to four wires, and these to interrupt inputs.
pub struct PirqRouter {
    wires: Mutex<Wires>,
    direct: [Arc<dyn InterruptLine>; 4],
    isa: [Arc<dyn InterruptLine>; 16],
}

impl PirqRouter {
    /// A router that drives `direct` wire by wire and `isa` by the routing registers.
    pub fn new(direct: [Arc<dyn InterruptLine>; 4], isa: [Arc<dyn InterruptLine>; 16]) -> Arc<Self> {
        let wires = Mutex::new(Wires { drivers: [0; 4], routes: [UNROUTED; 4] });
        Arc::new(Self { wires, direct, isa })
    }

    /// The wire that a slot's pin (0 for INTA#) is on, 0 to 3.
    pub fn wire(slot: u8, pin: u8) -> usize {
        (usize::from(slot) + usize::from(pin) + 3) % 4
    }

    /// A line for a slot's pin (0 for INTA#). Each function has one of its own: a wire is low when all let it go.
    pub fn line(self: &Arc<Self>, slot: u8, pin: u8) -> Arc<dyn InterruptLine> {
        Arc::new(Pin { router: self.clone(), wire: Self::wire(slot, pin), high: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn route(&self, routes: [u8; 4]) {
        let mut wires = self.lock();
        let old = std::mem::replace(&mut wires.routes, routes);
        for route in old.into_iter().chain(routes) {
            self.drive_isa(&wires, route);
        }
    }

    /// Brings the ISA interrupt of a routing register in line with all wires that lead there.
    fn drive_isa(&self, wires: &Wires, route: u8) {
        let target = route & 15;
        if route & UNROUTED != 0 || NOT_ROUTABLE >> target & 1 != 0 {
            return;
        }
        let high = wires.routes.iter().zip(wires.drivers).any(|(other, drivers)| *other == route && drivers > 0);
        self.isa[usize::from(target)].set_level(high);
    }

    fn drive(&self, wire: usize, high: bool) {
        let mut wires = self.lock();
        let drivers = &mut wires.drivers[wire];
        *drivers = if high { *drivers + 1 } else { drivers.saturating_sub(1) };
        self.direct[wire].set_level(*drivers > 0);
        self.drive_isa(&wires, wires.routes[wire]);
    }
}

struct Pin {
    router: Arc<PirqRouter>,
    wire: usize,
    high: AtomicBool,
}

impl InterruptLine for Pin {
    fn set_level(&self, high: bool) {
        if self.high.swap(high, Ordering::AcqRel) != high {
            self.router.drive(self.wire, high);
        }
    }
}

/// The bridge.
pub struct IsaBridge {
    config: ConfigSpace,
    router: Arc<PirqRouter>,
}

impl IsaBridge {
    /// A bridge whose registers set `router`.
    pub fn new(router: Arc<PirqRouter>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7000,
            revision: 0,
            class: 0x06_01_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        // Several functions in this slot.
        config.set(0x0e, &[0x80]);
        config.set(ROUTES, &[UNROUTED; 4]);
        config.set_writable(ROUTES, &[0x8f; 4]);
        Self { config, router }
    }
}

impl PciFunction for IsaBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn write_config(&mut self, offset: usize, size: u8, value: u32) {
        self.config.write(offset, size, value);
        if offset + usize::from(size) > ROUTES && offset < ROUTES + 4 {
            self.router.route(self.config.get(ROUTES));
        }
    }

    fn read_bar(&mut self, _bar: usize, _offset: u64, _size: u8) -> u64 {
        u64::MAX
    }

    fn write_bar(&mut self, _bar: usize, _offset: u64, _size: u8, _value: u64) {}

    fn reset(&mut self) {
        self.config.set(ROUTES, &[UNROUTED; 4]);
        self.router.route([UNROUTED; 4]);
    }
}

/// What drives the wires is the functions' state: each drives its own again when it is loaded.
impl SaveState for IsaBridge {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.config.save(into);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.config.load(from)?;
        self.router.route(self.config.get(ROUTES));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Level(AtomicBool);

    impl InterruptLine for Level {
        fn set_level(&self, high: bool) {
            self.0.store(high, Ordering::Relaxed);
        }
    }

    #[test]
    fn wires_are_shared_and_routed() {
        let direct: [Arc<Level>; 4] = Default::default();
        let isa: [Arc<Level>; 16] = Default::default();
        let lines = |from: &Arc<Level>| from.clone() as Arc<dyn InterruptLine>;
        let router = PirqRouter::new(direct.each_ref().map(lines), isa.each_ref().map(lines));
        let mut bridge = IsaBridge::new(router.clone());
        let (one, two) = (router.line(2, 0), router.line(6, 0));
        let high = |line: &Level| line.0.load(Ordering::Relaxed);
        one.set_level(true);
        assert!(high(&direct[1]) && !high(&isa[10]));
        bridge.write_config(0x61, 1, 10);
        assert!(high(&isa[10]));
        two.set_level(true);
        one.set_level(false);
        one.set_level(false);
        assert!(high(&direct[1]) && high(&isa[10]), "the other function still drives the wire");
        bridge.write_config(0x60, 4, 0x0b0b_0b0b);
        assert!(!high(&isa[10]) && high(&isa[11]));
        two.set_level(false);
        assert!(!high(&direct[1]) && !high(&isa[11]));
        bridge.write_config(0x61, 1, 2);
        two.set_level(true);
        assert!(!high(&isa[2]), "the cascade can't be routed to");
    }
}
