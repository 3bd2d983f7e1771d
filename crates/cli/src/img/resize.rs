//! `ferro img resize`.

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use ferro_block::Storage;
use ferro_block::image::OpenMode;
use ferro_block::qcow2::Preallocation;

use super::figures;
use super::source::{Naming, print};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Allocate {
    /// Nothing
    Off,
    /// The tables
    Metadata,
    /// Host space
    Falloc,
    /// Host space with zeros written
    Full,
}

/// Flags of `resize`.
#[derive(Debug, Args)]
pub(crate) struct ResizeArgs {
    #[command(flatten)]
    naming: Naming,
    /// What is allocated for the part that is added
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: Allocate,
    /// Make the disk smaller: what lies beyond the new end is lost
    #[arg(long)]
    shrink: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// The image
    filename: String,
    /// The new size, or +SIZE or -SIZE for a change of it
    size: String,
}

impl ResizeArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let wrong = |why: String| anyhow::anyhow!("Invalid new size '{}': {why}", self.size);
        let (sign, digits) = match self.size.as_bytes().first() {
            Some(b'+') => (1, &self.size[1..]),
            Some(b'-') => (-1, &self.size[1..]),
            _ => (0, self.size.as_str()),
        };
        let amount = figures::size(digits).map_err(wrong)?;
        let image = self.naming.open(&self.filename, OpenMode::WRITE)?;
        let before = image.storage.size();
        let after = match sign {
            0 => Some(amount),
            1 => before.checked_add(amount),
            _ => before.checked_sub(amount).filter(|&size| size > 0),
        };
        let Some(after) = after.filter(|&size| size <= i64::MAX as u64) else {
            bail!("New image size must be positive");
        };
        if after < before && !self.shrink {
            bail!("Use the --shrink option to perform a shrink operation: it deletes all data beyond the new end");
        }
        let preallocation = match self.preallocation {
            Allocate::Off => Preallocation::Off,
            Allocate::Metadata => Preallocation::Metadata,
            Allocate::Falloc => Preallocation::Falloc,
            Allocate::Full => Preallocation::Full,
        };
        if after < before && preallocation != Preallocation::Off {
            bail!("Preallocation cannot be used for shrinking an image");
        }
        let name = || format!("cannot resize '{}'", self.filename);
        match &image.qcow2 {
            Some(qcow2) => qcow2.resize(after, preallocation).with_context(name)?,
            None => {
                image.storage.set_size(after).with_context(name)?;
                if after > before {
                    match preallocation {
                        Preallocation::Off => {}
                        Preallocation::Metadata => bail!("Unsupported preallocation mode 'metadata' for this format"),
                        Preallocation::Falloc => image.storage.allocate(before, after - before).with_context(name)?,
                        Preallocation::Full => fill(&*image.storage, before, after).with_context(name)?,
                    }
                }
            }
        }
        image.close().with_context(name)?;
        if self.quiet { Ok(()) } else { print("Image resized.\n") }
    }
}

/// Writes zeros.
fn fill(disk: &dyn Storage, start: u64, end: u64) -> ferro_block::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let now = (end - at).min(zeros.len() as u64);
        disk.write_at(&zeros[..now as usize], at)?;
        at += now;
    }
    Ok(())
}
