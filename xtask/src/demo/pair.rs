//! The talk's last act: two nodes and a witness; the active node dies, then another has its cables cut, and each time the
//! other goes on with the virtual machines from the mirrored disks. With a timeline of what was measured.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ferro_lab::Lab;

use super::Demo;
use crate::process::{self, command, output, root};

const PAGE: &str = "http://10.77.1.10/";
const DISKS: [&str; 3] = ["web", "mail", "trac"];
const NOTE: &str = "http://10.77.1.10/cgi-bin/note";

/// What happened when, for the end.
struct Timeline {
    start: Instant,
    lines: Vec<String>,
}

impl Timeline {
    fn add(&mut self, text: &str) {
        let line = format!("{:>7.2} s  {text}", self.start.elapsed().as_secs_f64());
        println!("{line}");
        self.lines.push(line);
    }

    fn lasted(&mut self, text: &str, span: Duration) {
        self.add(&format!("{text}: {:.2} s", span.as_secs_f64()));
    }
}

/// Shows it.
pub(super) fn show(demo: &Demo<'_>, guests: &Path) -> anyhow::Result<()> {
    println!("\n--- Two nodes, a witness, and a power cut ---");
    if output(command("id").arg("-u"))?.trim() != "0" {
        println!("Left out: making network namespaces needs root.");
        return Ok(());
    }
    let folder = demo.folder.join("servabit");
    prepare(&folder, guests)?;
    let mut lab = Lab::new(demo.ferro, &folder)?;
    let mut time = Timeline { start: Instant::now(), lines: vec![] };
    println!("$ ferro witness --config witness.toml; ferro node --config alpha.toml; ferro node --config beta.toml");
    lab.spawn("witness", "witness", "witness --config witness.toml")?;
    for node in ["alpha", "beta"] {
        lab.start_node(node)?;
    }
    println!("$ ferro up infra.toml        # on both");
    for node in ["alpha", "beta"] {
        lab.ferro(node, &format!("up infra.toml --socket {node}/run/node.sock"))?;
    }
    lab.until("the page is there", |lab| lab.fetch(PAGE).is_some())?;
    time.add("alpha runs the machines: the lan gets the page through 192.168.1.1");
    lab.until("both nodes have all data", |lab| lab.is_in_sync("alpha", &DISKS))?;
    let written = lab.fetch(&format!("{NOTE}?written-before-the-power-cut")).context("the note isn't kept")?;
    time.add(&format!("written and synced in the web server: {}", written.trim()));
    println!("{}", lab.ferro("alpha", "cluster status --socket alpha/run/node.sock")?);

    first_act(&mut lab, &mut time)?;
    second_act(&lab, &mut time)?;
    println!("\nWhat the daemons said of it:\n{}", lab.ferro("beta", "cluster events --socket beta/run/node.sock")?);
    println!("The timeline:\n{}", time.lines.join("\n"));
    println!("$ ferro cluster standby        # on both: everything is shut down");
    for node in ["alpha", "beta"] {
        lab.ferro(node, &format!("cluster standby --socket {node}/run/node.sock"))?;
    }
    lab.until("nothing runs", |lab| {
        lab.status("beta").is_some_and(|status| status["groups"][0]["role"] == "stopped") && !lab.is_active("alpha")
    })?;
    drop(lab);
    for disk in DISKS {
        let (a, b) = (
            folder.join(format!("alpha/state/images/{disk}.raw")),
            folder.join(format!("beta/state/images/{disk}.raw")),
        );
        process::run(command("cmp").arg(&a).arg(&b))?;
    }
    println!("After all of that, the disks of both nodes are equal.");
    Ok(())
}

/// The power of alpha fails.
fn first_act(lab: &mut Lab, time: &mut Timeline) -> anyhow::Result<()> {
    time.add("alpha loses its power: every process is killed, every cable is dead");
    lab.power_off("alpha")?;
    let failed = Instant::now();
    let back = lab.until("the address answers", |lab| lab.answers("192.168.1.1"))?;
    time.lasted("the floating address answers on beta after", back);
    lab.until("the page is back", |lab| lab.fetch(PAGE).is_some())?;
    time.lasted("the page is back, its machine booted and its disk checked, after", failed.elapsed());
    let notes = lab.fetch(NOTE).context("the notes can't be read")?;
    if !notes.contains("written-before-the-power-cut") {
        bail!("what was synced before the power cut is lost: {notes}");
    }
    time.add("what was synced before is there");
    lab.fetch(&format!("{NOTE}?written-while-alone")).context("the note isn't kept")?;
    println!("{}", lab.ferro("beta", "cluster status --socket beta/run/node.sock")?);

    time.add("alpha gets its power back");
    lab.cables("alpha", true)?;
    lab.start_node("alpha")?;
    let synced = lab.until("the resync is done", |lab| lab.is_in_sync("beta", &DISKS))?;
    time.lasted("alpha is back, and has copied what it missed, after", synced);
    // Alpha needs a moment to see that it isn't outdated any more.
    lab.until("the move is accepted", |lab| lab.ferro("beta", "cluster move --socket beta/run/node.sock").is_ok())?;
    println!("$ ferro cluster move        # on beta");
    let moved = lab.until("alpha runs everything", |lab| lab.is_active("alpha") && lab.fetch(PAGE).is_some())?;
    time.lasted("moved back to alpha by command; the page is there after", moved);
    lab.until("both nodes have all data", |lab| lab.is_in_sync("alpha", &DISKS)).map(drop)
}

/// The cables of alpha are cut; nothing dies.
fn second_act(lab: &Lab, time: &mut Timeline) -> anyhow::Result<()> {
    lab.fetch(&format!("{NOTE}?written-before-the-cut")).context("the note isn't kept")?;
    time.add("all cables of alpha are cut");
    lab.cables("alpha", false)?;
    let cut = Instant::now();
    lab.until("the address answers", |lab| lab.answers("192.168.1.1"))?;
    time.lasted("the floating address answers on beta after", cut.elapsed());
    lab.until("the page is back", |lab| lab.fetch(PAGE).is_some())?;
    time.lasted("the page is back after", cut.elapsed());
    let notes = lab.fetch(NOTE).context("the notes can't be read")?;
    if !notes.contains("written-before-the-cut") || !notes.contains("written-while-alone") {
        bail!("what was synced before the cut is lost: {notes}");
    }
    if !output(lab.command("alpha", "ip").args(["-o", "address", "show", "to", "192.168.1.1"]))?.is_empty() {
        bail!("alpha still has the floating address");
    }
    time.add("alpha had stopped everything by itself before beta took over: nothing ran twice");
    lab.cables("alpha", true)?;
    let synced = lab.until("the resync is done", |lab| lab.is_in_sync("beta", &DISKS))?;
    time.lasted("the cables are plugged in again; alpha has copied what it missed, after", synced);
    Ok(())
}

/// The example's files, the guests and the disks' first contents.
fn prepare(folder: &Path, guests: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for file in ["infra.toml", "alpha.toml", "beta.toml", "witness.toml"] {
        std::fs::copy(root().join("examples/servabit").join(file), folder.join(file))?;
    }
    std::fs::copy(guests.join("vmlinuz-cloud-amd64"), folder.join("vmlinuz"))?;
    std::fs::copy(guests.join("initrd-cloud-amd64.gz"), folder.join("initrd.gz"))?;
    for disk in DISKS {
        let disk = folder.join(format!("{disk}.raw"));
        process::run(command("truncate").args(["-s", "64M"]).arg(&disk))?;
        output(command("mke2fs").args(["-q", "-t", "ext4"]).arg(&disk))?;
    }
    std::fs::create_dir_all(folder.join("witness"))?;
    let secret = "head -c 32 /dev/urandom | base64 > secret && chmod 600 secret";
    process::run(Command::new("sh").args(["-c", secret]).current_dir(folder))
}
