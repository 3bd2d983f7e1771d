//! `ferro clone`: flags, and the operator's `infra.toml`. What a clone is, is in `ferro_node`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use ferro_node::clone::{Way, appended, plan};

use crate::exit;

/// Flags of `ferro clone`.
#[derive(Debug, clap::Args)]
pub(crate) struct CloneArgs {
    /// The VM
    vm: String,
    /// The clone's name
    new: String,
    /// Copy the disks, instead of sharing what is in them
    #[arg(long)]
    full: bool,
    /// Copy what this snapshot has; the VM may run
    #[arg(long, requires = "full")]
    snapshot: Option<String>,
    /// The infrastructure that declares the VM; the clone's entry is added to it
    #[arg(long, value_name = "INFRA.TOML", default_value = "infra.toml")]
    infra: PathBuf,
    /// Print the entry, and leave the file as it is
    #[arg(long)]
    print: bool,
}

impl CloneArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let path = self.infra.canonicalize().with_context(|| format!("cannot find {}", self.infra.display()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", self.infra.display()))?;
        let way = if self.full { Way::Full(self.snapshot) } else { Way::Linked };
        let plan = plan(&text, &self.infra, folder, (&self.vm, &self.new), way)?;
        plan.make()?;
        if self.print {
            crate::img::print(&plan.entry)?;
        } else {
            replace(&path, &appended(&text, &plan.entry))
                .with_context(|| format!("the disks are made, but {} can't be written", self.infra.display()))?;
            let file = self.infra.display();
            crate::img::print(&format!("{} is in {file}: 'ferro up {file}' starts it\n", self.new))?;
        }
        if !plan.left_out.is_empty() {
            eprintln!("left out, as two VMs can't have the same: {}", plan.left_out.join(", "));
        }
        Ok(ExitCode::from(exit::OK))
    }
}

/// Replaces a file as a whole or not at all.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::metadata(path)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(std::fs::File::open(folder)?.sync_all()?)
}
