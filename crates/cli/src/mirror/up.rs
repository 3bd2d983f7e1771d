//! `ferro mirror up` and `down`: the mirror's process, in the foreground or started anew in the background.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ferro_node::mirror::{Command, Error, Mirror, MirrorConfig, Place, call};
use ferro_sys::signals::Termination;

use super::State;
use crate::exit;

/// What the process says when it is up.
const STARTED: &str = "started";
/// How long `down` waits: longer than the mirror itself does.
const PATIENCE: Duration = Duration::from_secs(75);

/// Flags of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The mirror
    name: String,
    /// Stay here instead of going to the background
    #[arg(long)]
    foreground: bool,
    /// The background process itself: leave the terminal
    #[arg(long, hide = true, requires = "foreground")]
    detached: bool,
}

impl UpArgs {
    pub(crate) fn run(self, state: &State) -> anyhow::Result<ExitCode> {
        let place = state.place(&self.name)?;
        MirrorConfig::load(&place)?;
        if !self.foreground {
            return background(state, &place);
        }
        // Before any thread is started, so that all hold the signals back.
        let termination = Termination::catch().context("cannot catch signals")?;
        if self.detached {
            ferro_sys::daemon::new_session().context("cannot leave the terminal")?;
        }
        let mirror = Mirror::start(&place)?;
        crate::img::print(&format!("{STARTED}\n"))?;
        while !mirror.wants_down() {
            if termination.wait_for(Duration::from_millis(50)).context("cannot wait for signals")? {
                break;
            }
        }
        mirror.stop();
        Ok(ExitCode::from(exit::OK))
    }
}

/// Starts this program anew and returns when the mirror is up; what the process says later goes to its log.
fn background(state: &State, place: &Place) -> anyhow::Result<ExitCode> {
    let path = place.log();
    let mut log = File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let before = log.seek(SeekFrom::End(0))?;
    let mut child = std::process::Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(["-v", "mirror", "up", "--foreground", "--detached", "--state"])
        .arg(state.directory())
        .arg(&place.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()
        .context("cannot start the mirror's process")?;
    let output = child.stdout.take().context("the mirror's process has no output")?;
    if BufReader::new(output).lines().map_while(Result::ok).any(|line| line == STARTED) {
        return Ok(ExitCode::from(exit::OK));
    }
    child.wait().context("cannot wait for the mirror's process")?;
    let mut why = String::new();
    log.seek(SeekFrom::Start(before))?;
    log.take(1 << 16).read_to_string(&mut why)?;
    let why = why.trim_end().lines().last().unwrap_or_default();
    bail!("{}", why.strip_prefix("ferro: ").unwrap_or(why));
}

/// Ends the mirror's process and waits for it.
pub(super) fn down(place: &Place, force: bool) -> anyhow::Result<ExitCode> {
    MirrorConfig::load(place)?;
    match call(place, Command::Down { force }) {
        // It is as it should be.
        Err(Error::NotUp(_)) => return Ok(ExitCode::from(exit::OK)),
        other => other?,
    };
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if matches!(call(place, Command::Status), Err(Error::NotUp(_))) {
            return Ok(ExitCode::from(exit::OK));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("mirror '{}' takes too long to end; see {}", place.name, place.log().display())
}
