//! An initial RAM disk of busybox, the virtio and file system modules of one kernel, and `guests/initramfs/init`.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};

use super::debian::Kernel;
use super::programs;
use crate::process::{command, root, run};

/// Modules that the test guests load by name; their dependencies come along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "virtio-rng",
    "ext4",
    "isofs",
    "vfat",
    "e1000",
    "ata_piix",
    "sr_mod",
    "sd_mod",
    "snd-intel8x0",
    "snd-pcm-oss",
    "virtio_input",
    "bochs",
    "evdev",
    "psmouse",
    "i6300esb",
    "af_packet",
    "pcspkr",
    "nls_ascii",
    "nls_cp437",
];

/// Builds `initrd-FLAVOUR.gz` in `folder`.
pub(crate) fn build(folder: &Path, flavour: &str, kernel: &Kernel) -> anyhow::Result<()> {
    let image = folder.join(format!("initrd-{flavour}.gz"));
    let init = root().join("guests/initramfs/init");
    let services = services()?;
    let sources = services.iter().chain([&init]).all(|source| newer(&image, source));
    if sources && programs::names().all(|name| newer(&image, &folder.join(name))) {
        return Ok(());
    }
    println!("guests: packing {}", image.display());
    let tree = folder.join(format!("initrd-{flavour}"));
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    for dir in ["bin", "sbin", "dev", "proc", "sys", "tmp", "mnt", "etc", "run", "usr/share/udhcpc", "lib/modules"] {
        std::fs::create_dir_all(tree.join(dir))?;
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox-static is not installed")?;
    for name in ["sh", "mount", "insmod", "modprobe", "poweroff", "reboot", "ls", "cat", "echo"] {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    std::fs::copy(&init, tree.join("init"))?;
    std::fs::set_permissions(tree.join("init"), std::fs::Permissions::from_mode(0o755))?;
    for service in &services {
        let to = tree.join("bin").join(service.file_name().context("a file has a name")?);
        std::fs::copy(service, &to)?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
    }
    // What checks a file system after a power cut, as distributions do before they mount it.
    std::fs::copy("/sbin/e2fsck.static", tree.join("bin/e2fsck")).context("e2fsck-static is not installed")?;
    for name in programs::names() {
        std::fs::copy(folder.join(name), tree.join("bin").join(name))?;
    }
    modules(&tree, kernel)?;
    let archive = std::fs::File::create(&image)?;
    let mut pack = command("sh");
    pack.current_dir(&tree).args(["-c", "find . | cpio --quiet -o -H newc -R 0:0 | gzip -6"]).stdout(archive);
    run(&mut pack)
}

/// What the guests of a cluster's examples run.
fn services() -> anyhow::Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(root().join("guests/initramfs/services"))?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

/// Copies the modules and all they depend on, with the files that `modprobe` reads.
fn modules(tree: &Path, kernel: &Kernel) -> anyhow::Result<()> {
    let source = kernel.root.join("lib/modules").join(&kernel.release);
    run(command("depmod").arg("-b").arg(&kernel.root).arg(&kernel.release).stderr(Stdio::null()))?;
    let dependencies = std::fs::read_to_string(source.join("modules.dep"))?;
    let target = tree.join("lib/modules").join(&kernel.release);
    let mut wanted: Vec<String> = MODULES.iter().map(|name| name.replace('-', "_")).collect();
    let mut copied = 0;
    while let Some(name) = wanted.pop() {
        let line = dependencies.lines().find(|line| module_name(line.split(':').next().unwrap_or_default()) == name);
        // Built into this kernel, or not made for it.
        let Some((path, needs)) = line.and_then(|line| line.split_once(':')) else { continue };
        let to = target.join(path);
        if to.exists() {
            continue;
        }
        std::fs::create_dir_all(to.parent().context("a module lies in a folder")?)?;
        std::fs::copy(source.join(path), &to)?;
        copied += 1;
        wanted.extend(needs.split_whitespace().map(module_name));
    }
    if copied == 0 {
        bail!("{} holds none of the modules that guests need", source.display());
    }
    for file in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        if source.join(file).exists() {
            std::fs::copy(source.join(file), target.join(file))?;
        }
    }
    run(command("depmod").arg("-b").arg(tree).arg(&kernel.release).stderr(Stdio::null()))
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Whether `file` exists and is no older than what it's made from.
pub(super) fn newer(file: &Path, source: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    matches!((modified(file), modified(source)), (Some(made), Some(from)) if made >= from)
}
