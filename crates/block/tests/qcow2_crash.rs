//! Cutting the power: what a random workload writes is recorded and cut off at every point, with any part of what wasn't
//! flushed missing. The image must open, have no error but leaks, and hold everything that was flushed.

mod support;

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::process::Command;
use std::sync::{Arc, Mutex};

use ferro_block::qcow2::*;
use ferro_block::{Extent, MemoryStorage, Result, Storage, WriteFlags, ZeroFlags};
use support::*;

#[derive(Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Size(u64),
    Flush,
}

/// Memory that remembers everything done to it.
struct Recorder {
    memory: MemoryStorage,
    steps: Mutex<Vec<Step>>,
}

impl Recorder {
    fn push(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }

    fn len(&self) -> usize {
        self.steps.lock().unwrap().len()
    }
}

impl Storage for Recorder {
    fn size(&self) -> u64 {
        self.memory.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.memory.read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.push(Step::Write(offset, bytes));
        self.memory.write_vectored_at(buffers, offset, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.push(Step::Zero(offset, len));
        self.memory.write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.write_zeroes(offset, len, ZeroFlags::default())
    }

    fn flush(&self) -> Result<()> {
        self.push(Step::Flush);
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.memory.extent_at(offset, len)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.push(Step::Size(size));
        self.memory.set_size(size)
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    let mut fill = |offset: u64, data: &[u8]| {
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
    };
    match step {
        Step::Write(offset, data) => fill(*offset, data),
        Step::Zero(offset, len) => fill(*offset, &vec![0; *len as usize]),
        Step::Size(size) => bytes.resize(*size as usize, 0),
        Step::Flush => {}
    }
}

/// A moment at which everything was flushed.
struct Checkpoint {
    step: usize,
    model: Vec<u8>,
}

/// A change to the disk that began when `step` steps were recorded.
struct Change {
    step: usize,
    range: Range<usize>,
}

struct Workload {
    options: CreateOptions,
    initial: Vec<u8>,
    steps: Vec<Step>,
    checkpoints: Vec<Checkpoint>,
    changes: Vec<Change>,
}

const DISK: u64 = 768 << 10;

fn record(options: &CreateOptions, seed: u64, actions: usize) -> Workload {
    let memory = MemoryStorage::new(0);
    let recorder = Arc::new(Recorder { memory, steps: Mutex::default() });
    let file: Arc<dyn Storage> = Arc::<Recorder>::clone(&recorder);
    create(&file, None, options, None).unwrap();
    recorder.steps.lock().unwrap().clear();
    let initial = recorder.memory.to_bytes();
    let image = open(&file);
    let mut random = Random(seed);
    let mut model = vec![0; DISK as usize];
    let mut saved: Vec<(String, Vec<u8>)> = Vec::new();
    let mut checkpoints = vec![Checkpoint { step: 0, model: model.clone() }];
    let mut changes = Vec::new();
    let cluster = 1u64 << options.cluster_bits;
    for action in 0..actions {
        let step = recorder.len();
        let size = model.len() as u64;
        let offset = random.below(size);
        let most = if random.chance(70) { 3 * cluster } else { 20 * cluster };
        let len = random.below(most).min(size - offset);
        let range = offset as usize..(offset + len) as usize;
        let mut durable = false;
        let mut changed = range.clone();
        match random.below(100) {
            0..45 => {
                let data = random.data(len as usize);
                image.write_at(&data, offset).unwrap();
                model[range].copy_from_slice(&data);
            }
            45..55 => {
                image
                    .write_zeroes(offset, len, ZeroFlags { may_unmap: random.chance(50), ..ZeroFlags::default() })
                    .unwrap();
                model[range].fill(0);
            }
            55..63 => {
                image.discard(offset, len).unwrap();
                image.read_at(&mut model[range], offset).unwrap();
            }
            63..75 => {
                let offset = offset / cluster * cluster;
                let len = len.max(1).next_multiple_of(cluster).min(size - offset);
                let data = random.data(len as usize);
                image.write_compressed(offset, &data).unwrap();
                changed = offset as usize..(offset + len) as usize;
                model[changed.clone()].copy_from_slice(&data);
            }
            75..80 if saved.len() < 3 => {
                let name = format!("s{action}");
                image.snapshot_create(&NewSnapshot { name: name.clone(), ..NewSnapshot::default() }).unwrap();
                saved.push((name, model.clone()));
                (changed, durable) = (0..0, true);
            }
            80..83 if !saved.is_empty() => {
                let (name, _) = saved.swap_remove(random.below(saved.len() as u64) as usize);
                image.snapshot_delete(&name).unwrap();
                (changed, durable) = (0..0, true);
            }
            83..86 if !saved.is_empty() => {
                let (name, then) = &saved[random.below(saved.len() as u64) as usize];
                image.snapshot_apply(name).unwrap();
                model = then.clone();
                (changed, durable) = (0..usize::MAX, true);
            }
            86..88 if saved.is_empty() || options.compat == Compat::V3 => {
                let new = (DISK / 2 + random.below(DISK)).next_multiple_of(512);
                image.resize(new, Preallocation::Off).unwrap();
                changed = (new.min(size) as usize)..usize::MAX;
                model.resize(new as usize, 0);
            }
            88..90 if options.compat == Compat::V3 => {
                let name = format!("b{action}");
                image.bitmap_add(&name, Some(4096)).unwrap();
                changed = 0..0;
            }
            _ => {
                image.flush().unwrap();
                (changed, durable) = (0..0, true);
            }
        }
        changes.push(Change { step, range: changed });
        if durable {
            checkpoints.push(Checkpoint { step: recorder.len(), model: model.clone() });
        }
    }
    image.close().unwrap();
    checkpoints.push(Checkpoint { step: recorder.len(), model });
    let steps = recorder.steps.lock().unwrap().clone();
    Workload { options: options.clone(), initial, steps, checkpoints, changes }
}

/// The file after the power was cut before step `cut`: of what came after the last flush, only some is there.
fn cut(workload: &Workload, flushed: &(usize, Vec<u8>), cut: usize, keep: u64, random: &mut Random) -> Vec<u8> {
    let mut bytes = flushed.1.clone();
    for step in &workload.steps[flushed.0..cut] {
        if matches!(step, Step::Size(_)) || random.chance(keep) {
            apply(&mut bytes, step);
        }
    }
    bytes
}

fn judge(workload: &Workload, bytes: Vec<u8>, cut: usize, with_qemu: bool) {
    let file: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes));
    let header = probe(&*file).unwrap();
    let harmless = |report: &CheckReport| {
        // Version 2 has no dirty bit to say that flags are being changed.
        let bad =
            |message: &&String| message.starts_with("ERROR") && !(header.version == 2 && message.contains("COPIED"));
        report.messages.iter().filter(bad).count() == 0 && report.check_errors == 0
    };
    if !header.is_dirty {
        let reading = OpenOptions { read_only: true, ..OpenOptions::default() };
        let report = Qcow2::open(files(&file), &reading).unwrap().check(Repair::None).unwrap();
        assert!(harmless(&report), "cut at {cut}: {:?}", report.messages);
    }
    let image = open(&file);
    let report = image.check(Repair::None).unwrap();
    assert!(harmless(&report), "cut at {cut}, repaired: {:?}", report.messages);
    let checkpoint = workload.checkpoints.iter().rev().find(|checkpoint| checkpoint.step <= cut).unwrap();
    let now = contents(&image);
    let mut expected = checkpoint.model.clone();
    let common = expected.len().min(now.len());
    expected.truncate(common);
    // What was changed after the checkpoint may be there or not.
    let first = workload.changes.partition_point(|change| change.step < checkpoint.step);
    for change in &workload.changes[first..] {
        if change.step > cut {
            break;
        }
        let range = change.range.start.min(common)..change.range.end.min(common);
        expected[range.clone()].copy_from_slice(&now[range]);
    }
    if let Some(at) = expected.iter().zip(&now).position(|(one, other)| one != other) {
        panic!("cut at {cut}: flushed data lost at {at:#x} of the disk");
    }
    for snapshot in image.snapshots() {
        let view = image.open_snapshot(&snapshot.id).unwrap();
        let _ = contents(&*view);
    }
    image.close().unwrap();
    if with_qemu {
        check_with_qemu(&*file, header.version);
    }
}

fn check_with_qemu(file: &dyn Storage, version: u32) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.qcow2");
    std::fs::write(&path, contents(file)).unwrap();
    let output = Command::new("qemu-img").arg("check").arg(&path).output().unwrap();
    let code = output.status.code().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let errors =
        text.lines().filter(|line| line.starts_with("ERROR")).filter(|line| version > 2 || !line.contains("COPIED"));
    assert!(errors.count() == 0 && (version == 2 || [0, 3].contains(&code)), "qemu-img check: {code}\n{text}");
}

fn run_workload(options: &CreateOptions, seed: u64, actions: usize, cuts: usize, variants: usize) {
    println!("seed {seed}, {options:?}");
    let workload = record(options, seed, actions);
    let mut random = Random(seed ^ 0xdead);
    let total = workload.steps.len();
    let every = (total / cuts).max(1);
    let qemu = has_qemu();
    let mut flushed = (0, workload.initial.clone());
    for at in 0..=total {
        if at > 0 && matches!(workload.steps[at - 1], Step::Flush) {
            let done: Vec<Step> = workload.steps[flushed.0..at].to_vec();
            done.iter().for_each(|step| apply(&mut flushed.1, step));
            flushed.0 = at;
        }
        if at != total && random.below(every as u64) != 0 {
            continue;
        }
        for variant in 0..=variants {
            let keep = [100, 50, 85, 20][variant % 4];
            let bytes = cut(&workload, &flushed, at, keep, &mut random);
            judge(&workload, bytes, at, qemu && random.chance(2));
        }
    }
    let _ = &workload.options;
}

fn configurations() -> Vec<CreateOptions> {
    let base = CreateOptions { size: DISK, cluster_bits: 12, ..CreateOptions::default() };
    vec![
        base.clone(),
        CreateOptions { cluster_bits: 9, ..base.clone() },
        CreateOptions { cluster_bits: 9, refcount_bits: 64, ..base.clone() },
        CreateOptions { lazy_refcounts: true, ..base.clone() },
        CreateOptions { cluster_bits: 14, extended_l2: true, ..base.clone() },
        CreateOptions { cluster_bits: 10, compat: Compat::V2, ..base },
    ]
}

#[test]
fn a_cut_leaves_at_worst_leaks() {
    for (index, options) in configurations().iter().enumerate() {
        run_workload(options, index as u64 + 1, 60, 60, 2);
    }
}

#[test]
#[ignore = "minutes: every point of many workloads"]
fn a_cut_anywhere_leaves_at_worst_leaks() {
    let first = std::env::var("FERRO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1000);
    for seed in first..first + 40 {
        for options in &configurations() {
            run_workload(options, seed, 120, usize::MAX, 3);
        }
    }
}
