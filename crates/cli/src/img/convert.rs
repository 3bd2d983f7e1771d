//! `ferro img convert`.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::Storage;
use ferro_block::image::{Cache, CreateRequest, Format, Image, KeyValues, OpenMode, Secrets, create};
use ferro_block::jobs::{Concat, CopyOptions, Target, copy};

use super::create::{asks_for_help, help, joined};
use super::source::{Objects, cache, named, opened, print};
use super::{figures, progress};

/// Flags of `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    objects: Objects,
    /// The sources are lists of options: driver=qcow2,file.filename=PATH,…
    #[arg(long)]
    image_opts: bool,
    /// The target is a list of options (with -n)
    #[arg(long)]
    target_image_opts: bool,
    /// The sources' format; found out if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<Format>,
    /// The target's format
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    output_format: Format,
    /// Options of the target's format: name=value,…
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// The target's backing file; what it has is not copied
    #[arg(short = 'B', value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', value_name = "FMT")]
    backing_format: Option<Format>,
    /// Compress
    #[arg(short)]
    compress: bool,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// Say nothing
    #[arg(short)]
    quiet: bool,
    /// Don't make the target: it is there
    #[arg(short)]
    no_create: bool,
    /// With -n: the target reads as zeros, so that zeros needn't be written
    #[arg(long)]
    target_is_zero: bool,
    /// Leave out zeros of at least this many bytes; 0 writes everything
    #[arg(short = 'S', value_name = "SIZE", value_parser = figures::size)]
    sparse: Option<u64>,
    /// Copy this internal snapshot of the source: a name, an ID or snapshot.name=…
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// How many parts are copied at the same time
    #[arg(short = 'm', value_name = "N", default_value_t = 8)]
    parallel: usize,
    /// Write in any order (always so here)
    #[arg(short = 'W')]
    any_order: bool,
    /// Let the host copy from file to file where it can
    #[arg(short = 'C')]
    offload: bool,
    /// Bytes a second at most
    #[arg(short = 'r', value_name = "RATE", value_parser = figures::size)]
    rate: Option<u64>,
    /// Copy on after read errors, with zeros in their places
    #[arg(long)]
    salvage: bool,
    /// Copy the persistent bitmaps, too
    #[arg(long)]
    bitmaps: bool,
    /// Leave out bitmaps that are marked in use
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// How the target is written (none, writeback, writethrough, directsync, unsafe)
    #[arg(short = 't', value_name = "CACHE", value_parser = cache, default_value = "unsafe")]
    cache: Cache,
    /// How the sources are read
    #[arg(short = 'T', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    source_cache: Cache,
    /// Read even if another process writes to a source
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The sources, which follow each other in the target, and the target
    #[arg(required = true, value_name = "SOURCE... TARGET")]
    files: Vec<String>,
}

impl ConvertArgs {
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        if asks_for_help(&self.options) {
            return print(&help(self.output_format));
        }
        self.check_flags()?;
        let Some(target_name) = self.files.pop().filter(|_| !self.files.is_empty()) else {
            bail!("name at least one source and the target");
        };
        let secrets = self.objects.secrets()?;
        let sources = self.open_sources(&secrets)?;
        let disk = self.source_disk(&sources)?;
        let mut options = joined(&self.options)?;
        if let Some(name) = &self.backing {
            options.insert("backing_file", name.clone());
        }
        if let Some(format) = self.backing_format {
            options.insert("backing_fmt", format.name());
        }
        let has_backing = options.get("backing_file").is_some_and(|name| !name.is_empty());
        if has_backing && options.get("backing_fmt").is_none() && !self.no_create {
            bail!("Backing file specified without backing format: say -F FORMAT");
        }
        let target = self.open_target(&target_name, options, disk.size(), &secrets)?;
        let compress = match (&target.qcow2, self.compress) {
            (Some(qcow2), true) => Some(&**qcow2),
            (None, true) => bail!("Compression not supported for this file format"),
            (_, false) => None,
        };
        let backing_size = target.backing.as_ref().map_or(0, |backing| backing.storage.size());
        let copying = CopyOptions {
            threads: self.parallel.max(1),
            sparse: self.sparse.unwrap_or(4096),
            target_is_zero: self.target_is_zero || !self.no_create && reads_as_zero(&target),
            top_only: has_backing,
            backing_size,
            salvage: self.salvage,
            offload: self.offload,
        };
        let source: Arc<dyn Storage> = match self.rate {
            Some(rate) => super::serve::limited(disk, rate),
            None => disk,
        };
        progress::watched(self.progress && !self.quiet, |watch| {
            copy(&*source, Target { storage: &*target.storage, compress }, copying, watch)
        })
        .with_context(|| format!("cannot convert to '{target_name}'"))?;
        if self.bitmaps {
            self.copy_bitmaps(&sources[0], &target)?;
        }
        drop(source);
        target.close().with_context(|| format!("cannot finish '{target_name}'"))
    }

    fn check_flags(&self) -> anyhow::Result<()> {
        if self.compress && self.offload {
            bail!("Cannot enable copy offloading when -c is used");
        }
        if self.offload && self.sparse.is_some() {
            bail!("Cannot enable copy offloading when -S is used");
        }
        if self.target_is_zero && !self.no_create {
            bail!("--target-is-zero requires use of -n flag");
        }
        if self.target_image_opts && !self.no_create {
            bail!("--target-image-opts requires use of -n flag");
        }
        if self.no_create && (!self.options.is_empty() || self.backing.is_some()) {
            bail!("-o and -B change nothing on a target that is there (-n)");
        }
        if self.parallel == 0 || self.parallel > 16 {
            bail!("Invalid number of coroutines. Allowed number of coroutines is between 1 and 16");
        }
        if self.skip_broken_bitmaps && !self.bitmaps {
            bail!("Use of --skip-broken-bitmaps requires --bitmaps");
        }
        Ok(())
    }

    fn open_sources(&self, secrets: &Secrets) -> anyhow::Result<Vec<Image>> {
        let mode = OpenMode { cache: self.source_cache, force_share: self.force_share, ..OpenMode::READ };
        let open = |name: &String| opened(&named(name, self.image_opts, self.format)?, mode, secrets);
        self.files.iter().map(open).collect()
    }

    /// All sources one after the other, or the snapshot asked for.
    fn source_disk(&self, sources: &[Image]) -> anyhow::Result<Arc<dyn Storage>> {
        if let Some(wanted) = &self.snapshot {
            let [source] = sources else { bail!("No support for concatenating multiple snapshot") };
            let Some(qcow2) = &source.qcow2 else { bail!("{}: the format has no snapshots", source.spec.name) };
            let id = if wanted.contains('=') {
                let mut values = KeyValues::parse(wanted, None)?;
                let id = values.take("snapshot.id").or_else(|| values.take("snapshot.name"));
                id.context("say -l snapshot.id=ID or -l snapshot.name=NAME")?
            } else {
                wanted.clone()
            };
            let disk = qcow2.open_snapshot(&id).with_context(|| format!("Failed to load snapshot '{id}'"))?;
            return Ok(disk);
        }
        Ok(match sources {
            [one] => Arc::clone(&one.storage),
            many => Arc::new(Concat::new(many.iter().map(|image| Arc::clone(&image.storage)).collect())),
        })
    }

    fn open_target(&self, name: &str, mut options: KeyValues, size: u64, secrets: &Secrets) -> anyhow::Result<Image> {
        let key =
            ["encrypt.key-secret", "key-secret"].into_iter().find_map(|key| Some((key, options.get(key)?.to_string())));
        let mut spec = if self.target_image_opts {
            named(name, true, None)?
        } else {
            named(name, false, Some(self.output_format))?
        };
        if !self.no_create {
            let size = options.take_size("size")?.unwrap_or(size);
            let request = CreateRequest { spec: spec.clone(), format: self.output_format, size, options };
            create(&request, secrets)
                .with_context(|| format!("{name}: error while converting {}", self.output_format))?;
        }
        if let Some((key, secret)) = key {
            spec.options.insert(key, secret);
        }
        let mode = OpenMode { cache: self.cache, ..OpenMode::WRITE };
        let target = opened(&spec, mode, secrets)?;
        if target.storage.size() < size {
            bail!("{name}: Output file is smaller than input file: {} of {size} bytes", target.storage.size());
        }
        Ok(target)
    }

    fn copy_bitmaps(&self, source: &Image, target: &Image) -> anyhow::Result<()> {
        let (Some(from), Some(to)) = (&source.qcow2, &target.qcow2) else {
            bail!("Format driver does not support bitmaps");
        };
        for bitmap in from.bitmaps() {
            if bitmap.flags.iter().any(|flag| flag == "in-use") {
                if self.skip_broken_bitmaps {
                    tracing::warn!("Skipping inconsistent bitmap '{}'", bitmap.name);
                    continue;
                }
                bail!(
                    "Cannot copy inconsistent bitmap '{}': use --skip-broken-bitmaps or bitmap --remove",
                    bitmap.name
                );
            }
            to.bitmap_add(&bitmap.name, Some(bitmap.granularity))?;
            to.bitmap_merge(&bitmap.name, Some(from), &bitmap.name)?;
            let enabled = bitmap.flags.iter().any(|flag| flag == "auto");
            to.bitmap_set_enabled(&bitmap.name, enabled)?;
        }
        Ok(())
    }
}

/// Whether an image that was just made reads as zeros: all do, but for what a device held before and what encryption makes
/// of allocated clusters.
fn reads_as_zero(target: &Image) -> bool {
    let on_file = target.host.as_ref().is_some_and(|host| !host.is_device());
    match target.format {
        Format::Raw => on_file,
        Format::Qcow2 => {
            let disk = &target.storage;
            !disk.size().min(1).eq(&1)
                || disk.extent_at(0, disk.size()).is_ok_and(|extent| extent.kind.reads_as_zero() || !target.encrypted)
        }
        Format::Luks => false,
    }
}
