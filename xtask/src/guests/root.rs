//! A small Debian with systemd, its own kernel and its own initial RAM disk, on a disk image: what a user would install.

use std::path::Path;

use anyhow::Context;

use crate::process::{command, output, run};

/// What it holds beyond the required packages.
const PACKAGES: &str =
    "systemd-sysv,login,passwd,util-linux,linux-image-cloud-amd64,initramfs-tools,e2fsprogs,udev,dbus,iproute2,kmod";
/// Root's password in it.
const PASSWORD: &str = "ferro";
/// The file system; sparse on the host.
const SIZE: &str = "1500M";

/// Builds `debian-root.raw`, `vmlinuz-debian` and `initrd-debian` in `folder`. Needs root, for the owners of its files;
/// says so where it is left out.
pub(crate) fn build(folder: &Path) -> anyhow::Result<()> {
    let image = folder.join("debian-root.raw");
    if image.exists() {
        return Ok(());
    }
    if output(command("id").arg("-u"))?.trim() != "0" {
        println!("guests: no Debian root: debootstrap needs root");
        return Ok(());
    }
    let tree = folder.join("debian-root");
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    let (site, release) = archive()?;
    println!("guests: installing a Debian {release} in {} (two minutes)", tree.display());
    let include = format!("--include={PACKAGES}");
    output(command("debootstrap").args(["--variant=minbase", &include, &release]).arg(&tree).arg(site))?;
    std::fs::write(tree.join("etc/hostname"), "ferro-debian\n")?;
    std::fs::write(tree.join("etc/fstab"), "/dev/vda / ext4 errors=remount-ro 0 1\n")?;
    let inside = |script: &str| output(command("chroot").arg(&tree).args(["sh", "-c", script]));
    inside(&format!("echo root:{PASSWORD} | chpasswd"))?;
    // Made anew, now that it can read which file system is the root.
    inside("update-initramfs -u && apt-get clean")?;
    let boot = |prefix: &str| -> anyhow::Result<_> {
        let found = std::fs::read_dir(tree.join("boot"))?.filter_map(Result::ok).map(|entry| entry.path());
        let mut found =
            found.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        found.next().with_context(|| format!("the new Debian has no /boot/{prefix}*"))
    };
    std::fs::copy(boot("vmlinuz-")?, folder.join("vmlinuz-debian"))?;
    std::fs::copy(boot("initrd.img-")?, folder.join("initrd-debian"))?;
    let unfinished = folder.join("debian-root.tmp");
    run(command("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&unfinished).arg(SIZE))?;
    std::fs::remove_dir_all(&tree)?;
    std::fs::rename(unfinished, image)?;
    Ok(())
}

/// The archive and release that this machine itself installs from.
fn archive() -> anyhow::Result<(String, String)> {
    let mut targets = command("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Created-By: Packages"]);
    let targets = output(&mut targets)?;
    let main = targets.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [site, release, "main", "Debian"] if !release.contains('-') => Some((site.to_owned(), release.to_owned())),
            _ => None,
        }
    });
    main.context("apt knows no Debian archive; run `apt-get update` and try again")
}
