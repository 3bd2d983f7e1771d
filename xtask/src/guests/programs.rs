//! Our own programs for Linux guests, compiled statically from `guests/programs`.

use std::path::Path;

use super::initramfs::newer;
use crate::process::{command, root, run};

/// The programs and their sources.
const PROGRAMS: &[(&str, &str)] =
    &[("measure", "measure.c"), ("measure-disk", "disk.c"), ("play", "play.c"), ("eject", "eject.c")];

/// Builds them in `folder`; they run on this machine too, for comparison.
pub(crate) fn build(folder: &Path) -> anyhow::Result<()> {
    for (name, source) in PROGRAMS {
        let source = root().join("guests/programs").join(source);
        let program = folder.join(name);
        if !newer(&program, &source) {
            println!("guests: compiling {}", program.display());
            run(command("gcc").args(["-O2", "-static", "-Wall", "-o"]).arg(&program).arg(&source))?;
        }
    }
    bare(folder)
}

/// Builds `first.elf`, the guest that says one character.
fn bare(folder: &Path) -> anyhow::Result<()> {
    let sources = root().join("guests/bare");
    let (source, object, kernel) = (sources.join("first.s"), folder.join("first.o"), folder.join("first.elf"));
    if newer(&kernel, &source) {
        return Ok(());
    }
    run(command("as").arg("--64").arg("-o").arg(&object).arg(&source))?;
    let mut link = command("ld");
    link.args(["--no-warn-rwx-segments", "-z", "noexecstack", "-T"]).arg(sources.join("link.ld"));
    run(link.arg("-o").arg(&kernel).arg(&object))
}

/// The names of the Linux programs.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().map(|(name, _)| *name)
}
