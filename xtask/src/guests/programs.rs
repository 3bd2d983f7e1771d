//! Our own programs for Linux guests, compiled statically from `guests/programs`.

use std::path::Path;

use super::initramfs::newer;
use crate::process::{command, root, run};

/// Builds `measure` in `folder`; it runs on this machine too, for comparison.
pub(crate) fn build(folder: &Path) -> anyhow::Result<()> {
    let source = root().join("guests/programs/measure.c");
    let program = folder.join("measure");
    if newer(&program, &source) {
        return Ok(());
    }
    println!("guests: compiling {}", program.display());
    run(command("gcc").args(["-O2", "-static", "-Wall", "-o"]).arg(&program).arg(&source))
}
