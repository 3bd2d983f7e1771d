//! One PCI bus: functions by slot, configuration through ports 0xCF8 and 0xCFC, and the dispatch of guest accesses to
//! the function whose window they hit.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use ferro_guest::{BusDevice, LoadError, SaveState, StateReader, StateWriter};

use super::{BarKind, ConfigSpace};

/// Addresses that a function decodes beside its base address registers: those that PCs have always had, and those that
/// registers of its own place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedWindow {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Ports rather than memory.
    pub io: bool,
    /// The number by which [`PciFunction::read_bar`] and [`PciFunction::write_bar`] know it, from 6.
    pub bar: usize,
}

/// Is told when a guest has written to configuration space: memory behind it may have moved.
pub trait ConfigObserver: Send + Sync {
    /// `function` is the slot (bits 3–7) and function (bits 0–2) number, `offset` the first byte written. No function is
    /// locked meanwhile.
    fn config_written(&self, function: u8, offset: usize);

    /// Every function's configuration space was loaded from saved state: anything may have moved.
    fn config_loaded(&self);
}

/// A function on the bus.
pub trait PciFunction: Send {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;
    /// Its configuration space, to change.
    fn config_mut(&mut self) -> &mut ConfigSpace;
    /// A guest's write to configuration space.
    fn write_config(&mut self, offset: usize, size: u8, value: u32) {
        self.config_mut().write(offset, size, value);
    }
    /// A guest's read of configuration space.
    fn read_config(&mut self, offset: usize, size: u8) -> u32 {
        self.config().read(offset, size)
    }
    /// A guest's read in a window.
    fn read_bar(&mut self, bar: usize, offset: u64, size: u8) -> u64;
    /// A guest's write in a window.
    fn write_bar(&mut self, bar: usize, offset: u64, size: u8, value: u64);
    /// The registers by which the driver only says that there is work: the window and the offset in it of each. A write of
    /// anything there is the same as [`PciFunction::ring`], which another thread may call in its place.
    fn doorbells(&self) -> Vec<(usize, u64)> {
        vec![]
    }
    /// Does the work that the driver has announced.
    fn ring(&mut self) {}
    /// What it decodes now beside its base address registers.
    fn fixed_windows(&self) -> Vec<FixedWindow> {
        vec![]
    }
    /// The state after power-on.
    fn reset(&mut self) {}
}

/// Told where a function's doorbells are now; none while its window is switched off.
pub type DoorbellPlace = Box<dyn Fn(&[u64]) + Send + Sync>;

/// A function as the bus and the rest of the board share it.
pub type SharedFunction = Arc<Mutex<dyn PciFunction>>;

struct Window {
    start: u64,
    len: u64,
    io: bool,
    slot: usize,
    bar: usize,
}

/// The bus, without bridges: 32 slots of one function each, and more functions where one is added as such.
pub struct PciBus {
    functions: Vec<(u8, SharedFunction)>,
    windows: RwLock<Vec<Window>>,
    observer: OnceLock<Arc<dyn ConfigObserver>>,
    listeners: Mutex<Vec<Listener>>,
}

struct Listener {
    /// Index of the function.
    function: usize,
    place: DoorbellPlace,
    told: Vec<u64>,
}

/// The state behind a function's lock; a panic elsewhere leaves it as good as it was.
fn lock(function: &SharedFunction) -> MutexGuard<'_, dyn PciFunction + 'static> {
    function.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl PciBus {
    /// A bus with these functions, each with its slot (bits 3–7) and function (bits 0–2) number.
    pub fn new(functions: Vec<(u8, SharedFunction)>) -> Self {
        let bus =
            Self { functions, windows: RwLock::new(vec![]), observer: OnceLock::new(), listeners: Mutex::default() };
        bus.find_windows();
        bus
    }

    /// The functions.
    pub fn functions(&self) -> &[(u8, SharedFunction)] {
        &self.functions
    }

    /// Tells `place`, now and whenever it changes, where the doorbells of the function with this number are.
    pub fn listen_to_doorbells(&self, number: u8, place: DoorbellPlace) {
        let Some(function) = self.functions.iter().position(|(at, _)| *at == number) else { return };
        let mut listeners = self.listeners.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        listeners.push(Listener { function, place, told: vec![] });
        drop(listeners);
        self.place_doorbells();
    }

    fn place_doorbells(&self) {
        for listener in &mut *self.listeners.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            let function = lock(&self.functions[listener.function].1);
            let address = |(bar, offset)| function.config().bar_address(bar).map(|start| start + offset);
            let addresses: Vec<_> = function.doorbells().into_iter().filter_map(address).collect();
            drop(function);
            if addresses != listener.told {
                (listener.place)(&addresses);
                listener.told = addresses;
            }
        }
    }

    /// Has `observer` told of every write to configuration space from now on; only the first one given is.
    pub fn observe(&self, observer: Arc<dyn ConfigObserver>) {
        let _ = self.observer.set(observer);
    }

    /// Gives every window an address, as firmware would: memory from `memory` up, ports from `ports` up.
    pub fn assign(&self, mut memory: u64, mut ports: u64) {
        for (_, function) in &self.functions {
            let mut function = lock(function);
            for index in 0..6 {
                let Some((kind, size)) = function.config().bar(index) else { continue };
                let next = if kind == BarKind::Io { &mut ports } else { &mut memory };
                *next = next.next_multiple_of(size);
                function.config_mut().assign_bar(index, *next);
                *next += size;
            }
        }
        self.find_windows();
    }

    /// Puts every function into its state after power-on.
    pub fn reset(&self) {
        for (_, function) in &self.functions {
            lock(function).reset();
        }
        self.find_windows();
    }

    /// Looks at every function again after their states were loaded: where their windows and doorbells are now, and the memory
    /// behind them, of which the observer is told.
    pub fn loaded(&self) {
        self.find_windows();
        if let Some(observer) = self.observer.get() {
            observer.config_loaded();
        }
    }

    /// Has every function do the work that its driver may have announced to another thread, which a saved state doesn't
    /// have: to be called before a loaded VM runs.
    pub fn ring_all(&self) {
        self.functions.iter().for_each(|(_, function)| lock(function).ring());
    }

    fn find_windows(&self) {
        let mut found = vec![];
        for (slot, (_, function)) in self.functions.iter().enumerate() {
            let function = lock(function);
            let config = function.config();
            for bar in 0..6 {
                if let (Some((kind, len)), Some(start)) = (config.bar(bar), config.bar_address(bar)) {
                    found.push(Window { start, len, io: kind == BarKind::Io, slot, bar });
                }
            }
            let fixed = function.fixed_windows().into_iter();
            found.extend(fixed.map(|FixedWindow { start, len, io, bar }| Window { start, len, io, slot, bar }));
        }
        *self.windows.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = found;
        self.place_doorbells();
    }

    fn hit(&self, io: bool, address: u64) -> Option<(&SharedFunction, usize, u64)> {
        let windows = self.windows.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let window = windows
            .iter()
            .find(|window| window.io == io && address.checked_sub(window.start).is_some_and(|at| at < window.len))?;
        Some((&self.functions[window.slot].1, window.bar, address - window.start))
    }

    /// A guest's read of a port or of memory; `None` if no window is there.
    pub fn read(&self, io: bool, address: u64, size: u8) -> Option<u64> {
        let (function, bar, offset) = self.hit(io, address)?;
        Some(lock(function).read_bar(bar, offset, size))
    }

    /// A guest's write; returns whether a window is there.
    pub fn write(&self, io: bool, address: u64, size: u8, value: u64) -> bool {
        let Some((function, bar, offset)) = self.hit(io, address) else { return false };
        lock(function).write_bar(bar, offset, size, value);
        true
    }

    fn function(&self, number: u8) -> Option<&SharedFunction> {
        self.functions.iter().find(|(at, _)| *at == number).map(|(_, function)| function)
    }

    fn read_config(&self, number: u8, offset: usize, size: u8) -> u32 {
        self.function(number).map_or(u32::MAX, |function| lock(function).read_config(offset, size))
    }

    /// A write to configuration space, as a guest's or the firmware's.
    pub fn write_config(&self, number: u8, offset: usize, size: u8, value: u32) {
        let Some(function) = self.function(number) else { return };
        let moved = {
            let mut function = lock(function);
            let before = function.fixed_windows();
            function.write_config(offset, size, value);
            function.fixed_windows() != before
        };
        if offset < 0x28 || moved {
            self.find_windows();
        }
        if let Some(observer) = self.observer.get() {
            observer.config_written(number, offset);
        }
    }
}

/// Configuration mechanism #1: the address register at 0xCF8 and the data window at 0xCFC.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: u32,
}

impl ConfigPorts {
    /// Ports for this bus, which is bus 0.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: 0 }
    }

    /// The function and register that the address names, if it names one on bus 0.
    fn target(&self, offset: u64) -> Option<(u8, usize)> {
        let enabled = self.address >> 31 != 0 && self.address >> 16 & 0xff == 0;
        enabled.then(|| ((self.address >> 8) as u8, (self.address & 0xfc) as usize + (offset & 3) as usize))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            0 if size == 4 => u64::from(self.address),
            4..=7 => match self.target(offset) {
                Some((number, register)) => u64::from(self.bus.read_config(number, register, size.min(4))),
                None => u64::MAX,
            },
            _ => u64::MAX,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            0 if size == 4 => self.address = value as u32,
            4..=7 => {
                if let Some((number, register)) = self.target(offset) {
                    self.bus.write_config(number, register, size.min(4), value as u32);
                }
            }
            _ => {}
        }
    }
}

impl SaveState for ConfigPorts {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u32(self.address);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.address = from.u32()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Identity;

    struct Echo(ConfigSpace, u64);

    impl PciFunction for Echo {
        fn config(&self) -> &ConfigSpace {
            &self.0
        }
        fn config_mut(&mut self) -> &mut ConfigSpace {
            &mut self.0
        }
        fn read_bar(&mut self, bar: usize, offset: u64, _size: u8) -> u64 {
            self.1 + (bar as u64) * 0x100 + offset
        }
        fn write_bar(&mut self, _bar: usize, _offset: u64, _size: u8, value: u64) {
            self.1 = value;
        }
        fn doorbells(&self) -> Vec<(usize, u64)> {
            vec![(1, 0x40)]
        }
    }

    fn bus() -> Arc<PciBus> {
        let identity = Identity { vendor: 1, device: 2, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 };
        let mut config = ConfigSpace::new(identity);
        config.add_bar(0, BarKind::Io, 32);
        config.add_bar(1, BarKind::Memory32 { prefetchable: false }, 4096);
        Arc::new(PciBus::new(vec![(3 << 3, Arc::new(Mutex::new(Echo(config, 0))))]))
    }

    #[test]
    fn doorbells_are_told_where_they_are_and_when_they_are_off() {
        let bus = bus();
        let told = Arc::new(Mutex::new(vec![]));
        let note = told.clone();
        bus.listen_to_doorbells(3 << 3, Box::new(move |at| note.lock().unwrap().push(at.to_vec())));
        bus.assign(0xe000_0000, 0xc000);
        let mut ports = ConfigPorts::new(bus);
        ports.write(0, 4, 0x8000_1814);
        ports.write(4, 4, 0xd000_0000);
        ports.write(0, 4, 0x8000_1804);
        ports.write(4, 2, 0);
        assert_eq!(*told.lock().unwrap(), [vec![0xe000_0040], vec![0xd000_0040], vec![]]);
    }

    #[test]
    fn windows_answer_where_they_were_put_and_move() {
        let bus = bus();
        assert_eq!(bus.read(false, 0xe000_0000, 4), None);
        bus.assign(0xe000_0000, 0xc000);
        assert_eq!(bus.read(false, 0xe000_0010, 4), Some(0x110));
        assert_eq!(bus.read(true, 0xc01f, 1), Some(0x1f));
        assert_eq!(bus.read(true, 0xc020, 1), None);
        let mut ports = ConfigPorts::new(bus.clone());
        ports.write(0, 4, 0x8000_1814);
        ports.write(4, 4, 0xd000_0000);
        assert_eq!(bus.read(false, 0xe000_0010, 4), None);
        assert!(bus.write(false, 0xd000_0010, 4, 7));
        assert_eq!(bus.read(false, 0xd000_0000, 4), Some(0x107));
    }

    #[test]
    fn absent_functions_read_as_all_ones() {
        let mut ports = ConfigPorts::new(bus());
        ports.write(0, 4, 0x8000_2000);
        assert_eq!(ports.read(4, 4), u64::from(u32::MAX));
        ports.write(0, 4, 0x8000_1800);
        assert_eq!((ports.read(4, 4), ports.read(6, 2)), (0x0002_0001, 2));
        ports.write(0, 4, 0x8001_1800);
        assert_eq!(ports.read(4, 4), u64::MAX, "another bus");
    }

    #[test]
    fn loaded_functions_are_found_at_their_places() {
        let (old, new) = (bus(), bus());
        old.assign(0xe000_0000, 0xc000);
        let told = Arc::new(Mutex::new(vec![]));
        let note = told.clone();
        new.listen_to_doorbells(3 << 3, Box::new(move |at| note.lock().unwrap().push(at.to_vec())));
        let mut writer = StateWriter::new();
        lock(&old.functions[0].1).config().save(&mut writer);
        let bytes = writer.finish();
        lock(&new.functions[0].1).config_mut().load(&mut StateReader::new(&bytes)).unwrap();
        assert_eq!(new.read(false, 0xe000_0000, 4), None);
        new.loaded();
        assert_eq!(new.read(false, 0xe000_0010, 4), Some(0x110));
        assert_eq!(*told.lock().unwrap(), [vec![0xe000_0040]]);
        let mut other = bytes.clone();
        // Vendor, and a bit of the window's address that its size doesn't leave.
        for at in [4, 4 + 0x15] {
            other[at] ^= 1;
            let mut reader = StateReader::new(&other);
            let loaded = lock(&new.functions[0].1).config_mut().load(&mut reader);
            assert!(matches!(loaded, Err(LoadError::Value(_))), "{loaded:?}");
            other[at] ^= 1;
        }
    }
}
