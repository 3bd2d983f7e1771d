//! Switching the peer off: a command of the operator's, or ipmitool. The command says by its exit code whether the peer is
//! off; only then may this node go on.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::config::Span;

/// How the peer is switched off: a command, or an IPMI controller.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FenceConfig {
    /// A command line for `sh`; exit code 0 says that the peer is off.
    pub command: Option<String>,
    /// A command line for `sh` that tells, without harm, whether the fence device answers.
    pub test: Option<String>,
    /// The address of the peer's IPMI controller.
    pub ipmi: Option<String>,
    /// Its user.
    pub ipmi_user: Option<String>,
    /// The file with that user's password.
    pub ipmi_password_file: Option<PathBuf>,
    /// How long it may take; 60 s if not given.
    pub timeout: Option<Span>,
}

impl FenceConfig {
    fn timeout(&self) -> Duration {
        self.timeout.map_or(Duration::from_mins(1), |span| span.0)
    }

    fn ipmitool(&self, action: &str) -> Option<Command> {
        let mut tool = Command::new("ipmitool");
        tool.args(["-I", "lanplus", "-H", self.ipmi.as_deref()?]);
        if let Some(user) = &self.ipmi_user {
            tool.args(["-U", user]);
        }
        if let Some(file) = &self.ipmi_password_file {
            tool.arg("-f").arg(file);
        }
        tool.args(["chassis", "power", action]);
        Some(tool)
    }

    /// Switches the peer off.
    ///
    /// # Errors
    /// It isn't known to be off; why.
    pub fn fence(&self) -> Result<(), String> {
        match (&self.command, self.ipmitool("off")) {
            (Some(command), _) => run(shell(command), self.timeout()),
            (None, Some(tool)) => {
                run(tool, self.timeout())?;
                // Off is a request: the controller says when it is so.
                let start = Instant::now();
                while let Some(mut status) = self.ipmitool("status") {
                    let told = status.stdin(Stdio::null()).output().map_err(|error| format!("ipmitool: {error}"))?;
                    if String::from_utf8_lossy(&told.stdout).contains("is off") {
                        return Ok(());
                    }
                    if start.elapsed() > self.timeout() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err("the controller doesn't say that the peer is off".into())
            }
            (None, None) => Err("neither command nor ipmi is configured".into()),
        }
    }

    /// Whether the fence device answers, as far as that can be told without fencing.
    ///
    /// # Errors
    /// It doesn't.
    pub fn test(&self) -> Result<(), String> {
        match (&self.test, self.ipmitool("status")) {
            (Some(command), _) => run(shell(command), self.timeout()),
            (None, Some(tool)) if self.command.is_none() => run(tool, self.timeout()),
            (None, _) if self.command.is_some() => {
                Err("there is no test = \"…\" that tells whether the fence command would work".into())
            }
            (None, _) => Err("neither command nor ipmi is configured".into()),
        }
    }
}

fn shell(line: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]);
    shell
}

fn run(mut command: Command, limit: Duration) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("the command ended with {status}")),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // It may end by itself just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it took longer than {limit:?}"));
            }
            Err(error) => return Err(format!("{program}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(command: &str, test: Option<&str>) -> FenceConfig {
        FenceConfig {
            command: Some(command.into()),
            test: test.map(Into::into),
            ipmi: None,
            ipmi_user: None,
            ipmi_password_file: None,
            timeout: Some(Span(Duration::from_millis(300))),
        }
    }

    #[test]
    fn only_a_command_that_succeeds_in_time_has_fenced() {
        assert_eq!(config("true", None).fence(), Ok(()));
        assert!(config("exit 3", None).fence().unwrap_err().contains('3'));
        assert!(config("sleep 60", None).fence().unwrap_err().contains("longer"));
        assert!(config("true", None).test().unwrap_err().contains("test ="));
        assert_eq!(config("false", Some("true")).test(), Ok(()));
    }
}
