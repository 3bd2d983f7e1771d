//! Showing the guest's memory to KVM, one slot per range of the map, and the data of string instructions on ports. The
//! crate's one place with unsafe code.
#![allow(unsafe_code)]

use ferro_guest::{GuestMemory, Range, RangeKind};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
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

/// The slots in use.
#[derive(Debug, Default)]
pub(super) struct Slots {
    used: Vec<Range>,
}

impl Slots {
    /// Takes away the ranges that changed and shows the new ones. Vcpus may run meanwhile: those that touch a range in
    /// between see it as MMIO for an instant, as on a chipset whose registers are written.
    pub(super) fn replace(&mut self, fd: &VmFd, memory: &GuestMemory, ranges: &[Range]) -> Result<(), Error> {
        let same = self.used.iter().zip(ranges).take_while(|(old, new)| old == new).count();
        for slot in same..self.used.len() {
            let gone = kvm_userspace_memory_region {
                slot: slot as u32,
                guest_phys_addr: self.used[slot].start,
                ..kvm_userspace_memory_region::default()
            };
            // SAFETY: a region of no bytes takes the slot away and shows no memory to the guest.
            unsafe { fd.set_user_memory_region(gone) }.map_err(failed("take memory from a VM"))?;
        }
        self.used.truncate(same);
        for range in &ranges[same..] {
            let shown = kvm_userspace_memory_region {
                slot: self.used.len() as u32,
                flags: if range.kind == RangeKind::Rom { KVM_MEM_READONLY } else { 0 },
                guest_phys_addr: range.start,
                memory_size: range.len,
                userspace_addr: memory.ram().host_address() as u64 + range.offset,
            };
            // SAFETY: `GuestMemory` checked that the range lies inside its mapping, and `KvmVm` owns both the memory and
            // the VM's descriptor, so that the mapping lives as long as the VM can run. Rust code reaches that memory
            // only by accesses that may race.
            unsafe { fd.set_user_memory_region(shown) }.map_err(failed("give memory to a VM"))?;
            self.used.push(*range);
        }
        Ok(())
    }
}
