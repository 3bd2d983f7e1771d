//! `ferro monitor` and `ferro screenshot`: talking to the monitor of a VM that runs in another process.

use std::io::{IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use ferro_machine::MonitorTarget;
use serde_json::{Value, json};

use crate::exit;

/// Command a running VM by its monitor.
#[derive(Debug, clap::Args)]
pub(crate) struct MonitorArgs {
    /// Where its --monitor or --qmp is: unix:PATH, tcp:HOST:PORT, or the socket's path
    target: String,
    /// Commands, a word or a quoted line each; without any, they are read from standard input
    #[arg(trailing_var_arg = true)]
    commands: Vec<String>,
}

/// Write a picture of a running VM's screen.
#[derive(Debug, clap::Args)]
pub(crate) struct ScreenshotArgs {
    /// Where its --monitor or --qmp is: unix:PATH, tcp:HOST:PORT, or the socket's path
    target: String,
    /// The file: PNG if its name ends in .png, else PPM
    file: PathBuf,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

const PROMPT: &str = "(ferro) ";
/// Answers are text for people.
const MAX_ANSWER: usize = 64 << 20;

/// A session with a monitor of either language.
struct Session {
    stream: Box<dyn Stream>,
    program: bool,
}

impl Session {
    fn open(target: &str) -> anyhow::Result<Self> {
        let place = if Path::new(target).exists() { Ok(MonitorTarget::Unix(target.into())) } else { target.parse() };
        let place = exit::with_code(exit::USAGE, place.map_err(anyhow::Error::new))?;
        let failed =
            || format!("cannot reach a monitor at {target}: is the VM running, with --monitor or --qmp there?");
        let stream: Box<dyn Stream> = match place {
            MonitorTarget::Unix(path) => Box::new(UnixStream::connect(path).with_context(failed)?),
            MonitorTarget::Tcp(address) => Box::new(TcpStream::connect(address).with_context(failed)?),
            MonitorTarget::Stdio => bail!("the terminal is this process's own: give a socket"),
        };
        let mut session = Self { stream, program: false };
        let greeting = session.read_until(|text| text.ends_with(PROMPT) || text.ends_with("}\r\n"))?;
        session.program = greeting.starts_with('{');
        if session.program {
            session.ask(&json!({ "execute": "qmp_capabilities" }))?;
        }
        Ok(session)
    }

    fn read_until(&mut self, complete: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let (mut bytes, mut byte) = (vec![], [0]);
        while bytes.len() < MAX_ANSWER {
            if self.stream.read(&mut byte).context("the monitor doesn't answer")? == 0 {
                // The VM has ended, as it may have been told to.
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            bytes.push(byte[0]);
            if matches!(byte[0], b' ' | b'\n')
                && complete(&String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(64)..]))
            {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        bail!("the monitor's answer has no end")
    }

    /// Asks a program's monitor; events in between are left out.
    fn ask(&mut self, message: &Value) -> anyhow::Result<Value> {
        self.stream.write_all(message.to_string().as_bytes()).context("the monitor has gone")?;
        loop {
            let line = self.read_until(|text| text.ends_with('\n'))?;
            if line.is_empty() {
                return Ok(Value::Null);
            }
            let mut answer: Value = serde_json::from_str(&line).context("the monitor answers no JSON")?;
            if let Some(told) = answer["error"]["desc"].as_str() {
                bail!("{told}");
            }
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// What a line is answered.
    fn say(&mut self, line: &str) -> anyhow::Result<String> {
        if self.program {
            let arguments = json!({ "command-line": line });
            let answer = self.ask(&json!({ "execute": "human-monitor-command", "arguments": arguments }))?;
            return Ok(answer.as_str().unwrap_or_default().replace("\r\n", "\n"));
        }
        self.stream.write_all(format!("{line}\n").as_bytes()).context("the monitor has gone")?;
        let answer = self.read_until(|text| text.ends_with(PROMPT))?;
        Ok(answer.strip_suffix(PROMPT).unwrap_or(&answer).to_owned())
    }
}

/// Whether an answer tells of a failure.
fn is_failure(answer: &str) -> bool {
    answer.starts_with("Error:") || answer.starts_with("unknown command:") || answer.contains("\nTry \"help ")
}

impl MonitorArgs {
    /// Says the commands, or goes on until the input ends. Exit code 1 if one of them failed.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut session = Session::open(&self.target)?;
        if !self.commands.is_empty() {
            // `ferro monitor T info status` is one command, `ferro monitor T 'stop' 'info status'` is two of them.
            let lines = if self.commands.iter().any(|word| word.contains(' ')) {
                self.commands
            } else {
                vec![self.commands.join(" ")]
            };
            let mut code = exit::OK;
            for line in lines {
                let answer = session.say(&line)?;
                print!("{answer}");
                if is_failure(&answer) {
                    code = exit::FAILED;
                }
            }
            return Ok(ExitCode::from(code));
        }
        let terminal = std::io::stdin().is_terminal();
        let mut code = exit::OK;
        loop {
            if terminal {
                print!("{PROMPT}");
                std::io::stdout().flush().context("cannot write to the terminal")?;
            }
            let mut line = String::new();
            if std::io::stdin().read_line(&mut line).context("cannot read commands")? == 0 {
                return Ok(ExitCode::from(code));
            }
            let answer = session.say(line.trim())?;
            print!("{answer}");
            if is_failure(&answer) && !terminal {
                code = exit::FAILED;
            }
        }
    }
}

impl ScreenshotArgs {
    /// Has the VM write its screen.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        // The VM's process writes the file, and has a directory of its own.
        let path = std::path::absolute(&self.file).with_context(|| format!("no path to {}", self.file.display()))?;
        if let Err(error) = self.written_to(&path) {
            // Its sandbox may keep it from there, but lets it write where temporary files are.
            let suffix = path.extension().map_or_else(String::new, |suffix| format!(".{}", suffix.to_string_lossy()));
            let between = tempfile::Builder::new().prefix("ferro-screen-").suffix(&suffix).tempfile()?;
            self.written_to(between.path()).map_err(|_| error)?;
            std::fs::copy(between.path(), &path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(ExitCode::from(exit::OK))
    }

    fn written_to(&self, path: &Path) -> anyhow::Result<()> {
        let quoted = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let answer = Session::open(&self.target)?.say(&format!("screendump \"{quoted}\""))?;
        if !answer.is_empty() {
            bail!("{}", answer.trim().trim_start_matches("Error: "));
        }
        Ok(())
    }
}
