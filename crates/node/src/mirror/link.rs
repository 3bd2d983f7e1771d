//! The link to the peer: node 1 connects again and again, node 0 listens; a thread reads and one writes. Which messages
//! there are is the engine's business, and whether a link is wanted.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use ferro_mirror::wire::Message;

use super::Error;
use super::channel::{Channel, Protection, Receiver, Sender};
use super::owner::{Event, Inbox};

/// Bytes that may wait to be sent; the engine keeps far below with a peer that reads.
const MAX_WAITING: usize = 512 << 20;
/// Handshakes at a time.
const MAX_HANDSHAKES: usize = 8;
/// Bytes of writes for the local disk from which on the peer isn't read.
const MAX_WRITING: u64 = 128 << 20;
/// Between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A connection in use. Closing ends its threads.
pub(crate) struct Link {
    pub(crate) number: u64,
    queue: Arc<Queue>,
}

/// What waits to be sent.
struct Queue {
    socket: Arc<TcpStream>,
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    closed: bool,
    /// What waits is still sent, and nothing after it.
    finishing: bool,
}

impl Queue {
    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
        // It may be closed from the other end already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Link {
    /// Starts the threads of a fresh channel. They report as `number`.
    pub(crate) fn start(
        channel: Channel,
        number: u64,
        keepalive: Duration,
        inbox: &Inbox,
        writing: &Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let Channel { socket, sender, receiver } = channel;
        let queue = Arc::new(Queue { socket, state: Mutex::default(), changed: Condvar::new() });
        let link = Self { number, queue: Arc::clone(&queue) };
        super::thread("mirror-send", move || write_all(&queue, sender, keepalive))?;
        let (inbox, writing, queue) = (inbox.clone(), Arc::clone(writing), Arc::clone(&link.queue));
        super::thread("mirror-receive", move || {
            let why = read_all(receiver, number, &inbox, &writing).err().map(|error| error.to_string());
            queue.close();
            inbox.send(Event::LinkDown(number, why));
        })?;
        Ok(link)
    }

    /// Queues a message; false if the peer doesn't read and the link is of no more use.
    pub(crate) fn send(&self, message: &Message) -> bool {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let mut waiting = self.queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += bytes.len();
        waiting.messages.push_back(bytes);
        self.queue.changed.notify_one();
        waiting.bytes <= MAX_WAITING
    }

    /// Sends what waits, as the peer may need it to come to the same conclusion, and closes then.
    pub(crate) fn finish(self) {
        self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).finishing = true;
        self.queue.changed.notify_all();
    }

    /// Closes at once; what waits is not sent.
    pub(crate) fn close(&self) {
        self.queue.close();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.queue.state.lock().unwrap_or_else(PoisonError::into_inner).finishing {
            self.close();
        }
    }
}

fn write_all(queue: &Queue, mut sender: Sender, keepalive: Duration) {
    loop {
        let mut waiting = queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.messages.is_empty() && !waiting.closed && !waiting.finishing {
            waiting = queue.changed.wait_timeout(waiting, keepalive).unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.closed {
            return;
        }
        if waiting.finishing && waiting.messages.is_empty() {
            // The peer reads to the end and closes then, which ends the reading thread.
            let _ = queue.socket.shutdown(Shutdown::Write);
            return;
        }
        let mut bytes = Vec::new();
        while bytes.len() < 1 << 20
            && let Some(message) = waiting.messages.pop_front()
        {
            bytes = if bytes.is_empty() { message } else { [bytes, message].concat() };
        }
        waiting.bytes -= bytes.len();
        drop(waiting);
        if let Err(error) = sender.send(&bytes) {
            tracing::debug!("{error}");
            queue.close();
            return;
        }
    }
}

fn read_all(mut receiver: Receiver, number: u64, inbox: &Inbox, writing: &AtomicU64) -> Result<(), Error> {
    let mut input = Vec::new();
    loop {
        input.extend(receiver.receive()?);
        let mut used = 0;
        while let Some((message, length)) =
            Message::decode(&input[used..]).map_err(|error| Error::Message(error.to_string()))?
        {
            used += length;
            if !inbox.send(Event::Message(number, message)) {
                return Ok(());
            }
        }
        input.drain(..used);
        while writing.load(Ordering::Relaxed) > MAX_WRITING {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What the connecting side has to know.
pub(crate) struct Dialing {
    /// A link is wanted and there is none.
    pub(crate) wanted: Arc<AtomicBool>,
    /// The process ends.
    pub(crate) stopping: Arc<AtomicBool>,
}

/// Connects whenever a link is wanted, until the process stops.
pub(crate) fn dial(address: String, protection: Protection, dialing: Dialing, inbox: Inbox) -> Result<(), Error> {
    super::thread("mirror-connect", move || {
        let mut backoff = BACKOFF.0;
        while !dialing.stopping.load(Ordering::Relaxed) {
            std::thread::sleep(backoff);
            if !dialing.wanted.load(Ordering::Relaxed) {
                backoff = BACKOFF.0;
                continue;
            }
            let result = connect(&address, protection.timeout).and_then(|s| protection.handshake(s, true));
            backoff = (backoff * 2).min(BACKOFF.1);
            match result {
                Ok(channel) => {
                    dialing.wanted.store(false, Ordering::Relaxed);
                    inbox.send(Event::Connected(channel));
                }
                Err(error) => _ = inbox.send(Event::LinkFailed(error.to_string())),
            }
        }
    })
}

fn connect(address: &str, timeout: Duration) -> Result<TcpStream, Error> {
    let unreachable = |source| Error::Address(address.into(), source);
    let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs().map_err(unreachable)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(unreachable(failure))
}

/// Listens for the peer.
pub(crate) fn listen(address: &str, protection: Protection, inbox: Inbox) -> Result<(), Error> {
    let listener = TcpListener::bind(address).map_err(|source| Error::Listen(address.into(), source))?;
    super::thread("mirror-accept", move || {
        let handshakes = Arc::new(AtomicUsize::new(0));
        for socket in listener.incoming() {
            let Ok(socket) = socket else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            if handshakes.fetch_add(1, Ordering::Relaxed) >= MAX_HANDSHAKES {
                handshakes.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (protection, inbox, running) = (protection.clone(), inbox.clone(), Arc::clone(&handshakes));
            let started = super::thread("mirror-handshake", move || {
                match protection.handshake(socket, false) {
                    Ok(channel) => inbox.send(Event::Connected(channel)),
                    Err(error) => inbox.send(Event::LinkFailed(error.to_string())),
                };
                running.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                handshakes.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}
