//! `ferro img mount`: an ext4 file system in a qcow2 image, used through a loop device.

mod support;

use std::process::{Command, Stdio};

use support::{Bench, FERRO, Running, eventually, have, is_root};

fn mount(bench: &Bench, flags: &[&str], image: &str) -> Option<Running> {
    if !std::path::Path::new("/dev/fuse").exists() {
        eprintln!("skipped: no /dev/fuse");
        return None;
    }
    let mut command = Command::new(FERRO);
    command.args(["img", "mount"]).args(flags).args([image, "mnt"]).current_dir(bench.dir());
    Some(Running::start(command.stdout(Stdio::null())))
}

#[test]
fn a_loop_device_works_on_a_mounted_image() {
    if !is_root()
        || !have(&["mkfs.ext4", "mount", "qemu-img"].map(|name| if name == "mkfs.ext4" { "mke2fs" } else { name }))
    {
        return;
    }
    let bench = Bench::new();
    bench.ok("ferro img create -q -f qcow2 a.qcow2 64M");
    bench.ok("mkdir mnt fs");
    let Some(mut running) = mount(&bench, &[], "a.qcow2") else { return };
    eventually("the image is mounted", || bench.path("mnt/disk.raw").exists());
    assert_eq!(bench.path("mnt/disk.raw").metadata().expect("there").len(), 64 << 20);
    bench.ok("mke2fs -q -t ext4 -F mnt/disk.raw");
    let mounted = bench.run("mount -o loop mnt/disk.raw fs");
    if !mounted.status.success() {
        eprintln!("skipped: no loop device: {}", String::from_utf8_lossy(&mounted.stderr));
        return;
    }
    bench.sample("fs/data", 8);
    bench.sample("data", 8);
    bench.ok("umount fs");
    running.signal(2);
    assert!(running.0.wait().expect("ended").success(), "^C ends it in good order");
    assert!(!bench.path("mnt/disk.raw").exists(), "nothing is mounted any more");
    bench.ok("qemu-img check a.qcow2");
    bench.ok("ferro img convert -O raw a.qcow2 a.raw");
    bench.ok("mount -o loop,ro a.raw fs");
    let same = bench.run("cmp fs/data data");
    bench.ok("umount fs");
    assert!(same.status.success());
}

#[test]
fn partitions_are_files_of_their_own() {
    if !is_root() || !have(&["mount"]) {
        return;
    }
    let bench = Bench::new();
    let mut disk = vec![0u8; 4 << 20];
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&1024u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[2048 * 512..2048 * 512 + 5].copy_from_slice(b"hello");
    std::fs::write(bench.path("disk.img"), disk).expect("written");
    bench.ok("mkdir mnt");
    let Some(mut running) = mount(&bench, &["-f", "raw", "--read-only"], "disk.img") else { return };
    eventually("the partition is there", || bench.path("mnt/partition1.raw").exists());
    let bytes = std::fs::read(bench.path("mnt/partition1.raw")).expect("read");
    assert_eq!((bytes.len(), &bytes[..5]), (512 << 10, &b"hello"[..]));
    assert!(std::fs::OpenOptions::new().write(true).open(bench.path("mnt/disk.raw")).is_err());
    running.signal(15);
    assert!(running.0.wait().expect("ended").success());
    let told = bench.fails(1, "ferro img mount -f raw --partition 7 disk.img mnt");
    assert!(told.contains("no partition 7, there are: 1"), "{told}");
}
