//! CPUID: an x86-64-v2 CPU that needs no workaround for speculative execution.
//!
//! Vendor, family and model are those of an in-order Atom, for which operating systems know that no mitigation is
//! needed; the features are what this CPU does. No hypervisor interface is offered but the frequencies in leaf
//! 0x40000010 (in the common form: TSC and APIC timer in kHz).

use crate::core::Core;
use crate::paging::PHYSICAL_BITS;

/// Family 6, model 0x1c, stepping 10.
pub(crate) const SIGNATURE: u32 = 0x0001_06ca;

const BRAND: &[u8; 48] = b"Ferro software CPU (x86-64-v2)\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

const FEATURES_EDX: u32 = {
    // FPU DE PSE TSC MSR PAE CX8 APIC SEP MTRR PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
    let bits = [0, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26];
    fold(&bits)
};
const FEATURES_ECX: u32 = {
    // SSE3 SSSE3 CX16 SSE4.1 SSE4.2 X2APIC POPCNT TSC-deadline RDRAND hypervisor
    let bits = [0, 9, 13, 19, 20, 21, 23, 24, 30, 31];
    fold(&bits)
};

const fn fold(bits: &[u32]) -> u32 {
    let mut value = 0;
    let mut index = 0;
    while index < bits.len() {
        value |= 1 << bits[index];
        index += 1;
    }
    value
}

fn text(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Core {
    /// EAX, EBX, ECX, EDX of a leaf.
    pub(crate) fn cpuid_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match leaf {
            0x4000_0000..=0x4fff_ffff => self.hypervisor_leaf(leaf),
            0x8000_0000..=0xffff_ffff => self.extended_leaf(leaf),
            0..=0x16 => self.basic_leaf(leaf, subleaf),
            _ => self.basic_leaf(0x16, 0),
        }
    }

    fn basic_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let config = &self.config;
        let cores = config.vcpus.max(1);
        let shift = cores.next_power_of_two().trailing_zeros();
        match leaf {
            0 => [0x16, text(b"Genu", 0), text(b"ntel", 0), text(b"ineI", 0)],
            1 => {
                let multi = if cores > 1 { 1 << 28 } else { 0 };
                let ebx = config.apic_id << 24 | (1 << shift.min(7)) << 16 | 8 << 8;
                [SIGNATURE, ebx, FEATURES_ECX, FEATURES_EDX | multi]
            }
            2 => [1, 0, 0, 0],
            4 => cache_leaf(subleaf, (1 << shift) - 1),
            6 => [1 << 2, 0, 0, 0],
            // FSGSBASE, TSC_ADJUST, SMEP, fast REP MOVSB/STOSB, RDSEED; fast short REP MOVSB.
            7 if subleaf == 0 => [0, 1 | 1 << 1 | 1 << 7 | 1 << 9 | 1 << 18, 0, 1 << 4],
            0xb => match subleaf {
                0 => [0, 1, 0x100, config.apic_id],
                1 => [shift, cores, 0x201, config.apic_id],
                _ => [0, 0, subleaf & 0xff, config.apic_id],
            },
            0x15 if config.apic_hz != 0 && config.tsc_khz != 0 => {
                // TSC = crystal * EBX / EAX.
                let crystal_khz = config.apic_hz / 1000;
                if crystal_khz == 0 {
                    return [0; 4];
                }
                // In lowest terms: Linux multiplies by the numerator in 32 bits.
                let divisor = greatest_common_divisor(crystal_khz, config.tsc_khz);
                [crystal_khz / divisor, config.tsc_khz / divisor, config.apic_hz, 0]
            }
            0x16 => {
                let mhz = config.tsc_khz / 1000;
                [mhz, mhz, 100, 0]
            }
            _ => [0; 4],
        }
    }

    fn hypervisor_leaf(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x4000_0000 => [0x4000_0010, text(b"Ferr", 0), text(b"oFer", 0), text(b"roVM", 0)],
            0x4000_0010 => [self.config.tsc_khz, self.config.apic_hz / 1000, 0, 0],
            _ => [0; 4],
        }
    }

    fn extended_leaf(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0001 => {
                let syscall = if self.is_long() && self.is_code_64() { 1 << 11 } else { 0 };
                // LAHF; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
                [0, 0, 1, syscall | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29]
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 16;
                [text(BRAND, at), text(BRAND, at + 4), text(BRAND, at + 8), text(BRAND, at + 12)]
            }
            0x8000_0006 => [0, 0, 1024 << 16 | 8 << 12 | 64, 0],
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => [48 << 8 | PHYSICAL_BITS, 0, 0, 0],
            _ => [0; 4],
        }
    }
}

/// Leaf 4: 32 KiB of data and of code, 1 MiB together, 64-byte lines.
fn cache_leaf(subleaf: u32, sharing: u32) -> [u32; 4] {
    let entry = |kind: u32, level: u32, ways: u32, sets: u32| {
        [kind | level << 5 | 1 << 8 | sharing << 26, (ways - 1) << 22 | 63, sets - 1, 0]
    };
    match subleaf {
        0 => entry(1, 1, 8, 64),
        1 => entry(2, 1, 8, 64),
        2 => entry(3, 2, 16, 1024),
        _ => [0; 4],
    }
}

/// Euclid's.
fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
