//! Guests of our own without an operating system, from `guests/bare`, assembled here and run by both accelerators: what
//! they find on a PC must be the same on each.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::session::{Person, Sockets};
use support::{Namespace, Vm, ferro, has, output};

/// Builds a guest from its source and the entry that all share; `None`, after saying so, without the tools.
fn build(folder: &Path, source: &str) -> Option<PathBuf> {
    (has("gcc") && has("ld")).then_some(())?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/bare");
    let objects = ["entry.s", source].map(|name| {
        let object = folder.join(name).with_extension("o");
        let mut compile = Command::new("gcc");
        // What it needs of a compiler: no library, no vector registers, no stack below the pointer, fixed addresses.
        compile.args([
            "-c",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-ffreestanding",
            "-fno-pie",
            "-fno-stack-protector",
        ]);
        compile.args(["-mgeneral-regs-only", "-mno-red-zone", "-fcf-protection=none", "-o"]).arg(&object);
        output(compile.arg(sources.join(name)));
        object
    });
    let kernel = folder.join(source).with_extension("elf");
    // One segment, writable and executable: there is nobody to protect it from.
    let mut link = Command::new("ld");
    link.args(["--no-warn-rwx-segments", "-z", "noexecstack", "-T"]).arg(sources.join("link.ld"));
    output(link.arg("-o").arg(&kernel).args(objects));
    Some(kernel)
}

/// The accelerators that this machine has; says so if one is missing.
fn accelerators() -> Vec<&'static str> {
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !kvm {
        println!("skipped for KVM: /dev/kvm is missing or may not be used");
    }
    if kvm { vec!["soft", "kvm"] } else { vec!["soft"] }
}

#[test]
fn modes_faults_interrupts_and_a_second_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let Some(kernel) = build(folder.path(), "platform.s") else { return };
    let expected = [
        "long mode",
        "undefined instruction",
        "read of an unmapped page",
        "write to an unmapped page",
        "write to a read-only page",
        "selector beyond the table",
        "address that is not canonical",
        "local timer",
        "PIT through the I/O APIC",
        "IPI to itself",
        "second CPU",
        "all done",
    ];
    for accelerator in accelerators() {
        let mut command = ferro(&["run", "--accel", accelerator, "--cpus", "2", "--serial", "stdio"]);
        command.arg("--kernel").arg(&kernel);
        let (status, printed) = Vm::start(command).finish();
        assert!(status.success(), "{accelerator}: {printed}");
        assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{accelerator}");
    }
}

#[test]
fn a_virtio_disk_and_card_are_driven_by_polling_messages_and_pins() {
    let folder = tempfile::tempdir().unwrap();
    let Some(kernel) = build(folder.path(), "virtio.c") else { return };
    let Some(namespace) = Namespace::new("bare") else { return };
    namespace.run("ip tuntap add tap0 mode tap");
    namespace.run("ip address add 10.77.0.1/24 dev tap0");
    // It answers, and says nothing of its own accord.
    namespace.run("ip link set tap0 addrgenmode none");
    namespace.run("ip link set tap0 up");
    let expected = [
        "disk, polled",
        "disk, by message",
        "disk, by pin",
        "card, polled",
        "card, by message",
        "card, by pin",
        "all done",
    ];
    for accelerator in accelerators() {
        for format in ["raw", "qcow2"] {
            let image = folder.path().join(format!("{accelerator}.{format}"));
            output(ferro(&["img", "create", "-q", "-f", format]).arg(&image).arg("1M"));
            let mut command = namespace.command(env!("CARGO_BIN_EXE_ferro"));
            command.args(["run", "--accel", accelerator, "--serial", "stdio", "--net", "tap=tap0", "--disk"]);
            command.arg(format!("{},format={format}", image.display())).arg("--kernel").arg(&kernel);
            let (status, printed) = Vm::start(command).finish();
            assert!(status.success(), "{accelerator}: {printed}");
            assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{accelerator} {format}");
            // The last of the guest's three writes, at its eighth sector.
            let mut command = ferro(&["img", "convert", "-O", "raw"]);
            let raw = folder.path().join("raw");
            output(command.arg(&image).arg(&raw));
            let written = &std::fs::read(&raw).unwrap()[8 * 512..8 * 512 + 4096];
            assert!((0..4096).all(|at| written[at] == (3 + at * 7) as u8), "{accelerator} {format}");
        }
    }
}

#[test]
fn a_guest_with_its_timer_running_is_saved_and_goes_on_in_another_process() {
    let sockets = Sockets::new();
    let Some(kernel) = build(sockets.folder.path(), "ticks.c") else { return };
    for accelerator in accelerators() {
        let image = sockets.path("disk.qcow2");
        output(ferro(&["img", "create", "-q", "-f", "qcow2"]).arg(&image).arg("1M"));
        let start = |arguments: &[&str]| {
            let mut command = ferro(&["run", "--accel", accelerator, "--memory", "16M", "--serial", "stdio", "--disk"]);
            command.arg(&image).arg("--kernel").arg(&kernel).args(sockets.flags()).args(arguments);
            Vm::start(command)
        };
        let mut vm = start(&[]);
        vm.expect("tick 40\n");
        let mut person = Person::new(&sockets.path("hmp"));
        assert_eq!(person.say("savevm ticking"), "", "{accelerator}");
        vm.expect("tick 120\n");
        // Back in the same process…
        assert_eq!(person.say("loadvm ticking"), "", "{accelerator}");
        let number = |text: &str| text.lines().last().and_then(|line| line.strip_prefix("tick ")?.parse::<u64>().ok());
        let mut last = number(&vm.expect_line("tick ")).expect("a number");
        while last > 100 {
            // Printed before it went back.
            last = number(&vm.expect_line("tick ")).expect("a number");
        }
        assert_eq!(number(&vm.expect_line("tick ")), Some(last + 20), "{accelerator}");
        vm.kill();
        // … and in another one.
        let mut vm = start(&["--loadvm", "ticking"]);
        let first = number(&vm.expect_line("tick ")).expect("a number");
        assert!((60..=120).contains(&first), "{accelerator}: it goes on at {first}");
        assert_eq!(number(&vm.expect_line("tick ")), Some(first + 20), "{accelerator}");
        vm.send("q");
        let (status, printed) = vm.finish();
        assert!(status.success() && printed.ends_with("all done\n"), "{accelerator}: {printed}");
    }
}

#[test]
fn by_qemus_names_it_takes_qemus_flags() {
    let folder = tempfile::tempdir().unwrap();
    let Some(kernel) = build(folder.path(), "platform.s") else { return };
    for name in ["kvm", "qemu-system-x86_64"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ferro"), &link).unwrap();
        let mut command = Command::new(&link);
        command.args(["-accel", "tcg", "-smp", "2", "-m", "64", "-nographic", "-no-reboot", "-kernel"]).arg(&kernel);
        let (status, printed) = Vm::start(command).finish();
        assert!(status.success() && printed.ends_with("all done\n"), "{name}: {printed}");

        let refused = Command::new(&link).args(["-kernel", "k", "-spice", "port=1"]).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains("-spice") && told.contains("-vnc"), "{told}");
    }
}
