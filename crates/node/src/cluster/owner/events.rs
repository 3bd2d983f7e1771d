//! What happened and why, for people: the last lines in memory, all of them in a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

/// Lines that are kept in memory.
const KEPT: usize = 200;
/// Bytes of the file at which it is begun anew; the former one is kept.
const LONGEST: u64 = 4 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Logged {
    /// Milliseconds since 1970.
    pub at: u64,
    /// What happened.
    pub text: String,
}

#[derive(Debug)]
pub(super) struct EventLog {
    recent: VecDeque<Logged>,
    file: Option<File>,
}

impl EventLog {
    /// A log that goes on in `path`; without a file if that can't be written.
    pub(super) fn open(path: &Path) -> Self {
        if path.metadata().is_ok_and(|file| file.len() > LONGEST) {
            // If it can't be put aside it grows.
            let _ = std::fs::rename(path, path.with_extension("log.1"));
        }
        let file = File::options().append(true).create(true).open(path);
        let file = file.inspect_err(|error| tracing::warn!("cannot write {}: {error}", path.display())).ok();
        Self { recent: VecDeque::new(), file }
    }

    pub(super) fn add(&mut self, text: String) {
        tracing::info!("{text}");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        if let Some(file) = &mut self.file {
            // A full disk doesn't keep a node from working.
            let _ = writeln!(file, "{at} {text}");
        }
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(Logged { at, text });
    }

    pub(super) fn recent(&self) -> Vec<Logged> {
        self.recent.iter().cloned().collect()
    }
}
