//! `cargo xtask bench img`: `ferro img` beside qemu-img and qemu-nbd. Runs alternate after a warm-up, medians count, and every
//! row ends in a ratio: above 1 we are faster.

mod rows;
mod trial;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use trial::Work;

/// Flags of `bench img`.
#[derive(Debug, Args)]
pub(crate) struct ImgArgs {
    /// Smaller images and fewer runs
    #[arg(long)]
    quick: bool,
    /// Write the table to this file, as markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Only rows whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where to work (needs about four times the source's size)
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The command to measure, instead of building it
    #[arg(long, value_name = "PATH")]
    ferro: Option<PathBuf>,
    /// Runs of each
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
}

/// One measured line.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    ours: f64,
    theirs: f64,
    /// "s" for seconds, where less is better; anything else is a rate, where more is.
    unit: &'static str,
    /// Peak resident memory in KiB: ours and theirs.
    memory: (u64, u64),
}

impl Row {
    /// How many times better we are.
    fn ratio(&self) -> f64 {
        if self.unit == "s" { self.theirs / self.ours } else { self.ours / self.theirs }
    }

    fn cells(&self) -> [String; 5] {
        let figure =
            |value: f64| if self.unit == "s" { format!("{value:.3} s") } else { format!("{value:.0} {}", self.unit) };
        let memory = |kib: u64| format!("{:.0}", kib as f64 / 1024.0);
        [
            self.name.clone(),
            figure(self.ours),
            figure(self.theirs),
            format!("{:.2}×", self.ratio()),
            format!("{} / {}", memory(self.memory.0), memory(self.memory.1)),
        ]
    }
}

const HEAD: [&str; 5] = ["what", "ferro img", "qemu-img", "ratio", "peak MiB, ours / theirs"];

/// Measures and prints.
///
/// # Errors
/// Programs that are missing or fail.
pub(crate) fn run(args: &ImgArgs) -> anyhow::Result<()> {
    for program in ["qemu-img", "qemu-nbd", "fio", "nbdcopy"] {
        if Command::new(program).arg("--version").output().is_err() {
            bail!("{program} is not installed: the comparison needs it");
        }
    }
    let ferro = match &args.ferro {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None => build()?,
    };
    let root = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    let dir = root.join(format!("ferro-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let work = Work {
        dir: dir.clone(),
        ferro,
        size: if args.quick { 256 << 20 } else { 2 << 30 },
        runs: args.runs.unwrap_or(if args.quick { 3 } else { 5 }),
        only: args.only.clone(),
    };
    let mut rows = Vec::new();
    let measured = rows::all(&work, &mut rows);
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    let table = markdown(&rows);
    print!("{table}");
    if let Some(path) = &args.markdown {
        std::fs::write(path, table).with_context(|| path.display().to_string())?;
    }
    measured
}

/// Builds the command as it is shipped.
fn build() -> anyhow::Result<PathBuf> {
    let status = Command::new("cargo").args(["build", "--release", "-p", "ferro-cli"]).status()?;
    if !status.success() {
        bail!("the command does not build");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("release/ferro").canonicalize().context("the built command")
}

fn markdown(rows: &[Row]) -> String {
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let head = HEAD.map(str::to_owned);
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| cells.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    let mut line = |row: &[String; 5]| {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    line(&head);
    line(&std::array::from_fn(|column| "-".repeat(widths[column])));
    cells.iter().for_each(line);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_point_the_same_way_for_times_and_rates() {
        let row = |unit, ours, theirs| Row { name: "x".into(), ours, theirs, unit, memory: (1024, 2048) };
        assert!(row("s", 1.0, 2.0).ratio() > 1.9);
        assert!(row("IOPS", 2.0, 1.0).ratio() > 1.9);
        assert!(markdown(&[row("s", 1.0, 2.0)]).contains("2.00×"));
    }
}
