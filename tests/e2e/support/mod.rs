//! What the guest tests share: finding the guests that `cargo xtask guests` builds, starting the real binary, and talking
//! to a guest over its serial console. Each test uses a part of it.
#![allow(dead_code)]

pub(crate) mod bootable;
pub(crate) mod pc;
pub(crate) mod session;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A hang, not slowness, is what this ends: hundreds of times what a guest takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A file below `target/guests`; `None`, after saying so, if it wasn't built.
pub(crate) fn guest(name: &str) -> Option<PathBuf> {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent").join("guests").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is missing; `cargo xtask guests` builds it", path.display());
    None
}

/// Whether a program is installed; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()));
    if !found {
        println!("skipped: {program} is not installed; `cargo xtask packages` installs it");
    }
    found
}

/// The `ferro` command.
pub(crate) fn ferro(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferro"));
    command.args(arguments);
    command
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{complaints}", output.status);
    text
}

/// A running VM with its serial console on standard input and output.
pub(crate) struct Vm {
    child: Child,
    printed: String,
    more: Receiver<Vec<u8>>,
}

impl Vm {
    /// Boots Debian's kernel of this flavour with the busybox RAM disk; `append` joins the kernel's command line.
    /// `None`, after saying so, without the guest.
    pub(crate) fn boot(flavour: &str, append: &str, arguments: &[&str]) -> Option<Self> {
        let kernel = guest(&format!("vmlinuz-{flavour}"))?;
        let initrd = guest(&format!("initrd-{flavour}.gz"))?;
        let mut command = ferro(&["run", "--accel", "soft", "--serial", "stdio", "--memory", "256M"]);
        command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
        command.args(["--append", &format!("console=ttyS0 {append}")]).args(arguments);
        Some(Self::start(command))
    }

    /// Starts a command that is a VM.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdout = child.stdout.take().expect("it is piped");
        let (sender, more) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, printed: String::new(), more }
    }

    /// Waits until the guest has printed `text` and returns what it printed up to there, taking that off.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.printed.find(text) {
                let rest = self.printed.split_off(at + text.len());
                return std::mem::replace(&mut self.printed, rest);
            }
            match self.more.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.printed.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => panic!("hangs before printing {text:?}:\n{}", self.printed),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before printing {text:?}:\n{}", self.printed),
            }
        }
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that begins so and returns it, without its end, taking all up to there off.
    pub(crate) fn expect_line(&mut self, start: &str) -> String {
        let before = self.expect(start);
        let begun = before[before.rfind('\n').map_or(0, |at| at + 1)..].to_owned();
        begun + self.expect("\n").trim_end()
    }

    /// Ends the process at once, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started");
    }

    /// Types at the console.
    pub(crate) fn send(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("it is piped").write_all(text.as_bytes()).expect("the VM reads its console");
    }

    /// Waits until the process ends and returns its status and what was printed since the last `expect`.
    pub(crate) fn finish(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.more.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.printed.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => panic!("doesn't end:\n{}", self.printed),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        (self.child.wait().expect("it was started"), std::mem::take(&mut self.printed))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Most have ended by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A network namespace that is removed again, whatever happens.
pub(crate) struct Namespace(String);

impl Namespace {
    /// `None`, after saying so, where the test may not make one.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if !is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        if !has("ip") || !has("busybox") {
            return None;
        }
        let name = format!("ferro-{name}-{}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]));
        Some(Self(name))
    }

    /// Its name, as `ip` takes it.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// A program inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    pub(crate) fn run(&self, line: &str) {
        let mut words = line.split(' ');
        let program = words.next().expect("a line has a word");
        output(self.command(program).args(words));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that stays behind is worth no second panic.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// The effective user is root, as /proc has it.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}
