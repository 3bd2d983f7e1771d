//! `ferro img compare`.

use std::process::ExitCode;

use clap::Args;
use ferro_block::image::{Cache, Format, OpenMode};
use ferro_block::jobs::{Comparison, compare};

use super::progress;
use super::source::{Objects, cache, named, opened, print};
use crate::exit::with_code;

const IDENTICAL: u8 = 0;
const DIFFERENT: u8 = 1;
const CANNOT_OPEN: u8 = 2;
const CANNOT_READ: u8 = 4;

/// Flags of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 the same, 1 different, 2 or more: it could not be found out")]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    objects: Objects,
    /// The file names are lists of options: driver=qcow2,file.filename=PATH,…
    #[arg(long)]
    image_opts: bool,
    /// The first image's format
    #[arg(short, value_name = "FMT")]
    format: Option<Format>,
    /// The second image's format
    #[arg(short = 'F', value_name = "FMT")]
    second_format: Option<Format>,
    /// How the images are read
    #[arg(short = 'T', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    source_cache: Cache,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// Say nothing but by the exit code
    #[arg(short)]
    quiet: bool,
    /// Sizes and what is allocated have to be the same, too
    #[arg(short)]
    strict: bool,
    /// Read even if another process writes to an image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// An image
    first: String,
    /// Another image
    second: String,
}

impl CompareArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mode = OpenMode { cache: self.source_cache, force_share: self.force_share, ..OpenMode::READ };
        let secrets = with_code(CANNOT_OPEN, self.objects.secrets())?;
        let open = |name: &str, format| opened(&named(name, self.image_opts, format)?, mode, &secrets);
        let first = with_code(CANNOT_OPEN, open(&self.first, self.format))?;
        let second = with_code(CANNOT_OPEN, open(&self.second, self.second_format))?;
        let sizes_differ = first.storage.size() != second.storage.size();
        if sizes_differ && self.strict {
            return self.result(DIFFERENT, "Strict mode: Image size mismatch!");
        }
        let found = progress::watched(self.progress && !self.quiet, |watch| {
            compare(&*first.storage, &*second.storage, self.strict, watch)
        });
        let found = with_code(CANNOT_READ, found.map_err(Into::into))?;
        match found {
            Comparison::Content(offset) => self.result(DIFFERENT, &format!("Content mismatch at offset {offset}!")),
            Comparison::Allocation(offset) => {
                self.result(DIFFERENT, &format!("Strict mode: Offset {offset} block status mismatch!"))
            }
            Comparison::Identical => {
                if sizes_differ && !self.quiet {
                    print("Warning: Image size mismatch!\n")?;
                }
                self.result(IDENTICAL, "Images are identical.")
            }
        }
    }

    fn result(&self, code: u8, words: &str) -> anyhow::Result<ExitCode> {
        if !self.quiet {
            print(&format!("{words}\n"))?;
        }
        Ok(ExitCode::from(code))
    }
}
