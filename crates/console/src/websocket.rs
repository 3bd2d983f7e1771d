//! The server's side of WebSocket (RFC 6455) as a layer of bytes below RFB: what viewers in web pages speak. Framing and
//! handshake are the `tungstenite` crate's, over memory; whose page may come in is decided here.

use std::io::{self, Read, Write};

use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message};

/// The longest message, in bytes: RFB's own are shorter, and viewers cut longer ones up.
const MESSAGE: usize = 1 << 20;
const PROTOCOL: &str = "sec-websocket-protocol";

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The client has said so.
    #[error("it closed the WebSocket")]
    Closed,
    /// What came is no WebSocket, or not from a page that may come in.
    #[error("it speaks no WebSocket: {0}")]
    Protocol(String),
    /// RFB is sent in binary messages.
    #[error("it sent text over the WebSocket")]
    Text,
}

/// The bytes of the connection below.
#[derive(Debug, Default)]
struct Pipe {
    input: Vec<u8>,
    read: usize,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.input[self.read..];
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = waiting.len().min(buffer.len());
        buffer[..len].copy_from_slice(&waiting[..len]);
        self.read += len;
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn fill(&mut self, bytes: &[u8]) {
        self.input.drain(..self.read);
        self.read = 0;
        self.input.extend_from_slice(bytes);
    }
}

/// Decides who is let in.
#[derive(Debug, Clone, Copy)]
struct Admission {
    own_pages: bool,
}

impl Callback for Admission {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        let headers = request.headers();
        if self.own_pages && !is_own_page(headers) {
            let why =
                "this page may not look at the screen: it comes from another host, and the screen has no password";
            let mut refusal = ErrorResponse::new(Some(why.to_owned()));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return Err(refusal);
        }
        let offered = headers.get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        if offered.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == "binary") {
            response.headers_mut().insert(PROTOCOL, HeaderValue::from_static("binary"));
        }
        Ok(response)
    }
}

/// Whether a request comes from no page at all, or from one of the host that it asks, by a name that nobody else can make
/// point here. Any page that a browser shows may connect to what listens at its loopback address.
fn is_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get("origin") else { return true };
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (origin, host) = (text(Some(origin)), text(headers.get("host")));
    let name = |authority: &str| match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address.to_owned(),
        None => authority.split(':').next().unwrap_or_default().to_owned(),
    };
    let (page, asked) = (name(origin.split_once("://").map_or("", |(_, rest)| rest)), name(&host));
    let fixed = |name: &str| name == "localhost" || name.parse::<std::net::IpAddr>().is_ok();
    let loopback =
        |name: &str| name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    fixed(&page) && fixed(&asked) && (page == asked || loopback(&page) && loopback(&asked))
}

type Opening = MidHandshake<ServerHandshake<Pipe, Admission>>;

enum State {
    Opening(Opening),
    Open(tungstenite::WebSocket<Pipe>),
    /// Over; what there is still to send.
    Over(Vec<u8>),
}

/// A connection.
pub struct WebSocket {
    state: State,
}

impl WebSocket {
    /// A connection whose request is still to come. With `own_pages`, web pages of other hosts are refused.
    pub fn new(own_pages: bool) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE))
            .max_frame_size(Some(MESSAGE))
            .read_buffer_size(4096)
            .write_buffer_size(0);
        let opening = ServerHandshake::start(Pipe::default(), Admission { own_pages }, Some(config));
        Self { state: State::Opening(opening) }
    }

    /// Takes bytes of the connection below; returns what is in its messages. What it has to answer is in
    /// [`WebSocket::take_output`], also after an error.
    ///
    /// # Errors
    /// The connection is over.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, WebSocketError> {
        match std::mem::replace(&mut self.state, State::Over(vec![])) {
            State::Over(rest) => {
                self.state = State::Over(rest);
                Err(WebSocketError::Closed)
            }
            State::Opening(mut opening) => {
                opening.get_mut().get_mut().fill(bytes);
                match opening.handshake() {
                    Ok(socket) => {
                        self.state = State::Open(socket);
                        Ok(vec![])
                    }
                    Err(HandshakeError::Interrupted(opening)) => {
                        self.state = State::Opening(opening);
                        Ok(vec![])
                    }
                    Err(HandshakeError::Failure(error)) => {
                        self.state = State::Over(refusal(&error));
                        Err(WebSocketError::Protocol(error.to_string()))
                    }
                }
            }
            State::Open(mut socket) => {
                socket.get_mut().fill(bytes);
                let mut received = vec![];
                let end = loop {
                    match socket.read() {
                        Ok(Message::Binary(data)) => received.extend_from_slice(&data),
                        Ok(Message::Text(_)) => break Some(WebSocketError::Text),
                        // Pings and the end are answered by themselves.
                        Ok(_) => {}
                        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break None,
                        Err(Error::ConnectionClosed | Error::AlreadyClosed) => break Some(WebSocketError::Closed),
                        Err(error) => break Some(WebSocketError::Protocol(error.to_string())),
                    }
                };
                match end {
                    None => {
                        self.state = State::Open(socket);
                        Ok(received)
                    }
                    Some(error) => {
                        self.state = State::Over(std::mem::take(&mut socket.get_mut().output));
                        Err(error)
                    }
                }
            }
        }
    }

    /// Puts bytes into a message. Before the connection is open there is nobody to send to.
    pub fn send(&mut self, bytes: &[u8]) {
        if let State::Open(socket) = &mut self.state {
            // Writing into memory doesn't fail; after the end it goes nowhere.
            let _ = socket.send(Message::Binary(bytes.to_vec().into()));
        }
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        if let State::Open(socket) = &mut self.state {
            let _ = socket.close(None);
            let _ = socket.flush();
        }
    }

    /// Whether the client's request was granted.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// What there is to send on the connection below.
    pub fn take_output(&mut self) -> Vec<u8> {
        match &mut self.state {
            State::Opening(opening) => std::mem::take(&mut opening.get_mut().get_mut().output),
            State::Open(socket) => std::mem::take(&mut socket.get_mut().output),
            State::Over(rest) => std::mem::take(rest),
        }
    }
}

/// What is answered to a request that isn't granted.
fn refusal(error: &Error) -> Vec<u8> {
    let (status, why) = match error {
        Error::Http(response) => {
            let why = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            (response.status(), why.into_owned())
        }
        other => (StatusCode::BAD_REQUEST, other.to_string()),
    };
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{why}",
        why.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests;
