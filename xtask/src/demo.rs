//! `cargo xtask demo`: the main job on real input, from nothing: disk images as a sysadmin makes them, Debian's kernel on
//! the software CPU (or KVM) writing to one of them, and a PC that boots from a disc and is commanded by its monitor, and two
//! nodes of which one dies.
//! Everything it makes is in a temporary folder.

mod pair;
mod pc;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::process::{self, cargo, command, output, target};
use crate::{guests, packages};

/// Runs the demo.
pub(crate) fn run() -> anyhow::Result<()> {
    packages::ensure(packages::ALL)?;
    let guests = guests::build()?;
    println!("Building ferro…");
    process::run(cargo().args(["build", "--release", "--quiet", "--bin", "ferro"]))?;
    let ferro = target().join("release/ferro");
    let folder = target().join("demo");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    images(&Demo { ferro: &ferro, folder: &folder })?;
    boot(&Demo { ferro: &ferro, folder: &folder }, &guests)?;
    pc::show(&Demo { ferro: &ferro, folder: &folder })?;
    pair::show(&Demo { ferro: &ferro, folder: &folder }, &guests)?;
    std::fs::remove_dir_all(&folder)?;
    println!("\nThat was the demo; nothing of it is left behind.");
    Ok(())
}

struct Demo<'a> {
    ferro: &'a Path,
    folder: &'a Path,
}

impl Demo<'_> {
    /// Shows a command as one would type it, and runs it in the demo's folder.
    fn ferro(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let shown: Vec<_> = arguments
            .iter()
            .map(|argument| if argument.contains(' ') { format!("'{argument}'") } else { (*argument).to_owned() })
            .collect();
        println!("\n$ ferro {}", shown.join(" "));
        process::run(Command::new(self.ferro).current_dir(self.folder).args(arguments))
    }
}

/// The talk's `qemu-img create dsl1.img -fqcow2 512M`, and what it says that qcow2 can do.
fn images(demo: &Demo<'_>) -> anyhow::Result<()> {
    println!("\n--- Disk images ---");
    demo.ferro(&["img", "create", "dsl1.img", "-fqcow2", "512M"])?;
    demo.ferro(&["img", "info", "dsl1.img"])?;
    println!("\nA Debian-like ext4 file system, made of this machine's /etc, as the disk's contents:");
    let ext4 = demo.folder.join("ext4.raw");
    process::run(command("truncate").args(["-s", "256M"]).arg(&ext4))?;
    output(command("mke2fs").args(["-q", "-t", "ext4", "-d", "/etc"]).arg(&ext4))?;
    std::fs::write(demo.folder.join("key"), "a passphrase from a file")?;
    let secret = "secret,id=key,file=key";
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    demo.ferro(&[
        "img",
        "convert",
        "-p",
        "--object",
        secret,
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        options,
        "ext4.raw",
        "locked.qcow2",
    ])?;
    let locked = "driver=qcow2,file.filename=locked.qcow2,encrypt.key-secret=key";
    demo.ferro(&["img", "snapshot", "--object", secret, "--image-opts", "-c", "before", locked])?;
    demo.ferro(&["img", "convert", "-p", "-c", "-f", "raw", "-O", "qcow2", "ext4.raw", "small.qcow2"])?;
    demo.ferro(&["img", "check", "small.qcow2"])?;
    demo.ferro(&["img", "convert", "-p", "--object", secret, "--image-opts", "-O", "raw", locked, "unlocked.raw"])?;
    demo.ferro(&["img", "compare", "-f", "raw", "-F", "qcow2", "unlocked.raw", "small.qcow2"])?;
    println!("\n$ e2fsck -fn unlocked.raw");
    process::run(command("e2fsck").args(["-f", "-n"]).arg(demo.folder.join("unlocked.raw")).stderr(Stdio::null()))?;
    mount(demo)
}

/// "Converted to raw and then mounted in the file system".
fn mount(demo: &Demo<'_>) -> anyhow::Result<()> {
    if output(command("id").arg("-u"))?.trim() != "0" {
        println!("\nMounting it takes root: sudo mount -o loop,ro unlocked.raw /mnt");
        return Ok(());
    }
    let point = demo.folder.join("mounted");
    std::fs::create_dir(&point)?;
    println!("\n$ mount -o loop,ro unlocked.raw mounted && cat mounted/hostname && umount mounted");
    process::run(command("mount").args(["-o", "loop,ro"]).arg(demo.folder.join("unlocked.raw")).arg(&point))?;
    let shown = process::run(command("cat").arg(point.join("hostname")));
    process::run(command("umount").arg(&point))?;
    shown
}

/// Debian's kernel boots, makes a file system on a qcow2 disk, and powers off.
fn boot(demo: &Demo<'_>, guests: &Path) -> anyhow::Result<()> {
    println!("\n--- A virtual machine ---");
    let file = |name: &str| guests.join(name).display().to_string();
    let (kernel, initrd) = (file("vmlinuz-cloud-amd64"), file("initrd-cloud-amd64.gz"));
    let append = "console=ttyS0 quiet ferro.modules=virtio_pci,virtio_blk,ext4 \
                  ferro.run=mke2fs+/dev/vda+>+/dev/null;+mount+/dev/vda+/mnt;+seq+1+100000+>+/mnt/numbers;\
                  +sha256sum+/mnt/numbers;+umount+/mnt;+free+-m";
    demo.ferro(&[
        "run", "--memory", "256M", "--serial", "stdio", "--kernel", &kernel, "--initrd", &initrd, "--append", append,
        "--disk", "dsl1.img",
    ])?;
    demo.ferro(&["img", "check", "dsl1.img"])?;
    demo.ferro(&["img", "convert", "-O", "raw", "dsl1.img", "dsl1.raw"])?;
    let listed = output(command("debugfs").args(["-R", "stat numbers"]).arg(demo.folder.join("dsl1.raw")))
        .context("cannot look into the file system that the guest made")?;
    let size = listed.lines().find(|line| line.contains("Size:")).unwrap_or_default();
    if !size.contains("588895") {
        bail!("the guest's file is not what it wrote: {size}");
    }
    println!("\nThe file that the guest wrote, seen from outside:{size}");
    Ok(())
}
