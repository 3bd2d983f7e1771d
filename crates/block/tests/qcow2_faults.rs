//! What must not happen: hostile images that take time or memory or make us panic, storage that fails in the middle, and
//! threads in each other's way.

mod support;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferro_block::qcow2::*;
use ferro_block::{MemoryStorage, Storage, ZeroFlags};
use support::*;

fn small() -> CreateOptions {
    CreateOptions { size: 4 << 20, cluster_bits: 12, ..CreateOptions::default() }
}

/// Does everything with an image that may be damaged; errors are fine.
fn exercise(bytes: Vec<u8>) {
    let start = Instant::now();
    let file: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes));
    let _ = probe(&*file);
    let reading = OpenOptions { read_only: true, for_check: true, ..OpenOptions::default() };
    if let Ok(image) = Qcow2::open(files(&file), &reading) {
        let _ = image.check(Repair::None);
        let _ = image.info();
        let mut buffer = vec![0; 70_000.min(image.size() as usize)];
        let _ = image.read_at(&mut buffer, 0);
        let last = image.size() - buffer.len() as u64;
        let _ = image.read_at(&mut buffer, last);
        if image.size() > 0 {
            let _ = image.extent_at(0, image.size());
        }
        for snapshot in image.snapshots() {
            let _ = image.open_snapshot(&snapshot.id).map(|view| view.read_at(&mut [0; 100], 0));
        }
    }
    if let Ok(image) = Qcow2::open(files(&file), &OpenOptions::default()) {
        let _ = image.write_at(&[1; 5000], 100);
        let _ = image.write_zeroes(0, image.size().min(1 << 20), ZeroFlags::default());
        let _ = image.snapshot_create(&NewSnapshot::default());
        let _ = image.snapshot_delete("1");
        let _ = image.check(Repair::All);
        let _ = image.close();
    }
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

fn with_fields(fields: &[(usize, &[u8])]) -> Vec<u8> {
    let image = open(&new_image(&small()));
    image.write_at(&[7; 100_000], 50_000).unwrap();
    image.snapshot_create(&NewSnapshot { name: "s".into(), ..NewSnapshot::default() }).unwrap();
    drop(image);
    let file = new_image(&small());
    let image = open(&file);
    image.write_at(&[7; 100_000], 50_000).unwrap();
    image.snapshot_create(&NewSnapshot { name: "s".into(), ..NewSnapshot::default() }).unwrap();
    image.close().unwrap();
    let mut bytes = contents(&*file);
    for (at, value) in fields {
        bytes[*at..at + value.len()].copy_from_slice(value);
    }
    bytes
}

#[test]
fn hostile_headers_end_in_errors() {
    let huge = u64::MAX.to_be_bytes();
    let cases: Vec<Vec<(usize, &[u8])>> = vec![
        vec![(20, &[0, 0, 0, 60])],
        vec![(24, &huge)],
        vec![(24, &[0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
        vec![(36, &[0xff; 4])],
        vec![(36, &[0, 0x3f, 0xff, 0xff])],
        vec![(40, &huge)],
        vec![(40, &[0, 0, 0, 0, 0, 0, 0, 0])],
        vec![(48, &huge)],
        vec![(48, &[0, 0, 0, 0, 0, 0, 0, 0])],
        vec![(56, &[0xff; 4])],
        vec![(56, &[0, 0, 7, 0xff])],
        vec![(60, &[0xff; 4])],
        vec![(60, &[0, 0, 0xff, 0xff])],
        vec![(64, &huge)],
        vec![(64, &[0, 0, 0, 0, 0, 0, 0, 0])],
        vec![(72, &huge)],
        vec![(72, &[0, 0, 0, 0, 0, 0, 0, 1])],
        vec![(72, &[0, 0, 0, 0, 0, 0, 0, 3])],
        vec![(96, &[0, 0, 0, 7])],
        vec![(96, &[0, 0, 0, 0])],
        vec![(100, &[0xff; 4])],
        vec![(8, &huge), (16, &[0xff; 4])],
    ];
    for case in cases {
        exercise(with_fields(&case));
    }
}

#[test]
fn random_damage_ends_in_errors() {
    let good = with_fields(&[]);
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(8) {
            // Mostly among the metadata.
            let end = if random.chance(80) { 0x8000 } else { bytes.len() as u64 };
            let at = random.below(end - 8) as usize;
            let at = if random.chance(60) { at & !7 } else { at };
            let value = match random.below(4) {
                0 => random.any(),
                1 => random.below(20) << 12,
                2 => 1 << 63 | random.below(60) << 12,
                _ => u64::MAX,
            };
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        if random.chance(10) {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        exercise(bytes);
    }
}

#[test]
fn failing_storage_loses_nothing_that_was_flushed() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for allowed in (0..120).step_by(3) {
            let failing = Failing::new(kind);
            let file: Arc<dyn Storage> = Arc::<Failing>::clone(&failing);
            create(&file, None, &small(), None).unwrap();
            let image = open(&file);
            image.write_at(&[1; 300_000], 10_000).unwrap();
            image.flush().unwrap();
            failing.fail_after(allowed);
            let mut random = Random(allowed as u64);
            let mut failures = 0;
            for step in 0..30 {
                let at = 400_000 + random.below(3 << 20);
                let result = match step % 6 {
                    5 => image.flush(),
                    4 => image.snapshot_create(&NewSnapshot::default()).map(drop),
                    3 => image.write_compressed(at & !4095, &[3; 4096]),
                    _ => image.write_at(&random.data(20_000), at),
                };
                if let Err(error) = result {
                    failures += 1;
                    assert_eq!(error.is_out_of_space(), kind == io::ErrorKind::StorageFull, "{error}");
                }
            }
            assert!(failures > 0 || allowed > 60);
            // The storage works again: everything can still be written.
            failing.fail_after(i64::MAX);
            image.flush().unwrap();
            let report = image.check(Repair::None).unwrap();
            assert_eq!(report.corruptions, 0, "{allowed}: {:?}", report.messages);
            let mut buffer = vec![0; 300_000];
            image.read_at(&mut buffer, 10_000).unwrap();
            assert!(buffer.iter().all(|&byte| byte == 1));
            image.close().unwrap();
            let again = open(&file).check(Repair::None).unwrap();
            assert_eq!(again.corruptions, 0, "{allowed}: {:?}", again.messages);
        }
    }
}

#[test]
fn threads_dont_disturb_each_other() {
    for options in [
        small(),
        CreateOptions { cluster_bits: 14, extended_l2: true, ..small() },
        CreateOptions { cluster_bits: 16, lazy_refcounts: true, ..small() },
    ] {
        let file = new_image(&options);
        let image = open(&file);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let image = &image;
                // Each thread owns every fourth 3000 bytes: neighbours share clusters.
                scope.spawn(move || {
                    let mut random = Random(thread);
                    let mut mine: Vec<Option<u8>> = vec![Some(0); (image.size() / 12_000) as usize];
                    for round in 0..1500 {
                        let index = random.below(mine.len() as u64);
                        let at = (index * 4 + thread) * 3000;
                        let value = round as u8;
                        match random.below(8) {
                            0..=3 => {
                                image.write_at(&[value; 3000], at).unwrap();
                                mine[index as usize] = Some(value);
                            }
                            4 => {
                                image
                                    .write_zeroes(at, 3000, ZeroFlags { may_unmap: true, ..ZeroFlags::default() })
                                    .unwrap();
                                mine[index as usize] = Some(0);
                            }
                            5 if thread == 0 && round % 50 == 0 => image.flush().unwrap(),
                            _ => {
                                let mut buffer = [0; 3000];
                                image.read_at(&mut buffer, at).unwrap();
                                let expected = mine[index as usize].unwrap();
                                assert!(buffer.iter().all(|&byte| byte == expected), "thread {thread} at {at}");
                            }
                        }
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..6 {
                    std::thread::sleep(Duration::from_millis(5));
                    let made = image.snapshot_create(&NewSnapshot::default()).unwrap();
                    image.flush().unwrap();
                    if round % 2 == 1 {
                        image.snapshot_delete(&made.id).unwrap();
                    }
                }
            });
        });
        let report = image.check(Repair::None).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
        image.close().unwrap();
    }
}

#[test]
fn properties_can_be_changed() {
    let file = new_image(&CreateOptions { compat: Compat::V2, ..small() });
    let image = open(&file);
    image.write_at(&[9; 100_000], 5000).unwrap();
    let amend = |options: AmendOptions| image.amend(&options, None);
    assert!(amend(AmendOptions { lazy_refcounts: Some(true), ..AmendOptions::default() }).is_err());
    amend(AmendOptions { compat: Some(Compat::V3), ..AmendOptions::default() }).unwrap();
    for bits in [64, 1, 8] {
        amend(AmendOptions { refcount_bits: Some(bits), ..AmendOptions::default() }).unwrap();
        let report = image.check(Repair::None).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{bits}: {:?}", report.messages);
        image.write_at(&[bits as u8; 100_000], 200_000).unwrap();
    }
    assert!(amend(AmendOptions { compat: Some(Compat::V2), ..AmendOptions::default() }).is_err());
    amend(AmendOptions { refcount_bits: Some(16), ..AmendOptions::default() }).unwrap();
    amend(AmendOptions { compat: Some(Compat::V2), ..AmendOptions::default() }).unwrap();
    image.set_backing(Some("below.raw"), Some("raw")).unwrap();
    image.close().unwrap();
    let header = probe(&*file).unwrap();
    assert_eq!((header.version, header.backing_file.as_deref()), (2, Some("below.raw")));
    let image = open(&file);
    let mut buffer = vec![0; 100_000];
    image.read_at(&mut buffer, 5000).unwrap();
    assert!(buffer.iter().all(|&byte| byte == 9));
    image.make_empty().unwrap();
    assert_eq!(image.check(Repair::None).unwrap().allocated_clusters, 0);
}

#[test]
fn damage_is_repaired() {
    let bytes = with_fields(&[]);
    // A refcount block of zeros, then one of too high counts.
    for value in [0u8, 9] {
        let mut bytes = bytes.clone();
        let block = u64::from_be_bytes(bytes[4096..4104].try_into().unwrap()) as usize;
        bytes[block + 1..block + 101].fill(value);
        let file: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes));
        let opening = OpenOptions { for_check: true, ..OpenOptions::default() };
        let image = Qcow2::open(files(&file), &opening).unwrap();
        let found = image.check(Repair::None).unwrap();
        assert!(found.corruptions + found.leaks > 0);
        image.check(Repair::All).unwrap();
        let after = image.check(Repair::None).unwrap();
        assert_eq!((after.corruptions, after.leaks), (0, 0), "{:?}", after.messages);
        let mut buffer = vec![0; 100_000];
        image.read_at(&mut buffer, 50_000).unwrap();
        assert!(buffer.iter().all(|&byte| byte == 7));
    }
}

#[test]
fn direct_access_goes_where_the_data_are() {
    let file = new_image(&small());
    let image = open(&file);
    image.write_at(&[5; 20_000], 8192).unwrap();
    assert!(image.lookup(0, 4096, false).unwrap().is_none());
    let direct = image.lookup(9000, 100_000, true).unwrap().unwrap();
    assert_eq!(direct.len, 20_480 + 8192 - 9000);
    let mut there = [0; 100];
    direct.file.read_at(&mut there, direct.host_offset).unwrap();
    assert_eq!(there, [5; 100]);
    direct.file.write_at(&[6; 100], direct.host_offset).unwrap();
    // A flush doesn't wait for the ticket, and doesn't give the clusters away.
    image.discard(8192, 8192).unwrap();
    image.flush().unwrap();
    image.write_at(&[9; 500_000], 1 << 20).unwrap();
    direct.file.read_at(&mut there, direct.host_offset).unwrap();
    assert_eq!(there, [6; 100]);
    drop(direct);
    image.snapshot_create(&NewSnapshot::default()).unwrap();
    assert!(image.lookup(1 << 20, 4096, false).unwrap().is_some());
    assert!(image.lookup(1 << 20, 4096, true).unwrap().is_none(), "shared with the snapshot");
    image.flush().unwrap();
    let report = image.check(Repair::None).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.messages);
}

#[test]
fn a_table_given_back_is_no_fresh_cluster() {
    // Every cluster that held a table must read as zeros around new data.
    let file = new_image(&CreateOptions { size: 1 << 20, cluster_bits: 9, ..CreateOptions::default() });
    let image = open(&file);
    let mut random = Random(4);
    let mut model = vec![0; 1 << 20];
    for round in 0..60 {
        for _ in 0..10 {
            let at = random.below((1 << 20) - 100) as usize;
            image.write_at(&[round + 1; 100], at as u64).unwrap();
            model[at..at + 100].fill(round + 1);
        }
        let made = image.snapshot_create(&NewSnapshot::default()).unwrap();
        image.write_at(&[1; 1], 0).unwrap();
        model[0] = 1;
        image.snapshot_delete(&made.id).unwrap();
        image.discard(512 << 10, 256 << 10).unwrap();
        model[512 << 10..768 << 10].fill(0);
        image.flush().unwrap();
        assert!(contents(&image) == model, "round {round}");
    }
}
