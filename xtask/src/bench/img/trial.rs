//! Runs two programs alternately and takes medians of time and peak memory. Knows nothing of images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Row;

/// Where and with what the measuring is done.
pub(super) struct Work {
    pub(super) dir: PathBuf,
    pub(super) ferro: PathBuf,
    /// Bytes of the source.
    pub(super) size: u64,
    pub(super) runs: usize,
    pub(super) only: Option<String>,
}

/// What one run took.
#[derive(Clone, Copy)]
struct Taken {
    seconds: f64,
    peak_kib: u64,
}

impl Work {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a row is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        let wanted = self.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
        if wanted {
            eprintln!("{name}…");
        }
        wanted
    }

    /// A command line of words; `ferro` stands for the command measured.
    pub(super) fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        let mut command = if program == "ferro" { Command::new(&self.ferro) } else { Command::new(program) };
        command.args(words).current_dir(&self.dir);
        command
    }

    /// Runs a command line that has to succeed.
    pub(super) fn run(&self, line: &str) -> anyhow::Result<String> {
        let output = self.command(line).output().with_context(|| line.to_owned())?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command line and measures it.
    fn measure(&self, line: &str) -> anyhow::Result<Taken> {
        let errors = self.path("stderr");
        let mut command = self.command(line);
        command.stdout(Stdio::null()).stderr(File::create(&errors)?);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| line.to_owned())?;
        let status_path = format!("/proc/{}/status", child.id());
        let mut peak_kib = 0;
        let status = loop {
            peak_kib = peak(&status_path).max(peak_kib);
            match child.try_wait()? {
                Some(status) => break status,
                None => {
                    let pause = if started.elapsed().as_millis() < 50 { 200 } else { 2000 };
                    std::thread::sleep(Duration::from_micros(pause));
                }
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        if !status.success() {
            bail!("{line}: {}", std::fs::read_to_string(errors)?);
        }
        Ok(Taken { seconds, peak_kib })
    }

    /// A row of times. `{0}` in a line is the number of the side, so that both have files of their own; the steps of
    /// `prepare`, before each run, are separated by semicolons.
    pub(super) fn times(&self, name: &str, prepare: &str, ours: &str, theirs: &str) -> anyhow::Result<Option<Row>> {
        if !self.wants(name) {
            return Ok(None);
        }
        let mut taken = [Vec::new(), Vec::new()];
        // The first round warms caches up.
        for round in 0..=self.runs {
            for (side, line) in [ours, theirs].into_iter().enumerate() {
                for step in prepare.split(';').filter(|step| !step.trim().is_empty()) {
                    self.run(&step.replace("{0}", &side.to_string()))?;
                }
                let one = self.measure(&line.replace("{0}", &side.to_string()))?;
                if round > 0 {
                    taken[side].push(one);
                }
            }
        }
        let seconds = |side: usize| median(taken[side].iter().map(|one| one.seconds).collect());
        let memory = |side: usize| taken[side].iter().map(|one| one.peak_kib).max().unwrap_or(0);
        let (ours, theirs) = (seconds(0), seconds(1));
        Ok(Some(Row { name: name.into(), ours, theirs, unit: "s", memory: (memory(0), memory(1)) }))
    }
}

/// The peak of resident memory by a status file of /proc, in KiB.
fn peak(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A server that is stopped when dropped.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// Starts it and waits until its socket is there.
    pub(super) fn start(mut command: Command, socket: &Path) -> anyhow::Result<Self> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self { child };
        for _ in 0..500 {
            if socket.exists() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("a server does not come up")
    }

    /// Its peak of memory in KiB.
    pub(super) fn peak(&self) -> u64 {
        peak(&format!("/proc/{}/status", self.child.id()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked with a signal, so that it writes back what it has; it may have ended already.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
