//! How much of the host a VM may have.

use std::str::FromStr;

use super::{DescriptionError, MemorySize, Rate, refuse, split_options};

/// The least that a VM's process needs beside the guest's RAM.
const OVERHEAD: u64 = 128 << 20;

/// How much of the host a VM may have; what isn't said isn't limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitDescription {
    /// Processor time, in hundredths of one processor: 150 is one and a half.
    pub cpu: Option<u32>,
    /// Its share where processors are short, 1 to 10000; others have 100 (`cpu.weight` of cgroup v2).
    pub shares: Option<u32>,
    /// Memory of the whole process.
    pub memory: Option<MemorySize>,
    /// Requests a second of all disks together.
    pub iops: Option<u64>,
    /// Bytes a second of all disks together.
    pub bps: Option<u64>,
    /// Bits a second of all network cards together, in each direction.
    pub rate: Option<Rate>,
}

impl LimitDescription {
    /// Whether anything is limited.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), DescriptionError> {
        match key {
            "cpu" => {
                let digits = value.strip_suffix('%').unwrap_or(value);
                match digits.parse() {
                    Ok(cpu @ 1..=100_000) => self.cpu = Some(cpu),
                    _ => return refuse(value, "processor time is in hundredths of one processor, such as 50%"),
                }
            }
            "shares" => match value.parse() {
                Ok(shares @ 1..=10_000) => self.shares = Some(shares),
                _ => return refuse(value, "shares are 1 to 10000, of which others have 100"),
            },
            "memory" => self.memory = Some(value.parse()?),
            "iops" => match value.parse() {
                Ok(iops @ 1..) => self.iops = Some(iops),
                _ => return refuse(value, "requests a second are 1 or more"),
            },
            "bps" => self.bps = Some(bytes(value)?),
            "rate" => self.rate = Some(value.parse()?),
            _ => return refuse(key, "limits are cpu, shares, memory, iops, bps and rate"),
        }
        Ok(())
    }

    /// Takes over what another says.
    pub fn extend(&mut self, other: &Self) {
        let Self { cpu, shares, memory, iops, bps, rate } = other.clone();
        self.cpu = cpu.or(self.cpu);
        self.shares = shares.or(self.shares);
        self.memory = memory.or(self.memory);
        self.iops = iops.or(self.iops);
        self.bps = bps.or(self.bps);
        self.rate = rate.or(self.rate);
    }

    /// Whether the guest's RAM fits.
    pub(super) fn check(&self, ram: MemorySize) -> Result<(), DescriptionError> {
        match self.memory {
            Some(MemorySize(most)) if most < ram.0.saturating_add(OVERHEAD) => refuse(
                &format!("{}M", most >> 20),
                format!("the limit on memory has to leave 128M above the guest's {}M", ram.0 >> 20),
            ),
            _ => Ok(()),
        }
    }
}

/// A number of bytes, 1 or more, with K, M or G for powers of 1024.
fn bytes(text: &str) -> Result<u64, DescriptionError> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return refuse(text, "bytes a second are a number with K, M or G, such as 20M"),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(bytes @ 1..) => Ok(bytes),
        _ => refuse(text, "bytes a second are a number with K, M or G, such as 20M"),
    }
}

impl FromStr for LimitDescription {
    type Err = DescriptionError;

    /// `cpu=50%[,shares=N][,memory=SIZE][,iops=N][,bps=N][,rate=R]`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut limits = Self::default();
        for part in split_options(text) {
            let Some((key, value)) = part.split_once('=') else {
                return refuse(&part, "limits are KEY=VALUE, such as cpu=50%,rate=10M");
            };
            limits.set(key, value)?;
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_what_cannot_be_is_refused() {
        let limits: LimitDescription = "cpu=50%,shares=20,memory=1G,iops=100,bps=2M,rate=10M".parse().unwrap();
        assert_eq!(
            (limits.cpu, limits.shares, limits.iops, limits.bps),
            (Some(50), Some(20), Some(100), Some(2 << 20))
        );
        assert_eq!((limits.memory, limits.rate), (Some(MemorySize(1 << 30)), Some(Rate(10_000_000))));
        for wrong in ["cpu=0", "cpu=lots", "shares=0", "iops=0", "bps=0", "bps=1X", "rate=0", "colour=1", "cpu"] {
            assert!(wrong.parse::<LimitDescription>().is_err(), "{wrong}");
        }
        assert!(limits.check(MemorySize(512 << 20)).is_ok());
        assert!(limits.check(MemorySize(1000 << 20)).is_err());
        let mut both: LimitDescription = "cpu=10%,rate=1M".parse().unwrap();
        both.extend(&"cpu=20%".parse().unwrap());
        assert_eq!((both.cpu, both.rate), (Some(20), Some(Rate(1_000_000))));
    }
}
