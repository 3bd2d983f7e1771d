//! A PC as one types it at QEMU: firmware, a disk, a disc, a network card, a screen over VNC and a monitor. GRUB's rescue
//! disc comes up; the machine is saved, changed, and taken back.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Demo;
use crate::process::output;

const DISC: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";
const MONITOR: &str = "unix:monitor";
/// A hang, not slowness, is what this ends.
const PATIENCE: Duration = Duration::from_secs(300);

/// Ends the VM, whatever becomes of the demo.
struct Running<'a>(&'a Demo<'a>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.quietly(&["monitor", MONITOR, "quit"]);
    }
}

impl Demo<'_> {
    fn quietly(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(Command::new(self.ferro).current_dir(self.folder).args(arguments))
    }

    /// What the text screen shows: characters and their colours are in video memory.
    fn screen(&self) -> anyhow::Result<Vec<String>> {
        let dumped = self.quietly(&["monitor", MONITOR, "xp/2000xh 0xb8000"])?;
        let words =
            dumped.lines().filter_map(|line| line.split_once(": ")).flat_map(|(_, words)| words.split_whitespace());
        let characters: Vec<char> = words
            .filter_map(|word| u16::from_str_radix(word.trim_start_matches("0x"), 16).ok())
            .map(|cell| match cell as u8 {
                printable @ b' '..=b'~' => printable as char,
                _ => ' ',
            })
            .collect();
        Ok(characters.chunks(80).map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect())
    }

    fn wait_for(&self, text: &str) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let rows = self.screen()?;
            if rows.iter().any(|row| row.contains(text)) {
                return Ok(rows);
            }
            if Instant::now() > end {
                bail!("the screen never showed '{text}':\n{}", rows.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Shows a command at the monitor, and its answer.
    fn monitor(&self, command: &str) -> anyhow::Result<()> {
        self.ferro(&["monitor", MONITOR, command])
    }
}

fn show_rows(rows: &[String]) {
    let last = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |at| at + 1);
    println!("  +{}+", "-".repeat(80));
    rows[..last].iter().for_each(|row| println!("  |{row:<80}|"));
    println!("  +{}+", "-".repeat(80));
}

/// The first VNC display whose port is free.
fn free_display() -> anyhow::Result<u16> {
    let free = |display: &u16| TcpListener::bind(("127.0.0.1", 5900 + display)).is_ok();
    (0..100).find(free).context("no VNC display is free on this machine")
}

/// The talk's command line, its screen, and a session at its monitor.
pub(super) fn show(demo: &Demo<'_>) -> anyhow::Result<()> {
    println!("\n--- A PC with firmware, a disc, a network card, a screen and a monitor ---");
    let vnc = format!(":{}", free_display()?);
    demo.ferro(&["img", "create", "dsl2_qcow2.img", "-fqcow2", "512M"])?;
    demo.ferro(&[
        "kvm",
        "-hda",
        "./dsl2_qcow2.img",
        "-cdrom",
        DISC,
        "-boot",
        "d",
        "-net",
        "nic,macaddr=12:34:56:78:9a:bc",
        "-net",
        "user",
        "-vnc",
        &vnc,
        "-monitor",
        MONITOR,
        "-daemonize",
        "-pidfile",
        "pid",
    ])?;
    let process = std::fs::read_to_string(demo.folder.join("pid"))?;
    let _running = Running(demo);
    let rows = demo.wait_for("GNU GRUB")?;
    println!("\nSeaBIOS has booted GRUB's rescue disc; any VNC viewer at {vnc} shows:");
    show_rows(&rows);
    demo.monitor("info status")?;
    demo.monitor("info block")?;
    demo.monitor("info network")?;
    println!("\nThe whole machine is saved into its disk's image, and GRUB's prompt is typed at:");
    demo.monitor("savevm menu")?;
    demo.monitor("info snapshots")?;
    demo.monitor("sendkey c")?;
    demo.wait_for("grub>")?;
    for key in ["l", "s", "ret"] {
        demo.quietly(&["monitor", MONITOR, &format!("sendkey {key}")])?;
    }
    let rows = demo.wait_for("(cd")?;
    show_rows(&rows);
    println!("\nBack to where it was saved:");
    demo.monitor("loadvm menu")?;
    let rows = demo.screen()?;
    if !rows.iter().any(|row| row.contains("GNU GRUB")) || rows.iter().any(|row| row.contains("grub>")) {
        bail!("the screen isn't the one that was saved:\n{}", rows.join("\n"));
    }
    show_rows(&rows);
    demo.ferro(&["screenshot", MONITOR, "screen.png"])?;
    demo.monitor("system_reset")?;
    demo.wait_for("GNU GRUB")?;
    demo.monitor("quit")?;
    let running = Path::new("/proc").join(process.trim());
    while running.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    demo.ferro(&["img", "snapshot", "-l", "dsl2_qcow2.img"])?;
    demo.ferro(&["img", "check", "dsl2_qcow2.img"])
}
