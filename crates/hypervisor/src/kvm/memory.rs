//! Showing the guest's memory to KVM, one slot per range of the map, asking KVM which pages the guest wrote, and the data
//! of string instructions on ports; also handing it a vCPU's extended state. The crate's one place with unsafe code.
#![allow(unsafe_code)]

use ferro_guest::{GuestMemory, PAGE_SIZE, Range, RangeKind};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{VcpuFd, VmFd};

use super::failed;
use crate::Error;

/// The port access for which a vCPU has just stopped: the size of one access in bytes, and the data of all of them. String
/// instructions come as many accesses at once.
pub(super) fn port_access(fd: &mut VcpuFd) -> (u8, &mut [u8]) {
    let run = fd.get_kvm_run();
    // SAFETY: the caller has just been told that the exit is one for ports: this member of the union is filled in.
    let io = unsafe { run.__bindgen_anon_1.io };
    let len = usize::from(io.size) * io.count as usize;
    let start = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: KVM keeps the data inside the vCPU's mapping, of which the structure is the beginning; `fd`, which owns the
    // mapping, stays borrowed as long as the slice lives.
    (io.size, unsafe { std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), len) })
}

/// Replaces a vCPU's x87, SSE and further extended state.
pub(super) fn set_extended_state(fd: &VcpuFd, state: &kvm_xsave) -> Result<(), Error> {
    // SAFETY: KVM reads more than the structure's 4096 bytes only where the process has asked for features beyond that
    // size by arch_prctl, which nothing here does.
    unsafe { fd.set_xsave(state) }.map_err(failed("set a vCPU's extended state"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    range: Range,
    logged: bool,
}

/// The slots in use, by number, and the parts of host memory whose writes are logged.
#[derive(Debug, Default)]
pub(super) struct Slots {
    used: Vec<Slot>,
    logs: Vec<std::ops::Range<u64>>,
}

fn intersects(range: &Range, log: &std::ops::Range<u64>) -> bool {
    range.offset < log.end && log.start < range.offset + range.len
}

fn show(fd: &VmFd, memory: &GuestMemory, number: usize, slot: Slot) -> Result<(), Error> {
    let Slot { range, logged } = slot;
    let shown = kvm_userspace_memory_region {
        slot: number as u32,
        flags: if range.kind == RangeKind::Rom { KVM_MEM_READONLY } else { 0 }
            | if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
        guest_phys_addr: range.start,
        memory_size: range.len,
        userspace_addr: memory.ram().host_address() as u64 + range.offset,
    };
    // SAFETY: `GuestMemory` checked that the range lies inside its mapping, and `KvmVm` owns both the memory and the VM's
    // descriptor, so that the mapping lives as long as the VM can run. Rust code reaches that memory only by accesses
    // that may race.
    unsafe { fd.set_user_memory_region(shown) }.map_err(failed("give memory to a VM"))
}

impl Slots {
    /// Takes away the ranges that changed and shows the new ones. Vcpus may run meanwhile: those that touch a range in
    /// between see it as MMIO for an instant, as on a chipset whose registers are written.
    pub(super) fn replace(&mut self, fd: &VmFd, memory: &GuestMemory, ranges: &[Range]) -> Result<(), Error> {
        let same = self.used.iter().zip(ranges).take_while(|(old, new)| old.range == **new).count();
        for number in same..self.used.len() {
            let Slot { range, logged } = self.used[number];
            if logged {
                collect_slot(fd, memory, number, &range)?;
            }
            let gone = kvm_userspace_memory_region {
                slot: number as u32,
                guest_phys_addr: range.start,
                ..kvm_userspace_memory_region::default()
            };
            // SAFETY: a region of no bytes takes the slot away and shows no memory to the guest.
            unsafe { fd.set_user_memory_region(gone) }.map_err(failed("take memory from a VM"))?;
        }
        self.used.truncate(same);
        for range in &ranges[same..] {
            let slot = Slot { range: *range, logged: self.is_logged(range) };
            show(fd, memory, self.used.len(), slot)?;
            self.used.push(slot);
        }
        Ok(())
    }

    fn is_logged(&self, range: &Range) -> bool {
        range.kind == RangeKind::Ram && self.logs.iter().any(|log| intersects(range, log))
    }

    /// Has KVM log the guest's writes to this part of host memory from now on.
    pub(super) fn log(&mut self, fd: &VmFd, memory: &GuestMemory, offset: usize, len: usize) -> Result<(), Error> {
        let log = offset as u64..(offset + len) as u64;
        if !self.logs.contains(&log) {
            self.logs.push(log);
            self.apply(fd, memory)?;
        }
        self.collect(fd, memory, offset, len)
    }

    /// Ends that, where no other log needs it.
    pub(super) fn stop_log(&mut self, fd: &VmFd, memory: &GuestMemory, offset: usize, len: usize) -> Result<(), Error> {
        let log = offset as u64..(offset + len) as u64;
        self.logs.retain(|other| *other != log);
        self.apply(fd, memory)
    }

    fn apply(&mut self, fd: &VmFd, memory: &GuestMemory) -> Result<(), Error> {
        for number in 0..self.used.len() {
            let logged = self.is_logged(&self.used[number].range);
            if logged != self.used[number].logged {
                let slot = Slot { logged, ..self.used[number] };
                show(fd, memory, number, slot)?;
                self.used[number] = slot;
            }
        }
        Ok(())
    }

    /// Notes what the guest wrote, by KVM's account, in the memory's own log.
    pub(super) fn collect(&self, fd: &VmFd, memory: &GuestMemory, offset: usize, len: usize) -> Result<(), Error> {
        let log = offset as u64..(offset + len) as u64;
        for (number, slot) in self.used.iter().enumerate() {
            if slot.logged && intersects(&slot.range, &log) {
                collect_slot(fd, memory, number, &slot.range)?;
            }
        }
        Ok(())
    }
}

/// KVM's log of a slot is empty after it was read: all of it goes to the memory's own.
fn collect_slot(fd: &VmFd, memory: &GuestMemory, number: usize, range: &Range) -> Result<(), Error> {
    let words = fd.get_dirty_log(number as u32, range.len as usize).map_err(failed("read the log of written pages"))?;
    let pages = (range.len as usize) / PAGE_SIZE;
    for (index, &word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
        for page in (index * 64..(index + 1) * 64).take_while(|&page| page < pages) {
            if word & 1 << (page % 64) != 0 {
                memory.ram().note_write(range.offset as usize + page * PAGE_SIZE, PAGE_SIZE);
            }
        }
    }
    Ok(())
}
