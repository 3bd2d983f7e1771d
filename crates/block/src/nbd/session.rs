//! The server's transmission phase on one connection: requests in, replies out. Requests are served on the connection's
//! own thread as long as storage answers from memory, and by several threads when it takes its time.

use std::io::Read;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use ferro_sys::AlignedBuffer;

use super::handshake::{Agreement, broken, lost};
use super::reply::Replies;
use super::request;
use super::socket::Socket;
use super::wire::{self, Request, Violation, command, errno};
use crate::Result;

/// Threads that serve one connection's requests when storage is slow.
const WORKERS: usize = 16;
/// Requests that wait for them.
const BACKLOG: usize = 64;
/// Microseconds of service from which on requests are given to other threads.
const SLOW: u32 = 80;
/// Bytes of input taken from the socket at once.
const INPUT: usize = 128 << 10;
/// Bytes of data in flight in all connections of a server.
const MAX_IN_FLIGHT: usize = 256 << 20;

/// Bounds the memory that all clients together make a server use.
#[derive(Debug)]
pub(super) struct Budget {
    used: Mutex<usize>,
    returned: Condvar,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { used: Mutex::new(0), returned: Condvar::new() }
    }

    /// Waits until `amount` bytes may be used.
    fn take(self: &Arc<Self>, amount: usize) -> Share {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + amount > MAX_IN_FLIGHT {
            used = self.returned.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += amount;
        Share { budget: Arc::clone(self), amount }
    }
}

/// Part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    amount: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.amount;
        self.budget.returned.notify_all();
    }
}

/// A request with its data and its share of the budget.
struct Job {
    request: Request,
    data: AlignedBuffer,
    _share: Option<Share>,
}

/// What the threads of one connection share.
struct Connection<'a> {
    agreement: Agreement<'a>,
    replies: Replies<'a>,
    /// Smoothed microseconds of service per kind of request.
    cost: [AtomicU32; 3],
    in_flight: AtomicUsize,
    served: AtomicU64,
}

/// Serves requests until the client leaves.
pub(super) fn run(socket: &Socket, agreement: Agreement<'_>, budget: &Arc<Budget>) -> Result<()> {
    let connection = Connection {
        agreement,
        replies: Replies::new(socket, agreement.structured),
        cost: Default::default(),
        in_flight: AtomicUsize::new(0),
        served: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let mut input = Input { socket, buffer: vec![0; INPUT], start: 0, end: 0 };
        let mut workers: Option<SyncSender<Job>> = None;
        // Kept between requests served here: the commonest have all the same length.
        let mut spare = AlignedBuffer::default();
        loop {
            if !input.has(wire::REQUEST_LEN) {
                connection.replies.flush().map_err(lost)?;
            }
            let Some(request) = input.request()? else { return Ok(()) };
            if request.command == command::DISCONNECT {
                return connection.replies.flush().map_err(lost);
            }
            let len = request::buffer_len(&request);
            let share = (len > INPUT).then(|| {
                // Nobody may wait for the budget while holding back replies that would return some.
                let flushed = connection.replies.flush();
                flushed.map(|()| budget.take(len))
            });
            let share = share.transpose().map_err(lost)?;
            let mut data = std::mem::take(&mut spare);
            if data.capacity() < len {
                data = AlignedBuffer::new(len);
            }
            data.set_len(len);
            if request.command == command::WRITE {
                input.exact(&mut data)?;
            }
            let busy = connection.in_flight.load(Ordering::Relaxed) > 0 || input.has(wire::REQUEST_LEN);
            if busy && connection.is_slow(&request) {
                let workers = workers.get_or_insert_with(|| start_workers(scope, &connection));
                connection.in_flight.fetch_add(1, Ordering::Relaxed);
                if workers.send(Job { request, data, _share: share }).is_err() {
                    return Err(broken(Violation("no thread is left to serve requests".into())));
                }
                continue;
            }
            connection.serve(&request, &mut data).map_err(lost)?;
            if data.capacity() <= 2 * INPUT {
                spare = data;
            }
        }
    })
}

fn start_workers<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    connection: &'scope Connection<'_>,
) -> SyncSender<Job> {
    let (sender, receiver) = sync_channel::<Job>(BACKLOG);
    let receiver = Arc::new(Mutex::new(receiver));
    for index in 0..WORKERS {
        let receiver = Arc::clone(&receiver);
        let spawned = std::thread::Builder::new()
            .name(format!("nbd-worker-{index}"))
            .spawn_scoped(scope, move || work(connection, &receiver));
        if spawned.is_err() {
            // The others do the work; without any, the sender finds the channel closed.
            break;
        }
    }
    sender
}

fn work(connection: &Connection<'_>, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut job) = next else { return };
        let sent = connection.serve(&job.request, &mut job.data).and_then(|()| connection.replies.flush());
        connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        if sent.is_err() {
            // The reader finds the connection broken as well; what was asked for is still done.
            connection.replies.socket().shut_down();
        }
    }
}

impl Connection<'_> {
    fn class(request: &Request) -> usize {
        match request.command {
            command::READ => 0,
            command::WRITE => 1,
            _ => 2,
        }
    }

    fn is_slow(&self, request: &Request) -> bool {
        self.cost[Self::class(request)].load(Ordering::Relaxed) > SLOW
    }

    /// Does what is asked and replies. Time is taken of every eighth request: enough to follow storage's mood.
    fn serve(&self, request: &Request, data: &mut AlignedBuffer) -> std::io::Result<()> {
        let count = self.served.fetch_add(1, Ordering::Relaxed);
        let cost = &self.cost[Self::class(request)];
        let sample = count.is_multiple_of(8) || cost.load(Ordering::Relaxed) == 0;
        let started = sample.then(Instant::now);
        let outcome = request::perform(&self.agreement, request, data);
        if let Some(started) = started {
            let took = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX).clamp(1, 1_000_000);
            let before = cost.load(Ordering::Relaxed);
            let smoothed = if before == 0 { took } else { (before * 3 + took) / 4 };
            cost.store(smoothed, Ordering::Relaxed);
        }
        match outcome {
            request::Outcome::Done => self.replies.done(request.cookie),
            request::Outcome::Data => self.replies.data(request.cookie, request.offset, data),
            request::Outcome::Hole => self.replies.hole(request.cookie, request.offset, request.len),
            request::Outcome::Status(contexts) => self.replies.block_status(request.cookie, &contexts),
            request::Outcome::Failed(number, why) => {
                tracing::debug!(offset = request.offset, len = request.len, "an NBD request failed: {why}");
                debug_assert_ne!(number, 0);
                self.replies.error(request.cookie, number.max(errno::EPERM), &why)
            }
        }
    }
}

/// The bytes that a client sends, taken in large pieces.
struct Input<'a> {
    socket: &'a Socket,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input<'_> {
    fn has(&self, len: usize) -> bool {
        self.end - self.start >= len
    }

    /// The next request; `None` if the client hung up between two.
    fn request(&mut self) -> Result<Option<Request>> {
        while !self.has(wire::REQUEST_LEN) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let mut socket = self.socket;
            match socket.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.end == 0 => return Ok(None),
                Ok(0) => return Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset && self.end == 0 => return Ok(None),
                Err(error) => return Err(lost(error)),
            }
        }
        let mut head = [0; wire::REQUEST_LEN];
        head.copy_from_slice(&self.buffer[self.start..self.start + wire::REQUEST_LEN]);
        self.start += wire::REQUEST_LEN;
        let request = Request::parse(&head).map_err(broken)?;
        if request.payload() > wire::MAX_TRANSFER {
            return Err(broken(Violation(format!("a write of {} bytes", request.len))));
        }
        Ok(Some(request))
    }

    /// Fills `target` with what follows a request.
    fn exact(&mut self, target: &mut AlignedBuffer) -> Result<()> {
        let here = (self.end - self.start).min(target.len());
        target[..here].copy_from_slice(&self.buffer[self.start..self.start + here]);
        self.start += here;
        let mut socket: &Socket = self.socket;
        socket.read_exact(&mut target[here..]).map_err(lost)
    }
}
