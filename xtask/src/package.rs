//! `cargo xtask package`: the Debian package, by cargo-deb if that is installed, by dpkg-deb otherwise. What is in it says
//! `[package.metadata.deb]` in crates/cli/Cargo.toml, for both. `--check` looks into it and installs it below a folder.

mod check;
mod deb;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::{Compression, GzBuilder};

use crate::process::{self, cargo, command, output, root, target};

/// How to make it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Look into the package, install it below a folder of its own, run it there, and remove it
    #[arg(long)]
    check: bool,
    /// The profile of the binary
    #[arg(long, default_value = "release")]
    profile: String,
    /// Use dpkg-deb even if there is cargo-deb
    #[arg(long)]
    plain: bool,
}

/// Where what the command says of itself goes: man pages, completions.
fn generated() -> PathBuf {
    root().join("target/package")
}

/// The whole command.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    process::run(cargo().args(["build", "-p", "ferro-cli", "--profile", &args.profile]))?;
    let folder = if args.profile == "dev" { "debug" } else { &args.profile };
    let binary = target().join(folder).join("ferro");
    generate(&binary)?;
    let made = target().join("debian");
    fs::create_dir_all(&made)?;
    // cargo-deb takes the binary of the release profile.
    let by_cargo = !args.plain && args.profile == "release" && output(cargo().args(["deb", "--version"])).is_ok();
    let package = if by_cargo {
        let package = made.join("ferro.deb");
        process::run(cargo().args(["deb", "-p", "ferro-cli", "--no-build", "--output"]).arg(&package))?;
        package
    } else {
        deb::build(&binary, &made)?
    };
    println!("{}", package.display());
    if args.check { check::check(&package) } else { Ok(()) }
}

/// Lets the binary write what it knows of itself.
fn generate(binary: &Path) -> anyhow::Result<()> {
    let folder = generated();
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let man = folder.join("man");
    fs::create_dir_all(&man)?;
    output(command(binary).arg("man").arg(&man))?;
    for entry in fs::read_dir(&man)? {
        let path = entry?.path();
        let text = fs::read(&path)?;
        let packed = fs::File::create(path.with_added_extension("gz"))?;
        // Without a time, so that the same pages give the same bytes.
        let mut packer = GzBuilder::new().write(packed, Compression::best());
        std::io::Write::write_all(&mut packer, &text)?;
        packer.finish()?.sync_all()?;
        fs::remove_file(&path)?;
    }
    for (shell, name) in [("bash", "ferro.bash"), ("zsh", "_ferro"), ("fish", "ferro.fish")] {
        let script = output(command(binary).args(["completions", shell]))?;
        fs::write(folder.join(name), script)?;
    }
    let document = output(command(binary).args(["node", "openapi"]))?;
    fs::write(folder.join("openapi.json"), document).context("cannot write the OpenAPI document")
}
