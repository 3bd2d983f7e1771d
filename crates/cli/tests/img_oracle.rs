//! `ferro img` beside qemu-img: each reads what the other made, and both say the same of it.

mod support;

use support::{Bench, have};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn info_says_what_qemu_img_says() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.ok("qemu-img create -f qcow2 base.qcow2 64M");
    bench.ok("qemu-img create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    bench.ok("qemu-img snapshot -c one base.qcow2");
    bench.ok("qemu-img bitmap --add base.qcow2 b0");
    bench.ok("qemu-img create -f raw plain.raw 1000");
    bench.ok("qemu-img create -f qcow2 -o compat=0.10 old.qcow2 1G");
    bench.ok("qemu-img create -f qcow2 -o extended_l2=on,compression_type=zstd,data_file=d.raw,data_file_raw=on ext.qcow2 1G");
    std::fs::write(bench.path("key"), "secret").expect("written");
    let luks = "--object secret,id=s,file=key -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100";
    bench.ok(&format!("qemu-img create -f qcow2 {luks} locked.qcow2 8M"));
    bench.ok("qemu-img create -f luks --object secret,id=s,file=key -o key-secret=s,iter-time=100 locked.luks 8M");
    for name in ["base.qcow2", "top.qcow2", "plain.raw", "old.qcow2", "ext.qcow2", "locked.qcow2", "locked.luks"] {
        for flags in ["--output=json", "--output=json --backing-chain"] {
            let ours = json(&bench.ok(&format!("ferro img info {flags} {name}")));
            let theirs = json(&bench.ok(&format!("qemu-img info {flags} {name}")));
            assert_eq!(ours, theirs, "{name} {flags}");
        }
        let sorted = |text: String| {
            let mut lines: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
            lines.sort();
            lines
        };
        let ours = sorted(bench.ok(&format!("ferro img info {name}")));
        let theirs = sorted(bench.ok(&format!("qemu-img info {name}")));
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn create_takes_every_option_and_says_what_it_makes() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.ok("qemu-img create -f qcow2 base.qcow2 64M");
    for line in [
        "-fqcow2 a.qcow2 512M",
        "-f qcow2 a.qcow2 1.5G",
        "-f qcow2 -o cluster_size=4k,lazy_refcounts=on a.qcow2 100M",
        "-f qcow2 -o compat=0.10 a.qcow2 100M",
        "-f qcow2 -o preallocation=metadata a.qcow2 100M",
        "-f qcow2 -o preallocation=full,refcount_bits=1 a.qcow2 4M",
        "-f qcow2 -o compression_type=zstd,extended_l2=on a.qcow2 100M",
        "-f qcow2 -b base.qcow2 -F qcow2 a.qcow2",
        "-f qcow2 -u -b nowhere -F raw a.qcow2 1G",
        "-f qcow2 -o size=3M a.qcow2",
        "a.raw 1M",
        "-f raw -o preallocation=falloc a.raw 1M",
    ] {
        let theirs = bench.ok(&format!("qemu-img create {line}"));
        let ours = bench.ok(&format!("ferro img create {line}"));
        assert_eq!(ours, theirs, "{line}");
        if line.contains("a.qcow2") && !line.contains("nowhere") {
            bench.ok("qemu-img check a.qcow2");
            bench.ok("ferro img check -q a.qcow2");
        }
    }
    assert_eq!(bench.ok("ferro img create -q a.raw 1M"), "");
    bench.fails(1, "ferro img create -f qcow2 -b base.qcow2 x.qcow2");
    bench.fails(1, "ferro img create -f qcow2 -b missing -F raw x.qcow2");
    bench.fails(1, "ferro img create -f qcow2 -o cluster_size=3k x.qcow2 1M");
    bench.fails(1, "ferro img create -f qcow2 -o bogus=1 x.qcow2 1M");
    bench.fails(1, "ferro img create -f qcow2 x.qcow2");
    assert!(bench.ok("ferro img create -f qcow2 -o help").contains("cluster_size="));
}

#[test]
fn map_measure_and_compare_agree() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 16);
    bench.ok("qemu-img convert -f raw -O qcow2 source.raw base.qcow2");
    bench.ok("qemu-img create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    bench.ok("qemu-img bench -q -w -c 3 -d 1 -o 1M -S 3M --pattern=7 -f qcow2 top.qcow2");
    bench.ok("qemu-img commit -q top.qcow2");
    bench.ok("qemu-img bench -q -w -c 3 -d 1 -o 1M -S 3M --pattern=7 -f qcow2 top.qcow2");
    bench.ok("cp source.raw before.raw");
    bench.ok("qemu-img convert -O raw base.qcow2 source.raw");
    for name in ["base.qcow2", "top.qcow2", "source.raw"] {
        for flags in ["--output=json", "", "--output=json --start-offset=1M --max-length=3M"] {
            let (ours, theirs) =
                (bench.ok(&format!("ferro img map {flags} {name}")), bench.ok(&format!("qemu-img map {flags} {name}")));
            assert_eq!(ours, theirs, "{flags} {name}");
        }
        for flags in ["-O qcow2", "-O raw", "-O qcow2 --output=json", "-O qcow2 -o cluster_size=4k"] {
            let ours = bench.ok(&format!("ferro img measure {flags} {name}"));
            let theirs = bench.ok(&format!("qemu-img measure {flags} {name}"));
            if flags.contains("json") {
                assert_eq!(json(&ours), json(&theirs), "{flags} {name}");
            } else {
                assert_eq!(ours, theirs, "{flags} {name}");
            }
        }
    }
    for size in ["1G", "0", "10T"] {
        let ours = bench.ok(&format!("ferro img measure -O qcow2 --size {size}"));
        assert_eq!(ours, bench.ok(&format!("qemu-img measure -O qcow2 --size {size}")));
    }
    bench.ok("cp source.raw other.raw");
    let mut bytes = std::fs::read(bench.path("other.raw")).expect("read");
    bytes[0x0030_0003] ^= 1;
    std::fs::write(bench.path("other.raw"), bytes).expect("written");
    for (line, code) in [
        ("source.raw base.qcow2", 0),
        ("top.qcow2 base.qcow2", 0),
        ("other.raw base.qcow2", 1),
        ("missing base.qcow2", 2),
        ("-s base.qcow2 base.qcow2", 0),
    ] {
        let (ours, theirs) =
            (bench.run(&format!("ferro img compare {line}")), bench.run(&format!("qemu-img compare {line}")));
        assert_eq!(ours.status.code(), Some(code), "{line}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{line}");
        assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout), "{line}");
    }
}

#[test]
fn check_has_qemu_imgs_exit_codes_and_repairs() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("source.raw", 4);
    bench.ok("qemu-img convert -f raw -O qcow2 source.raw a.qcow2");
    let compare = |flags: &str| {
        let (ours, theirs) = (
            bench.run(&format!("ferro img check {flags} a.qcow2")),
            bench.run(&format!("qemu-img check {flags} a.qcow2")),
        );
        assert_eq!(ours.status.code(), theirs.status.code(), "{flags}");
        if flags.contains("json") {
            assert_eq!(json(&String::from_utf8_lossy(&ours.stdout)), json(&String::from_utf8_lossy(&theirs.stdout)));
        }
        ours.status.code()
    };
    assert_eq!(compare(""), Some(0));
    assert_eq!(compare("--output=json"), Some(0));
    // A refcount for a cluster that nothing uses: a leak.
    let mut bytes = std::fs::read(bench.path("a.qcow2")).expect("read");
    let table = u64::from_be_bytes(bytes[48..56].try_into().expect("eight bytes")) as usize;
    let block = u64::from_be_bytes(bytes[table..table + 8].try_into().expect("eight bytes")) as usize;
    let end = bytes.len() / 65536;
    bytes[block + 2 * end + 1] = 1;
    bytes.resize((end + 1) * 65536, 0);
    std::fs::write(bench.path("a.qcow2"), bytes).expect("written");
    assert_eq!(compare(""), Some(3));
    assert_eq!(compare("--output=json"), Some(3));
    assert!(bench.ok("ferro img check -r leaks a.qcow2").contains("No errors"));
    assert_eq!(compare(""), Some(0));
    // And one too low: corruption.
    let mut bytes = std::fs::read(bench.path("a.qcow2")).expect("read");
    bytes[block + 2 * 5 + 1] = 0;
    std::fs::write(bench.path("a.qcow2"), bytes).expect("written");
    assert_eq!(compare(""), Some(2));
    bench.ok("ferro img check -r all a.qcow2");
    assert_eq!(compare(""), Some(0));
    bench.ok("qemu-img compare a.qcow2 source.raw");
    bench.fails(63, "ferro img check source.raw");
    bench.fails(1, "ferro img check missing.qcow2");
}

#[test]
fn snapshots_resize_commit_and_rebase_leave_what_qemu_img_expects() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("one.raw", 8);
    bench.sample("two.raw", 4);
    bench.ok("ferro img convert -f raw -O qcow2 one.raw a.qcow2");
    bench.ok("ferro img snapshot -c first a.qcow2");
    assert_eq!(bench.ok("ferro img snapshot -l a.qcow2"), bench.ok("qemu-img snapshot -l a.qcow2"));
    bench.ok("ferro img convert -n -f raw -O qcow2 two.raw a.qcow2");
    bench.ok("ferro img convert -l first -O raw a.qcow2 first.raw");
    bench.ok("cmp first.raw one.raw");
    bench.ok("ferro img convert -l snapshot.name=first -O raw a.qcow2 first.raw");
    bench.ok("ferro img snapshot -a first a.qcow2");
    bench.ok("qemu-img compare a.qcow2 one.raw");
    bench.ok("ferro img snapshot -d first a.qcow2");
    bench.ok("qemu-img check a.qcow2");
    assert_eq!(bench.ok("ferro img snapshot -l a.qcow2"), "");
    bench.fails(1, "ferro img snapshot -d nothing a.qcow2");

    bench.ok("ferro img resize a.qcow2 +1M");
    assert_eq!(bench.ok("ferro img resize a.qcow2 16M"), "Image resized.\n");
    bench.fails(1, "ferro img resize a.qcow2 -8M");
    bench.ok("ferro img resize --shrink a.qcow2 -8M");
    bench.ok("qemu-img compare a.qcow2 one.raw");
    bench.ok("qemu-img check a.qcow2");

    bench.ok("ferro img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2");
    bench.ok("ferro img convert -n -f raw -O qcow2 two.raw top.qcow2");
    bench.ok("cp top.qcow2 other.qcow2");
    bench.ok("ferro img convert -O raw top.qcow2 expected.raw");
    bench.ok("ferro img rebase -b two.raw -F raw other.qcow2");
    bench.ok("qemu-img compare other.qcow2 expected.raw");
    bench.ok("qemu-img check other.qcow2");
    bench.ok("ferro img commit top.qcow2");
    bench.ok("qemu-img compare a.qcow2 expected.raw");
    bench.ok("qemu-img check a.qcow2");
    bench.ok("ferro img rebase -u -b elsewhere.qcow2 -F qcow2 top.qcow2");
    assert!(bench.ok("qemu-img info --output=json top.qcow2").contains("elsewhere.qcow2"));
}

#[test]
fn commit_into_a_base_further_down_leaves_the_images_above_it() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.sample("base.raw", 4);
    bench.ok("qemu-img convert -f raw -O qcow2 base.raw base.qcow2");
    bench.ok("qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2 6M");
    bench.ok("qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 8M");
    bench.ok("qemu-img bench -q -w -c 4 -d 1 -s 64k -S 64k --pattern=7 middle.qcow2");
    bench.ok("qemu-img bench -q -w -c 4 -d 1 -s 64k -S 64k --pattern=9 -o 128k top.qcow2");
    bench.ok("qemu-img bench -q -w -c 1 -d 1 -s 4k --pattern=5 -o 7M top.qcow2");
    bench.ok("qemu-img convert -O raw top.qcow2 expected.raw");
    let names = ["base", "middle", "top"];
    for name in names {
        bench.ok(&format!("cp {name}.qcow2 {name}.before"));
    }
    let theirs = bench.ok("qemu-img commit -b base.qcow2 top.qcow2");
    for name in names {
        bench.ok(&format!("mv {name}.qcow2 {name}.theirs"));
    }
    for name in names {
        bench.ok(&format!("cp {name}.before {name}.qcow2"));
    }
    assert_eq!(bench.ok("ferro img commit -b base.qcow2 top.qcow2"), theirs);
    bench.ok("qemu-img check base.qcow2");
    bench.ok("qemu-img compare base.qcow2 expected.raw");
    bench.ok("qemu-img compare base.qcow2 base.theirs");
    for name in ["middle", "top"] {
        bench.ok(&format!("cmp {name}.qcow2 {name}.before"));
        bench.ok(&format!("qemu-img compare {name}.qcow2 {name}.theirs"));
    }
    bench.fails(1, "ferro img commit -b elsewhere.qcow2 top.qcow2");
}

#[test]
fn info_tells_of_an_image_that_was_not_closed() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    bench.ok("qemu-img create -q -f qcow2 -o lazy_refcounts=on a.qcow2 8M");
    let mut bytes = std::fs::read(bench.path("a.qcow2")).expect("read");
    // The last byte of the incompatible features.
    bytes[79] |= 1;
    std::fs::write(bench.path("a.qcow2"), bytes).expect("written");
    let ours = json(&bench.ok("ferro img info --output=json a.qcow2"));
    assert_eq!(ours["dirty-flag"], true);
    assert_eq!(ours, json(&bench.ok("qemu-img info --output=json a.qcow2")));
    assert!(bench.ok("ferro img info a.qcow2").contains("cleanly shut down: no\n"));
    assert!(bench.ok("qemu-img info a.qcow2").contains("cleanly shut down: no\n"));
}

#[test]
fn the_first_cluster_of_a_data_file_is_a_cluster() {
    if !have(&["qemu-img"]) {
        return;
    }
    for options in ["", ",data_file_raw=on", ",extended_l2=on"] {
        let bench = Bench::new();
        bench.ok(&format!("ferro img create -q -f qcow2 -o data_file=a.data{options} a.qcow2 8M"));
        bench.ok("ferro img bench -q -w -c 3 -d 1 -s 64k -S 64k --pattern=7 a.qcow2");
        bench.ok("qemu-img bench -q -w -c 1 -d 1 -s 64k --pattern=9 -o 1M a.qcow2");
        let (ours, theirs) =
            (bench.run("ferro img check --output=json a.qcow2"), bench.run("qemu-img check --output=json a.qcow2"));
        assert_eq!(ours.status.code(), Some(0), "{options}");
        assert_eq!(theirs.status.code(), Some(0), "{options}");
        let parsed = |output: &[u8]| json(&String::from_utf8_lossy(output));
        assert_eq!(parsed(&ours.stdout), parsed(&theirs.stdout), "{options}");
        bench.ok("qemu-img convert -O raw a.qcow2 theirs.raw");
        bench.ok("ferro img convert -O raw a.qcow2 ours.raw");
        bench.ok("cmp ours.raw theirs.raw");
        assert_eq!(std::fs::read(bench.path("ours.raw")).expect("read")[..3 << 16], [7; 3 << 16]);
        let map = |program: &str| json(&bench.ok(&format!("{program} map --output=json a.qcow2")));
        assert_eq!(map("ferro img"), map("qemu-img"), "{options}");
        bench.fails(1, "ferro img snapshot -c one a.qcow2");
        bench.fails(1, "qemu-img snapshot -c one a.qcow2");
        // The first cluster's flag is all that says it is there; a later one's can be wrong.
        let mut bytes = std::fs::read(bench.path("a.qcow2")).expect("read");
        let table = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight")) as usize;
        let l2 = table(table(40)) & 0x00ff_ffff_ffff_fe00;
        let entry = l2 + if options.contains("extended") { 16 } else { 8 };
        bytes[entry] &= 0x7f;
        std::fs::write(bench.path("a.qcow2"), bytes).expect("written");
        let codes =
            ["ferro img", "qemu-img"].map(|program| bench.run(&format!("{program} check a.qcow2")).status.code());
        assert_eq!(codes[0], codes[1], "{options}");
        bench.ok("ferro img check -r all -q a.qcow2");
        bench.ok("qemu-img check a.qcow2");
        bench.ok("qemu-img compare a.qcow2 theirs.raw");
    }
}

#[test]
fn the_name_qemu_img_is_ferro_img() {
    let bench = Bench::new();
    std::os::unix::fs::symlink(support::FERRO, bench.path("qemu-img")).expect("linked");
    let link = bench.path("qemu-img");
    bench.ok(&format!("{} create -f qcow2 a.qcow2 1M", link.display()));
    assert!(bench.ok(&format!("{} info a.qcow2", link.display())).contains("file format: qcow2"));
}
