//! Whether this host passes IPv4 packets on between its interfaces: `echo 1 > /proc/sys/net/ipv4/ip_forward`.

use super::{Change, Error, Result};

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether it does.
///
/// # Errors
/// The kernel doesn't say.
pub fn is_on() -> Result<bool> {
    let text = std::fs::read_to_string(SWITCH).map_err(|error| Error::host(format!("read {SWITCH}"), error))?;
    Ok(text.trim() != "0")
}

/// Makes it pass packets on, or not.
///
/// # Errors
/// No permission.
pub fn set(on: bool) -> Result<Change> {
    if is_on()? == on {
        return Ok(Change::Already);
    }
    std::fs::write(SWITCH, if on { "1" } else { "0" })
        .map_err(|error| Error::host(format!("write {SWITCH}"), error))?;
    Ok(Change::Done)
}
