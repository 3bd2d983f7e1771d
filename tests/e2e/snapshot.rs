//! Snapshots of whole VMs: saved while the guest works, and gone on with in the same process and in another one; with
//! several disks; as jobs of programs; repeated exactly; and refused where they can't be taken over.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::bootable::bootable_image;
use support::session::{Person, Program, Sockets};
use support::{Vm, ferro, guest, has, output};

/// An empty qcow2 image.
fn create(path: &Path, size: &str) {
    output(ferro(&["img", "create", "-q", "-f", "qcow2"]).arg(path).arg(size));
}

/// What QEMU's own tool finds wrong with an image: nothing. Says so where it isn't installed.
fn check(image: &Path) {
    if has("qemu-img") {
        let told = output(Command::new("qemu-img").arg("check").arg(image));
        assert!(told.contains("No errors were found"), "{told}");
    }
}

/// The sum that `sha256sum` has printed.
fn sum(text: &str) -> String {
    // A shell's escape sequences may stand right before it.
    let lines = text.split("  -").map(|before| &before[before.len().saturating_sub(64)..]);
    let is_sum = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    lines.into_iter().find(is_sum).unwrap_or_else(|| panic!("no sum in {text}")).to_owned()
}

/// The number after "clock " in what the guest printed.
fn uptime(vm: &mut Vm) -> f64 {
    vm.send("read up idle < /proc/uptime; echo \"clock:$up:\"\n");
    // Not the echo of what was typed.
    loop {
        vm.expect("clock:");
        let text = vm.expect(":");
        if let Ok(number) = text.trim_end_matches(':').parse() {
            return number;
        }
    }
}

#[test]
fn a_debian_booted_by_grub_is_saved_at_work_killed_and_finishes_its_work_elsewhere() {
    let sockets = Sockets::new();
    let folder = sockets.folder.path();
    let Some(disc) = bootable_image(folder, "cloud-amd64", "tsc=reliable") else { return };
    let disk = folder.join("disk.qcow2");
    output(ferro(&["img", "convert", "-O", "qcow2"]).arg(&disc).arg(&disk));
    let data = folder.join("data.qcow2");
    create(&data, "16M");
    let start = |arguments: &[&str]| {
        let mut command = ferro(&["run", "--accel", "soft", "--memory", "512M", "--serial", "stdio", "--no-reboot"]);
        command.arg("--disk").arg(&disk).arg("--disk").arg(&data).args(sockets.flags()).args(arguments);
        Vm::start(command)
    };
    let mut vm = start(&[]);
    vm.expect("/ # ");
    vm.send("dd if=/dev/urandom of=/tmp/file bs=1M count=64 2>/dev/null; sha256sum < /tmp/file; echo su''mmed\n");
    let expected = sum(&vm.expect("summed"));
    let before = uptime(&mut vm);
    vm.send("echo be''gun; dd if=/tmp/file bs=512 2>/dev/null | sha256sum; echo en''ded\n");
    vm.expect("begun");
    let mut person = Person::new(&sockets.path("hmp"));
    assert_eq!(person.say("savevm at-work"), "");
    assert!(person.say("info snapshots").contains("at-work"));
    vm.kill();
    for image in [&disk, &data] {
        check(image);
    }
    if has("qemu-img") {
        let told = output(Command::new("qemu-img").args(["snapshot", "-l"]).arg(&disk));
        let line = told.lines().find(|line| line.contains("at-work")).unwrap_or_else(|| panic!("{told}"));
        assert!(line.contains("MiB") && line.contains("00:00:"), "{line}");
    }

    let mut vm = start(&["--loadvm", "at-work"]);
    let printed = vm.expect("ended");
    assert_eq!(sum(&printed), expected, "what it had begun elsewhere: {printed}");
    let after = uptime(&mut vm);
    assert!(after > before, "its clock goes on from where it stood: {before} s, {after} s");
    // Back, in the same process, as often as one likes.
    let mut person = Person::new(&sockets.path("hmp"));
    for _ in 0..2 {
        assert_eq!(person.say("loadvm at-work"), "");
        assert_eq!(sum(&vm.expect("ended")), expected);
    }
    vm.expect("/ # ");
    vm.send("poweroff -f\n");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{printed}");
    check(&disk);
}

/// Linux on a disk image for snapshots; `None`, after saying so, without the guest.
fn linux(sockets: &Sockets, arguments: &[&str]) -> Option<Vm> {
    let flags = sockets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    Vm::boot("cloud-amd64", "quiet ferro.modules=virtio_pci,virtio_blk", &flags)
}

#[test]
fn snapshots_are_of_all_disks_that_can_be_written_and_programs_make_them_by_jobs() {
    let sockets = Sockets::new();
    let [one, two, other] = ["one.qcow2", "two.qcow2", "other.raw"].map(|name| sockets.path(name));
    create(&one, "8M");
    create(&two, "8M");
    std::fs::write(&other, vec![7; 1 << 20]).unwrap();
    let read_only = format!("{},format=raw,readonly=on", other.display());
    let disks = ["--disk", one.to_str().unwrap(), "--disk", two.to_str().unwrap(), "--disk", &read_only];
    let Some(mut vm) = linux(&sockets, &disks) else { return };
    vm.expect("/ # ");
    let write = |vm: &mut Vm, text: &str| {
        vm.send(&format!("until [ -b /dev/vdc ]; do sleep 0.1; done; for d in vda vdb; do echo {text}-$d > /dev/$d; done; sync; echo fini''shed\n"));
        vm.expect("finished");
    };
    let read = |vm: &mut Vm| {
        vm.send("echo 3 > /proc/sys/vm/drop_caches; for d in vda vdb; do head -n 1 /dev/$d; done; echo fini''shed\n");
        vm.expect("finished")
    };
    write(&mut vm, "before");
    let mut program = Program::new(&sockets.path("qmp"));
    let wait = |program: &mut Program, id: &str| -> serde_json::Value {
        let mut seen = vec![];
        loop {
            let event = program.event("JOB_STATUS_CHANGE");
            assert_eq!(event["data"]["id"], id);
            let status = event["data"]["status"].as_str().unwrap().to_owned();
            seen.push(status.clone());
            if status == "concluded" {
                break;
            }
        }
        assert_eq!(seen[..2], ["created", "running"]);
        let jobs = program.ask("query-jobs", &json!({})).unwrap();
        let job = jobs.as_array().unwrap().iter().find(|job| job["id"] == id).unwrap().clone();
        program.ask("job-dismiss", &json!({ "id": id })).unwrap();
        assert_eq!(program.event("JOB_STATUS_CHANGE")["data"]["status"], "null");
        job
    };
    let job = |id: &str, tag: &str| json!({ "job-id": id, "tag": tag, "vmstate": "virtio1", "devices": ["virtio0", "virtio1"] });
    program.ask("snapshot-save", &job("save", "s")).unwrap();
    let saved = wait(&mut program, "save");
    assert_eq!((&saved["type"], &saved["error"]), (&json!("snapshot-save"), &json!(null)));
    assert!(saved["total-progress"].as_u64() > Some(0) && saved["current-progress"] == saved["total-progress"]);
    program.ask("snapshot-save", &job("again", "s")).unwrap();
    assert!(wait(&mut program, "again")["error"].as_str().unwrap().contains("already exists"));

    write(&mut vm, "after");
    assert!(read(&mut vm).contains("after-vdb"));
    let mut person = Person::new(&sockets.path("hmp"));
    assert_eq!(person.say("block_resize virtio0 16M"), "");
    program.ask("snapshot-load", &job("load", "s")).unwrap();
    assert_eq!(wait(&mut program, "load")["error"], json!(null));
    let found = read(&mut vm);
    assert!(found.contains("before-vda") && found.contains("before-vdb"), "{found}");
    let sizes = program.ask("query-block", &json!({})).unwrap();
    assert_eq!(sizes[0]["inserted"]["image"]["virtual-size"], 8 << 20, "{sizes}");
    let missing = json!({ "job-id": "no", "tag": "nothing", "vmstate": "virtio0", "devices": ["virtio0"] });
    program.ask("snapshot-load", &missing).unwrap();
    assert!(wait(&mut program, "no")["error"].as_str().unwrap().contains("does not have"));

    // The same name again takes the old one's place.
    for _ in 0..2 {
        assert_eq!(person.say("savevm s2"), "");
    }
    let listed = person.say("info snapshots");
    assert_eq!(listed.matches(" s2 ").count(), 1, "{listed}");
    assert_eq!(person.say("savevm"), "");
    assert!(person.say("info snapshots").contains(" vm-2"), "a name is made up");
    program.ask("snapshot-delete", &job("delete", "s")).unwrap();
    wait(&mut program, "delete");
    assert_eq!(person.say("delvm s2"), "");
    assert!(person.say("delvm s2").contains("does not have"));
    assert!(person.say("loadvm s").contains("does not have"));
    assert_eq!(person.say("info status"), "VM status: running\n");
    program.ask("quit", &json!({})).unwrap();
    vm.finish();
    for image in [&one, &two] {
        check(image);
    }
}

#[test]
fn disks_that_cannot_take_a_snapshot_are_named() {
    let sockets = Sockets::new();
    let [one, raw] = ["one.qcow2", "other.raw"].map(|name| sockets.path(name));
    create(&one, "8M");
    std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let writable = format!("{},format=raw", raw.display());
    let Some(mut vm) = linux(&sockets, &["--disk", one.to_str().unwrap(), "--disk", &writable]) else { return };
    vm.expect("/ # ");
    let mut person = Person::new(&sockets.path("hmp"));
    for line in ["savevm s", "loadvm s", "delvm s", "info snapshots"] {
        let told = person.say(line);
        assert!(told.contains("Device 'virtio1' is writable but does not support snapshots"), "{line}: {told}");
    }
    assert!(!output(ferro(&["img", "snapshot", "-U", "-l"]).arg(&one)).contains(" s "));
    vm.send("echo still the''re\n");
    vm.expect("still there");
    person.say("quit");
    vm.finish();

    let Some(mut vm) = linux(&sockets, &[]) else { return };
    vm.expect("/ # ");
    assert!(Person::new(&sockets.path("hmp")).say("savevm s").contains("No block device can accept snapshots"));
}

#[test]
fn a_snapshot_that_one_disk_refuses_is_taken_back_from_the_others() {
    let sockets = Sockets::new();
    let [one, two] = ["one.qcow2", "two.qcow2"].map(|name| sockets.path(name));
    create(&one, "8M");
    // Its clusters aren't counted: it can't have snapshots, which shows only when one is made.
    let mut outside = ferro(&["img", "create", "-q", "-f", "qcow2", "-o"]);
    output(outside.arg(format!("data_file={}", sockets.path("data").display())).arg(&two).arg("8M"));
    let Some(mut vm) = linux(&sockets, &["--disk", one.to_str().unwrap(), "--disk", two.to_str().unwrap()]) else {
        return;
    };
    vm.expect("/ # ");
    let mut person = Person::new(&sockets.path("hmp"));
    let told = person.say("savevm s");
    assert!(told.contains("'virtio1'") && told.contains("external data file"), "{told}");
    assert!(person.say("info snapshots").contains("no snapshot"));
    vm.send("echo still the''re\n");
    vm.expect("still there");
    person.say("quit");
    vm.finish();
    assert!(!output(ferro(&["img", "snapshot", "-l"]).arg(&one)).contains(" s "));
    check(&one);
    assert!(std::fs::metadata(&one).unwrap().len() > 1 << 20, "the state had been written");
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

#[test]
fn what_is_no_state_of_this_vm_is_refused_and_the_vm_goes_on() {
    let sockets = Sockets::new();
    let disk = sockets.path("disk.qcow2");
    create(&disk, "8M");
    let at = disk.to_str().unwrap();
    let Some(mut vm) = linux(&sockets, &["--disk", at]) else { return };
    vm.expect("/ # ");
    let mut person = Person::new(&sockets.path("hmp"));
    assert_eq!(person.say("savevm good"), "");
    vm.send("counter=41\n");
    vm.expect("/ # ");
    // The state lies in the file as it is: what is damaged there is found when it is read.
    let whole = std::fs::read(&disk).unwrap();
    let head = whole.windows(8).position(|bytes| bytes == b"FERRO-VM").expect("the state is in the image");
    let header_end = head + 16 + u32::from_le_bytes(whole[head + 12..head + 16].try_into().unwrap()) as usize;
    let mut newer = whole.clone();
    newer[head + 8] = 99;
    let header_sum = crc32c(&newer[head..header_end]).to_le_bytes();
    newer[header_end..header_end + 4].copy_from_slice(&header_sum);
    let mut other = whole.clone();
    other[head] = b'X';
    let flipped = |at: usize| {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        damaged
    };
    let end = (head + (1 << 20)).min(whole.len());
    let cases = [
        (newer, "in format 99, and this Ferro reads up to format 1"),
        (other, "no saved VM"),
        (flipped(header_end - 1), "checksum of its header"),
        (flipped(header_end + 40), "checksum is wrong"),
        (flipped(end - 100), "checksum is wrong"),
    ];
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    for (bytes, told) in cases {
        // Only the state differs: the image's own tables are in use.
        file.write_all_at(&bytes[head..end], head as u64).unwrap();
        let said = person.say("loadvm good");
        assert!(said.contains(told), "{told}: {said}");
        vm.send("counter=$((counter+1)); echo count $counter\n");
        vm.expect("count 4");
        file.write_all_at(&whole[head..end], head as u64).unwrap();
    }
    vm.send("echo at $((counter))\n");
    vm.expect("at 46");
    assert_eq!(person.say("info status"), "VM status: running\n");
    assert_eq!(person.say("loadvm good"), "");
    vm.send("echo now \"($counter)\"\n");
    vm.expect("now ()");
    person.say("quit");
    vm.finish();

    let cases: [(&[&str], &str); 6] = [
        (&["--memory", "128M"], "it has 256 MiB of memory, this one 128 MiB: start it with --memory 256M"),
        (&["--cpus", "2"], "start it with --cpus 1"),
        (&["--clock", "icount"], "kind of clock"),
        (&["--vga", "on"], "VGA"),
        (&["--console", "none", "--audio", "wav=/dev/null"], "ac97"),
        (&["--loadvm", "nothing"], "does not have the requested snapshot 'nothing'"),
    ];
    for (arguments, told) in cases {
        let mut command = ferro(&["run", "--accel", "soft", "--disk", at, "--kernel"]);
        command.arg(guest("vmlinuz-cloud-amd64").unwrap());
        if !arguments.contains(&"--memory") {
            command.args(["--memory", "256M"]);
        }
        if !arguments.contains(&"--loadvm") {
            command.args(["--loadvm", "good"]);
        }
        let ended = command.args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(told), "{arguments:?}: {said}");
    }
    check(&disk);
}

#[test]
fn a_run_that_was_saved_killed_and_loaded_repeats_one_that_was_not() {
    let sockets = Sockets::new();
    let disk = sockets.path("disk.qcow2");
    create(&disk, "8M");
    let (Some(kernel), Some(initrd)) = (guest("vmlinuz-cloud-amd64"), guest("initrd-cloud-amd64.gz")) else { return };
    // Time is a count of instructions: the kernel's log has the moment of everything to the microsecond, and the counters
    // of interrupts, the list of timers and the use of memory tell the rest.
    let script = "ferro.run=for+n+in+$(seq+400);do+echo+$n|sha256sum>/tmp/n;done;\
        dmesg>/tmp/log;cat+/proc/interrupts+/proc/timer_list+/proc/meminfo+/proc/uptime+/proc/stat>>/tmp/log;\
        cat+/tmp/log|sha256sum;date";
    let start = |arguments: &[&str]| {
        let mut command = ferro(&["run", "--accel", "soft", "--clock", "icount", "--memory", "128M"]);
        command.args(["--serial", "stdio", "--append", &format!("console=ttyS0 {script}")]);
        command.arg("--kernel").arg(&kernel).arg("--initrd").arg(&initrd).arg("--disk").arg(&disk);
        command.args(sockets.flags()).args(arguments);
        Vm::start(command)
    };
    let (_, undisturbed) = start(&[]).finish();
    let expected = sum(&undisturbed);

    let mut vm = start(&[]);
    for (number, text) in ["Linux version", "Memory:", "Freeing initrd", "Run /init", "userland"].iter().enumerate() {
        vm.expect(text);
        let mut person = Person::new(&sockets.path("hmp"));
        assert_eq!(person.say("savevm s"), "");
        assert_eq!(person.say("stop"), "");
        assert_eq!(person.say("cont"), "");
        if number % 2 == 1 {
            vm.kill();
            vm = start(&["--loadvm", "s"]);
        }
    }
    let (status, printed) = vm.finish();
    assert!(status.success(), "{printed}");
    assert_eq!(sum(&printed), expected, "{undisturbed}\n\n{printed}");
}
