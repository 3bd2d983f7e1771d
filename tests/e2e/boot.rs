//! Real kernels on the software CPU: Debian's, with a busybox RAM disk, to a shell that computes, writes disks, powers off.

mod support;

use support::{Vm, ferro, guest, has, output};

#[test]
fn the_cloud_kernel_boots_computes_and_powers_off() {
    let Some(vm) = Vm::boot("cloud-amd64", "quiet ferro.run=echo+result=$((6*7));+uname+-m", &[]) else { return };
    let (status, printed) = vm.finish();
    assert!(printed.contains("result=42"), "{printed}");
    assert!(printed.contains("x86_64"), "{printed}");
    assert!(printed.contains("FERRO-GUEST status 0"), "{printed}");
    assert!(status.success(), "{status}\n{printed}");
}

#[test]
fn debians_generic_kernel_boots() {
    let Some(vm) = Vm::boot("amd64", "quiet ferro.run=uname+-r", &["--memory", "512M"]) else { return };
    let (status, printed) = vm.finish();
    assert!(printed.contains("-amd64") && printed.contains("FERRO-GUEST status 0"), "{printed}");
    assert!(status.success(), "{status}");
}

#[test]
fn four_cpus_come_up_and_work_together() {
    let work = "ferro.run=nproc;+for+i+in+1+2+3+4;+do+(seq+1+2000|sha256sum)&+done;+wait";
    let Some(vm) = Vm::boot("cloud-amd64", &format!("quiet {work}"), &["--cpus", "4"]) else { return };
    let (status, printed) = vm.finish();
    assert!(printed.lines().any(|line| line.trim() == "4"), "{printed}");
    let sums: Vec<_> = printed.lines().filter(|line| line.trim().ends_with("  -")).collect();
    assert_eq!(sums.len(), 4, "{printed}");
    // What the host's own `seq 1 2000 | sha256sum` prints.
    let expected = "6251e5743b6fd6a7d606130bdf7c15077ce85ebd3a0fdee284d15a46df199e38";
    assert!(sums.iter().all(|sum| sum.contains(expected)), "{printed}");
    assert!(status.success(), "{status}");
}

#[test]
fn a_shell_on_the_console_answers_what_is_typed() {
    let Some(mut vm) = Vm::boot("cloud-amd64", "quiet", &[]) else { return };
    vm.expect("/ # ");
    vm.send("echo $((40+2))-$(echo typed | tr a-z A-Z)\n");
    vm.expect("42-TYPED");
    vm.send("poweroff -f\n");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}\n{printed}");
}

#[test]
fn a_virtio_console_carries_a_shell_beside_the_serial_port() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("serial.log");
    let (Some(kernel), Some(initrd)) = (guest("vmlinuz-cloud-amd64"), guest("initrd-cloud-amd64.gz")) else { return };
    let mut command = ferro(&["run", "--accel", "soft", "--memory", "256M", "--console", "stdio", "--serial"]);
    command.arg(format!("file={}", log.display())).arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    let run = "ferro.run=sh+</dev/hvc0+>/dev/hvc0+2>&1";
    command.args(["--append", &format!("console=ttyS0 quiet ferro.modules=virtio_pci,virtio_console {run}")]);
    let mut vm = Vm::start(command);
    vm.expect("/ # ");
    vm.send("echo $((40+2))-$(echo typed | tr a-z A-Z); yes | head -n 100000 | sha256sum; exit\n");
    vm.expect("42-TYPED");
    // What the host's own `yes | head -n 100000 | sha256sum` prints.
    vm.expect("bf6eed56b72b14fd154e46197c114b4dcf57c122c9a9e9863e7dec418e805503");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}\n{printed}");
    assert!(std::fs::read_to_string(log).unwrap().contains("FERRO-GUEST status 0"), "what the serial port printed");
}

#[test]
fn a_reboot_ends_the_vm_where_that_was_asked_for() {
    let Some(vm) = Vm::boot("cloud-amd64", "quiet ferro.run=reboot+-f", &["--no-reboot"]) else { return };
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}\n{printed}");
    assert!(!printed.contains("FERRO-GUEST status"), "{printed}");
}

#[test]
fn a_reboot_starts_the_kernel_again() {
    let Some(mut vm) = Vm::boot("cloud-amd64", "quiet", &[]) else { return };
    vm.expect("/ # ");
    vm.send("reboot -f\n");
    vm.expect("FERRO-GUEST userland");
    vm.expect("/ # ");
    vm.send("\x01x");
    let (status, _) = vm.finish();
    assert!(status.success(), "Ctrl-A x ends the VM in good order: {status}");
}

#[test]
fn what_a_guest_writes_to_a_qcow2_disk_is_there_afterwards() {
    if !has("qemu-img") || !has("e2fsck") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.qcow2");
    let image = image.to_str().unwrap();
    output(&mut ferro(&["img", "create", "-q", "-f", "qcow2", image, "64M"]));
    let write = "ferro.modules=virtio_pci,virtio_blk,ext4 ferro.run=mke2fs+-q+/dev/vda;+mount+-t+ext4+/dev/vda+/mnt;\
                 +seq+1+50000+>+/mnt/numbers;+umount+/mnt";
    let Some(vm) = Vm::boot("cloud-amd64", &format!("quiet {write}"), &["--disk", image]) else { return };
    let (status, printed) = vm.finish();
    assert!(status.success() && printed.contains("FERRO-GUEST status 0"), "{status}\n{printed}");
    output(std::process::Command::new("qemu-img").args(["check", image]));
    let raw = folder.path().join("disk.raw");
    output(std::process::Command::new("qemu-img").args(["convert", "-O", "raw", image, raw.to_str().unwrap()]));
    output(std::process::Command::new("e2fsck").args(["-f", "-n", raw.to_str().unwrap()]));

    let read = "ferro.modules=virtio_pci,virtio_blk,ext4 ferro.run=mount+-t+ext4+/dev/vda+/mnt;+sha256sum+/mnt/numbers;\
                +tail+-n1+/mnt/numbers;+rm+/mnt/numbers;+umount+/mnt";
    for _ in 0..2 {
        let disk = format!("{image},snapshot=on");
        let vm = Vm::boot("cloud-amd64", &format!("quiet {read}"), &["--disk", &disk]).expect("it was there before");
        let (_, printed) = vm.finish();
        // What the host's own `seq 1 50000 | sha256sum` prints.
        let expected = "44969d026ed4164dbe77d48d4d359e98ac4057008cafd61723be72bff83e5fd4";
        assert!(printed.contains(expected), "the second run finds what the first one threw away: {printed}");
    }
}

#[test]
fn runs_by_instruction_count_repeat_exactly() {
    let run = || {
        let arguments = ["--clock", "icount", "--memory", "128M"];
        let vm = Vm::boot("cloud-amd64", "ferro.run=seq+1+100|sha256sum;+cat+/proc/uptime", &arguments)?;
        Some(vm.finish().1)
    };
    let Some(first) = run() else { return };
    assert!(first.contains("FERRO-GUEST status 0"), "{first}");
    let second = run().expect("it was there before");
    let difference = first.lines().zip(second.lines()).find(|(a, b)| a != b);
    assert_eq!(difference, None, "two runs print the same, times included");
    assert_eq!(first, second);
}

#[test]
fn wrong_values_are_refused_before_anything_starts() {
    for (arguments, told) in [
        (&["run"][..], "--kernel"),
        (&["run", "--kernel", "k", "--memory", "lots"], "memory"),
        (&["run", "--kernel", "k", "--cpus", "0"], "cpus"),
        (&["run", "--kernel", "k", "--net", "mac=1:2"], "address"),
        (&["run", "--kernel", "k", "--serial", "tcp=0.0.0.0:4555"], "--insecure"),
        (&["run", "--kernel", "k", "--serial", "stdio", "--console", "stdio"], "terminal"),
        (&["run", "--kernel", "k", "--accel", "magic"], "accelerator"),
        (&["run", "--kernel", "k", "--clock", "icount", "--cpus", "2"], "icount"),
    ] {
        let output = ferro(arguments).output().unwrap();
        let told_us = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told_us}");
        assert!(told_us.contains(told), "{arguments:?}: {told_us}");
    }
    let output = ferro(&["run", "--accel", "soft", "--kernel", "/nonexistent/vmlinuz"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/vmlinuz"));
}

#[test]
fn an_installed_debian_starts_systemd_takes_a_login_and_ends_in_good_order() {
    let (Some(kernel), Some(initrd), Some(root)) =
        (guest("vmlinuz-debian"), guest("initrd-debian"), guest("debian-root.raw"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("root.qcow2");
    output(ferro(&["img", "convert", "-O", "qcow2"]).arg(root).arg(&image));
    let mut command = ferro(&["run", "--accel", "soft", "--serial", "stdio", "--memory", "512M", "--disk"]);
    command.arg(&image).arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    command.args(["--append", "root=/dev/vda ro console=ttyS0 quiet"]);
    let mut vm = Vm::start(command);
    vm.expect("login: ");
    vm.send("root\n");
    vm.expect("Password: ");
    vm.send("ferro\n");
    vm.expect("# ");
    vm.send("apt-get --version; systemctl is-system-running --wait; echo $((40+2))-$(hostname)\n");
    let printed = vm.expect("42-ferro-debian");
    assert!(printed.contains("apt 2.") || printed.contains("apt 3."), "{printed}");
    assert!(printed.contains("running") && !printed.contains("degraded"), "no unit failed: {printed}");
    vm.send("systemctl poweroff\n");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}\n{printed}");
    let raw = folder.path().join("root.raw");
    output(ferro(&["img", "check"]).arg(&image));
    output(ferro(&["img", "convert", "-O", "raw"]).arg(&image).arg(&raw));
    // Not only unharmed: unmounted, with nothing left to replay.
    let told = output(std::process::Command::new("e2fsck").args(["-f", "-n"]).arg(&raw));
    assert!(!told.contains("recover"), "{told}");
    let state = output(std::process::Command::new("dumpe2fs").arg("-h").arg(&raw));
    assert!(state.contains("Filesystem state:         clean") && !state.contains("needs_recovery"), "{state}");
}
