//! A program of the operator's as a resource: called with `start`, `stop` or `monitor`, as init scripts are.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Resource, Start, Wish};

/// A program.
#[derive(Debug)]
pub struct Hook {
    program: PathBuf,
}

impl Hook {
    /// The program that is called.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    fn call(&self, action: &str, epoch: Option<u64>, wish: Option<&Wish>) -> Result<(), String> {
        let name = self.program.display();
        let mut command = Command::new(&self.program);
        command.arg(action).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(epoch) = epoch {
            command.env("FERRO_EPOCH", epoch.to_string());
        }
        let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("{name} {action} ended with {status}")),
                Ok(None) if wish.is_some_and(Wish::is_void) => {
                    // It may end by itself just now.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{name} {action} was given up"));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(format!("{name}: {error}")),
            }
        }
    }
}

impl Resource for Hook {
    fn start(&mut self, how: Start, wish: &Wish) -> Result<(), String> {
        self.call("start", Some(how.epoch), Some(wish))
    }

    fn stop(&mut self, _hard: bool, wish: &Wish) -> Result<(), String> {
        self.call("stop", None, Some(wish))
    }

    fn monitor(&mut self) -> Result<(), String> {
        self.call("monitor", None, None)
    }
}
