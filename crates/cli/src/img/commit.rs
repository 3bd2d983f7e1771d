//! `ferro img commit`.

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::{Cache, Image, OpenMode};
use ferro_block::jobs::commit;

use super::source::{Naming, cache, opened, print};
use super::{figures, progress};

/// Flags of `commit`.
#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    naming: Naming,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// How the images are written
    #[arg(short = 't', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    cache: Cache,
    /// Commit into this image of the backing chain instead of the next
    #[arg(short, value_name = "FILE")]
    base: Option<String>,
    /// Don't empty the image afterwards
    #[arg(short = 'd')]
    drop_nothing: bool,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// Bytes a second at most
    #[arg(short, value_name = "RATE", value_parser = figures::size)]
    rate: Option<u64>,
    /// The image
    filename: String,
}

impl CommitArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mode = OpenMode { cache: self.cache, ..OpenMode::READ };
        let top = self.naming.open(&self.filename, mode)?;
        let (depth, base_spec) = self.find_base(&top)?;
        let size = top.storage.size();
        // Readers keep writers out, so everything is opened anew for what is to be done with it: the overlay alone first.
        let top_spec = top.spec.clone();
        drop(top);
        let secrets = self.naming.objects.secrets()?;
        let base_mode = OpenMode { backing: true, cache: self.cache, ..OpenMode::WRITE };
        let base = opened(&base_spec, base_mode, &secrets)?;
        if base.storage.size() < size {
            match &base.qcow2 {
                Some(qcow2) => qcow2.resize(size, ferro_block::qcow2::Preallocation::Off)?,
                None => base.storage.set_size(size)?,
            }
        }
        let top = open_above(&top_spec, &base, depth, self.cache, &secrets)?;
        let source = match self.rate {
            Some(rate) => super::serve::limited(top.storage.clone(), rate),
            None => top.storage.clone(),
        };
        progress::watched(self.progress && !self.quiet, |watch| commit(&*source, &*base.storage, depth, watch))
            .with_context(|| format!("cannot commit '{}'", self.filename))?;
        base.storage.flush().with_context(|| format!("cannot commit into '{}'", base_spec.name))?;
        drop(source);
        drop(top);
        base.close().with_context(|| format!("cannot finish '{}'", base_spec.name))?;
        // With -b the images between would be stale without the top's contents: as qemu-img, leave the top as it is.
        if !self.drop_nothing && self.base.is_none() {
            let mode = OpenMode { backing: false, cache: self.cache, ..OpenMode::WRITE };
            let top = opened(&top_spec, mode, &secrets)?;
            if let Some(qcow2) = &top.qcow2 {
                qcow2.make_empty().with_context(|| format!("Could not empty '{}'", self.filename))?;
            }
            top.close()?;
        }
        if self.quiet { Ok(()) } else { print("Image committed.\n") }
    }

    /// How deep in the chain the base is, and what it is.
    fn find_base(&self, top: &Image) -> anyhow::Result<(u32, ferro_block::image::ImageSpec)> {
        let mut below = top.chain().enumerate().skip(1);
        let found = match &self.base {
            None => below.next(),
            Some(name) => below.find(|(_, image)| {
                let same_path = || {
                    let path = image.spec.path()?.canonicalize().ok()?;
                    Some(path == std::path::Path::new(name).canonicalize().ok()?)
                };
                image.spec.name == *name || same_path() == Some(true)
            }),
        };
        match (found, &self.base) {
            (Some((depth, image)), _) => {
                let mut spec = image.spec.clone();
                spec.format = Some(image.format);
                Ok((depth as u32, spec))
            }
            (None, Some(name)) => bail!("Did not find '{name}' in the backing chain of '{}'", self.filename),
            (None, None) => bail!("Image does not have a backing file"),
        }
    }
}

/// The overlay for reading. What it shows of the base isn't copied, so only the layers above the base are opened.
fn open_above(
    spec: &ferro_block::image::ImageSpec,
    base: &Image,
    depth: u32,
    cache: Cache,
    secrets: &ferro_block::image::Secrets,
) -> anyhow::Result<Image> {
    let mode = OpenMode { backing: false, cache, ..OpenMode::READ };
    let mut top = opened(spec, mode, secrets)?;
    let mut next = top.backing_name.clone().map(|(_, found)| found);
    let mut above = top.qcow2.clone();
    for _ in 1..depth {
        let Some(name) = next.take() else { break };
        let image = opened(&ferro_block::image::ImageSpec::from_name(&name, None)?, mode, secrets)?;
        if let Some(above) = &above {
            above.replace_backing(Some(image.storage.clone()));
        }
        next = image.backing_name.clone().map(|(_, found)| found);
        above = image.qcow2.clone();
        let mut holder = &mut top.backing;
        while let Some(image) = holder {
            holder = &mut image.backing;
        }
        *holder = Some(Box::new(image));
    }
    // The lowest overlay shows the base where a cluster is half its own.
    if let Some(above) = &above {
        above.replace_backing(Some(base.storage.clone()));
    }
    Ok(top)
}
