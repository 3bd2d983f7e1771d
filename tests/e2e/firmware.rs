//! PC firmware (Debian's SeaBIOS) and what it boots: GRUB from a CD-ROM, seen on the screen and typed at, and GRUB with
//! Debian's kernel from IDE disks, virtio disks and CD-ROM drives.

mod support;

use ferro_machine::{Accelerator, Buttons, Screen};
use support::bootable::{bootable_image, has_firmware, installed};
use support::pc::{Pc, description};
use support::{Vm, ferro};

const RESCUE: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";

/// The sum of what the image has as `numbers`, by the host's own sha256sum.
const NUMBERS: &str = "44969d026ed4164dbe77d48d4d359e98ac4057008cafd61723be72bff83e5fd4";

/// A VM without a kernel, whose serial port is here.
fn run(arguments: &[&str]) -> Vm {
    let mut command = ferro(&["run", "--accel", "soft", "--memory", "256M", "--serial", "stdio", "--no-reboot"]);
    command.args(arguments);
    Vm::start(command)
}

/// A VM that has come to the menu of GRUB's rescue disc; `None`, after saying so, without disc or firmware.
fn rescue_menu(accelerator: Accelerator) -> Option<Pc> {
    let iso = installed(RESCUE).filter(|_| has_firmware())?;
    let mut pc = Pc::start(description(accelerator, iso), iso);
    pc.wait_for("GNU GRUB  version 2");
    pc.wait_for("executed automatically");
    let picture = pc.handle.screen().expect("there is a VGA").picture();
    assert_eq!((picture.width(), picture.height()), (720, 400));
    let colours: std::collections::BTreeSet<u32> = picture.pixels().iter().copied().collect();
    assert_eq!(colours.into_iter().collect::<Vec<_>>(), [0, 0xaa_aaaa]);
    // The border of the menu: a line across the screen, whatever the font.
    let line = (0..picture.height()).any(|y| picture.row(y)[30..690].iter().all(|pixel| *pixel == 0xaa_aaaa));
    assert!(line, "the menu has a frame");
    Some(pc)
}

#[test]
fn grubs_rescue_disc_comes_to_its_prompt_and_takes_commands() {
    let Some(mut pc) = rescue_menu(Accelerator::Soft) else { return };
    pc.type_keys("c");
    pc.wait_for("grub>");
    // No more keys than the firmware keeps for a guest that is slow.
    pc.type_text("ls\n");
    pc.wait_for("(cd) (cd,msdos1)");
    pc.type_text("lsmmap\n");
    pc.wait_for("available RAM");
    // Nothing changes once the guest waits for a key: nothing is to be drawn.
    pc.wait_until_still();
    pc.finish();
}

#[test]
#[ignore = "minutes: where KVM has no hardware virtualization, it executes a few million instructions a second"]
fn grubs_rescue_disc_comes_to_its_menu_on_kvm() {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        println!("skipped: /dev/kvm is missing or may not be used");
        return;
    }
    if let Some(pc) = rescue_menu(Accelerator::Kvm) {
        pc.finish();
    }
}

#[test]
fn a_reset_starts_the_firmware_again() {
    let Some(iso) = installed(RESCUE).filter(|_| has_firmware()) else { return };
    let mut pc = Pc::start(description(Accelerator::Soft, iso), iso);
    pc.wait_for("Memtest86+");
    pc.type_keys("c");
    pc.wait_for("grub>");
    pc.type_text("reboot\n");
    pc.wait_for("Memtest86+");
    pc.finish();
}

#[test]
fn graphics_modes_show_through_the_framebuffer() {
    let Some(iso) = installed(RESCUE).filter(|_| has_firmware()) else { return };
    let mut pc = Pc::start(description(Accelerator::Soft, iso), iso);
    pc.wait_for("Memtest86+");
    pc.type_keys("c");
    pc.wait_for("grub>");
    pc.type_text("set gfxmode=800x600x32;loadfont unicode;insmod all_video;terminal_output gfxterm\n");
    let screen = pc.handle.screen().expect("there is a VGA").clone();
    pc.wait_until("a picture of 800×600 with text on it", |_| {
        let picture = screen.picture();
        let lit = picture.pixels().iter().filter(|pixel| **pixel != 0).count();
        (picture.width(), picture.height()) == (800, 600) && lit > 50
    });
    pc.finish();
}

#[test]
fn a_disk_with_grub_and_debians_kernel_boots_from_virtio_and_ide() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = bootable_image(folder.path(), "cloud-amd64", "ferro.run=echo+result=$((6*7))") else { return };
    for attached in ["if=virtio", "if=ide"] {
        let disk = format!("{},format=raw,readonly=on,{attached}", image.display());
        let (status, printed) = run(&["--disk", &disk]).finish();
        assert!(printed.contains("result=42") && printed.contains("FERRO-GUEST status 0"), "{attached}: {printed}");
        assert!(status.success(), "{attached}: {status}");
    }
}

#[test]
fn linux_reads_and_writes_ide_disks_and_mounts_the_disc_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let script = "ferro.modules=ata_piix,sd_mod,sr_mod,isofs ferro.run=\
        while+[+!+-b+/dev/sr0+-o+!+-b+/dev/sda+];do+sleep+0.1;done;mount+-t+iso9660+/dev/sr0+/mnt;\
        sha256sum+/mnt/numbers;cat+/sys/block/sda/device/model+/sys/class/ata_device/dev*/dma_mode;\
        dd+if=/mnt/numbers+of=/dev/sda+bs=64k;sync;echo+3+>/proc/sys/vm/drop_caches;\
        head+-c+288894+/dev/sda|sha256sum;umount+/mnt;echo+done";
    let Some(image) = bootable_image(folder.path(), "amd64", script) else { return };
    let disk = folder.path().join("disk.raw");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let attached = format!("{},format=raw,if=ide", disk.display());
    let arguments = ["--memory", "512M", "--disk", &attached, "--cdrom", image.to_str().unwrap(), "--boot", "cdrom"];
    let (status, printed) = run(&arguments).finish();
    assert_eq!(printed.matches(NUMBERS).count(), 2, "from the disc, and back from the disk: {printed}");
    assert!(printed.contains("FERRO HARDDISK"), "{printed}");
    // The PIIX3's fastest mode.
    assert_eq!(printed.matches("XFER_MW_DMA_2").count(), 2, "both by DMA: {printed}");
    assert!(printed.contains("done") && status.success(), "{status}: {printed}");
    let written = std::fs::read(&disk).unwrap();
    let numbers = std::fs::read(folder.path().join("tree/numbers")).unwrap();
    assert!(written.starts_with(&numbers), "the host finds on the disk what the guest wrote");
}

#[test]
fn linux_draws_its_console_and_reads_keyboard_and_mouse() {
    let folder = tempfile::tempdir().unwrap();
    let append = "console=tty0 ferro.modules=psmouse,evdev";
    let Some(image) = bootable_image(folder.path(), "amd64", append) else { return };
    let mut pc = Pc::start(description(Accelerator::Soft, &image), &image);
    pc.wait_for("FERRO-GUEST userland");
    pc.wait_for("/ #");
    // The mouse is found out by asking it again and again, which takes its time.
    pc.type_text("cd /proc/bus/input;until grep -q ImEx devices;do sleep 1;done;grep Name devices\n");
    pc.wait_for("AT Translated Set 2 keyboard");
    pc.wait_for("ImExPS/2 Generic Explorer Mouse");
    pc.type_text("head -c 4 /dev/input/mouse0 | od -t x1\n");
    let moves = std::cell::Cell::new(0);
    pc.wait_until("bytes from the mouse", |pc| {
        pc.handle.move_mouse(1, 1, 0, Buttons::default());
        moves.set(moves.get() + 1);
        pc.handle.screen().and_then(Screen::contents).unwrap_or_default().iter().any(|line| line.starts_with("0000004"))
    });
    assert!(moves.get() > 1);
    // From the text screen to a framebuffer.
    pc.type_text("modprobe bochs\n");
    let screen = pc.handle.screen().expect("there is a VGA").clone();
    pc.wait_until("a framebuffer console", |_| {
        let picture = screen.picture();
        picture.width() >= 1024 && picture.pixels().iter().filter(|pixel| **pixel != 0).count() > 500
    });
    pc.finish();
}

#[test]
fn missing_firmware_is_said_with_what_to_do() {
    let disc = tempfile::NamedTempFile::new().unwrap();
    disc.as_file().set_len(1 << 20).unwrap();
    let disc = disc.path().to_str().expect("a test's path is text");
    for (arguments, told) in
        [(&["--firmware", "/nonexistent/bios.bin"][..], "seabios"), (&["--firmware", "/dev/null"], "64 KiB")]
    {
        let output = ferro(&["run", "--accel", "soft", "--cdrom", disc]).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(told), "{said}");
    }
}
