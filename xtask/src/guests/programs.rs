//! Our own programs for Linux guests, compiled statically from `guests/programs`.

use std::path::Path;

use super::initramfs::newer;
use crate::process::{command, root, run};

/// The programs and their sources.
const PROGRAMS: &[(&str, &str)] = &[
    ("measure", "measure.c"),
    ("measure-disk", "disk.c"),
    ("measure-net", "net.c"),
    ("play", "play.c"),
    ("eject", "eject.c"),
];

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

/// The guests without an operating system and their sources.
const BARE: &[(&str, &[&str])] =
    &[("first", &["first.s"]), ("spin", &["spin.s"]), ("screen", &["entry.s", "screen.c"])];

/// Builds those guests: `first.elf` says one character, `spin.elf` does nothing but work, `screen.elf` draws what keys ask for.
fn bare(folder: &Path) -> anyhow::Result<()> {
    let sources = root().join("guests/bare");
    for (name, parts) in BARE {
        let kernel = folder.join(name).with_extension("elf");
        if parts.iter().all(|part| newer(&kernel, &sources.join(part))) {
            continue;
        }
        let mut link = command("ld");
        link.args(["--no-warn-rwx-segments", "-z", "noexecstack", "-T"]).arg(sources.join("link.ld"));
        link.arg("-o").arg(&kernel);
        for part in *parts {
            let object = folder.join(part).with_extension("o");
            let mut compile = command("gcc");
            // No library, no vector registers, no stack below the pointer, fixed addresses.
            compile.args(["-c", "-O2", "-Wall", "-ffreestanding", "-fno-pie", "-fno-stack-protector"]);
            compile.args(["-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only", "-mno-red-zone"]);
            run(compile.args(["-fcf-protection=none", "-o"]).arg(&object).arg(sources.join(part)))?;
            link.arg(object);
        }
        run(&mut link)?;
    }
    Ok(())
}

/// The names of the Linux programs.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().map(|(name, _)| *name)
}
