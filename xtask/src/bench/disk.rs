//! `bench disk`: a virtio disk on a raw and on a qcow2 image, as the guest program `measure-disk` finds it.

use std::fmt::Write as _;

use anyhow::{Context, ensure};

use super::guest::{GuestArgs, Machine, Measured, measured, median, show};
use crate::process::{command, output, target};

const SIZE: &str = "256M";
/// In the order in which the program prints them.
const ROWS: &[(&str, &str, f64)] = &[
    ("write-1M", "write, 1 MiB", 1.0),
    ("read-1M", "read, 1 MiB", 1.0),
    ("write-4k", "random write, 4 KiB, depth 1", 0.0),
    ("read-4k", "random read, 4 KiB, depth 1", 0.0),
    ("write-4k-x8", "random write, 4 KiB, depth 8", 0.0),
    ("read-4k-x8", "random read, 4 KiB, depth 8", 0.0),
];

/// Runs it.
pub(super) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let folder = target().join("bench-disk");
    std::fs::create_dir_all(&folder)?;
    let mut table =
        String::from("| image | what | ferro soft | QEMU TCG | ferro's speed / QEMU's |\n|---|---|---|---|---|\n");
    for format in ["raw", "qcow2"] {
        let mut sides: [Vec<Measured>; 2] = Default::default();
        for round in 0..=args.runs {
            let image = folder.join(format!("{round}.{format}"));
            let name = image.display();
            let fresh =
                || output(command(&machine.ferro).args(["img", "create", "-q", "-f", format]).arg(&image).arg(SIZE));
            let run = "modprobe virtio_pci; modprobe virtio_blk; measure-disk /dev/vda";
            fresh()?;
            let ours = machine.ours_with(run, &["--disk", &format!("{name},format={format}")])?;
            fresh()?;
            let theirs = machine
                .theirs_with(run, &["-drive", &format!("file={name},format={format},if=virtio,cache=writeback")])?;
            std::fs::remove_file(&image)?;
            if round > 0 {
                sides[0].push(measured(&ours));
                sides[1].push(measured(&theirs));
            }
        }
        for (key, what, mebibytes) in ROWS {
            rows(&mut table, format, &sides, (key, what, *mebibytes))?;
        }
    }
    show(&table, args.markdown.as_deref())
}

fn rows(
    table: &mut String,
    format: &str,
    sides: &[Vec<Measured>; 2],
    (key, what, mebibytes): (&str, &str, f64),
) -> anyhow::Result<()> {
    let mut rates = [0.0; 2];
    for (side, runs) in sides.iter().enumerate() {
        let each = runs.iter().map(|run| {
            let (nanoseconds, operations) = run.get(key).with_context(|| format!("the guest measured no {key}"))?;
            ensure!(*nanoseconds > 0.0, "{key} took no time");
            Ok(operations.parse::<f64>()? / nanoseconds * 1e9)
        });
        rates[side] = median(each.collect::<anyhow::Result<_>>()?);
    }
    let [ours, theirs] = rates;
    let text = |rate: f64| {
        if mebibytes > 0.0 { format!("{:.0} MiB/s", rate * mebibytes) } else { format!("{:.1}k/s", rate / 1000.0) }
    };
    writeln!(table, "| {format} | {what} | {} | {} | {:.2} |", text(ours), text(theirs), ours / theirs)?;
    Ok(())
}
