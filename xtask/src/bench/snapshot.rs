//! `bench snapshot`: how long a running VM stands still for `savevm` and `loadvm`, beside QEMU's TCG with the same kernel,
//! RAM disk and contents of memory.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::guest::{GuestArgs, Machine, median, show};
use crate::process::{self, command};

/// Fills memory with what compresses (text) and what doesn't (noise).
const FILL: &str = "dd if=/dev/urandom of=/tmp/noise bs=1M count=96 2>/dev/null; \
                    for n in $(seq 200000); do echo line $n of a text; done > /tmp/text; cp /tmp/text /tmp/same; echo fil''led\n";

/// A VM at whose monitor commands are timed.
struct Vm {
    child: Child,
    monitor: UnixStream,
    prompt: &'static [u8],
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vm {
    /// Starts it, waits for its shell and has it fill its memory.
    fn start(mut command: Command, socket: &Path, prompt: &'static [u8]) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?);
        // Typed before there is a shell, it would be lost.
        let (mut seen, mut byte) = (vec![], [0]);
        while !seen.ends_with(b"/ # ") {
            lines.read_exact(&mut byte).with_context(|| format!("{command:?} ended"))?;
            seen.push(byte[0]);
        }
        child.stdin.as_mut().context("it is piped")?.write_all(FILL.as_bytes())?;
        let mut line = vec![];
        while !String::from_utf8_lossy(&line).contains("filled") {
            line.clear();
            ensure!(lines.read_until(b'\n', &mut line)? > 0, "{command:?} ended");
        }
        // What it prints from now on is of no interest, but must be read.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let monitor = UnixStream::connect(socket)?;
        monitor.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut vm = Self { child, monitor, prompt };
        vm.answer()?;
        Ok(vm)
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let (mut text, mut part) = (vec![], [0; 4096]);
        while !text.ends_with(self.prompt) {
            let len = self.monitor.read(&mut part)?;
            ensure!(len > 0, "the monitor is gone");
            text.extend_from_slice(&part[..len]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Seconds that a command takes.
    fn time(&mut self, line: &str) -> anyhow::Result<f64> {
        let begin = Instant::now();
        self.monitor.write_all(format!("{line}\n").as_bytes())?;
        let answer = self.answer()?;
        let taken = begin.elapsed().as_secs_f64();
        if answer.contains("Error") {
            bail!("{line}: {answer}");
        }
        Ok(taken)
    }
}

/// `savevm`, `loadvm` and the mebibytes that the state takes.
fn measure(mut vm: Vm, disk: &Path) -> anyhow::Result<[f64; 3]> {
    let saved = vm.time("savevm bench")?;
    let loaded = vm.time("loadvm bench")?;
    drop(vm);
    let mut qemu = command("qemu-img");
    let listed = process::output(qemu.args(["info", "--output=json"]).arg(disk))?;
    let info: serde_json::Value = serde_json::from_str(&listed)?;
    let size = info["snapshots"][0]["vm-state-size"].as_f64().context("the image has no snapshot")?;
    Ok([saved, loaded, size / f64::from(1 << 20)])
}

/// Runs it.
pub(super) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let folder = std::env::temp_dir().join(format!("ferro-bench-snapshot-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = compare(&machine, args, &folder);
    std::fs::remove_dir_all(&folder)?;
    show(&result?, args.markdown.as_deref())
}

fn compare(machine: &Machine, args: &GuestArgs, folder: &Path) -> anyhow::Result<String> {
    let (disk, socket) = (folder.join("disk.qcow2"), folder.join("monitor"));
    let kernel = |into: &mut Command, dash: &str| {
        into.arg(format!("{dash}kernel")).arg(machine.guests.join("vmlinuz-cloud-amd64"));
        into.arg(format!("{dash}initrd")).arg(machine.guests.join("initrd-cloud-amd64.gz"));
        into.args([format!("{dash}append"), "console=ttyS0 quiet".into()]);
    };
    let ours = || {
        let mut ferro = command(&machine.ferro);
        ferro.args(["run", "--accel", "soft", "--memory", "512M", "--serial", "stdio"]);
        ferro.arg("--disk").arg(&disk).arg("--monitor").arg(format!("unix:{}", socket.display()));
        kernel(&mut ferro, "--");
        Vm::start(ferro, &socket, b"(ferro) ")
    };
    let theirs = || {
        let mut qemu = command("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "512", "-display", "none", "-serial", "stdio", "-nic", "none"]);
        qemu.args(["-cpu", "Nehalem", "-drive"]).arg(format!("file={},if=virtio,format=qcow2", disk.display()));
        qemu.arg("-monitor").arg(format!("unix:{},server,nowait", socket.display()));
        kernel(&mut qemu, "-");
        Vm::start(qemu, &socket, b"(qemu) ")
    };
    let mut sides: [Vec<[f64; 3]>; 2] = Default::default();
    for round in 0..=args.runs {
        for (side, start) in [&ours as &dyn Fn() -> anyhow::Result<Vm>, &theirs].into_iter().enumerate() {
            // The old socket and image may be there from the last round.
            let _ = std::fs::remove_file(&socket);
            let mut create = command("qemu-img");
            process::run(create.args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("1G"))?;
            let figures = measure(start()?, &disk)?;
            if round > 0 {
                sides[side].push(figures);
            }
        }
    }
    let middle = |side: usize, what: usize| median(sides[side].iter().map(|figures| figures[what]).collect());
    let mut table = String::from("| what | ferro soft | QEMU TCG | ferro's / QEMU's |\n|---|---|---|---|\n");
    for (what, name, unit) in [(0, "savevm", "s"), (1, "loadvm", "s"), (2, "state in the image", "MiB")] {
        let (ours, theirs) = (middle(0, what), middle(1, what));
        writeln!(table, "| {name}, 512 MiB guest | {ours:.2} {unit} | {theirs:.2} {unit} | {:.2} |", ours / theirs)?;
    }
    Ok(table)
}
