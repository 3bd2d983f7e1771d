//! `ferro img check`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use ferro_block::image::{Cache, OpenMode};
use ferro_block::qcow2::{CheckReport, Repair};
use serde_json::{Map, Value, json};

use super::source::{Naming, Output, cache, print, print_json};
use crate::exit::{FAILED, OK, with_code};

/// The image has errors that can destroy data.
const CORRUPT: u8 = 2;
/// The image has clusters that nothing uses.
const LEAKS: u8 = 3;
/// The format can't be checked.
const NOT_SUPPORTED: u8 = 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Only what is allocated for nothing
    Leaks,
    /// Everything that can be repaired
    All,
}

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 clean, 1 the check failed, 2 corrupt, 3 leaks, 63 not supported for the format")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    naming: Naming,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
    /// Repair what is found
    #[arg(short, long, value_name = "WHAT")]
    repair: Option<What>,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// How the image is read
    #[arg(short = 'T', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    source_cache: Cache,
    /// Check even if another process writes to the image: what is found may be wrong
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    filename: String,
}

impl CheckArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mode = OpenMode {
            writable: self.repair.is_some(),
            cache: self.source_cache,
            force_share: self.force_share,
            backing: false,
            no_io: true,
            for_check: true,
        };
        let image = with_code(FAILED, self.naming.open(&self.filename, mode))?;
        let Some(qcow2) = image.qcow2.clone() else {
            if !self.quiet && self.output == Output::Human {
                eprintln!("ferro: This image format does not support checks");
            }
            return Ok(ExitCode::from(NOT_SUPPORTED));
        };
        let repair = match self.repair {
            None => Repair::None,
            Some(What::Leaks) => Repair::Leaks,
            Some(What::All) => Repair::All,
        };
        let mut report = with_code(FAILED, qcow2.check(repair).map_err(Into::into))?;
        let fixed = (report.leaks_fixed, report.corruptions_fixed);
        let messages = std::mem::take(&mut report.messages);
        if self.output == Output::Human && !self.quiet {
            print(&messages.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        }
        if repair != Repair::None && (fixed.0 > 0 || fixed.1 > 0) {
            if self.output == Output::Human && !self.quiet {
                print(&format!(
                    "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} \
                     corruptions\n\nDouble checking the fixed image now...\n",
                    fixed.0, fixed.1
                ))?;
            }
            report = with_code(FAILED, qcow2.check(Repair::None).map_err(Into::into))?;
            (report.leaks_fixed, report.corruptions_fixed) = fixed;
        }
        drop(qcow2);
        let format = image.format.name();
        if self.output == Output::Json {
            print_json(&as_json(&report, &self.filename, format))?;
        } else if !self.quiet {
            print(&human(&report))?;
        }
        if repair != Repair::None {
            with_code(FAILED, image.close().map_err(Into::into))?;
        }
        Ok(ExitCode::from(code(&report)))
    }
}

fn code(report: &CheckReport) -> u8 {
    match report {
        _ if report.corruptions > 0 => CORRUPT,
        _ if report.leaks > 0 => LEAKS,
        _ if report.check_errors > 0 => FAILED,
        _ => OK,
    }
}

fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    if report.corruptions == 0 && report.leaks == 0 && report.check_errors == 0 {
        text.push_str("No errors were found on the image.\n");
    } else {
        if report.corruptions > 0 {
            let _ = writeln!(
                text,
                "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
                report.corruptions
            );
        }
        if report.leaks > 0 {
            let _ = writeln!(
                text,
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
                report.leaks
            );
        }
        if report.check_errors > 0 {
            let _ = writeln!(text, "\n{} internal errors have occurred during the check.", report.check_errors);
        }
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        let _ = writeln!(
            text,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters)
        );
    }
    if report.image_end_offset > 0 {
        let _ = writeln!(text, "Image end offset: {}", report.image_end_offset);
    }
    text
}

/// As QEMU's `ImageCheck`: what is zero is left out, but for the number of internal errors.
fn as_json(report: &CheckReport, filename: &str, format: &str) -> Value {
    let mut map = Map::new();
    for (key, value) in [
        ("image-end-offset", report.image_end_offset),
        ("total-clusters", report.total_clusters),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("corruptions-fixed", report.corruptions_fixed),
        ("leaks-fixed", report.leaks_fixed),
    ] {
        if value > 0 {
            map.insert(key.into(), json!(value));
        }
    }
    map.insert("check-errors".into(), json!(report.check_errors));
    map.insert("filename".into(), json!(filename));
    map.insert("format".into(), json!(format));
    Value::Object(map)
}
