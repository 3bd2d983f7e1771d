//! `bench start`: how long a VM takes from exec to its guest's first port write, and how much memory its process has when
//! the guest has halted.

use std::fmt::Write as _;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::guest::{GuestArgs, Machine, median, show};
use crate::process::command;

/// One way to run the guest.
struct Way {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
}

fn qemu(machine: &Machine, board: &'static str, accelerator: &'static str) -> Box<dyn Fn() -> Command> {
    let kernel = machine.guests.join("first.elf");
    Box::new(move || {
        let mut qemu = command("qemu-system-x86_64");
        qemu.args([
            "-M",
            board,
            "-accel",
            accelerator,
            "-m",
            "128",
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
        ]);
        qemu.arg("-kernel").arg(&kernel);
        qemu
    })
}

fn ferro(machine: &Machine, accelerator: &'static str) -> Box<dyn Fn() -> Command> {
    let (program, kernel) = (machine.ferro.clone(), machine.guests.join("first.elf"));
    Box::new(move || {
        let mut ferro = command(&program);
        ferro
            .args(["run", "--accel", accelerator, "--memory", "128M", "--serial", "stdio"])
            .arg("--kernel")
            .arg(&kernel);
        ferro
    })
}

/// Milliseconds to the first byte, and KiB of memory by the kernel's proportional account once the guest has halted.
fn measure(mut command: Command) -> anyhow::Result<(f64, f64)> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut byte = [0];
    let read = child.stdout.as_mut().context("it is piped")?.read(&mut byte);
    let taken = begin.elapsed().as_secs_f64() * 1e3;
    // The guest has only to halt; what else starts up with the process is over by then, too.
    std::thread::sleep(Duration::from_millis(200));
    let account = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id()));
    child.kill()?;
    child.wait()?;
    ensure!(read? == 1 && byte == *b"!", "{command:?}: the guest did not begin");
    let account = account?;
    let line = account.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kibibytes = line.split_whitespace().next().context("a number")?.parse()?;
    Ok((taken, kibibytes))
}

/// Runs it.
pub(super) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let mut ways = vec![
        Way { name: "ferro soft", command: ferro(&machine, "soft") },
        Way { name: "QEMU TCG, microvm", command: qemu(&machine, "microvm", "tcg") },
        Way { name: "QEMU TCG, pc", command: qemu(&machine, "pc", "tcg") },
    ];
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        ways.push(Way { name: "ferro kvm", command: ferro(&machine, "kvm") });
        ways.push(Way { name: "QEMU KVM, microvm", command: qemu(&machine, "microvm", "kvm") });
        ways.push(Way { name: "QEMU KVM, pc", command: qemu(&machine, "pc", "kvm") });
    } else {
        println!("/dev/kvm is missing or may not be used: nothing is measured on it");
    }
    let mut measured = vec![(vec![], vec![]); ways.len()];
    for round in 0..=args.runs {
        for (way, (times, sizes)) in ways.iter().zip(&mut measured) {
            let (time, size) = measure((way.command)()).with_context(|| way.name)?;
            if round > 0 {
                times.push(time);
                sizes.push(size);
            }
        }
    }
    let mut table =
        String::from("| 128 MiB VM | exec to the first port write | memory of its process (PSS) |\n|---|---|---|\n");
    for (way, (times, sizes)) in ways.iter().zip(measured) {
        writeln!(table, "| {} | {:.1} ms | {:.1} MiB |", way.name, median(times), median(sizes) / 1024.0)?;
    }
    show(&table, args.markdown.as_deref())
}
