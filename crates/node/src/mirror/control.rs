//! The command socket of a mirror: a line of JSON asks, a line of JSON answers. Both ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferro_mirror::{Admin, DiskState, LinkState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::process::{Shared, wait};
use super::{Error, Place};

/// Longest question in bytes.
const MAX_LINE: u64 = 4096;

/// What can be asked of a mirror that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// How it stands.
    Status,
    /// Become primary.
    Primary {
        /// Even if the data may be stale or incomplete.
        #[serde(default)]
        force: bool,
        /// The fencing token of a cluster that vouches for the data.
        #[serde(default)]
        epoch: Option<u64>,
        /// The cluster has made sure that the peer stays out, so that it may be written without it.
        #[serde(default)]
        alone: bool,
    },
    /// Stop being primary.
    Secondary {
        /// Even if somebody uses the device.
        #[serde(default)]
        force: bool,
    },
    /// Look for the peer.
    Connect,
    /// Leave the peer, and look for none.
    Disconnect,
    /// A primary that lost its peer may go on.
    GoAlone,
    /// Compare all blocks.
    Verify,
    /// The data here are void.
    Invalidate,
    /// Halt the resync.
    Pause,
    /// Go on with it.
    Resume,
    /// In a split brain, this side gives way.
    DiscardMyData,
    /// End the process.
    Down {
        /// Even if somebody uses the device.
        #[serde(default)]
        force: bool,
    },
}

#[derive(Serialize, Deserialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    result: Value,
}

/// Asks the mirror at `place`; null for commands that only succeed.
///
/// # Errors
/// It isn't up, or refuses; the message says why.
pub fn call(place: &Place, command: Command) -> Result<Value, Error> {
    let path = place.control();
    let talk = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&path)?;
        writeln!(stream, "{}", serde_json::to_string(&command)?)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = talk().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Error::NotUp(place.name.clone()),
        _ => Error::file("talk to the mirror", &path)(error),
    })?;
    let answer: Answer = serde_json::from_str(&line)
        .map_err(|_| Error::Refused(place.name.clone(), "it ended before it answered".into()))?;
    answer.error.map_or(Ok(answer.result), |why| Err(Error::Refused(place.name.clone(), why)))
}

/// Serves the socket in the background.
pub(crate) fn serve(path: &Path, shared: Arc<Shared>) -> Result<(), Error> {
    // Whoever made it is gone: the lock on the metadata is ours.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(Error::file("listen on", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(Error::file("protect", path))?;
    super::thread("mirror-control", move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // One after another: a client that says nothing is left after this.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            if let Err(error) = converse(&stream, &shared) {
                tracing::debug!("a command's client: {error}");
            }
        }
    })
}

fn converse(stream: &UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(command) => match obey(shared, command) {
            Ok(result) => Answer { error: None, result },
            Err(why) => Answer { error: Some(why), result: Value::Null },
        },
        Err(error) => Answer { error: Some(format!("no command: {error}")), result: Value::Null },
    };
    let mut stream = stream;
    writeln!(stream, "{}", serde_json::to_string(&answer)?)
}

fn obey(shared: &Shared, command: Command) -> Result<Value, String> {
    let admin = match command {
        Command::Status => return status(shared).ok_or_else(|| "the mirror has stopped".into()),
        Command::Primary { force, epoch, alone } => Admin::Primary { epoch, force, alone },
        Command::Secondary { force } | Command::Down { force } => {
            let clients = shared.clients();
            if clients > 0 && !force {
                return Err(format!(
                    "the device is in use by {clients} client(s) of {}: end them first, or say --force",
                    shared.nbd.display()
                ));
            }
            if matches!(command, Command::Down { .. }) {
                shared.down.store(true, Ordering::Relaxed);
                return Ok(Value::Null);
            }
            Admin::Secondary
        }
        Command::Connect => Admin::Connect,
        Command::Disconnect => Admin::Disconnect,
        Command::GoAlone => Admin::GoAlone,
        Command::Verify => Admin::Verify,
        Command::Invalidate => Admin::Invalidate,
        Command::Pause => Admin::PauseSync,
        Command::Resume => Admin::ResumeSync,
        Command::DiscardMyData => Admin::DiscardMyData,
    };
    let before = shared.inbox.report().ok_or("the mirror has stopped")?.status;
    // What is so already is no error.
    match admin {
        Admin::Primary { .. } if before.primary => return Ok(Value::Null),
        Admin::Secondary if !before.primary => return Ok(Value::Null),
        _ => {}
    }
    let result = shared.inbox.admin(admin).ok_or("the mirror has stopped")?;
    result.map_err(|error| match (error, admin) {
        (ferro_mirror::AdminError::State, _) => format!("{error}: {}", need(admin)),
        _ => error.to_string(),
    })?;
    let reached = match admin {
        Admin::Secondary => wait(&shared.inbox, |report| !report.status.primary),
        // The socket is there when the command returns.
        Admin::Primary { .. } => wait(&shared.inbox, |_| shared.nbd.exists()),
        _ => true,
    };
    if reached { Ok(Value::Null) } else { Err("it takes too long; 'status' shows what it waits for".into()) }
}

/// What a command wants that the state doesn't give.
fn need(command: Admin) -> &'static str {
    match command {
        Admin::Primary { .. } => "the link is just coming up, or no replica works: try again, or see 'status'",
        Admin::GoAlone => "this node has to be primary and without its peer",
        Admin::Invalidate => "the node has to be secondary, and the peer's data complete",
        Admin::DiscardMyData => "the node has to be secondary and disconnected: 'secondary', 'disconnect' first",
        Admin::Verify => "both replicas have to be connected and up to date, and no verify under way",
        _ => "see 'status'",
    }
}

fn status(shared: &Shared) -> Option<Value> {
    let report = shared.inbox.report()?;
    let (s, config) = (report.status, &shared.config);
    let resync = (s.link == LinkState::Connected && s.out_of_sync > 0).then(|| {
        let total = report.resync_total.max(s.out_of_sync);
        json!({
            "role": if s.target { "target" } else { "source" },
            "percent": (total - s.out_of_sync) as f64 * 100.0 / total as f64,
            "paused": s.paused,
            "bytes-per-second": report.resync.map(|r| r.1),
            "seconds-left": report.resync.map(|r| r.0),
        })
    });
    let role = |primary: bool| if primary { "primary" } else { "secondary" };
    let connected = s.link == LinkState::Connected;
    Some(json!({
        "node": config.node,
        "size": config.size,
        "protocol": config.protocol,
        "backing": config.backing,
        "peer": config.peer,
        "encrypted": config.secret_file.is_some(),
        "role": role(s.primary),
        "peer-role": if connected { role(s.peer_primary) } else { "unknown" },
        "connection": match s.link {
            LinkState::Standalone => "standalone",
            LinkState::Connecting => "connecting",
            LinkState::Handshake => "handshake",
            LinkState::Connected => "connected",
        },
        "disk": disk(s.disk),
        "peer-disk": disk(s.peer_disk),
        "out-of-sync": s.out_of_sync,
        "pending": s.pending,
        "frozen": s.frozen,
        "demoting": s.demoting,
        "resync": resync,
        "verify": s.verify.map(|(done, blocks)| json!({ "blocks-done": done, "blocks": blocks })),
        "verify-differing-blocks": report.verified,
        "epoch": s.epoch,
        "generation": format!("{:016x}", s.generations.current),
        "bitmap-generation": format!("{:016x}", s.generations.bitmap),
        "clients": shared.clients(),
        "nbd": s.primary.then_some(&shared.nbd),
        "problem": report.problem.filter(|_| !connected),
    }))
}

fn disk(state: DiskState) -> &'static str {
    match state {
        DiskState::Unknown => "unknown",
        DiskState::Failed => "failed",
        DiskState::Inconsistent => "inconsistent",
        DiskState::Consistent => "consistent",
        DiskState::UpToDate => "up-to-date",
    }
}
