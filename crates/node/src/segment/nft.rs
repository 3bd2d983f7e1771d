//! The program nft, by which firewall rules are loaded and looked at. What they say isn't known here.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{Error, Result};

/// Loads a script as one transaction.
///
/// # Errors
/// What nft complained of; nothing is changed then.
pub(super) fn load(script: &str) -> Result<()> {
    run(&["-f", "-"], script).map(drop)
}

/// Whether there is a table of checks of ports.
///
/// # Errors
/// What nft complained of.
pub(super) fn has_checks() -> Result<bool> {
    Ok(run(&["list", "tables"], "")?.lines().any(|line| line == "table bridge ferro"))
}

/// Our table as nft lists it, without counters; empty if there is none.
///
/// # Errors
/// What nft complained of.
pub(super) fn listing() -> Result<String> {
    let tables = run(&["list", "tables"], "")?;
    if !tables.lines().any(|line| line == "table inet ferro") {
        return Ok(String::new());
    }
    run(&["--stateless", "list", "table", "inet", "ferro"], "")
}

fn run(arguments: &[&str], input: &str) -> Result<String> {
    let action = "use the program nft";
    let spawned =
        Command::new("nft").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoNft),
        other => other.map_err(|error| Error::host(action, error))?,
    };
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(Error::host(action, error));
    }
    let output = child.wait_with_output().map_err(|error| Error::host(action, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if complaint.contains("Operation not permitted") || complaint.contains("must be root") {
        return Err(Error::Permission { action: "change firewall rules".into() });
    }
    Err(Error::Nft(complaint))
}
