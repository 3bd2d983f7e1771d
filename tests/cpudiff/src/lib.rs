//! Executes the same ring-3 instructions in Ferro's CPU and natively under KVM, and compares everything that they leave
//! behind. Unshipped: only tests use it.
//!
//! Both sides get the same memory: page tables, descriptor tables, a handler with a HLT for each exception. A sequence
//! ends with UD2, so that every run, with or without a fault before, ends in a handler.

mod generate;
mod machine;
mod native;
mod soft;
mod vendor;

pub use generate::{Generator, Sequence, Undefined};
pub use machine::{DATA, DATA_LEN, Mode, State, memory_image};
pub use native::Native;
pub use soft::Soft;
pub use vendor::{Choice, choice};

/// The outcome of comparing two states: what differs, in words.
pub fn differences(native: &State, soft: &State, undefined: &Undefined) -> Vec<String> {
    let mut found = vec![];
    let mut check = |name: &str, a: u128, b: u128| {
        if a != b {
            found.push(format!("{name}: native {a:#x}, soft {b:#x}"));
        }
    };
    for (index, (a, b)) in native.gpr.iter().zip(&soft.gpr).enumerate() {
        check(&format!("r{index}"), u128::from(*a), u128::from(*b));
    }
    check("vector", u128::from(native.vector), u128::from(soft.vector));
    check("rip", u128::from(native.rip), u128::from(soft.rip));
    let flags = !undefined.flags & !(1 << 16);
    check("rflags", u128::from(native.rflags & flags), u128::from(soft.rflags & flags));
    check("error", u128::from(native.error), u128::from(soft.error));
    if native.vector == 14 {
        check("cr2", u128::from(native.cr2), u128::from(soft.cr2));
    }
    for (index, (a, b)) in native.xmm.iter().zip(&soft.xmm).enumerate() {
        check(&format!("xmm{index}"), *a, *b);
    }
    check("mxcsr", u128::from(native.mxcsr), u128::from(soft.mxcsr));
    for (index, (a, b)) in native.st.iter().zip(&soft.st).enumerate() {
        check(&format!("st{index}"), *a, *b);
    }
    check("fcw", u128::from(native.fcw), u128::from(soft.fcw));
    let status = !undefined.status;
    check("fsw", u128::from(native.fsw & status), u128::from(soft.fsw & status));
    if !matches!(native.vector, 12 | 13) {
        // What raises these was emulated, and that may have touched the unit.
        check("ftw", u128::from(native.ftw), u128::from(soft.ftw));
    }
    for (index, (a, b)) in native.data.iter().zip(&soft.data).enumerate() {
        if a != b {
            found.push(format!("memory {:#x}: native {a:#x}, soft {b:#x}", DATA as usize + index));
            if found.len() > 12 {
                break;
            }
        }
    }
    found
}
