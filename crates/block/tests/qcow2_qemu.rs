//! qemu-img beside us: what we make it checks and reads, what it makes we check and read, over the options of the format.

mod support;

use std::path::Path;
use std::sync::Arc;

use ferro_block::crypto::{LuksOptions, LuksStorage, Secret};
use ferro_block::qcow2::*;
use ferro_block::{Storage, ZeroFlags};
use support::*;

const SIZE: u64 = 6 << 20;

fn variants() -> Vec<(&'static str, CreateOptions)> {
    let base = CreateOptions { size: SIZE + 512 * 3, ..CreateOptions::default() };
    let with = |change: fn(&mut CreateOptions)| {
        let mut options = base.clone();
        change(&mut options);
        options
    };
    vec![
        ("compat=1.1", base.clone()),
        ("compat=0.10", with(|options| options.compat = Compat::V2)),
        ("cluster_size=512", with(|options| options.cluster_bits = 9)),
        (
            "cluster_size=4096,compat=0.10",
            with(|options| {
                options.cluster_bits = 12;
                options.compat = Compat::V2;
            }),
        ),
        ("cluster_size=2M", with(|options| options.cluster_bits = 21)),
        ("refcount_bits=1", with(|options| options.refcount_bits = 1)),
        (
            "refcount_bits=2,cluster_size=1024",
            with(|options| {
                options.refcount_bits = 2;
                options.cluster_bits = 10;
            }),
        ),
        ("refcount_bits=64", with(|options| options.refcount_bits = 64)),
        ("lazy_refcounts=on", with(|options| options.lazy_refcounts = true)),
        ("extended_l2=on", with(|options| options.extended_l2 = true)),
        (
            "extended_l2=on,cluster_size=16k",
            with(|options| {
                options.extended_l2 = true;
                options.cluster_bits = 14;
            }),
        ),
        ("compression_type=zstd", with(|options| options.compression = Compression::Zstd)),
        ("preallocation=metadata", with(|options| options.preallocation = Preallocation::Metadata)),
        ("preallocation=full", with(|options| options.preallocation = Preallocation::Full)),
        (
            "preallocation=metadata,extended_l2=on",
            with(|options| {
                options.preallocation = Preallocation::Metadata;
                options.extended_l2 = true;
            }),
        ),
    ]
}

/// Random writes, zeroes, discards and compressed writes; `model` follows.
fn scribble(image: &Qcow2, model: &mut [u8], random: &mut Random, steps: usize, cluster: u64) {
    for _ in 0..steps {
        let size = model.len() as u64;
        let offset = random.below(size);
        let len = if random.chance(50) { random.below(5000) } else { random.below(300_000) }.min(size - offset);
        let range = offset as usize..(offset + len) as usize;
        match random.below(10) {
            0..=5 => {
                let data = random.data(len as usize);
                image.write_at(&data, offset).unwrap();
                model[range].copy_from_slice(&data);
            }
            6 => {
                let flags = ZeroFlags { may_unmap: random.chance(50), ..ZeroFlags::default() };
                image.write_zeroes(offset, len, flags).unwrap();
                model[range].fill(0);
            }
            7 => {
                image.discard(offset, len).unwrap();
                let mut now = vec![0; len as usize];
                image.read_at(&mut now, offset).unwrap();
                model[range].copy_from_slice(&now);
            }
            8 => {
                let offset = offset / cluster * cluster;
                let len = (len.max(1).next_multiple_of(cluster)).min(size - offset);
                let data = random.data(len as usize);
                image.write_compressed(offset, &data).unwrap();
                model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
            }
            _ => image.flush().unwrap(),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn assert_same(path: &Path, raw: &Path, model: &[u8]) {
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(raw)]);
    assert!(std::fs::read(raw).unwrap() == model, "qemu-img reads something else");
}

#[test]
fn qemu_reads_what_we_write() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, raw) = (dir.path().join("a.qcow2"), dir.path().join("a.raw"));
    for (index, (name, options)) in variants().into_iter().enumerate() {
        println!("{name}");
        let file = TestFile::create(&path);
        create(&file, None, &options, None).unwrap();
        run("qemu-img", &["check", text(&path)]);
        let image = open(&file);
        let mut model = contents(&image);
        assert!(model.iter().all(|&byte| byte == 0));
        let mut random = Random(index as u64 + 1);
        for round in 0..3 {
            scribble(&image, &mut model, &mut random, 60, 1 << options.cluster_bits);
            assert!(contents(&image) == model, "{name}: we read something else");
            if round == 1 && options.refcount_bits > 2 {
                image.snapshot_create(&NewSnapshot { name: "s".into(), ..NewSnapshot::default() }).unwrap();
            }
        }
        let report = image.check(Repair::None).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{name}: {:?}", report.messages);
        image.close().unwrap();
        run("qemu-img", &["check", text(&path)]);
        assert_same(&path, &raw, &model);
    }
}

#[test]
fn we_read_what_qemu_writes() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, raw) = (dir.path().join("a.qcow2"), dir.path().join("a.raw"));
    let mut random = Random(99);
    let mut source = vec![0; SIZE as usize];
    for _ in 0..40 {
        let at = random.below(SIZE - 100_000) as usize;
        let data = random.data(50_000);
        source[at..at + data.len()].copy_from_slice(&data);
    }
    std::fs::write(&raw, &source).unwrap();
    for (name, options) in variants() {
        for compressed in [false, true] {
            if compressed && options.preallocation != Preallocation::Off {
                continue;
            }
            println!("{name}, compressed: {compressed}");
            let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", name];
            arguments.extend(compressed.then_some("-c"));
            arguments.extend([text(&raw), text(&path)]);
            run("qemu-img", &arguments);
            let qemu: serde_json::Value =
                serde_json::from_str(&run("qemu-img", &["check", "--output=json", text(&path)])).unwrap();
            let image = open(&TestFile::open(&path));
            let report = image.check(Repair::None).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
            let ours = serde_json::to_value(&report).unwrap();
            for key in [
                "total-clusters",
                "allocated-clusters",
                "compressed-clusters",
                "fragmented-clusters",
                "image-end-offset",
            ] {
                let theirs = qemu.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
                assert_eq!(ours[key].as_u64(), Some(theirs), "{key}");
            }
            let mut model = source.clone();
            assert!(contents(&image) == model, "we read something else");
            scribble(&image, &mut model, &mut random, 60, 1 << options.cluster_bits);
            image.close().unwrap();
            run("qemu-img", &["check", text(&path)]);
            assert_same(&path, &dir.path().join("b.raw"), &model);
        }
    }
}

#[test]
fn info_says_what_qemu_says() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    for (name, options) in variants() {
        let file = TestFile::create(&path);
        create(&file, None, &options, None).unwrap();
        let output = run("qemu-img", &["info", "--output=json", text(&path)]);
        let qemu: serde_json::Value = serde_json::from_str(&output).unwrap();
        let ours = serde_json::to_value(open(&file).info().unwrap()).unwrap();
        assert_eq!(qemu["format-specific"]["data"], ours, "{name}");
        let created = run("qemu-img", &["create", "-f", "qcow2", "-o", name, text(&path), &options.size.to_string()]);
        assert!(created.contains("qcow2"));
        let theirs = serde_json::to_value(open(&TestFile::open(&path)).info().unwrap()).unwrap();
        assert_eq!(theirs, ours, "{name}");
    }
}

#[test]
fn encrypted_images_go_both_ways() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, raw, key) = (dir.path().join("a.qcow2"), dir.path().join("a.raw"), dir.path().join("key"));
    std::fs::write(&key, "open sesame").unwrap();
    let secret = Secret::new("open sesame");
    let object = format!("secret,id=k,file={}", text(&key));
    let source = format!("driver=qcow2,file.filename={},encrypt.key-secret=k", text(&path));
    let luks = |spec: &str, ivgen: &str, hash: &str| {
        let (cipher, mode) = spec.rsplit_once('-').unwrap();
        EncryptionOptions::Luks(LuksOptions {
            spec: ferro_block::crypto::CipherSpec {
                cipher: cipher.parse().unwrap(),
                mode: mode.parse().unwrap(),
                ivgen: ivgen.parse().unwrap(),
            },
            hash: hash.parse().unwrap(),
            iter_time_ms: 10,
            iterations: Some(1000),
        })
    };
    let schemes = [
        ("encrypt.format=aes", EncryptionOptions::Aes),
        ("encrypt.format=luks,encrypt.iter-time=10", luks("aes-256-xts", "plain64", "sha256")),
        (
            "encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,\
          encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512",
            luks("aes-128-cbc", "essiv:sha256", "sha512"),
        ),
        (
            "encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-alg=aes-256,encrypt.cipher-mode=ecb,encrypt.hash-alg=sha1",
            luks("aes-256-ecb", "plain64", "sha1"),
        ),
    ];
    for (index, (name, encryption)) in schemes.into_iter().enumerate() {
        println!("{name}");
        let theirs_only = encryption == EncryptionOptions::Aes;
        let options = CreateOptions { size: SIZE, encryption: Some(encryption), ..CreateOptions::default() };
        let file = TestFile::create(&path);
        create(&file, None, &options, Some(&secret)).unwrap();
        let opening = OpenOptions { secret: Some(secret.clone()), ..OpenOptions::default() };
        let mut random = Random(index as u64);
        let mut model = vec![0; SIZE as usize];
        let fill = |image: &Qcow2, model: &mut [u8], random: &mut Random| {
            for _ in 0..60 {
                let (at, len) = (random.below(SIZE - 200_000) as usize, random.below(200_000) as usize);
                let data = random.data(len);
                image.write_at(&data, at as u64).unwrap();
                model[at..at + len].copy_from_slice(&data);
            }
            assert!(contents(image) == model);
        };
        let image = Qcow2::open(files(&file), &opening).unwrap();
        fill(&image, &mut model, &mut random);
        image.close().unwrap();
        let wrong = OpenOptions { secret: Some(Secret::new("wrong")), ..OpenOptions::default() };
        assert!(theirs_only || Qcow2::open(files(&file), &wrong).is_err());
        assert!(Qcow2::open(files(&file), &OpenOptions::default()).is_err());
        run("qemu-img", &["convert", "--object", &object, "--image-opts", &source, "-O", "raw", text(&raw)]);
        assert!(std::fs::read(&raw).unwrap() == model, "qemu-img reads something else");
        // And the other way.
        let output = format!("{name},encrypt.key-secret=k");
        run(
            "qemu-img",
            &["convert", "--object", &object, "-f", "raw", "-O", "qcow2", "-o", &output, text(&raw), text(&path)],
        );
        let file = TestFile::open(&path);
        let image = Qcow2::open(files(&file), &opening).unwrap();
        assert!(contents(&image) == model, "we read something else");
        fill(&image, &mut model, &mut random);
        image.close().unwrap();
        run("qemu-img", &["convert", "--object", &object, "--image-opts", &source, "-O", "raw", text(&raw)]);
        assert!(std::fs::read(&raw).unwrap() == model, "qemu-img reads something else after our changes");
    }
}

#[test]
fn luks_volumes_go_both_ways() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, raw, key) = (dir.path().join("a.luks"), dir.path().join("a.raw"), dir.path().join("key"));
    std::fs::write(&key, "open sesame").unwrap();
    let secret = Secret::new("open sesame");
    let object = format!("secret,id=k,file={}", text(&key));
    let source = format!("driver=luks,file.filename={},key-secret=k", text(&path));
    let options = LuksOptions { iterations: Some(1000), ..LuksOptions::default() };
    let volume = LuksStorage::create(TestFile::create(&path), 1 << 20, &options, &secret).unwrap();
    volume.write_zeroes(0, 1 << 20, ZeroFlags::default()).unwrap();
    volume.write_at(&[5; 3000], 1000).unwrap();
    let mut model = vec![0; 1 << 20];
    model[1000..4000].fill(5);
    assert!(contents(&volume) == model);
    run("qemu-img", &["convert", "--object", &object, "--image-opts", &source, "-O", "raw", text(&raw)]);
    assert!(std::fs::read(&raw).unwrap() == model);
    let output = ["convert", "--object", &object, "-O", "luks", "-o", "key-secret=k,iter-time=10"];
    run("qemu-img", &[&output[..], &["-f", "raw", text(&raw), text(&path)]].concat());
    let volume = LuksStorage::open(TestFile::open(&path), Some(&secret), true).unwrap();
    assert!(contents(&volume) == model);
    assert!(LuksStorage::open(TestFile::open(&path), Some(&Secret::new("no")), true).is_err());
}

#[test]
fn key_slots_can_be_changed() {
    let encryption = EncryptionOptions::Luks(LuksOptions { iterations: Some(1000), ..LuksOptions::default() });
    let options = CreateOptions { size: SIZE, encryption: Some(encryption), ..CreateOptions::default() };
    let file: Arc<dyn Storage> = Arc::new(ferro_block::MemoryStorage::new(0));
    let (one, two) = (Secret::new("one"), Secret::new("two"));
    create(&file, None, &options, Some(&one)).unwrap();
    let opening = |secret: &Secret| OpenOptions { secret: Some(secret.clone()), ..OpenOptions::default() };
    let image = Qcow2::open(files(&file), &opening(&one)).unwrap();
    image.write_at(&[7; 10_000], 300).unwrap();
    let change = |change| AmendOptions { key_slot: Some(change), ..AmendOptions::default() };
    let add = change(KeySlotChange::Add { new_secret: two.clone(), slot: None, iter_time_ms: 1 });
    image.amend(&add, Some(&one)).unwrap();
    let erase = change(KeySlotChange::EraseSecret { old_secret: one.clone(), force: false });
    image.amend(&erase, None).unwrap();
    assert!(image.amend(&change(KeySlotChange::EraseSlot { slot: 1, force: false }), None).is_err());
    image.close().unwrap();
    assert!(Qcow2::open(files(&file), &opening(&one)).is_err());
    let image = Qcow2::open(files(&file), &opening(&two)).unwrap();
    let mut buffer = [0; 10_000];
    image.read_at(&mut buffer, 300).unwrap();
    assert_eq!(buffer, [7; 10_000]);
}

#[test]
fn measuring_agrees_with_qemu() {
    if !has_qemu() {
        return;
    }
    for (name, options) in variants() {
        for size in [0, 1 << 20, 3 << 30, (100 << 30) + 512] {
            if name.contains("cluster_size=512") && size > 4 << 30 {
                continue;
            }
            let arguments = ["measure", "--output=json", "-O", "qcow2", "-o", name, "--size", &size.to_string()];
            let qemu: serde_json::Value = serde_json::from_str(&run("qemu-img", &arguments)).unwrap();
            let ours = measure(&CreateOptions { size, ..options.clone() }, &Measure::default()).unwrap();
            assert_eq!(qemu["fully-allocated"], ours.fully_allocated, "{name} {size}");
            assert_eq!(qemu["required"], ours.required, "{name} {size}");
        }
    }
}

#[test]
fn snapshots_go_both_ways() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, raw) = (dir.path().join("a.qcow2"), dir.path().join("a.raw"));
    for (name, options) in variants() {
        // Compressed clusters share host clusters: two bits can't count them twice.
        if options.refcount_bits < 4 {
            continue;
        }
        println!("{name}");
        let file = TestFile::create(&path);
        create(&file, None, &options, None).unwrap();
        let mut random = Random(7);
        let image = open(&file);
        let mut model = contents(&image);
        let cluster = 1 << options.cluster_bits;
        scribble(&image, &mut model, &mut random, 30, cluster);
        let state = random.data(300_000);
        image.vmstate_write(0, &state).unwrap();
        let new = NewSnapshot { name: "one".into(), vm_state_size: 300_000, date_sec: 1000, ..NewSnapshot::default() };
        image.snapshot_create(&new).unwrap();
        let first = model.clone();
        scribble(&image, &mut model, &mut random, 30, cluster);
        let view = image.open_snapshot("one").unwrap();
        assert!(contents(&*view) == first);
        let mut read = vec![0; state.len()];
        view.vmstate_read(0, &mut read).unwrap();
        assert!(read == state);
        drop(view);
        image.close().unwrap();
        run("qemu-img", &["check", text(&path)]);
        run("qemu-img", &["snapshot", "-c", "two", text(&path)]);
        run("qemu-img", &["snapshot", "-a", "one", text(&path)]);
        assert_same(&path, &raw, &first);
        let image = open(&TestFile::open(&path));
        assert!(contents(&image) == first);
        assert_eq!(image.snapshots().len(), 2);
        image.snapshot_apply("two").unwrap();
        assert!(contents(&image) == model);
        image.snapshot_delete("one").unwrap();
        let report = image.check(Repair::None).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
        image.close().unwrap();
        run("qemu-img", &["check", text(&path)]);
        run("qemu-img", &["snapshot", "-d", "two", text(&path)]);
        let file = TestFile::open(&path);
        let image = open(&file);
        image.resize(SIZE * 2, Preallocation::Off).unwrap();
        model.resize(SIZE as usize * 2, 0);
        assert!(contents(&image) == model);
        image.resize(SIZE / 3, Preallocation::Off).unwrap();
        image.resize(SIZE, Preallocation::Metadata).unwrap();
        model.truncate(SIZE as usize / 3 / 512 * 512);
        model.resize(SIZE as usize, 0);
        image.close().unwrap();
        run("qemu-img", &["check", text(&path)]);
        assert_same(&path, &raw, &model);
    }
}

#[test]
fn bitmaps_go_both_ways() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let options = CreateOptions { size: SIZE, ..CreateOptions::default() };
    let file = TestFile::create(&path);
    create(&file, None, &options, None).unwrap();
    let image = open(&file);
    image.bitmap_add("ours", Some(4096)).unwrap();
    image.write_at(&[1; 5000], 100_000).unwrap();
    let ranges = image.bitmap_ranges("ours", 0, SIZE).unwrap();
    assert_eq!(ranges, [(98304, 8192)]);
    image.close().unwrap();
    run("qemu-img", &["check", text(&path)]);
    run("qemu-img", &["bitmap", "--add", "-g", "64k", text(&path), "theirs"]);
    run("qemu-img", &["bitmap", "--merge", "ours", text(&path), "theirs"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write 1M 64k", text(&path)]);
    let image = open(&TestFile::open(&path));
    assert_eq!(image.bitmap_ranges("theirs", 0, SIZE).unwrap(), [(65536, 65536), (1 << 20, 65536)]);
    assert_eq!(image.bitmap_ranges("ours", 0, SIZE).unwrap(), [(98304, 8192), (1 << 20, 65536)]);
    image.bitmap_remove("theirs").unwrap();
    image.resize(SIZE + 65536, Preallocation::Off).unwrap();
    image.close().unwrap();
    let report = run("qemu-img", &["check", text(&path)]);
    assert!(report.contains("No errors"), "{report}");
    let info = run("qemu-img", &["info", text(&path)]);
    assert!(info.contains("ours") && !info.contains("theirs"), "{info}");
}

#[test]
fn backing_files_and_data_files() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (base, top, raw) = (dir.path().join("base.raw"), dir.path().join("top.qcow2"), dir.path().join("a.raw"));
    let mut random = Random(5);
    let mut below = random.data(3 << 20);
    std::fs::write(&base, &below).unwrap();
    for extended_l2 in [false, true] {
        for compat in [Compat::V2, Compat::V3] {
            if extended_l2 && compat == Compat::V2 {
                continue;
            }
            let options = CreateOptions {
                size: SIZE,
                compat,
                extended_l2,
                backing_file: Some("base.raw".into()),
                backing_format: Some("raw".into()),
                ..CreateOptions::default()
            };
            let file = TestFile::create(&top);
            create(&file, None, &options, None).unwrap();
            let image =
                Qcow2::open(Files { backing: Some(TestFile::open(&base)), ..files(&file) }, &OpenOptions::default())
                    .unwrap();
            below.resize(SIZE as usize, 0);
            let mut model = below.clone();
            assert!(contents(&image) == model);
            scribble(&image, &mut model, &mut random, 60, 65536);
            assert!(contents(&image) == model);
            image.close().unwrap();
            run("qemu-img", &["check", text(&top)]);
            assert_same(&top, &raw, &model);
        }
    }
    for data_file_raw in [false, true] {
        let options = CreateOptions {
            size: SIZE,
            data_file: Some(text(&dir.path().join("data.bin")).into()),
            data_file_raw,
            ..CreateOptions::default()
        };
        let (file, data) = (TestFile::create(&top), TestFile::create(&dir.path().join("data.bin")));
        create(&file, Some(&data), &options, None).unwrap();
        let image =
            Qcow2::open(Files { data_file: Some(Arc::clone(&data)), ..files(&file) }, &OpenOptions::default()).unwrap();
        let mut model = vec![0; SIZE as usize];
        for _ in 0..60 {
            let (at, len) = (random.below(SIZE - 100_000), random.below(100_000));
            if random.chance(70) {
                let data = random.data(len as usize);
                image.write_at(&data, at).unwrap();
                model[at as usize..][..len as usize].copy_from_slice(&data);
            } else {
                image.write_zeroes(at, len, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).unwrap();
                model[at as usize..][..len as usize].fill(0);
            }
        }
        assert!(contents(&image) == model);
        image.close().unwrap();
        run("qemu-img", &["check", text(&top)]);
        assert_same(&top, &raw, &model);
        assert!(!data_file_raw || contents(&*data) == model);
    }
}
