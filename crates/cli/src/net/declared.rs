//! `ferro net up`, `down` and `status`: segments as a file declares them.

use std::path::PathBuf;

use clap::Args;
use ferro_node::segment::config::Declaration;
use ferro_node::segment::plan::Step;
use ferro_node::segment::{self, Host, Standing};

use super::report::{Output, table};

/// Where it is remembered what was made.
#[derive(Debug, Args)]
pub(crate) struct Memory {
    /// Remember in this directory what was made
    #[arg(long, value_name = "DIR", default_value = "/run/ferro")]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The declaration
    #[arg(value_name = "SEGMENTS.TOML")]
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    output: Output,
}

impl UpArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let declaration = Declaration::from_file(&self.file)?;
        let steps = segment::bring(&Host::open()?, &declaration, &self.memory.state, self.dry_run)?;
        tell(&self.output, &steps, "already up")
    }
}

impl DownArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let nothing = Declaration::default();
        let steps = segment::bring(&Host::open()?, &nothing, &self.memory.state, self.dry_run)?;
        tell(&self.output, &steps, "already down")
    }
}

impl StatusArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let standing = segment::status(&Host::open()?, &self.memory.state)?;
        let row = |one: &Standing| {
            [one.thing.to_string(), if one.stands { "up".into() } else { "missing or changed".into() }]
        };
        self.output.value(&standing, || {
            if standing.is_empty() {
                return "segments: down\n".into();
            }
            table(["WHAT", "STATE"], &standing.iter().map(row).collect::<Vec<_>>())
        })
    }
}

fn tell(output: &Output, steps: &[Step], already: &str) -> anyhow::Result<()> {
    output.value(&steps, || {
        if steps.is_empty() {
            return format!("segments: {already}\n");
        }
        steps.iter().map(|step| format!("{step}\n")).collect()
    })
}
