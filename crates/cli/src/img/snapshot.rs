//! `ferro img snapshot`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::OpenMode;
use ferro_block::qcow2::NewSnapshot;

use super::info::{SNAPSHOT_HEAD, snapshot_line};
use super::source::{Naming, print};

/// Flags of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    naming: Naming,
    /// Look even if another process writes to the image (with -l)
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// List the snapshots (the default)
    #[arg(short, long, group = "action")]
    list: bool,
    /// Go back to a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", group = "action")]
    apply: Option<String>,
    /// Make a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", group = "action")]
    create: Option<String>,
    /// Delete a snapshot
    #[arg(short, long, value_name = "SNAPSHOT", group = "action")]
    delete: Option<String>,
    /// The image
    filename: String,
}

impl SnapshotArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let changes = self.apply.is_some() || self.create.is_some() || self.delete.is_some();
        let mode = OpenMode {
            writable: changes,
            backing: false,
            no_io: true,
            force_share: self.force_share && !changes,
            ..OpenMode::READ
        };
        let image = self.naming.open(&self.filename, mode)?;
        let Some(qcow2) = image.qcow2.clone() else {
            bail!("{}: {} images have no internal snapshots", self.filename, image.format);
        };
        if let Some(name) = &self.create {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let snapshot = NewSnapshot {
                name: name.clone(),
                date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
                date_nsec: now.subsec_nanos(),
                icount: Some(0),
                ..NewSnapshot::default()
            };
            qcow2.snapshot_create(&snapshot).with_context(|| format!("Could not create snapshot '{name}'"))?;
        } else if let Some(name) = &self.apply {
            qcow2.snapshot_apply(name).with_context(|| format!("Could not apply snapshot '{name}'"))?;
        } else if let Some(name) = &self.delete {
            qcow2.snapshot_delete(name).with_context(|| format!("Could not delete snapshot '{name}'"))?;
        } else {
            let snapshots = qcow2.snapshots();
            if !snapshots.is_empty() {
                let lines: String = snapshots.iter().map(snapshot_line).collect();
                print(&format!("Snapshot list:\n{SNAPSHOT_HEAD}{lines}"))?;
            }
            return Ok(());
        }
        drop(qcow2);
        image.close().with_context(|| format!("cannot finish '{}'", self.filename))
    }
}
