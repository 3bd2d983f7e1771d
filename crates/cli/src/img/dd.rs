//! `ferro img dd`.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::{CreateRequest, Format, ImageSpec, KeyValues, OpenMode, Window, create};
use ferro_block::jobs::{CopyOptions, Target, Watch, copy};

use super::figures;
use super::source::{Naming, opened};

/// Flags of `dd`.
#[derive(Debug, Args)]
pub(crate) struct DdArgs {
    #[command(flatten)]
    naming: Naming,
    /// Read even if another process writes to the source
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The target's format
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    output_format: Format,
    /// if=SOURCE of=TARGET [bs=SIZE] [count=N] [skip=N]
    #[arg(required = true)]
    operands: Vec<String>,
}

impl DdArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (mut input, mut output, mut block, mut count, mut skip) = (None, None, 512, None, 0);
        for operand in &self.operands {
            let Some((key, value)) = operand.split_once('=') else {
                bail!("unrecognized operand '{operand}': say if=, of=, bs=, count= or skip=");
            };
            let number =
                || figures::size(value).map_err(|why| anyhow::anyhow!("invalid number '{value}' in {key}=: {why}"));
            match key {
                "if" => input = Some(value),
                "of" => output = Some(value),
                "bs" => block = number()?,
                "count" => count = Some(number()?),
                "skip" => skip = number()?,
                _ => bail!("unrecognized operand '{operand}': say if=, of=, bs=, count= or skip="),
            }
        }
        let (Some(input), Some(output)) = (input, output) else {
            bail!("Must specify both input and output file names")
        };
        if block == 0 {
            bail!("bs= must be greater than zero");
        }
        let mode = OpenMode { force_share: self.force_share, ..OpenMode::READ };
        let source = self.naming.open(input, mode)?;
        let total = source.storage.size();
        // As qemu-img counts: blocks that are skipped are among those counted.
        let wanted = count.map_or(total, |count| count.saturating_mul(block).min(total));
        let start = skip.saturating_mul(block).min(wanted);
        let size = wanted - start;
        if start > 0 && start == total {
            tracing::warn!("{input}: cannot skip to specified offset");
        }
        let secrets = self.naming.objects.secrets()?;
        let spec = ImageSpec::from_name(output, Some(self.output_format))?;
        // Disks are whole sectors.
        let request = CreateRequest {
            spec: spec.clone(),
            format: self.output_format,
            size: size.next_multiple_of(512),
            options: KeyValues::default(),
        };
        create(&request, &secrets).with_context(|| format!("{output}: error while creating output image"))?;
        let target = opened(&spec, OpenMode::WRITE, &secrets)?;
        let part = Window::new(Arc::clone(&source.storage), start, size)?;
        let is_new_file = target.host.as_ref().is_some_and(|host| !host.is_device());
        let options = CopyOptions { target_is_zero: is_new_file, ..CopyOptions::default() };
        copy(&part, Target { storage: &*target.storage, compress: None }, options, &Watch::new())
            .with_context(|| format!("error while copying to '{output}'"))?;
        target.close().with_context(|| format!("cannot finish '{output}'"))
    }
}
