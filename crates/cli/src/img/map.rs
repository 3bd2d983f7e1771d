//! `ferro img map`.

use std::fmt::Write;

use anyhow::bail;
use clap::Args;
use ferro_block::ExtentKind;
use ferro_block::image::OpenMode;
use ferro_block::jobs::{MapEntry, map};

use super::figures;
use super::source::{Naming, Output, print};

/// Flags of `map`.
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    #[command(flatten)]
    naming: Naming,
    /// Begin here
    #[arg(short, long, value_name = "OFFSET", value_parser = figures::size, default_value = "0")]
    start_offset: u64,
    /// Look at this much
    #[arg(short = 'l', long, value_name = "LENGTH", value_parser = figures::size)]
    max_length: Option<u64>,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
    /// Look even if another process writes to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    filename: String,
}

impl MapArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mode = OpenMode { force_share: self.force_share, ..OpenMode::READ };
        let image = self.naming.open(&self.filename, mode)?;
        let names: Vec<_> = image.chain().map(|image| image.data_name.clone()).collect();
        let end = self.max_length.map_or(u64::MAX, |len| self.start_offset.saturating_add(len));
        let mut text = String::new();
        let mut problem = None;
        let json = self.output == Output::Json;
        if !json {
            text.push_str("Offset          Length          Mapped to       File\n");
        }
        let mut first = true;
        map(&*image.storage, self.start_offset, end, |entry| {
            // Writing to a string can't fail.
            if json {
                text.push_str(if first { "[" } else { ",\n" });
                first = false;
                text.push_str(&json_entry(&entry));
            } else if let Some(line) = human_entry(&entry, &names) {
                match line {
                    Ok(line) => text.push_str(&line),
                    Err(why) => problem = problem.take().or(Some(why)),
                }
            }
            Ok(())
        })?;
        if json {
            let _ = writeln!(text, "{}]", if first { "[" } else { "" });
        }
        print(&text)?;
        match problem {
            Some(why) => bail!("File contains {why}: use --output=json"),
            None => Ok(()),
        }
    }
}

fn json_entry(entry: &MapEntry) -> String {
    let extent = &entry.extent;
    let zero = extent.kind.reads_as_zero();
    let data = !zero;
    let present = extent.kind != ExtentKind::Unallocated;
    let offset = match (extent.kind, extent.file_offset) {
        (ExtentKind::Data | ExtentKind::Zero { .. }, Some(offset)) => format!(", \"offset\": {offset}"),
        _ => String::new(),
    };
    format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {present}, \"zero\": {zero}, \"data\": {data}{offset}}}",
        entry.start, extent.len, extent.depth
    )
}

/// A line for data that lies in a file as it is; a reason where data doesn't.
fn human_entry(entry: &MapEntry, names: &[String]) -> Option<Result<String, &'static str>> {
    let extent = &entry.extent;
    match (extent.kind, extent.file_offset) {
        (ExtentKind::Data, Some(offset)) => {
            let name = names.get(extent.depth as usize).map_or("?", String::as_str);
            Some(Ok(format!("{:<16}{:<16}{:<16}{name}\n", hex(entry.start), hex(extent.len), hex(offset))))
        }
        (ExtentKind::Data | ExtentKind::Compressed, _) => Some(Err("external, encrypted or compressed clusters")),
        _ => None,
    }
}

fn hex(number: u64) -> String {
    if number == 0 { "0".into() } else { format!("{number:#x}") }
}
