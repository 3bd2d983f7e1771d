//! The state of KVM's chips and vCPUs as parts of a saved VM: KVM's own structures, one after the other, each with its
//! length. A state loads on a host whose KVM offers the same CPU.

use ferro_guest::{LoadError, StateReader, StateWriter};
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data, kvm_debugregs,
    kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::failed;
use super::memory::set_extended_state;
use crate::{Error, Part, StateError};

/// The version of a vCPU's format.
pub(super) const VCPU_VERSION: u32 = 1;
const CHIP_VERSION: u32 = 1;
/// Model-specific registers in one call to KVM at most.
const MOST_REGISTERS: usize = 256;
/// The time stamp counter's deadline: is set after the local APIC's timer mode.
const TSC_DEADLINE: u32 = 0x6e0;

const TIMER: &str = "kvm-pit";
const CLOCK: &str = "kvm-clock";
const CHIPS: [(&str, u32); 3] = [
    ("kvm-pic-master", KVM_IRQCHIP_PIC_MASTER),
    ("kvm-pic-slave", KVM_IRQCHIP_PIC_SLAVE),
    ("kvm-ioapic", KVM_IRQCHIP_IOAPIC),
];

/// The CPU that KVM offers, by a sum (FNV-1a) over all that CPUID says.
pub(super) fn cpu_model(cpuid: &CpuId) -> String {
    let bytes = cpuid.as_slice().iter().flat_map(|entry| {
        // The topology and the time stamp counter's neighbours differ from core to core of one host.
        let topology = matches!(entry.function, 0xb | 0x1f);
        let ebx = if entry.function == 1 { entry.ebx & 0xffff } else { entry.ebx };
        let words = [entry.function, entry.index, entry.eax, ebx, entry.ecx, if topology { 0 } else { entry.edx }];
        words.map(u32::to_le_bytes).concat()
    });
    let sum = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("kvm host cpu {sum:016x}")
}

fn part(name: &str, state: &(impl IntoBytes + Immutable)) -> Part {
    Part { name: name.to_owned(), instance: 0, version: CHIP_VERSION, bytes: state.as_bytes().to_vec() }
}

fn structure<T: FromBytes>(bytes: &[u8]) -> Result<T, LoadError> {
    T::read_from_bytes(bytes).map_err(|_| LoadError::Value("a structure of KVM's"))
}

/// The interrupt controllers, the timer and the paravirtual clock.
pub(super) fn save_chips(fd: &VmFd) -> Result<Vec<Part>, Error> {
    let mut parts = vec![];
    for (name, chip_id) in CHIPS {
        let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
        fd.get_irqchip(&mut chip).map_err(failed("read KVM's interrupt controllers"))?;
        parts.push(part(name, &chip));
    }
    parts.push(part(TIMER, &fd.get_pit2().map_err(failed("read KVM's timer"))?));
    parts.push(part(CLOCK, &fd.get_clock().map_err(failed("read KVM's clock"))?));
    Ok(parts)
}

/// Takes one of these over. The timer begins its present period anew: KVM keeps no more of it.
pub(super) fn load_chip(fd: &VmFd, part: &Part) -> Result<(), StateError> {
    if part.instance != 0 {
        return Err(StateError::Unknown);
    }
    if part.version != CHIP_VERSION {
        return Err(LoadError::Version { found: part.version, known: CHIP_VERSION }.into());
    }
    match part.name.as_str() {
        TIMER => fd.set_pit2(&structure::<kvm_pit_state2>(&part.bytes)?).map_err(failed("set KVM's timer"))?,
        CLOCK => {
            let clock = structure::<kvm_clock_data>(&part.bytes)?;
            let clock = kvm_clock_data { clock: clock.clock, ..kvm_clock_data::default() };
            fd.set_clock(&clock).map_err(failed("set KVM's clock"))?;
        }
        name => {
            let (_, chip_id) = CHIPS.into_iter().find(|(known, _)| *known == name).ok_or(StateError::Unknown)?;
            let chip = structure::<kvm_irqchip>(&part.bytes)?;
            if chip.chip_id != chip_id {
                return Err(LoadError::Value("the kind of interrupt controller").into());
            }
            fd.set_irqchip(&chip).map_err(failed("set KVM's interrupt controllers"))?;
        }
    }
    Ok(())
}

/// Everything of a vCPU. What was pending of an access to a device has been finished.
pub(super) fn save_vcpu(fd: &VcpuFd, msrs: &[u32]) -> Result<Vec<u8>, Error> {
    let mut into = StateWriter::new();
    // First: this lets KVM act on events of the local APIC, which change the rest.
    let activity = fd.get_mp_state().map_err(failed("read a vCPU's state"))?;
    into.bytes(activity.as_bytes());
    into.bytes(fd.get_regs().map_err(failed("read a vCPU's registers"))?.as_bytes());
    into.bytes(fd.get_sregs().map_err(failed("read a vCPU's system registers"))?.as_bytes());
    into.bytes(fd.get_xsave().map_err(failed("read a vCPU's extended state"))?.as_bytes());
    // Hosts without XSAVE have none.
    into.bytes(fd.get_xcrs().unwrap_or_default().as_bytes());
    into.bytes(fd.get_debug_regs().map_err(failed("read a vCPU's debug registers"))?.as_bytes());
    into.bytes(fd.get_lapic().map_err(failed("read a local APIC"))?.as_bytes());
    let registers = read_registers(fd, msrs)?;
    into.u32(registers.len() as u32);
    for entry in registers {
        into.u32(entry.index);
        into.u64(entry.data);
    }
    into.bytes(fd.get_vcpu_events().map_err(failed("read a vCPU's pending events"))?.as_bytes());
    Ok(into.finish())
}

/// The registers out of `list` that KVM lets be read.
fn read_registers(fd: &VcpuFd, list: &[u32]) -> Result<Vec<kvm_msr_entry>, Error> {
    let mut found = vec![];
    let mut rest = list;
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(MOST_REGISTERS)];
        let entries: Vec<_> = part.iter().map(|&index| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).expect("so many fit KVM's list");
        let count = fd.get_msrs(&mut msrs).map_err(failed("read a vCPU's model-specific registers"))?;
        found.extend_from_slice(&msrs.as_slice()[..count]);
        // KVM stops at the first that it has in its list but not in this vCPU.
        rest = &rest[(count + usize::from(count < part.len())).min(rest.len())..];
    }
    Ok(found)
}

fn write_registers(fd: &VcpuFd, mut rest: &[kvm_msr_entry]) -> Result<(), Error> {
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(MOST_REGISTERS)];
        let msrs = Msrs::from_entries(part).expect("so many fit KVM's list");
        let count = fd.set_msrs(&msrs).map_err(failed("set a vCPU's model-specific registers"))?;
        if let Some(refused) = part.get(count) {
            // Such as are only told: QEMU and others pass over them, too.
            tracing::debug!("KVM doesn't take {:#x} for model-specific register {:#x}", refused.data, refused.index);
        }
        rest = &rest[(count + usize::from(count < part.len())).min(rest.len())..];
    }
    Ok(())
}

/// A vCPU's state, taken apart.
struct VcpuState {
    activity: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    extended: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    registers: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

fn parse(bytes: &[u8]) -> Result<VcpuState, LoadError> {
    let mut from = StateReader::new(bytes);
    let activity = structure(from.bytes()?)?;
    let regs = structure(from.bytes()?)?;
    let sregs = structure(from.bytes()?)?;
    let extended = structure(from.bytes()?)?;
    let xcrs = structure(from.bytes()?)?;
    let debug = structure(from.bytes()?)?;
    let lapic = structure(from.bytes()?)?;
    let count = from.u32()?;
    // Read one by one: a count that isn't true ends at the end of the bytes.
    let mut registers = vec![];
    for _ in 0..count {
        registers.push(kvm_msr_entry { index: from.u32()?, data: from.u64()?, ..kvm_msr_entry::default() });
    }
    let events = structure(from.bytes()?)?;
    from.finish()?;
    Ok(VcpuState { activity, regs, sregs, extended, xcrs, debug, lapic, registers, events })
}

/// Takes it over, in the order that KVM's documentation asks for: the local APIC's base before its registers, its timer's
/// mode before the deadline, events last but for the activity.
pub(super) fn load_vcpu(fd: &VcpuFd, version: u32, bytes: &[u8]) -> Result<(), StateError> {
    if version != VCPU_VERSION {
        return Err(LoadError::Version { found: version, known: VCPU_VERSION }.into());
    }
    let state = parse(bytes)?;
    fd.set_sregs(&state.sregs).map_err(failed("set a vCPU's system registers"))?;
    fd.set_regs(&state.regs).map_err(failed("set a vCPU's registers"))?;
    if state.xcrs.nr_xcrs > 0 {
        fd.set_xcrs(&state.xcrs).map_err(failed("set a vCPU's extended control registers"))?;
    }
    set_extended_state(fd, &state.extended)?;
    fd.set_debug_regs(&state.debug).map_err(failed("set a vCPU's debug registers"))?;
    let (deadline, others): (Vec<_>, Vec<_>) =
        state.registers.iter().partition(|entry: &&kvm_msr_entry| entry.index == TSC_DEADLINE);
    write_registers(fd, &others)?;
    fd.set_lapic(&state.lapic).map_err(failed("set a local APIC"))?;
    write_registers(fd, &deadline)?;
    fd.set_mp_state(state.activity).map_err(failed("set a vCPU's state"))?;
    fd.set_vcpu_events(&state.events).map_err(failed("set a vCPU's pending events"))?;
    Ok(())
}
