//! `ferro img mount`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::{Cache, OpenMode, Window};
use ferro_block::mount::{Mount, MountedFile};
use ferro_block::partition::partitions;
use ferro_sys::signals::Termination;

use super::source::{Naming, cache, print};

/// Flags of `mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    #[command(flatten)]
    naming: Naming,
    /// Show only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// How the image is opened
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    cache: Cache,
    /// Mount even if another process writes to the image (with --read-only)
    #[arg(short = 'U', long, requires = "read_only")]
    force_share: bool,
    /// The image
    filename: String,
    /// The directory in which disk.raw and partitionN.raw appear
    directory: PathBuf,
}

impl MountArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // Before any thread is started, so that all hold the signals back.
        let termination = Termination::catch().context("cannot catch signals")?;
        let mode =
            OpenMode { writable: !self.read_only, cache: self.cache, force_share: self.force_share, ..OpenMode::READ };
        let image = self.naming.open(&self.filename, mode)?;
        let found = partitions(&*image.storage)?;
        let mut files = Vec::new();
        if self.partition.is_none() {
            files.push(MountedFile { name: "disk.raw".into(), storage: Arc::clone(&image.storage) });
        }
        for partition in found.iter().filter(|found| self.partition.is_none_or(|wanted| wanted == found.number)) {
            let part = Window::new(Arc::clone(&image.storage), partition.start, partition.len)?;
            files.push(MountedFile { name: format!("partition{}.raw", partition.number), storage: Arc::new(part) });
        }
        if files.is_empty() {
            let numbers: Vec<_> = found.iter().map(|found| found.number.to_string()).collect();
            let there = if numbers.is_empty() { "none".into() } else { numbers.join(", ") };
            bail!("{}: no partition {}, there are: {there}", self.filename, self.partition.unwrap_or(0));
        }
        let names: String =
            files.iter().map(|file| format!("{}\n", self.directory.join(&file.name).display())).collect();
        let mut mount = Mount::new(&self.directory, files)?;
        print(&names)?;
        self.serve(&termination, &mut mount)?;
        drop(mount);
        image.close().with_context(|| format!("cannot finish '{}'", self.filename))
    }

    /// Waits until somebody unmounts the directory or wants the program to end.
    fn serve(&self, termination: &Termination, mount: &mut Mount) -> anyhow::Result<()> {
        let mut warned = false;
        loop {
            let asked = termination.wait_for(Duration::from_millis(200)).context("cannot wait for signals")?;
            if mount.is_finished() {
                return Ok(());
            }
            if !asked {
                continue;
            }
            match mount.unmount() {
                Ok(()) => return Ok(()),
                Err(error) if warned => {
                    tracing::warn!("{error}: detached, whoever uses it loses it");
                    return Ok(());
                }
                Err(error) => {
                    warned = true;
                    tracing::warn!("{error}: unmount what uses it and then try again, or once more to detach it");
                }
            }
        }
    }
}
