//! Debian's kernel packages, downloaded and unpacked without installing them.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::process::{command, output, run};

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// The folder that holds `boot/` and `lib/modules/`.
    pub(crate) root: PathBuf,
    /// The release, as `uname -r` prints it.
    pub(crate) release: String,
}

/// Unpacks `linux-image-FLAVOUR`'s current kernel below `folder`, and links its bzImage as `vmlinuz-FLAVOUR`.
pub(crate) fn kernel(folder: &Path, flavour: &str) -> anyhow::Result<Kernel> {
    let root = folder.join(format!("linux-{flavour}"));
    let marker = root.join("release");
    if let Ok(release) = std::fs::read_to_string(&marker) {
        return Ok(Kernel { root, release: release.trim().to_owned() });
    }
    let meta = format!("linux-image-{flavour}");
    let depends = output(command("apt-cache").args(["depends", &meta]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("{meta} depends on no kernel; run `apt-get update` and try again"))?;
    let release = package.trim_end_matches("-unsigned").to_owned();
    println!("guests: unpacking Debian's kernel {release}");
    let downloads = folder.join("downloads");
    std::fs::create_dir_all(&downloads)?;
    let full = format!("linux-image-{package}");
    run(command("apt-get").current_dir(&downloads).args(["download", "-qq", "-o", "APT::Sandbox::User=root", &full]))?;
    let archive = std::fs::read_dir(&downloads)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{full}_"))))
        .with_context(|| format!("apt-get downloaded no {full}"))?;
    std::fs::create_dir_all(&root)?;
    run(command("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
    std::fs::remove_file(&archive)?;
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    std::fs::copy(&image, folder.join(format!("vmlinuz-{flavour}")))
        .with_context(|| format!("cannot copy {}", image.display()))?;
    std::fs::write(&marker, &release)?;
    Ok(Kernel { root, release })
}
