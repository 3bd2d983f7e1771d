//! `ferro img measure`.

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::{Format, FormatOptions, OpenMode};
use ferro_block::jobs::allocated_clusters;
use ferro_block::qcow2::{Measure, Measurement, measure};
use serde_json::Value;

use super::create::joined;
use super::figures;
use super::source::{Naming, Output, print, print_json};

/// Flags of `measure`.
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    naming: Naming,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
    /// The new image's format
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    output_format: Format,
    /// Options of the new image's format: name=value,…
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// The disk's size, if there is no source
    #[arg(long, value_name = "SIZE", value_parser = figures::size, conflicts_with = "filename")]
    size: Option<u64>,
    /// Take this internal snapshot of the source
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Read even if another process writes to the source
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The source
    filename: Option<String>,
}

impl MeasureArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let options = joined(&self.options)?;
        let (size, disk, image) = match (&self.filename, self.size) {
            (Some(name), _) => {
                let mode = OpenMode { force_share: self.force_share, ..OpenMode::READ };
                let image = self.naming.open(name, mode)?;
                let disk = match (&self.snapshot, &image.qcow2) {
                    (Some(id), Some(qcow2)) => {
                        let disk: std::sync::Arc<dyn ferro_block::Storage> =
                            qcow2.open_snapshot(id).with_context(|| format!("Failed to load snapshot '{id}'"))?;
                        disk
                    }
                    (Some(_), None) => bail!("{name}: the format has no snapshots"),
                    (None, _) => image.storage.clone(),
                };
                (disk.size(), Some(disk), Some(image))
            }
            (None, Some(size)) => (size, None, None),
            (None, None) => bail!("Either --size N or one filename must be specified."),
        };
        let clusters = |unit: u64| disk.as_ref().map_or(Ok(0), |disk| allocated_clusters(&**disk, unit));
        let found = match FormatOptions::parse(self.output_format, size, options)? {
            FormatOptions::Raw(_) => Measurement { required: size, fully_allocated: size, bitmaps: None },
            FormatOptions::Qcow2(options, _) => {
                let unit = 1u64 << options.cluster_bits;
                let allocated = clusters(unit)? * unit;
                let mut found = measure(&options, &Measure { allocated, bitmaps: None })?;
                let has_bitmaps = image.as_ref().and_then(|image| image.qcow2.as_ref());
                if has_bitmaps.is_some_and(|qcow2| qcow2.header().version >= 3) && self.snapshot.is_none() {
                    found.bitmaps = found.bitmaps.or(Some(0));
                }
                found
            }
            FormatOptions::Luks(..) => {
                // Header and key slots of a LUKS volume as QEMU lays them out for AES-256-XTS.
                let size = size + 2_068_480;
                Measurement { required: size, fully_allocated: size, bitmaps: None }
            }
        };
        if self.output == Output::Json {
            return print_json(&serde_json::to_value(found).unwrap_or(Value::Null));
        }
        let bitmaps = found.bitmaps.map_or_else(String::new, |size| format!("bitmaps size: {size}\n"));
        print(&format!("required size: {}\nfully allocated size: {}\n{bitmaps}", found.required, found.fully_allocated))
    }
}
