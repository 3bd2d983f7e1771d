//! `ferro img convert` and `dd`: whatever goes in comes out, in every format and with every flag, by qemu-img's reading.

mod support;

use support::{Bench, have};

#[test]
fn every_format_comes_out_the_same() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 12);
    for flags in [
        "-O qcow2",
        "-O qcow2 -S 0",
        "-O qcow2 -S 64k -m 1",
        "-O qcow2 -W -m 4 -o cluster_size=4k",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd -m 2",
        "-O qcow2 -o compat=0.10,preallocation=metadata",
        "-O qcow2 -o extended_l2=on,cluster_size=128k",
        "-O qcow2 -o data_file=data.raw,data_file_raw=on",
        "-O qcow2 -t none -T none",
        "-O raw",
        "-O raw -S 0",
        "-O raw -C",
        "-O raw -t none",
        "-O raw -S 1M",
    ] {
        bench.ok(&format!("ferro img convert -f raw {flags} source.raw out.img"));
        let format = if flags.contains("qcow2") { "qcow2" } else { "raw" };
        bench.ok(&format!("qemu-img compare -f raw -F {format} source.raw out.img"));
        if format == "qcow2" {
            bench.ok("qemu-img check out.img");
        }
        bench.ok(&format!("ferro img convert -f {format} -O raw out.img back.raw"));
        bench.ok("cmp back.raw source.raw");
    }
}

#[test]
fn encrypted_images_are_read_both_ways() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 4);
    std::fs::write(bench.path("key"), "correct horse").expect("written");
    std::fs::write(bench.path("wrong"), "battery staple").expect("written");
    let secret = "--object secret,id=s,file=key";
    for (format, options, open) in [
        (
            "qcow2",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100",
            "driver=qcow2,encrypt.key-secret=s",
        ),
        ("qcow2", "encrypt.format=aes,encrypt.key-secret=s", "driver=qcow2,encrypt.key-secret=s"),
        ("luks", "key-secret=s,iter-time=100", "driver=luks,key-secret=s"),
    ] {
        for (maker, reader) in [("ferro img", "qemu-img"), ("qemu-img", "ferro img")] {
            bench.ok("rm -f locked.img");
            // QEMU makes no new images with the legacy scheme from version 6 on but for this.
            bench.ok(&format!("{maker} convert {secret} -f raw -O {format} -o {options} source.raw locked.img"));
            bench
                .ok(&format!("{reader} convert {secret} --image-opts {open},file.filename=locked.img -O raw back.raw"));
            bench.ok("cmp back.raw source.raw");
        }
        let wrong = format!(
            "ferro img convert --object secret,id=s,file=wrong --image-opts {open},file.filename=locked.img x.raw"
        );
        if !options.contains("aes") {
            assert!(bench.fails(1, &wrong).contains("password"));
        }
        let none = bench.fails(1, &format!("ferro img convert -f {format} -O raw locked.img x.raw"));
        assert!(none.contains("key-secret"), "{none}");
    }
    let warned =
        bench.run("ferro img create -f luks --object secret,id=s,data=abc -o key-secret=s,iter-time=100 x.luks 1M");
    assert!(String::from_utf8_lossy(&warned.stderr).contains("other users can see it"));
}

#[test]
fn inputs_are_joined_and_backing_files_left_alone() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("one.raw", 3);
    bench.sample("two.raw", 5);
    bench.ok("ferro img convert -f raw -O qcow2 one.raw two.raw both.qcow2");
    bench.ok("qemu-img convert -f raw -O raw one.raw two.raw both.raw");
    bench.ok("qemu-img compare both.raw both.qcow2");
    bench.ok("ferro img create -q -f qcow2 -b both.raw -F raw top.qcow2");
    bench.ok("qemu-img bench -q -w -c 4 -d 1 -S 1M --pattern=9 -f qcow2 top.qcow2");
    bench.ok("ferro img convert -O qcow2 -B both.raw -F raw top.qcow2 copy.qcow2");
    bench.ok("qemu-img compare top.qcow2 copy.qcow2");
    let size = std::fs::metadata(bench.path("copy.qcow2")).expect("there").len();
    assert!(size < 2 << 20, "only the changes are copied, not {size} bytes");
}

#[test]
fn targets_that_are_there_are_written_over() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 4);
    bench.ok("ferro img create -q target.raw 6M");
    std::fs::write(bench.path("target.raw"), vec![0xff; 6 << 20]).expect("written");
    bench.ok("ferro img convert -n -f raw -O raw source.raw target.raw");
    bench.ok("cmp -n 4194304 source.raw target.raw");
    assert_eq!(std::fs::read(bench.path("target.raw")).expect("read")[(4 << 20)..], vec![0xff; 2 << 20]);
    bench.ok("ferro img create -q small.raw 1M");
    assert!(bench.fails(1, "ferro img convert -n -O raw source.raw small.raw").contains("smaller"));
    bench.ok("ferro img create -q zero.raw 4M");
    bench.ok("ferro img convert -n --target-is-zero -f raw -O raw source.raw zero.raw");
    bench.ok("cmp source.raw zero.raw");
}

#[test]
fn bitmaps_are_copied() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.ok("qemu-img create -q -f qcow2 a.qcow2 8M");
    bench.ok("qemu-img bitmap --add a.qcow2 changes");
    bench.ok("qemu-img bench -q -w -c 2 -d 1 -S 2M -f qcow2 a.qcow2");
    bench.ok("ferro img convert --bitmaps -O qcow2 a.qcow2 b.qcow2");
    assert!(bench.ok("qemu-img info --output=json b.qcow2").contains("changes"));
    bench.ok("qemu-img check b.qcow2");
    bench.ok("ferro img bitmap --add -g 128k b.qcow2 more");
    bench.ok("ferro img bitmap --merge changes b.qcow2 more");
    bench.ok("ferro img bitmap --remove b.qcow2 changes");
    assert!(bench.ok("qemu-img info b.qcow2").contains("name: more"));
    bench.ok("qemu-img check b.qcow2");
}

#[test]
fn dd_copies_parts() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 4);
    for operands in ["bs=64k count=10 skip=3", "bs=1M", "bs=1000 count=7", "bs=1M skip=100", ""] {
        bench.ok(&format!("ferro img dd -f raw -O raw {operands} if=source.raw of=ours.raw"));
        bench.ok(&format!("qemu-img dd -f raw -O raw {operands} if=source.raw of=theirs.raw"));
        bench.ok("cmp ours.raw theirs.raw");
    }
    bench.fails(1, "ferro img dd if=source.raw");
    bench.fails(1, "ferro img dd if=source.raw of=x bs=0");
}
