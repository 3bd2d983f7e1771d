//! How the commands of `ferro net` tell what they did or found: a line for people, JSON for programs.

use std::io::Write;

use anyhow::Context;
use clap::ValueEnum;
use ferro_node::segment::Change;
use serde::Serialize;

/// For whom the output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// People
    #[default]
    Human,
    /// Programs
    Json,
}

/// The flag that all of them have.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Print for people or as JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Output {
    /// Tells what became of a wish: `subject` as in "bridge br0", and how it is called when it was so before and now.
    pub(crate) fn change(&self, subject: &str, change: Change, already: &str, done: &str) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Told<'a> {
            subject: &'a str,
            change: Change,
        }
        let words = if change == Change::Already { already } else { done };
        self.value(&Told { subject, change }, || format!("{subject}: {words}\n"))
    }

    /// Prints a value.
    pub(crate) fn value<T: Serialize>(&self, value: &T, for_people: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.output {
            Format::Human => for_people(),
            Format::Json => serde_json::to_string_pretty(value)? + "\n",
        };
        std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
    }
}

/// Lines of columns, each as wide as its widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or_default()
    };
    let line = |cells: [&str; N]| {
        let cells: Vec<String> =
            cells.iter().enumerate().map(|(column, cell)| format!("{cell:<wide$}", wide = width(column))).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(head)).chain(rows).collect()
}
