//! Keeps the guest's memory map in line with the registers that move it: shadow RAM in the host bridge, and the video
//! memory's window.

use std::sync::{Arc, Mutex};

use ferro_devices::pci::{ConfigObserver, HostBridge, SEGMENTS, Shadow, SharedFunction};
use ferro_guest::Range;
use ferro_hypervisor::Vm;
use tracing::warn;

use crate::bus::{Shared, lock};
use crate::layout::Arena;

/// The VGA on the bus and the register of its window.
pub(crate) struct VideoWindow {
    pub(crate) number: u8,
    pub(crate) function: SharedFunction,
    pub(crate) bar: usize,
}

/// The map and what it follows.
pub(crate) struct MemoryMap {
    vm: Arc<dyn Vm>,
    arena: Arena,
    bridge: Shared<HostBridge>,
    video: Option<VideoWindow>,
    current: Mutex<Vec<Range>>,
}

impl MemoryMap {
    pub(crate) fn new(
        vm: Arc<dyn Vm>,
        arena: Arena,
        bridge: Shared<HostBridge>,
        video: Option<VideoWindow>,
    ) -> Arc<Self> {
        Arc::new(Self { vm, arena, bridge, video, current: Mutex::new(vec![]) })
    }

    /// Changes the map if the registers say so.
    pub(crate) fn update(&self) {
        // Held to the end: the map that is put in place last is the one that was made last.
        let mut current = lock(&self.current);
        let shadow = lock(&self.bridge).shadow();
        let video = self.video.as_ref().and_then(|video| lock(&video.function).config().bar_address(video.bar));
        let ranges = self.arena.ranges(&shadow, video);
        if *current == ranges {
            return;
        }
        match self.vm.remap(&ranges) {
            Ok(()) => *current = ranges,
            Err(error) => warn!("the guest's memory map can't change: {error}"),
        }
    }

    /// Takes a write that found no memory; whether it went to RAM that is only written there, under the ROM.
    pub(crate) fn write_under_rom(&self, address: u64, size: u8, value: u64) -> bool {
        let Some(index) =
            SEGMENTS.iter().position(|segment| (segment.start..segment.start + segment.len).contains(&address))
        else {
            return false;
        };
        let Shadow { read, write } = lock(&self.bridge).shadow()[index];
        let hidden = write && !read && address + u64::from(size) <= self.arena.ram;
        if hidden {
            self.vm.memory().ram().write(address as usize, &value.to_le_bytes()[..usize::from(size.min(8))]);
        }
        hidden
    }
}

impl ConfigObserver for MemoryMap {
    fn config_written(&self, function: u8, offset: usize) {
        let shadow = function == 0 && (0x56..0x60).contains(&offset);
        let window = self.video.as_ref().is_some_and(|video| video.number == function && offset < 0x28);
        if shadow || window {
            self.update();
        }
    }

    fn config_loaded(&self) {
        self.update();
    }
}
