//! What the monitor does to the images of a running Linux's disks: keeping what would be thrown away, putting overlays on
//! them, limiting them.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::session::{Person, Program, Sockets};
use support::{Vm, ferro, has, output};

/// Linux with these disks; `None`, after saying so, without the guest.
fn linux(sockets: &Sockets, disks: &[&str]) -> Option<Vm> {
    let mut flags = sockets.flags();
    for disk in disks {
        flags.extend(["--disk".into(), (*disk).to_owned()]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut vm = Vm::boot("cloud-amd64", "quiet ferro.modules=virtio_pci,virtio_blk", &flags)?;
    vm.expect("/ # ");
    Some(vm)
}

/// Has the guest write a line to the beginning of a disk, down to the image.
fn write(vm: &mut Vm, disk: &str, text: &str) {
    vm.send(&format!(
        "until [ -b /dev/{disk} ]; do sleep 0.1; done; echo {text} > /dev/{disk}; sync; echo writ''ten\n"
    ));
    vm.expect("written");
}

/// The first line of a disk, as the guest reads it from its device.
fn read(vm: &mut Vm, disk: &str) -> String {
    vm.send(&format!("until [ -b /dev/{disk} ]; do sleep 0.1; done; echo 3 > /proc/sys/vm/drop_caches; echo \"line:$(head -n 1 /dev/{disk}):\"\n"));
    loop {
        vm.expect("line:");
        let text = vm.expect(":");
        // Not the echo of what was typed.
        if !text.starts_with('$') {
            return text.trim_end_matches(':').to_owned();
        }
    }
}

fn begins_with(file: &Path, text: &str) -> bool {
    std::fs::read(file).unwrap().starts_with(text.as_bytes())
}

#[test]
fn what_a_guest_wrote_to_be_thrown_away_is_kept_by_commit() {
    let sockets = Sockets::new();
    let (raw, qcow2) = (sockets.path("disk.raw"), sockets.path("disk.qcow2"));
    std::fs::write(&raw, vec![0; 4 << 20]).unwrap();
    output(ferro(&["img", "create", "-q", "-f", "qcow2"]).arg(&qcow2).arg("4M"));
    let disks = [format!("{},format=raw,snapshot=on", raw.display()), format!("{},snapshot=on", qcow2.display())];
    let Some(mut vm) = linux(&sockets, &[&disks[0], &disks[1]]) else { return };
    let mut person = Person::new(&sockets.path("hmp"));
    assert!(person.say("info block").contains("Backing file:"));
    write(&mut vm, "vda", "first");
    write(&mut vm, "vdb", "second");
    assert!(!begins_with(&raw, "first"), "it isn't in the image");
    assert_eq!(person.say("commit virtio0"), "");
    assert!(begins_with(&raw, "first"), "now it is, while the guest runs");
    assert_eq!(read(&mut vm, "vda"), "first");
    write(&mut vm, "vda", "thrown-away");
    let mut program = Program::new(&sockets.path("qmp"));
    program.ask("block-commit", &json!({ "device": "virtio1" })).unwrap();
    while program.event("JOB_STATUS_CHANGE")["data"]["status"] != "concluded" {}
    let jobs = program.ask("query-jobs", &json!({})).unwrap();
    assert_eq!((&jobs[0]["type"], &jobs[0]["error"]), (&json!("commit"), &json!(null)), "{jobs}");
    assert!(jobs[0]["total-progress"].as_u64() >= Some(4 << 20), "{jobs}");
    assert!(person.say("commit nothing").contains("not found"));
    vm.kill();
    assert!(begins_with(&raw, "first"));
    let copy = sockets.path("copy.raw");
    output(ferro(&["img", "convert", "-O", "raw"]).arg(&qcow2).arg(&copy));
    assert!(begins_with(&copy, "second"));
}

#[test]
fn commit_of_all_leaves_disks_without_overlay_alone_and_names_one_that_others_use() {
    let sockets = Sockets::new();
    let [plain, base, over] = ["plain.qcow2", "base.raw", "over.qcow2"].map(|name| sockets.path(name));
    output(ferro(&["img", "create", "-q", "-f", "qcow2"]).arg(&plain).arg("4M"));
    std::fs::write(&base, vec![0; 4 << 20]).unwrap();
    output(ferro(&["img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&base).arg(&over));
    let Some(mut vm) = linux(&sockets, &[plain.to_str().unwrap(), over.to_str().unwrap()]) else { return };
    write(&mut vm, "vdb", "kept");
    let mut person = Person::new(&sockets.path("hmp"));
    let told = person.say("commit virtio0");
    assert!(told.contains("'commit' error for 'virtio0'") && told.contains("nothing below"), "{told}");
    assert_eq!(person.say("commit all"), "");
    assert!(begins_with(&base, "kept"));
    assert_eq!(read(&mut vm, "vdb"), "kept");
    person.say("quit");
    vm.finish();
}

#[test]
fn an_overlay_is_put_on_a_running_disk_and_limits_are_set() {
    let sockets = Sockets::new();
    let [base, first, second] = ["base.qcow2", "first.qcow2", "second.qcow2"].map(|name| sockets.path(name));
    output(ferro(&["img", "create", "-q", "-f", "qcow2"]).arg(&base).arg("4M"));
    let Some(mut vm) = linux(&sockets, &[base.to_str().unwrap()]) else { return };
    let mut person = Person::new(&sockets.path("hmp"));
    write(&mut vm, "vda", "below");
    assert_eq!(person.say(&format!("snapshot_blkdev virtio0 {} qcow2", first.display())), "");
    write(&mut vm, "vda", "above");
    assert_eq!(read(&mut vm, "vda"), "above");
    assert!(person.say(&format!("snapshot_blkdev virtio0 {}", first.display())).contains("is there already"));
    let info = person.say("info block");
    assert!(info.contains("first.qcow2") && info.contains("base.qcow2"), "{info}");

    output(
        ferro(&["img", "create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"]).arg(&first).arg(&second).arg("4M"),
    );
    let mut program = Program::new(&sockets.path("qmp"));
    let overlay = json!({ "device": "virtio0", "snapshot-file": second.display().to_string(), "mode": "existing" });
    program.ask("blockdev-snapshot-sync", &overlay).unwrap();
    write(&mut vm, "vda", "on-top");
    // Snapshots of the whole VM go into what is on top now.
    assert_eq!(person.say("savevm s"), "");

    assert!(person.say("block_set_io_throttle virtio0 1 1 0 0 0 0").contains("at the same time"));
    assert_eq!(person.say("block_set_io_throttle virtio0 0 0 0 0 0 50"), "");
    let info = person.say("info block");
    assert!(info.contains("iops=0 iops_rd=0 iops_wr=50"), "{info}");
    let limits = |iops: u64| json!({ "device": "virtio0", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": iops, "iops_rd": 0, "iops_wr": 0 });
    program.ask("block_set_io_throttle", &limits(20)).unwrap();
    let shown = program.ask("query-block", &json!({})).unwrap();
    assert_eq!(shown[0]["inserted"]["iops"], 20, "{shown}");
    write(&mut vm, "vda", "slowly");
    assert_eq!(read(&mut vm, "vda"), "slowly");
    program.ask("block_set_io_throttle", &limits(0)).unwrap();
    assert!(!person.say("info block").contains("throttling"));
    person.say("quit");
    vm.finish();

    // Another process finds the chain by the names in the images.
    let Some(mut vm) = linux(&sockets, &[second.to_str().unwrap()]) else { return };
    assert_eq!(read(&mut vm, "vda"), "slowly");
    vm.kill();
    for (image, expected) in [(&base, "below"), (&first, "above")] {
        let copy = sockets.path("copy.raw");
        output(ferro(&["img", "convert", "-O", "raw"]).arg(image).arg(&copy));
        assert!(begins_with(&copy, expected), "{}", image.display());
        if has("qemu-img") {
            output(Command::new("qemu-img").arg("check").arg(image));
        }
    }
}
