//! What is measured: the rows of the table, in its order.

use std::fs::File;

use anyhow::Context;
use serde_json::Value;

use super::Row;
use super::trial::{Server, Work, median};

const SECRET: &str = "--object secret,id=s,file=key";
const LUKS: &str = "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100";

/// Adds all rows that are wanted. When something fails, those before it are there.
pub(super) fn all(work: &Work, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    source(work)?;
    conversions(work, rows)?;
    metadata(work, rows)?;
    data_path(work, rows)?;
    nbd(work, rows)
}

/// A source of which every other MiB is a hole and the others look like files: noise, text and tables.
fn source(work: &Work) -> anyhow::Result<()> {
    eprintln!("source…");
    let file = File::create(work.path("source.raw"))?;
    file.set_len(work.size)?;
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["the ", "disk ", "of ", "a ", "machine ", "holds ", "files ", "and ", "tables ", "0x0000 ", "\n"];
    let mut block = vec![0u8; 1 << 20];
    for mebibyte in (0..work.size >> 20).step_by(2) {
        match mebibyte / 2 % 3 {
            0 => block.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&next().to_le_bytes())),
            1 => {
                let mut at = 0;
                while at < block.len() {
                    let word = words[next() as usize % words.len()].as_bytes();
                    let len = word.len().min(block.len() - at);
                    block[at..at + len].copy_from_slice(&word[..len]);
                    at += len;
                }
            }
            _ => block.chunks_exact_mut(16).enumerate().for_each(|(index, chunk)| {
                chunk[..8].copy_from_slice(&(index as u64).to_le_bytes());
                chunk[8..].copy_from_slice(&(next() & 0xffff).to_le_bytes());
            }),
        }
        std::os::unix::fs::FileExt::write_all_at(&file, &block, mebibyte << 20)?;
    }
    std::fs::write(work.path("key"), "benchmark")?;
    work.run("qemu-img convert -f raw -O qcow2 source.raw source.qcow2")?;
    Ok(())
}

fn conversions(work: &Work, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut convert = |name: &str, arguments: &str| -> anyhow::Result<()> {
        let line = |program: &str| format!("{program} convert {arguments} out{{0}}.img");
        rows.extend(work.times(name, "rm -f out{0}.img", &line("ferro img"), &line("qemu-img"))?);
        Ok(())
    };
    convert("convert raw → qcow2", "-f raw -O qcow2 source.raw")?;
    convert("convert qcow2 → raw", "-f qcow2 -O raw source.qcow2")?;
    for (kind, threads) in [("zlib", 1), ("zlib", 2), ("zstd", 1), ("zstd", 2)] {
        let arguments = format!("-c -m {threads} -f raw -O qcow2 -o compression_type={kind} source.raw");
        convert(&format!("compress {kind}, -m {threads}"), &arguments)?;
    }
    convert("LUKS write", &format!("{SECRET} -f raw -O qcow2 {LUKS} source.raw"))?;
    work.run(&format!("ferro img convert {SECRET} -f raw -O qcow2 {LUKS} source.raw locked.qcow2"))?;
    let open = "--image-opts driver=qcow2,encrypt.key-secret=s,file.filename=locked.qcow2";
    convert("LUKS read", &format!("{SECRET} -O raw {open}"))?;
    work.run("rm -f out0.img out1.img locked.qcow2")?;
    Ok(())
}

fn metadata(work: &Work, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    work.run("cp source.qcow2 snap0.qcow2")?;
    work.run("cp source.qcow2 snap1.qcow2")?;
    let large = "create -q -f qcow2 -o preallocation=metadata new{0}.img 20G";
    for (name, prepare, arguments) in [
        ("create", "rm -f new{0}.img", "create -q -f qcow2 new{0}.img 2G"),
        ("create, preallocation=metadata", "rm -f new{0}.img", large),
        ("snapshot create", "", "snapshot -c one snap{0}.qcow2"),
        ("snapshot delete", "qemu-img snapshot -c two snap{0}.qcow2", "snapshot -d two snap{0}.qcow2"),
        ("check", "", "check -q source.qcow2"),
        ("compare", "", "compare -q -f raw -F qcow2 source.raw source.qcow2"),
        ("map", "", "map --output=json source.qcow2"),
        ("info", "", "info source.qcow2"),
    ] {
        let line = |program: &str| format!("{program} {arguments}");
        rows.extend(work.times(name, prepare, &line("ferro img"), &line("qemu-img"))?);
    }
    work.run("rm -f snap0.qcow2 snap1.qcow2 new0.img new1.img")?;
    Ok(())
}

/// Reads and writes through qcow2 past the host's cache, by either side's own `bench`. Encrypted
/// images are measured through the servers: `qemu-img bench` takes no secrets.
fn data_path(work: &Work, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let size = work.size / 4;
    // Each is written in full: what was only reserved, or left out by cp, is read without asking the disk.
    for side in 0..2 {
        work.run(&format!("qemu-img create -q -f qcow2 -o preallocation=metadata full{side}.qcow2 {size}"))?;
        let flags = format!("-w -q -t none -d 4 -s 1M -c {} --pattern=1", size >> 20);
        work.run(&format!("qemu-img bench {flags} -f qcow2 full{side}.qcow2"))?;
    }
    // A stride that isn't whole clusters visits the disk out of order.
    let count = if work.size > 1 << 30 { 60_000 } else { 15_000 };
    let small = |count: u64| format!("-q -t none -d 32 -s 4k -S 1085440 -c {count}");
    let large = format!("-q -t none -d 8 -s 1M -c {}", size >> 20);
    let fresh = format!("rm -f grow{{0}}.qcow2; qemu-img create -q -f qcow2 grow{{0}}.qcow2 {size}");
    let (full, grow) = ("-f qcow2 full{0}.qcow2", "-f qcow2 grow{0}.qcow2");
    for (name, prepare, flags, image) in [
        ("4 KiB random read, depth 32", "", small(count), full),
        ("4 KiB random write, depth 32", "", format!("-w {}", small(count)), full),
        ("4 KiB random write, allocating", fresh.as_str(), format!("-w {}", small(count / 10)), grow),
        ("1 MiB read", "", large.clone(), full),
        ("1 MiB write", "", format!("-w {large}"), full),
        ("1 MiB write, allocating", fresh.as_str(), format!("-w {large}"), grow),
    ] {
        let ours = format!("ferro img bench {flags} {image}");
        let theirs = format!("qemu-img bench -i io_uring {flags} {image}");
        rows.extend(work.times(name, prepare, &ours, &theirs)?);
    }
    work.run("rm -f full0.qcow2 full1.qcow2 grow0.qcow2 grow1.qcow2")?;
    Ok(())
}

/// Both servers with fio's client.
fn nbd(work: &Work, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let size = work.size / 4;
    let seconds = if work.size > 1 << 30 { 3 } else { 1 };
    for (name, flags, unit, key) in [
        ("NBD 4 KiB random read, depth 1", "--rw=randread --bs=4k --iodepth=1", "IOPS", "read"),
        ("NBD 4 KiB random read, depth 32", "--rw=randread --bs=4k --iodepth=32", "IOPS", "read"),
        ("NBD 4 KiB random write, depth 32", "--rw=randwrite --bs=4k --iodepth=32", "IOPS", "write"),
        ("NBD 1 MiB read, depth 4", "--rw=read --bs=1M --iodepth=4", "MiB/s", "read"),
        ("NBD 1 MiB write, depth 4", "--rw=write --bs=1M --iodepth=4", "MiB/s", "write"),
        ("NBD 4 KiB random read, encrypted", "--rw=randread --bs=4k --iodepth=32", "IOPS", "read"),
        ("NBD 1 MiB read, encrypted", "--rw=read --bs=1M --iodepth=4", "MiB/s", "read"),
        ("NBD 1 MiB write, encrypted", "--rw=write --bs=1M --iodepth=4", "MiB/s", "write"),
    ] {
        if !work.wants(name) {
            continue;
        }
        let socket = work.path("socket");
        let (image, options) = if name.contains("encrypted") {
            let open = "--image-opts driver=qcow2,encrypt.key-secret=s,file.filename=nbd.qcow2";
            (format!("{SECRET} {open}"), format!("{SECRET} {LUKS},preallocation=full"))
        } else {
            ("-f qcow2 nbd.qcow2".to_owned(), "-o preallocation=full".to_owned())
        };
        let lines = [
            format!("ferro img serve --socket socket {image}"),
            format!("qemu-nbd -t --shared=4 -k {} {image}", socket.display()),
        ];
        let mut figures = [Vec::new(), Vec::new()];
        let mut memory = [0, 0];
        work.run(&format!("ferro img create -q -f qcow2 {options} nbd.qcow2 {size}"))?;
        for round in 0..=work.runs.min(3) {
            for (side, line) in lines.iter().enumerate() {
                work.run("rm -f socket")?;
                let server = Server::start(work.command(line), &socket)?;
                let figure = fio(work, flags, seconds, key, unit == "IOPS")?;
                memory[side] = server.peak().max(memory[side]);
                if round > 0 {
                    figures[side].push(figure);
                }
            }
        }
        let [ours, theirs] = figures.map(median);
        rows.push(Row { name: name.into(), ours, theirs, unit, memory: (memory[0], memory[1]) });
    }
    work.run("rm -f nbd.qcow2")?;
    Ok(())
}

fn fio(work: &Work, flags: &str, seconds: u32, key: &str, iops: bool) -> anyhow::Result<f64> {
    let uri = format!("nbd+unix:///?socket={}", work.path("socket").display());
    let size = work.size / 4;
    let text = work.run(&format!(
        "fio --name=x --ioengine=nbd --uri={uri} {flags} --size={size} --runtime={seconds} --time_based \
         --output-format=json"
    ))?;
    let start = text.find('{').context("fio says nothing")?;
    let value: Value = serde_json::from_str(&text[start..])?;
    let side = &value["jobs"][0][key];
    let figure =
        if iops { side["iops"].as_f64() } else { side["bw_bytes"].as_f64().map(|rate| rate / f64::from(1 << 20)) };
    figure.context("fio gives no figure")
}
