//! What the tests of the command share: running it and its peers, telling what is missing, making data. No tests.
#![allow(dead_code, unreachable_pub)] // Each test file includes this and uses a part.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The command under test.
pub const FERRO: &str = env!("CARGO_BIN_EXE_ferro");

/// Whether all of these programs are here; says which one isn't, and that the test is skipped for it.
pub fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(missing) = missing {
        eprintln!("skipped: {missing} is not installed");
    }
    missing.is_none()
}

/// Whether this is root; says that the test is skipped if not.
pub fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A directory to work in, in which commands run.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a command line, split at spaces; `ferro` is the command under test.
    pub fn run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let program = if program == "ferro" { FERRO } else { program };
        let mut command = Command::new(program);
        command.args(words).current_dir(self.dir()).env("TZ", "UTC");
        let mut attempt = || command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut output = attempt();
        // Where the host accounts CPU time coarsely, qemu-img can't time its own key derivation and gives up now and then.
        for _ in 0..30 {
            if output.status.success() || !String::from_utf8_lossy(&output.stderr).contains("accurate CPU usage") {
                break;
            }
            output = attempt();
        }
        output
    }

    /// Runs a command line that has to succeed; its output.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command line that has to fail with this exit code; its error output.
    pub fn fails(&self, code: i32, line: &str) -> String {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}{}", String::from_utf8_lossy(&output.stdout));
        text
    }

    /// A raw image of so many MiB: data, zeros and data again, so that every job has both.
    pub fn sample(&self, name: &str, mebibytes: usize) {
        let mut bytes = vec![0u8; mebibytes << 20];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for (index, chunk) in bytes.chunks_mut(64 << 10).enumerate() {
            if index % 5 < 2 {
                for word in chunk.chunks_exact_mut(8) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // Half of it compresses.
                    word.copy_from_slice(&(if state >> 63 == 0 { index as u64 } else { state }).to_le_bytes());
                }
            } else if index % 5 == 2 {
                chunk[5000] = 1;
            }
        }
        fs::write(self.path(name), bytes).expect("written");
    }
}

/// A child process that is killed when dropped.
pub struct Running(pub std::process::Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("started"))
    }

    /// Sends a signal by number.
    pub fn signal(&self, number: i32) {
        let sent = Command::new("kill").arg(format!("-{number}")).arg(self.0.id().to_string()).status();
        assert!(sent.expect("kill").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("still not: {what}");
}
