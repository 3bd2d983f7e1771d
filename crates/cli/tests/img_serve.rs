//! `ferro img serve` with the clients that people have, and `ferro img` as a client of the servers that they have.

mod support;

use std::process::{Command, Stdio};

use support::{Bench, FERRO, Running, eventually, have};

fn serve(bench: &Bench, flags: &[&str], image: &str) -> (Running, String) {
    let socket = bench.path("socket");
    let mut command = Command::new(FERRO);
    command.args(["img", "serve", "--socket"]).arg(&socket).args(flags).arg(image);
    let server = Running::start(command.current_dir(bench.dir()).stdout(Stdio::null()));
    eventually("the server listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    (server, format!("nbd+unix:///?socket={}", socket.display()))
}

#[test]
fn nbdinfo_nbdcopy_and_qemu_img_read_and_write() {
    if !have(&["nbdcopy", "nbdinfo", "qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 32);
    bench.ok("ferro img create -q -f qcow2 a.qcow2 32M");
    let (mut server, uri) = serve(&bench, &[], "a.qcow2");
    bench.ok(&format!("nbdcopy source.raw {uri}"));
    bench.ok(&format!("nbdcopy --flush {uri} back.raw"));
    bench.ok("cmp source.raw back.raw");
    bench.ok(&format!("qemu-img compare -f raw -F raw source.raw {uri}"));
    bench.ok(&format!("qemu-img convert -n -f raw -O raw source.raw {uri}"));
    bench.ok(&format!("ferro img compare -f raw -F raw source.raw {uri}"));
    let info = bench.ok(&format!("nbdinfo {uri}"));
    for expected in ["can_trim: true", "can_zero: true", "can_fua: true", "can_multi_conn: true", "base:allocation"] {
        assert!(info.contains(expected), "{expected} in {info}");
    }
    assert!(bench.ok(&format!("nbdinfo --map {uri}")).contains("hole,zero"));
    assert!(bench.ok(&format!("nbdinfo --list {uri}")).contains("a.qcow2 (qcow2)"));
    server.signal(15);
    assert!(server.0.wait().expect("ended").success(), "the server ends in good order");
    assert!(!bench.path("socket").exists());
    bench.ok("qemu-img check a.qcow2");
    bench.ok("qemu-img compare -f raw -F qcow2 source.raw a.qcow2");
}

#[test]
fn fio_finds_what_it_wrote() {
    if !have(&["fio", "qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.ok("ferro img create -q -f qcow2 a.qcow2 64M");
    let (server, uri) = serve(&bench, &[], "a.qcow2");
    bench.ok(&format!(
        "fio --name=v --ioengine=nbd --uri={uri} --rw=randwrite --bs=4k-64k --iodepth=32 --size=64M --verify=crc32c --output-format=terse"
    ));
    drop(server);
    let checked = bench.run("qemu-img check a.qcow2");
    assert!(matches!(checked.status.code(), Some(0 | 3)));
}

#[test]
fn names_and_read_only_exports_are_respected() {
    if !have(&["nbdinfo", "nbdcopy"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 2);
    let (_server, uri) = serve(&bench, &["--read-only", "--export", "disk", "-f", "raw"], "source.raw");
    let named = uri.replace("///?", "///disk?");
    assert!(bench.ok(&format!("nbdinfo {named}")).contains("is_read_only: true"));
    assert!(!bench.run(&format!("nbdinfo {}", uri.replace("///?", "///other?"))).status.success());
    assert!(!bench.run(&format!("nbdcopy source.raw {named}")).status.success());
    let told = bench.fails(1, &format!("ferro img info {}", uri.replace("///?", "///other?")));
    assert!(told.contains("other"), "{told}");
    let open = bench.fails(1, "ferro img serve --listen 0.0.0.0:0 source.raw");
    assert!(open.contains("--insecure"), "{open}");
}

#[test]
fn other_servers_are_sources_and_targets() {
    if !have(&["qemu-nbd", "nbdkit", "qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 8);
    bench.ok("ferro img convert -f raw -O qcow2 source.raw a.qcow2");
    let socket = bench.path("qemu");
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-x", "disk", "-f", "qcow2", "-k"]).arg(&socket).arg(bench.path("a.qcow2"));
    let server = Running::start(&mut command);
    eventually("qemu-nbd listens", || socket.exists());
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    bench.ok(&format!("ferro img convert -f raw -O raw {uri} back.raw"));
    bench.ok("cmp source.raw back.raw");
    bench.ok(&format!("ferro img convert --image-opts driver=raw,file.driver=nbd,file.export=disk,file.server.type=unix,file.server.path={} back.raw", socket.display()));
    let map = bench.ok(&format!("ferro img map --output=json {uri}"));
    assert!(map.contains("\"zero\": true"), "{map}");
    bench.ok(&format!("ferro img convert -n -f raw -O raw source.raw {uri}"));
    drop(server);
    bench.ok("qemu-img compare -f raw -F qcow2 source.raw a.qcow2");
    let socket = bench.path("nbdkit");
    let mut command = Command::new("nbdkit");
    command.args(["-f", "-U"]).arg(&socket).args(["memory", "8M"]);
    let _server = Running::start(&mut command);
    eventually("nbdkit listens", || socket.exists());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    bench.ok(&format!("ferro img convert -n -f raw -O raw source.raw {uri}"));
    bench.ok(&format!("ferro img compare -f raw -F raw source.raw {uri}"));
    bench.ok(&format!("ferro img bench -q -w -c 100 -f raw {uri}"));
}

#[test]
fn a_limit_limits() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 8);
    let (_server, uri) = serve(&bench, &["--read-only", "-f", "raw", "--bps", "8M"], "source.raw");
    let start = std::time::Instant::now();
    bench.ok(&format!("nbdcopy {uri} back.raw"));
    assert!(start.elapsed() > std::time::Duration::from_millis(200), "{:?}", start.elapsed());
}
