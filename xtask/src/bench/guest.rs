//! `bench boot` and `bench cpu`: the same Debian kernel and programs on Ferro's software CPU, on QEMU's TCG and, for the
//! programs, natively.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::process::{self, cargo, command, output, target};
use crate::{guests, packages};

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct GuestArgs {
    /// Runs of each side after one that warms up
    #[arg(long, default_value_t = 5)]
    pub(super) runs: usize,
    /// Also write the table, as Markdown, to this file
    #[arg(long)]
    pub(super) markdown: Option<PathBuf>,
}

/// What a benchmark with guests needs.
pub(super) struct Machine {
    /// The command under test.
    pub(super) ferro: PathBuf,
    /// The folder of guests.
    pub(super) guests: PathBuf,
}

impl Machine {
    /// Builds all of it.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        packages::ensure(packages::ALL)?;
        let guests = guests::build()?;
        process::run(cargo().args(["build", "--release", "--quiet", "--bin", "ferro"]))?;
        Ok(Self { ferro: target().join("release/ferro"), guests })
    }

    fn append(run: &str) -> String {
        format!("console=ttyS0 quiet ferro.run={}", run.replace(' ', "+"))
    }

    /// Boots, runs a command in the guest, and returns what was printed.
    fn ours(&self, run: &str) -> anyhow::Result<String> {
        self.ours_with(run, &[])
    }

    /// The same with more flags.
    pub(super) fn ours_with(&self, run: &str, flags: &[&str]) -> anyhow::Result<String> {
        let mut ferro = command(&self.ferro);
        ferro.args(["run", "--accel", "soft", "--memory", "256M", "--serial", "stdio", "--append", &Self::append(run)]);
        ferro.arg("--kernel").arg(self.guests.join("vmlinuz-cloud-amd64"));
        ferro.arg("--initrd").arg(self.guests.join("initrd-cloud-amd64.gz"));
        output(ferro.args(flags).stdin(std::process::Stdio::null()))
    }

    fn theirs(&self, run: &str) -> anyhow::Result<String> {
        self.theirs_with(run, &[])
    }

    /// The same on QEMU.
    pub(super) fn theirs_with(&self, run: &str, flags: &[&str]) -> anyhow::Result<String> {
        let mut qemu = command("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "256", "-nographic", "-no-reboot", "-nic", "none", "-cpu", "Nehalem"]);
        qemu.args(["-append", &Self::append(run)]);
        qemu.arg("-kernel").arg(self.guests.join("vmlinuz-cloud-amd64"));
        qemu.arg("-initrd").arg(self.guests.join("initrd-cloud-amd64.gz"));
        output(qemu.args(flags).stdin(std::process::Stdio::null()))
    }
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a table, and writes it to a file where that is wanted.
pub(super) fn show(table: &str, markdown: Option<&Path>) -> anyhow::Result<()> {
    print!("{table}");
    if let Some(path) = markdown {
        std::fs::write(path, table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// From exec to the end of a guest that does nothing but come up: its userland has run and it has powered off.
pub(crate) fn boot(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let timed = |run: &dyn Fn() -> anyhow::Result<String>| -> anyhow::Result<f64> {
        let begin = Instant::now();
        let printed = run()?;
        ensure!(printed.contains("FERRO-GUEST status 0"), "the guest did not come up:\n{printed}");
        Ok(begin.elapsed().as_secs_f64())
    };
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..=args.runs {
        let one = (timed(&|| machine.ours("true"))?, timed(&|| machine.theirs("true"))?);
        if round > 0 {
            ours.push(one.0);
            theirs.push(one.1);
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let mut table = String::from("| what | ferro | QEMU TCG | ferro's time / QEMU's |\n|---|---|---|---|\n");
    writeln!(
        table,
        "| exec to power-off, Debian cloud kernel, busybox | {ours:.2} s | {theirs:.2} s | {:.2} |",
        ours / theirs
    )?;
    show(&table, args.markdown.as_deref())
}

/// Nanoseconds and check value by program.
pub(super) type Measured = BTreeMap<String, (f64, String)>;

/// Takes the lines that the guest programs print.
pub(super) fn measured(printed: &str) -> Measured {
    let lines = printed.lines().filter_map(|line| line.trim().strip_prefix("MEASURE "));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            Some((name, (words.next()?.parse().ok()?, words.next()?.to_owned())))
        })
        .collect()
}

/// Guest programs: integers, hashing, floating point, memory, system calls, processes.
pub(crate) fn cpu(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let mut sides: [Vec<Measured>; 3] = Default::default();
    for _ in 0..args.runs.max(1) {
        sides[0].push(measured(&machine.ours("measure")?));
        sides[1].push(measured(&machine.theirs("measure")?));
        sides[2].push(measured(&output(&mut command(machine.guests.join("measure")))?));
    }
    let mut table = String::from(
        "| program | ferro soft | QEMU TCG | native | ferro's time / QEMU's | ferro's time / native |\n|---|---|---|---|---|---|\n",
    );
    let names: Vec<String> = sides[2][0].keys().cloned().collect();
    for name in names {
        let mut medians = [0.0; 3];
        for (side, runs) in sides.iter().enumerate() {
            let times = runs.iter().map(|run| run.get(&name).map(|(time, _)| *time).context(name.clone()));
            medians[side] = median(times.collect::<anyhow::Result<_>>()?) / 1e6;
            ensure!(runs[0][&name].1 == sides[2][0][&name].1, "{name} computes something else on side {side}");
        }
        let [ours, theirs, native] = medians;
        writeln!(
            table,
            "| {name} | {ours:.1} ms | {theirs:.1} ms | {native:.1} ms | {:.2} | {:.1} |",
            ours / theirs,
            ours / native
        )?;
    }
    show(&table, args.markdown.as_deref())
}
