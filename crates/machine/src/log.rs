//! The process's log as the monitor changes it. Whoever set the log up stands behind it.

use std::path::Path;
use std::sync::OnceLock;

/// What can be changed of a log while the process runs.
pub trait LogControl: Send + Sync {
    /// Logs what this filter lets through; nothing for `None`.
    ///
    /// # Errors
    /// What is wrong with the filter.
    fn set_filter(&self, filter: Option<&str>) -> Result<(), String>;
    /// Lets the log go to a file, at its end.
    ///
    /// # Errors
    /// A file that can't be opened.
    fn set_file(&self, path: &Path) -> std::io::Result<()>;
}

static CONTROL: OnceLock<Box<dyn LogControl>> = OnceLock::new();

/// Says how this process's log is changed; once, before a VM runs.
pub fn set_log_control(control: Box<dyn LogControl>) {
    // A process has one log: the first stays.
    let _ = CONTROL.set(control);
}

/// How the log is changed, if anybody said.
pub(crate) fn control() -> Option<&'static dyn LogControl> {
    CONTROL.get().map(|control| &**control)
}
