//! The other end of the daemon's API: one request over its unix socket (HTTP/1.1, RFC 9112; the connection is closed after
//! the answer).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no node's daemon answers at {path} ({1}): start it with 'ferro node', or say where it is with --socket",
        path = .0.display()
    )]
    Away(std::path::PathBuf, #[source] std::io::Error),
    /// The connection broke.
    #[error("talking to the node's daemon: {0}")]
    Broken(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Makes a request and returns the answer's body.
///
/// # Errors
/// See [`ClientError`].
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
    let broken = |error: std::io::Error| ClientError::Broken(error.to_string());
    let mut stream = UnixStream::connect(socket).map_err(|error| ClientError::Away(socket.into(), error))?;
    stream.set_read_timeout(Some(Duration::from_mins(2))).map_err(broken)?;
    let text = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    );
    // As a whole: who refuses a request by its path doesn't wait for the rest of it.
    stream.write_all(request.as_bytes()).map_err(broken)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(broken)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Value, ClientError> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| ClientError::Broken("the answer was cut off".into()))?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).unwrap_or(0);
    let value: Option<Value> = serde_json::from_str(body).ok();
    if (200..300).contains(&code) {
        return value.ok_or_else(|| ClientError::Broken("the answer is no JSON".into()));
    }
    let told = value.as_ref().and_then(|value| value["error"].as_str());
    Err(ClientError::Refused(told.map_or_else(|| format!("{code}: {body}"), str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_are_told_apart() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n{\"a\":1}").unwrap()["a"], 1);
        let refused = parse(b"HTTP/1.1 409 Conflict\r\n\r\n{\"error\":\"no\"}").unwrap_err();
        assert_eq!(refused.to_string(), "no");
        assert!(matches!(parse(b"HTTP/1.1 200 OK"), Err(ClientError::Broken(_))));
    }
}
