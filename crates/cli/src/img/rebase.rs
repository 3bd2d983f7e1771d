//! `ferro img rebase`.

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::Storage;
use ferro_block::image::{Cache, Format, OpenMode};
use ferro_block::jobs::rebase;

use super::progress;
use super::source::{Naming, cache, opened};

/// Flags of `rebase`.
#[derive(Debug, Args)]
pub(crate) struct RebaseArgs {
    #[command(flatten)]
    naming: Naming,
    /// Read even if another process writes to a backing file
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// Change just the name: the new backing file has the same contents
    #[arg(short = 'u', long = "unsafe")]
    only_name: bool,
    /// The new backing file; an empty name for none
    #[arg(short, long, value_name = "FILE")]
    backing: String,
    /// The new backing file's format
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<Format>,
    /// How the image is written
    #[arg(short = 't', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    cache: Cache,
    /// How the backing files are read
    #[arg(short = 'T', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    source_cache: Cache,
    /// The image
    filename: String,
}

impl RebaseArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mode = OpenMode { cache: self.cache, backing: !self.only_name, no_io: self.only_name, ..OpenMode::WRITE };
        let image = self.naming.open(&self.filename, mode)?;
        let Some(qcow2) = image.qcow2.clone() else {
            bail!("{}: {} images have no backing files", self.filename, image.format)
        };
        let name = Some(self.backing.as_str()).filter(|name| !name.is_empty());
        if !self.only_name {
            let secrets = self.naming.objects.secrets()?;
            let new = match name {
                Some(name) => {
                    let spec = image.spec.relative(name, self.backing_format)?;
                    let mode = OpenMode { cache: self.source_cache, force_share: self.force_share, ..OpenMode::READ };
                    Some(opened(&spec, mode, &secrets)?)
                }
                None => None,
            };
            let disk = new.as_ref().map(|image| &*image.storage as &dyn Storage);
            progress::watched(self.progress && !self.quiet, |watch| rebase(&*image.storage, disk, watch))
                .with_context(|| format!("cannot rebase '{}'", self.filename))?;
            image.storage.flush()?;
        }
        let format = match (name, self.backing_format) {
            (None, _) => None,
            (Some(_), Some(format)) => Some(format.name()),
            (Some(name), None) => {
                if !self.quiet {
                    tracing::warn!("no backing format given for '{name}': say -F FORMAT");
                }
                None
            }
        };
        qcow2
            .set_backing(name, format)
            .with_context(|| format!("Could not change the backing file to '{}'", self.backing))?;
        drop(qcow2);
        image.close().with_context(|| format!("cannot finish '{}'", self.filename))?;
        Ok(())
    }
}
