//! `ferro img bitmap`.

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::{Format, ImageSpec, OpenMode};

use super::figures;
use super::source::{Naming, opened};

/// Flags of `bitmap`.
#[derive(Debug, Args)]
pub(crate) struct BitmapArgs {
    #[command(flatten)]
    naming: Naming,
    /// Add the bitmap; it records writes from then on
    #[arg(long)]
    add: bool,
    /// Remove the bitmap
    #[arg(long)]
    remove: bool,
    /// Clear every bit
    #[arg(long)]
    clear: bool,
    /// Record writes
    #[arg(long)]
    enable: bool,
    /// Stop recording writes
    #[arg(long)]
    disable: bool,
    /// Add another bitmap's bits
    #[arg(long, value_name = "SOURCE")]
    merge: Vec<String>,
    /// The image that has the bitmaps to merge
    #[arg(short, value_name = "FILE")]
    b: Option<String>,
    /// That image's format
    #[arg(short = 'F', value_name = "FMT", requires = "b")]
    source_format: Option<Format>,
    /// How many bytes one bit stands for (with --add)
    #[arg(short, value_name = "SIZE", value_parser = figures::size, requires = "add")]
    granularity: Option<u64>,
    /// The image
    filename: String,
    /// The bitmap
    bitmap: String,
}

impl BitmapArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let actions = [self.add, self.remove, self.clear, self.enable, self.disable];
        if !actions.contains(&true) && self.merge.is_empty() {
            bail!("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
        }
        let mode = OpenMode { no_io: true, backing: false, ..OpenMode::WRITE };
        let image = self.naming.open(&self.filename, mode)?;
        let Some(qcow2) = image.qcow2.clone() else {
            bail!("{}: {} images have no bitmaps", self.filename, image.format);
        };
        let name = self.bitmap.as_str();
        let source = match &self.b {
            Some(file) => {
                let secrets = self.naming.objects.secrets()?;
                let mode = OpenMode { no_io: true, backing: false, ..OpenMode::READ };
                Some(opened(&ImageSpec::from_name(file, self.source_format)?, mode, &secrets)?)
            }
            None => None,
        };
        let apply = || -> anyhow::Result<()> {
            if self.add {
                qcow2.bitmap_add(name, self.granularity)?;
                if self.disable {
                    qcow2.bitmap_set_enabled(name, false)?;
                }
            }
            if self.clear {
                qcow2.bitmap_clear(name)?;
            }
            for from in &self.merge {
                let other = match &source {
                    Some(image) => Some(image.qcow2.as_deref().context("the source's format has no bitmaps")?),
                    None => None,
                };
                qcow2.bitmap_merge(name, other, from)?;
            }
            if self.enable {
                qcow2.bitmap_set_enabled(name, true)?;
            }
            if self.disable && !self.add {
                qcow2.bitmap_set_enabled(name, false)?;
            }
            if self.remove {
                qcow2.bitmap_remove(name)?;
            }
            Ok(())
        };
        apply().with_context(|| format!("Operation on bitmap '{name}' of '{}' failed", self.filename))?;
        drop(qcow2);
        image.close().with_context(|| format!("cannot finish '{}'", self.filename))
    }
}
