//! Looks into the Debian package, and installs it below a folder: the real dpkg, but no file of this machine's.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::process::{command, output, root};

/// What has to be in it: modes as `dpkg-deb --contents` shows them.
const CONTENTS: [(&str, &str); 11] = [
    ("-rwxr-xr-x", "./usr/bin/ferro"),
    ("-rw-r--r--", "./etc/ferro/node.toml"),
    ("-rw-r--r--", "./usr/lib/systemd/system/ferro-node.service"),
    ("-rw-r--r--", "./usr/lib/systemd/system/ferro-witness.service"),
    ("-rw-r--r--", "./usr/share/doc/ferro/copyright"),
    ("-rw-r--r--", "./usr/share/doc/ferro/docs/cluster.md"),
    ("-rw-r--r--", "./usr/share/doc/ferro/examples/servabit/infra.toml"),
    ("-rw-r--r--", "./usr/share/doc/ferro/openapi.json"),
    ("-rw-r--r--", "./usr/share/man/man1/ferro-node.1.gz"),
    ("-rw-r--r--", "./usr/share/bash-completion/completions/ferro"),
    ("-rw-r--r--", "./usr/share/zsh/vendor-completions/_ferro"),
];

/// All of it.
pub(super) fn check(package: &Path) -> anyhow::Result<()> {
    let info = output(command("dpkg-deb").arg("--info").arg(package))?;
    for words in ["Package: ferro\n", "Version: 0.", "Depends: libc6 (>= 2.", "Maintainer: ", " conffiles", " postinst"]
    {
        ensure!(info.contains(words), "the package says nothing of '{}':\n{info}", words.trim());
    }
    let contents = output(command("dpkg-deb").arg("--contents").arg(package))?;
    for (mode, path) in CONTENTS {
        let found = contents.lines().find(|line| line.ends_with(&format!(" {path}")));
        let line = found.with_context(|| format!("{path} isn't in the package:\n{contents}"))?;
        ensure!(line.starts_with(mode) && line.contains(" root/root "), "{line}: it should be {mode} root/root");
    }
    let secret = contents.lines().find(|line| line.ends_with("/secret") || line.ends_with(".pw"));
    ensure!(secret.is_none(), "no secret belongs into a package: {secret:?}");

    let scratch = tempfile::tempdir()?;
    output(command("dpkg-deb").arg("-x").arg(package).arg(scratch.path()))?;
    works(scratch.path())?;
    if output(command("id").arg("-u"))?.trim() == "0" {
        install(package)?;
    } else {
        println!("skipped: installing below a folder needs root");
    }
    println!("the package is in order");
    Ok(())
}

/// The program that was unpacked runs, and is in order with its settings.
fn works(top: &Path) -> anyhow::Result<()> {
    let ferro = top.join("usr/bin/ferro");
    let version = output(command(&ferro).arg("--version"))?;
    let own = env!("CARGO_PKG_VERSION");
    ensure!(version.trim() == format!("ferro {own}"), "--version says {version}, not {own}");
    output(command(&ferro).args(["node", "--check", "--config"]).arg(top.join("etc/ferro/node.toml")))?;
    // What the units run are commands that there are.
    for (unit, command_name) in [("ferro-node", "node"), ("ferro-witness", "witness")] {
        let text = fs::read_to_string(top.join(format!("usr/lib/systemd/system/{unit}.service")))?;
        ensure!(text.contains(&format!("ExecStart=/usr/bin/ferro {command_name} ")), "{unit}: {text}");
        output(command(&ferro).args([command_name, "--help"]))?;
    }
    Ok(())
}

/// Installs, installs again over an edited file, removes and purges.
fn install(package: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let top = scratch.path();
    let admin = top.join("var/lib/dpkg");
    for folder in ["info", "updates", "triggers"] {
        fs::create_dir_all(admin.join(folder))?;
    }
    fs::write(admin.join("status"), "")?;
    let dpkg = |arguments: &[&str]| {
        let mut dpkg = command("dpkg");
        // The scripts run on this machine with DPKG_ROOT set, and do nothing then. Of libraries the folder has none.
        dpkg.arg(format!("--root={}", top.display())).args(["--force-script-chrootless", "--force-depends"]);
        output(dpkg.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
    };
    let file = package.to_str().context("the package's name is no text")?;
    dpkg(&["-i", file])?;
    ensure!(dpkg(&["-s", "ferro"])?.contains("Status: install ok installed"), "it isn't installed");
    works(top)?;
    let settings = top.join("etc/ferro/node.toml");
    let edited = fs::read_to_string(root().join("packaging/node.toml"))?.replace("\"node\"", "\"alpha\"");
    fs::write(&settings, &edited)?;
    dpkg(&["-i", file])?;
    ensure!(fs::read_to_string(&settings)? == edited, "an edited node.toml was replaced");
    dpkg(&["-r", "ferro"])?;
    ensure!(!top.join("usr/bin/ferro").exists() && settings.exists(), "remove takes programs, not settings");
    dpkg(&["-P", "ferro"])?;
    ensure!(!settings.exists(), "purge takes settings");
    Ok(())
}
