//! VMs in the background: `--daemonize` returns when the VM has begun, with its errors told before that; `--pidfile` says
//! which process it is. The background process is this program started anew, which tells by its standard output that the
//! VM has begun.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use ferro_machine::{MonitorTarget, SerialTarget, VmDescription};
use ferro_sys::daemon;

use crate::exit;

/// Tells the program that it is the background process.
const VARIABLE: &str = "FERRO_BACKGROUND";
const STARTED: &str = "started";

/// Where the VM runs.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct Background {
    /// Return when the VM has begun, and let it run in the background
    #[arg(long)]
    pub(crate) daemonize: bool,
    /// Write the VM's process ID to this file, and remove that at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
}

/// Removes the file when dropped.
pub(crate) struct PidFile(PathBuf);

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Background {
    /// The folder that the process ID is written to; one that isn't there is told of when it is.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let folder = self.pidfile.as_deref()?.parent()?;
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
        folder.exists().then_some(folder)
    }

    /// Starts the background process where one is wanted and this isn't it, and returns what its start came to.
    ///
    /// # Errors
    /// A VM that wants the terminal, and a process that can't be started.
    pub(crate) fn detach(&self, vm: &VmDescription) -> anyhow::Result<Option<ExitCode>> {
        if !self.daemonize {
            return Ok(None);
        }
        if std::env::var_os(VARIABLE).is_some() {
            daemon::new_session().context("cannot leave the terminal")?;
            return Ok(None);
        }
        let terminal = [&vm.serial, &vm.console].contains(&&SerialTarget::Stdio);
        if terminal || vm.monitors.contains(&MonitorTarget::Stdio) {
            let refused = bail_terminal();
            return exit::with_code(exit::USAGE, refused);
        }
        let mut arguments = std::env::args_os();
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg0(arguments.next().unwrap_or_else(|| "ferro".into())).args(arguments).env(VARIABLE, "1");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the background process")?;
        let output = child.stdout.take().context("the background process has no output")?;
        let begun = BufReader::new(output).lines().map_while(Result::ok).any(|line| line == STARTED);
        if begun {
            return Ok(Some(ExitCode::from(exit::OK)));
        }
        // It has told why on standard error.
        let status = child.wait().context("cannot wait for the background process")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != exit::OK);
        Ok(Some(ExitCode::from(code.unwrap_or(exit::FAILED))))
    }

    /// The VM has begun: says so, and lets go of the terminal.
    ///
    /// # Errors
    /// A file that can't be written.
    pub(crate) fn begun(&self) -> anyhow::Result<Option<PidFile>> {
        let file = self.pidfile.as_deref().map(write_pid).transpose()?;
        if self.daemonize {
            // Whoever waits for it may have gone.
            let _ = writeln!(std::io::stdout(), "{STARTED}").and_then(|()| std::io::stdout().flush());
            daemon::let_go_of_streams().context("cannot let go of the terminal")?;
        }
        Ok(file)
    }
}

fn bail_terminal() -> anyhow::Result<Option<ExitCode>> {
    bail!("--daemonize: a VM in the background has no terminal: let --serial, --console and --monitor lead elsewhere")
}

fn write_pid(path: &Path) -> anyhow::Result<PidFile> {
    std::fs::write(path, format!("{}\n", std::process::id()))
        .with_context(|| format!("cannot write the process ID to {}", path.display()))?;
    Ok(PidFile(path.to_owned()))
}
