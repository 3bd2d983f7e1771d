//! Guests of our own without an operating system, from `guests/bare`, assembled here and run by both accelerators: what
//! they find on a PC must be the same on each.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Vm, ferro, has, output};

/// Assembles and links a guest; `None`, after saying so, without binutils.
fn build(folder: &Path, name: &str) -> Option<PathBuf> {
    (has("as") && has("ld")).then_some(())?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/bare");
    let (object, kernel) = (folder.join(format!("{name}.o")), folder.join(format!("{name}.elf")));
    output(Command::new("as").arg("--64").arg("-o").arg(&object).arg(sources.join(format!("{name}.S"))));
    // One segment, writable and executable: there is nobody to protect it from.
    let mut link = Command::new("ld");
    link.args(["--no-warn-rwx-segments", "-z", "noexecstack", "-T"]).arg(sources.join("link.ld"));
    output(link.arg("-o").arg(&kernel).arg(object));
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
    let Some(kernel) = build(folder.path(), "platform") else { return };
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
fn by_qemus_names_it_takes_qemus_flags() {
    let folder = tempfile::tempdir().unwrap();
    let Some(kernel) = build(folder.path(), "platform") else { return };
    for name in ["kvm", "qemu-system-x86_64"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ferro"), &link).unwrap();
        let mut command = Command::new(&link);
        command.args(["-accel", "tcg", "-smp", "2", "-m", "64", "-nographic", "-no-reboot", "-kernel"]).arg(&kernel);
        let (status, printed) = Vm::start(command).finish();
        assert!(status.success() && printed.ends_with("all done\n"), "{name}: {printed}");

        let refused = Command::new(&link).args(["-kernel", "k", "-vnc", ":0"]).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains("-vnc") && told.contains("-nographic"), "{told}");
    }
}
