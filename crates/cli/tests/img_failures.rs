//! What `ferro img` does when something goes wrong: locks held by others, full disks, sudden death, wrong flags.

mod support;

use std::process::{Command, Stdio};

use support::{Bench, FERRO, Running, eventually, have, is_root};

#[test]
fn locks_keep_qemu_and_ferro_apart() {
    if !have(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return;
    }
    let bench = Bench::new();
    bench.ok("ferro img create -q -f qcow2 a.qcow2 8M");
    // We write: they neither read nor write, but for -U.
    let socket = bench.path("ours");
    let mut serve = Command::new(FERRO);
    serve.args(["img", "serve", "--socket"]).arg(&socket).arg(bench.path("a.qcow2")).stdout(Stdio::null());
    let ours = Running::start(&mut serve);
    eventually("our server listens", || socket.exists());
    assert!(bench.fails(1, "qemu-img info a.qcow2").contains("lock"));
    assert!(bench.fails(1, "qemu-img resize -f qcow2 a.qcow2 9M").contains("lock"));
    bench.ok("qemu-img info -U a.qcow2");
    drop(ours);
    bench.ok("qemu-img info a.qcow2");
    // They write: neither do we.
    let socket = bench.path("theirs");
    let mut serve = Command::new("qemu-nbd");
    serve.args(["-t", "-f", "qcow2", "-k"]).arg(&socket).arg(bench.path("a.qcow2"));
    let theirs = Running::start(&mut serve);
    eventually("their server listens", || socket.exists());
    let refused = bench.fails(1, "ferro img info a.qcow2");
    assert!(refused.contains("failed to get shared \"write\" lock"), "{refused}");
    assert!(bench.fails(1, "ferro img resize a.qcow2 9M").contains("lock"));
    bench.fails(1, "ferro img create -q -f qcow2 a.qcow2 1M");
    bench.fails(1, "ferro img convert -O qcow2 a.qcow2 b.qcow2");
    bench.ok("ferro img info -U a.qcow2");
    drop(theirs);
    bench.ok("ferro img resize -q a.qcow2 9M");
}

#[test]
fn a_full_disk_is_told_and_leaves_a_sound_image() {
    if !is_root() || !have(&["qemu-img", "mount"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 16);
    bench.ok("mkdir small");
    bench.ok("mount -t tmpfs -o size=5m none small");
    let told = bench.fails(1, "ferro img convert -f raw -O qcow2 -S 0 source.raw small/a.qcow2");
    let checked = bench.run("qemu-img check small/a.qcow2");
    let ours = bench.run("ferro img check small/a.qcow2");
    bench.ok("umount small");
    assert!(told.contains("No space left on device") && told.contains("a.qcow2"), "{told}");
    assert!(matches!(checked.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&checked.stdout));
    assert_eq!(ours.status.code(), checked.status.code());
}

#[test]
fn sudden_death_leaves_at_worst_leaks() {
    if !have(&["qemu-img", "fio"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 192);
    for delay in [20, 60, 120] {
        let mut convert = Command::new(FERRO);
        convert.args(["img", "convert", "-f", "raw", "-O", "qcow2", "-S", "0"]);
        convert.arg(bench.path("source.raw")).arg(bench.path("a.qcow2"));
        let running = Running::start(&mut convert);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        running.signal(9);
        drop(running);
        if bench.path("a.qcow2").exists() && bench.path("a.qcow2").metadata().is_ok_and(|meta| meta.len() > 65_536) {
            let checked = bench.run("qemu-img check a.qcow2");
            assert!(matches!(checked.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&checked.stdout));
        }
    }
    bench.ok("ferro img create -q -f qcow2 b.qcow2 256M");
    for _ in 0..3 {
        let socket = bench.path("socket");
        let mut serve = Command::new(FERRO);
        serve.args(["img", "serve", "--socket"]).arg(&socket).arg(bench.path("b.qcow2")).stdout(Stdio::null());
        let server = Running::start(&mut serve);
        eventually("the server listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let mut writer = Command::new("fio");
        writer.args(["--name=w", "--ioengine=nbd", "--rw=randwrite", "--bs=16k", "--iodepth=16", "--size=256M"]);
        writer.arg(format!("--uri=nbd+unix:///?socket={}", socket.display()));
        writer.stdout(Stdio::null()).stderr(Stdio::null()).current_dir(bench.dir());
        let writing = Running::start(&mut writer);
        std::thread::sleep(std::time::Duration::from_millis(300));
        server.signal(9);
        drop((server, writing));
        let checked = bench.run("qemu-img check b.qcow2");
        assert!(matches!(checked.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}

#[test]
fn wrong_flags_are_usage_errors_that_help() {
    let bench = Bench::new();
    for line in [
        "ferro img nothing",
        "ferro img create",
        "ferro img create -f bogus a 1M",
        "ferro img info --output=xml a",
        "ferro img check -r some a",
        "ferro img convert --bogus a b",
        "ferro img serve a",
        "ferro img resize a",
        "ferro bogus",
    ] {
        let told = bench.fails(2, line);
        assert!(told.contains("--help") || told.contains("Usage"), "{line}: {told}");
    }
    let missing = bench.fails(1, "ferro img info nowhere.img");
    assert!(missing.contains("Could not open 'nowhere.img'") && missing.contains("No such file"), "{missing}");
}

#[test]
fn backing_loops_and_hostile_descriptions_end() {
    let bench = Bench::new();
    bench.ok("ferro img create -q -f qcow2 a.qcow2 1M");
    bench.ok("ferro img create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    bench.ok("ferro img rebase -u -b b.qcow2 -F qcow2 a.qcow2");
    assert!(bench.fails(1, "ferro img info --backing-chain b.qcow2").contains("loop"));
    bench.fails(1, "ferro img info json:{");
    bench.fails(1, &format!("ferro img info json:{}", "{\"a\":".repeat(1000)));
    bench.fails(1, "ferro img info nbd://127.0.0.1:1/x");
    std::fs::write(bench.path("empty"), b"").expect("written");
    bench.fails(1, "ferro img info -f qcow2 empty");
    bench.ok("ferro img info empty");
}
