//! What lies between a client's socket and its session: TLS, a WebSocket, one in the other, or nothing. Works on bytes that
//! others read and write.

use std::io::{self, Read, Write};
use std::sync::Arc;

use ferro_console::websocket::WebSocket;
use rustls::{ServerConfig, ServerConnection};

/// The layers of a connection.
#[derive(Default)]
pub(super) struct Channel {
    tls: Option<Box<ServerConnection>>,
    web: Option<Box<WebSocket>>,
    output: Vec<u8>,
}

impl Channel {
    /// From now on all is encrypted.
    ///
    /// # Errors
    /// TLS that doesn't begin.
    pub(super) fn encrypt(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        // What is sent is taken out at once.
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// From now on it is a WebSocket; with `own_pages` pages of other hosts are refused.
    pub(super) fn frame(&mut self, own_pages: bool) {
        self.web = Some(Box::new(WebSocket::new(own_pages)));
    }

    /// Whether the WebSocket's request was granted, or there is none.
    pub(super) fn is_open(&self) -> bool {
        self.web.as_ref().is_none_or(|web| web.is_open())
    }

    /// Takes bytes of the socket; returns the session's. There may be output then, also after an error.
    ///
    /// # Errors
    /// What breaks a layer's rules, or its end.
    pub(super) fn receive(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let bytes = match &mut self.tls {
            Some(tls) => decrypt(tls, &bytes),
            None => Ok(bytes),
        };
        let received = bytes.and_then(|bytes| match &mut self.web {
            Some(web) => web.receive(&bytes).map_err(io::Error::other),
            None => Ok(bytes),
        });
        let framed = self.web.as_mut().map(|web| web.take_output()).unwrap_or_default();
        let put = self.put(framed);
        received.and_then(|received| put.map(|()| received))
    }

    /// Puts the session's bytes into the output.
    ///
    /// # Errors
    /// TLS that takes nothing more.
    pub(super) fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let bytes = match &mut self.web {
            Some(web) => {
                web.send(&bytes);
                web.take_output()
            }
            None => bytes,
        };
        self.put(bytes)
    }

    /// Ends the layers as they want it.
    pub(super) fn close(&mut self) {
        if let Some(web) = &mut self.web {
            web.close();
            let bytes = web.take_output();
            // Who can't be told isn't.
            let _ = self.put(bytes);
        }
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = self.put(vec![]);
        }
    }

    fn put(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            if self.output.is_empty() {
                self.output = bytes;
            } else {
                self.output.extend_from_slice(&bytes);
            }
            return Ok(());
        };
        tls.writer().write_all(&bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.output)?;
        }
        Ok(())
    }

    /// What there is to write to the socket.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }
}

fn decrypt(tls: &mut ServerConnection, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = vec![];
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes)?;
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut plain[start..])?;
        if state.peer_has_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(plain)
}
