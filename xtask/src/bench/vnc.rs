//! `bench vnc`: the same screens over VNC, ours and QEMU's, drawn by `guests/bare/screen.c`: bytes, time and the server's CPU
//! time of full and partial updates by encoding, and what a viewer of a still screen costs.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::guest::{GuestArgs, Machine, median, show};
use crate::process::command;

#[allow(dead_code)]
#[path = "../../../tests/e2e/support/rfb_decoder.rs"]
mod rfb_decoder;
#[allow(dead_code)]
#[path = "../../../tests/e2e/support/viewer.rs"]
mod viewer;

use viewer::{COPY_RECT, HEXTILE, TIGHT, Viewer, ZRLE};

/// JPEG of a high quality (8 of 9), and compression as TigerVNC's viewer asks for it.
const QUALITY: i32 = -24;
const COMPRESSION: i32 = -254;

/// What a viewer answers where there is a password, which neither server has.
fn respond(_password: &[u8], _challenge: [u8; 16]) -> [u8; 16] {
    [0; 16]
}

/// A way to send pixels.
const WAYS: &[(&str, &[i32])] = &[
    ("hextile", &[HEXTILE]),
    ("zrle", &[ZRLE, COMPRESSION]),
    ("tight", &[TIGHT, COMPRESSION]),
    ("tight, JPEG", &[TIGHT, COMPRESSION, QUALITY]),
];

/// How long a screen that stands still has been quiet.
const STILL: Duration = Duration::from_millis(300);

/// What was measured of an update.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    bytes: f64,
    milliseconds: f64,
    /// The server's threads' time on CPUs, without the vCPU's.
    cpu: f64,
}

/// A stream that counts what it reads.
struct Counted {
    stream: TcpStream,
    count: Rc<Cell<usize>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buffer)?;
        self.count.set(self.count.get() + len);
        Ok(len)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A VM that draws.
struct Screen {
    process: Child,
    port: u16,
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Screen {
    fn start(mut command: Command, port: u16) -> anyhow::Result<Self> {
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut screen = Self { process, port };
        screen.wait_for_guest()?;
        Ok(screen)
    }

    /// The guest has done what it was asked for.
    fn wait_for_guest(&mut self) -> anyhow::Result<()> {
        let mut byte = [0];
        let serial = self.process.stdout.as_mut().context("it is piped")?;
        ensure!(serial.read(&mut byte)? == 1 && byte == *b".", "the guest does not answer");
        Ok(())
    }

    /// Nanoseconds that the process has spent on CPUs, without its vCPU's thread.
    fn cpu(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let task = task?.path();
            // A thread may be gone by now.
            let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
            let name = read("comm");
            if !name.starts_with("vcpu") && !name.starts_with("CPU ") {
                sum += read("schedstat").split(' ').next().and_then(|time| time.parse::<f64>().ok()).unwrap_or(0.0);
            }
        }
        Ok(sum)
    }

    fn view(&self, encodings: &[i32]) -> anyhow::Result<Watching> {
        let count = Rc::new(Cell::new(0));
        let socket = viewer::connect(self.port);
        socket.set_nodelay(true)?;
        let stream = Counted { stream: socket.try_clone()?, count: count.clone() };
        let stream = viewer::enter_by(stream, None).map_err(|why| anyhow::anyhow!("refused: {why}"))?;
        let mut watching = Watching { viewer: Viewer::begin(stream, true, encodings), socket, count, waiting: false };
        // As viewers do at first; QEMU tells of its size then.
        watching.viewer.request(false);
        watching.viewer.update();
        watching.settle()?;
        Ok(watching)
    }

    /// Presses keys, and waits for what the guest draws.
    fn draw(&mut self, keys: &[char]) -> anyhow::Result<()> {
        let mut watching = self.view(&[HEXTILE])?;
        for key in keys {
            watching.viewer.press(*key);
            self.wait_for_guest()?;
        }
        Ok(())
    }

    /// The whole screen, asked for once it stands still.
    fn full(&mut self, encodings: &[i32], runs: usize) -> anyhow::Result<Cost> {
        let mut costs = vec![];
        for _ in 0..=runs {
            let Watching { mut viewer, count, .. } = self.view(encodings)?;
            let (bytes, cpu, begin) = (count.get(), self.cpu()?, Instant::now());
            viewer.request(false);
            while viewer.update() == 0 {}
            let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
            std::thread::sleep(Duration::from_millis(30));
            costs.push(Cost { bytes: (count.get() - bytes) as f64, milliseconds, cpu: (self.cpu()? - cpu) / 1e6 });
        }
        Ok(middle(&costs[1..]))
    }

    /// What a key changes, from the key to the last update of it.
    fn partial(&mut self, encodings: &[i32], key: char, runs: usize) -> anyhow::Result<Cost> {
        let with_copies: Vec<i32> = [COPY_RECT].iter().chain(encodings).copied().collect();
        let mut watching = self.view(&with_copies)?;
        let mut costs = vec![];
        for _ in 0..=runs {
            watching.settle()?;
            let (bytes, cpu, begin) = (watching.count.get(), self.cpu()?, Instant::now());
            watching.viewer.press(key);
            let Some(end) = watching.settle()? else { bail!("nothing changed by {key}") };
            self.wait_for_guest()?;
            let milliseconds = (end - begin).as_secs_f64() * 1e3;
            costs.push(Cost {
                bytes: (watching.count.get() - bytes) as f64,
                milliseconds,
                cpu: (self.cpu()? - cpu) / 1e6,
            });
        }
        Ok(middle(&costs[1..]))
    }

    /// Milliseconds of CPU time a second, with a viewer that waits for changes.
    fn idle(&mut self) -> anyhow::Result<f64> {
        let _watching = self.view(&[TIGHT])?;
        let cpu = self.cpu()?;
        std::thread::sleep(Duration::from_secs(5));
        Ok((self.cpu()? - cpu) / 5e6)
    }
}

/// A viewer of it.
struct Watching {
    viewer: Viewer,
    socket: TcpStream,
    count: Rc<Cell<usize>>,
    /// It has asked for changes that haven't come yet.
    waiting: bool,
}

impl Watching {
    /// Asks for what changes until nothing does for a while, and goes on waiting; when the last of it was there.
    fn settle(&mut self) -> anyhow::Result<Option<Instant>> {
        let mut last = None;
        loop {
            if !self.waiting {
                self.viewer.request(true);
                self.waiting = true;
            }
            let patience = self.socket.read_timeout()?;
            self.socket.set_read_timeout(Some(STILL))?;
            let quiet = self.socket.peek(&mut [0]).is_err();
            self.socket.set_read_timeout(patience)?;
            if quiet {
                return Ok(last);
            }
            self.viewer.update();
            self.waiting = false;
            last = Some(Instant::now());
        }
    }
}

fn middle(costs: &[Cost]) -> Cost {
    let of = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
    Cost { bytes: of(|cost| cost.bytes), milliseconds: of(|cost| cost.milliseconds), cpu: of(|cost| cost.cpu) }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn ours(machine: &Machine) -> anyhow::Result<Screen> {
    let port = free_port()?;
    let mut ferro = command(&machine.ferro);
    ferro.args(["run", "--accel", "soft", "--memory", "128M", "--serial", "stdio"]);
    ferro.arg(format!("--vnc=127.0.0.1:{}", port - 5900));
    ferro.arg("--kernel").arg(machine.guests.join("screen.elf"));
    Screen::start(ferro, port)
}

fn theirs(machine: &Machine) -> anyhow::Result<Screen> {
    let port = free_port()?;
    let mut qemu = command("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-m", "128", "-nodefaults", "-vga", "std", "-serial", "stdio", "-monitor", "none"]);
    qemu.args(["-name", "vm,debug-threads=on"]);
    // Without it there is no JPEG.
    qemu.arg("-vnc").arg(format!("127.0.0.1:{},lossy=on", port - 5900));
    qemu.arg("-kernel").arg(machine.guests.join("screen.elf"));
    Screen::start(qemu, port)
}

/// One line of the table.
fn row(table: &mut String, what: &str, ours: Cost, theirs: Cost) -> anyhow::Result<()> {
    let bytes = |cost: Cost| format!("{:.1} kB", cost.bytes / 1e3);
    let line = format!(
        "| {what} | {} | {} | {:.2} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms |",
        bytes(ours),
        bytes(theirs),
        ours.bytes / theirs.bytes,
        ours.milliseconds,
        theirs.milliseconds,
        ours.cpu,
        theirs.cpu
    );
    eprintln!("{line}");
    writeln!(table, "{line}")?;
    Ok(())
}

/// Runs it.
pub(super) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let (mut ours, mut theirs) = (ours(&machine)?, theirs(&machine)?);
    let mut table = String::from(
        "| update | bytes | QEMU's | ratio | time | QEMU's | server's CPU | QEMU's |\n|---|---|---|---|---|---|---|---|\n",
    );
    let idle = (ours.idle()?, theirs.idle()?);
    for (key, mode) in [('1', "1024×768"), ('2', "1920×1080")] {
        for (scene, name) in [('t', "text"), ('p', "picture")] {
            for side in [&mut ours, &mut theirs] {
                side.draw(&[key, scene])?;
            }
            std::thread::sleep(Duration::from_millis(500));
            for (way, encodings) in WAYS {
                let costs = (ours.full(encodings, args.runs)?, theirs.full(encodings, args.runs)?);
                row(&mut table, &format!("{mode}, {name}, all, {way}"), costs.0, costs.1)?;
            }
        }
        for (action, name) in [('c', "a letter"), ('s', "scrolled text")] {
            for side in [&mut ours, &mut theirs] {
                side.draw(&['t'])?;
            }
            for (way, encodings) in &WAYS[..3] {
                let costs =
                    (ours.partial(encodings, action, args.runs)?, theirs.partial(encodings, action, args.runs)?);
                row(&mut table, &format!("{mode}, {name}, {way}"), costs.0, costs.1)?;
            }
        }
    }
    writeln!(
        table,
        "\nA viewer of a still screen costs {:.1} ms of CPU time a second; QEMU's, {:.1} ms.",
        idle.0, idle.1
    )?;
    show(&table, args.markdown.as_deref())
}
