//! What a VM is executed by: accelerator, clock, memory.

use std::str::FromStr;

use super::{DescriptionError, refuse};

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// KVM where it works, the software CPU elsewhere.
    #[default]
    Auto,
    /// Linux's KVM.
    Kvm,
    /// The software CPU.
    Soft,
}

impl FromStr for Accelerator {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "soft" | "tcg" => Ok(Self::Soft),
            _ => refuse(value, "an accelerator is auto, kvm or soft"),
        }
    }
}

/// What the VM's clock goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockSource {
    /// The host's time.
    #[default]
    Host,
    /// The instructions executed: runs repeat exactly. One vCPU, the software CPU.
    Icount,
}

impl FromStr for ClockSource {
    type Err = DescriptionError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "host" => Ok(Self::Host),
            "icount" => Ok(Self::Icount),
            _ => refuse(value, "a clock is host or icount"),
        }
    }
}

/// An amount of memory in bytes: at least 1 MiB, in whole mebibytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl Default for MemorySize {
    fn default() -> Self {
        Self(128 << 20)
    }
}

impl FromStr for MemorySize {
    type Err = DescriptionError;

    /// A number with a suffix K, M, G or T; without one it's mebibytes.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match value[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "M" | "MB" | "MIB" => 20,
            "K" | "KB" | "KIB" => 10,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return refuse(value, "memory is a number with a suffix M or G, such as 512M"),
        };
        let Ok(number) = digits.parse::<u64>() else {
            return refuse(value, "memory is a number with a suffix M or G, such as 512M");
        };
        match number.checked_shl(shift).filter(|bytes| bytes >> shift == number) {
            Some(bytes) if (1 << 20..=1 << 40).contains(&bytes) && bytes % (1 << 20) == 0 => Ok(Self(bytes)),
            _ => refuse(value, "memory goes from 1M to 1T, in whole mebibytes"),
        }
    }
}
