//! The queue form of [`Storage`]: requests with owned buffers go in as batches, completions come out in any order, and a
//! descriptor becomes readable when there are some. For devices and servers that keep many requests in flight from one
//! thread. Doesn't order requests: who wants one after another waits for the first.

mod pool;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ferro_sys::AlignedBuffer;
use ferro_sys::ring::{self, Ring};

use crate::{Error, Result, Storage, WriteFlags, ZeroFlags};

/// What is asked of storage.
#[derive(Debug)]
pub enum Operation {
    /// Fill the buffer.
    Read {
        /// From where.
        offset: u64,
        /// As many bytes as this has.
        buffer: AlignedBuffer,
    },
    /// Write the buffer.
    Write {
        /// Where to.
        offset: u64,
        /// All of it.
        buffer: AlignedBuffer,
        /// How.
        flags: WriteFlags,
    },
    /// As [`Storage::write_zeroes`].
    WriteZeroes {
        /// From where.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// How.
        flags: ZeroFlags,
    },
    /// As [`Storage::discard`].
    Discard {
        /// From where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// As [`Storage::flush`]; it covers the requests that have completed before it is submitted.
    Flush,
}

/// A request and the name by which its completion is known.
#[derive(Debug)]
pub struct Request {
    /// Chosen by the submitter.
    pub token: u64,
    /// What to do.
    pub operation: Operation,
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// The request's.
    pub token: u64,
    /// How it went.
    pub result: Result<()>,
    /// The request's buffer; filled, if it was a read that succeeded.
    pub buffer: Option<AlignedBuffer>,
}

/// Requests in flight on one storage, owned by one thread.
pub struct Queue {
    storage: Arc<dyn Storage>,
    /// The kernel's queue, for requests of which the storage knows the place in a host file.
    ring: Option<Ring>,
    /// Threads, for all others.
    pool: pool::Pool,
    done: Receiver<Completion>,
    depth: usize,
    in_flight: usize,
    /// What the ring needs to know of a read or write to judge its result.
    expected: Vec<Option<Expected>>,
    /// Free places in `expected`.
    places: Vec<usize>,
}

struct Expected {
    token: u64,
    offset: u64,
    write: bool,
    _guard: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("depth", &self.depth).field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// How long completions may wait for others, so that they are taken together.
const PATIENCE: Duration = Duration::from_micros(30);

/// Threads that serve what the ring can't.
const THREADS: usize = 8;

impl Queue {
    /// A queue for up to `depth` requests in flight (1..=1024). Without io_uring in the kernel, or where it is switched
    /// off, threads do all of the work.
    ///
    /// # Errors
    /// A depth out of range, no threads or descriptors left.
    pub fn new(storage: Arc<dyn Storage>, depth: usize) -> Result<Self> {
        Self::with_ring(storage, depth, true)
    }

    /// As [`Queue::new`], with `ring` saying whether io_uring may be used.
    ///
    /// # Errors
    /// As for [`Queue::new`].
    pub fn with_ring(storage: Arc<dyn Storage>, depth: usize, ring: bool) -> Result<Self> {
        if depth == 0 || depth > 1024 {
            return Err(Error::Invalid(format!("a queue's depth is 1 to 1024, not {depth}")));
        }
        let ring = if ring { Ring::new(depth as u32).ok() } else { None };
        let (pool, done) = pool::Pool::new(&storage, depth.min(THREADS))?;
        Ok(Self {
            storage,
            ring,
            pool,
            done,
            depth,
            in_flight: 0,
            expected: (0..depth).map(|_| None).collect(),
            places: (0..depth).rev().collect(),
        })
    }

    /// How many requests may be submitted now.
    pub fn room(&self) -> usize {
        self.depth - self.in_flight
    }

    /// How many requests are submitted and not yet completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Descriptors that become readable when there are completions: the threads', and the ring's if there is one.
    ///
    /// # Errors
    /// The kernel refusing to tell of completions in this way.
    pub fn events(&mut self) -> Result<(BorrowedFd<'_>, Option<BorrowedFd<'_>>)> {
        let ring = self.ring.as_mut().map(Ring::event).transpose();
        let ring = ring.map_err(|source| Error::Io { operation: "watch requests".into(), source })?;
        Ok((self.pool.event(), ring))
    }

    /// Starts all of `requests`, leaving the vector empty.
    ///
    /// # Errors
    /// More requests than there is [room](Queue::room), of which then none is started; the kernel refusing a batch.
    pub fn submit(&mut self, requests: &mut Vec<Request>) -> Result<()> {
        self.start_all(requests)?;
        self.tell()
    }

    /// As [`Queue::submit`] and then a waiting [`Queue::complete`], in one system call where that can be.
    ///
    /// # Errors
    /// As for both.
    pub fn exchange(&mut self, requests: &mut Vec<Request>, completions: &mut Vec<Completion>) -> Result<()> {
        self.start_all(requests)?;
        let before = completions.len();
        self.take(completions);
        if completions.len() > before { self.tell() } else { self.complete(completions, true) }
    }

    /// Has the kernel start what was given to the ring.
    fn tell(&mut self) -> Result<()> {
        match &mut self.ring {
            Some(ring) => ring.submit(0).map_err(|source| Error::Io { operation: "submit requests".into(), source }),
            None => Ok(()),
        }
    }

    fn start_all(&mut self, requests: &mut Vec<Request>) -> Result<()> {
        if requests.len() > self.room() {
            return Err(Error::Invalid(format!(
                "{} requests for a queue with room for {}",
                requests.len(),
                self.room()
            )));
        }
        for request in requests.drain(..) {
            self.in_flight += 1;
            self.start(request);
        }
        Ok(())
    }

    fn start(&mut self, request: Request) {
        let Some(ring) = &mut self.ring else { return self.pool.send(request) };
        let (offset, len, write) = match &request.operation {
            Operation::Read { offset, buffer } => (*offset, buffer.len(), false),
            Operation::Write { offset, buffer, flags } if !flags.fua => (*offset, buffer.len(), true),
            _ => return self.pool.send(request),
        };
        let Some(range) = self.storage.direct_range(offset, len as u64, write) else { return self.pool.send(request) };
        let (operation, token) = match request.operation {
            Operation::Read { buffer, .. } => (ring::Operation::Read(buffer), request.token),
            Operation::Write { buffer, .. } => (ring::Operation::Write(buffer), request.token),
            other => return self.pool.send(Request { token: request.token, operation: other }),
        };
        let place = self.places.pop();
        let Some(place) = place else { unreachable!("there are as many places as requests in flight") };
        self.expected[place] = Some(Expected { token, offset, write, _guard: range.guard });
        let pushed = ring.push(&range.file, range.offset, operation, place as u64);
        assert!(pushed.is_ok(), "the ring is as deep as the queue");
    }

    /// Moves what has completed to the end of `completions`, waiting for at least one if `wait` and any is in flight.
    ///
    /// # Errors
    /// The kernel refusing to be asked.
    pub fn complete(&mut self, completions: &mut Vec<Completion>, wait: bool) -> Result<()> {
        let before = completions.len();
        loop {
            self.take(completions);
            if completions.len() > before || !wait || self.in_flight == 0 {
                return Ok(());
            }
            self.sleep()?;
        }
    }

    /// Takes what is there without waiting.
    fn take(&mut self, completions: &mut Vec<Completion>) {
        while let Some(done) = self.ring.as_mut().and_then(Ring::complete) {
            let place = done.token as usize;
            let Some(expected) = self.expected.get_mut(place).and_then(Option::take) else { continue };
            self.places.push(place);
            let wanted = done.buffer.as_ref().map_or(0, |buffer| buffer.len());
            if done.result.as_ref().is_ok_and(|&len| len < wanted) {
                // The host did less than asked, as at the end of a file: the synchronous way knows what to do then.
                let buffer = done.buffer.unwrap_or_default();
                let operation = if expected.write {
                    Operation::Write { offset: expected.offset, buffer, flags: WriteFlags::default() }
                } else {
                    Operation::Read { offset: expected.offset, buffer }
                };
                self.pool.send(Request { token: expected.token, operation });
                continue;
            }
            let verb = if expected.write { "write" } else { "read" };
            let result = done.result.map(|_| ()).map_err(|source| Error::Io {
                operation: format!("{verb} {wanted} bytes at {}", expected.offset),
                source,
            });
            self.in_flight -= 1;
            completions.push(Completion { token: expected.token, result, buffer: done.buffer });
        }
        while let Ok(done) = self.done.try_recv() {
            self.in_flight -= 1;
            completions.push(done);
        }
    }

    fn sleep(&mut self) -> Result<()> {
        let failed = |source: std::io::Error| Error::Io { operation: "wait for requests".into(), source };
        match &mut self.ring {
            // All that is in flight is in the ring: it can be entered to wait.
            Some(ring) if ring.in_flight() == self.in_flight => {
                ring.submit_and_gather(self.in_flight / 2, PATIENCE).map_err(failed)
            }
            _ => {
                use rustix::event::{PollFd, PollFlags, poll};
                self.tell()?;
                let (pool, ring) = self.events()?;
                let mut fds = vec![PollFd::from_borrowed_fd(pool, PollFlags::IN)];
                fds.extend(ring.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(failed(errno.into())),
                }
                let mut counter = [0u8; 8];
                for fd in [Some(pool), ring].into_iter().flatten() {
                    // Not readable is fine: the other one was.
                    let _ = rustix::io::read(fd, &mut counter);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileOptions, FileStorage, MemoryStorage};

    fn exercise(storage: Arc<dyn Storage>, ring: bool) {
        let mut queue = Queue::with_ring(storage, 8, ring).expect("a queue");
        let mut completions = Vec::new();
        let mut batch = Vec::new();
        for index in 0..8u64 {
            let mut buffer = AlignedBuffer::new(4096);
            buffer.fill(index as u8 + 1);
            let operation = Operation::Write { offset: index * 4096, buffer, flags: WriteFlags { fua: index == 3 } };
            batch.push(Request { token: index, operation });
        }
        queue.submit(&mut batch).expect("submitted");
        batch.push(Request { token: 99, operation: Operation::Flush });
        assert!(queue.submit(&mut batch).is_err(), "a full queue refuses");
        while queue.in_flight() > 0 {
            queue.complete(&mut completions, true).expect("completed");
        }
        assert!(completions.iter().all(|done| done.result.is_ok()) && completions.len() == 8);
        completions.clear();
        batch.push(Request { token: 1, operation: Operation::Discard { offset: 0, len: 4096 } });
        let flags = ZeroFlags::default();
        batch.push(Request { token: 2, operation: Operation::WriteZeroes { offset: 4096, len: 4096, flags } });
        let buffer = AlignedBuffer::new(4096);
        batch.truncate(3);
        batch.push(Request { token: 3, operation: Operation::Read { offset: 8192, buffer } });
        let buffer = AlignedBuffer::new(4096);
        batch.push(Request { token: 4, operation: Operation::Read { offset: 1 << 40, buffer } });
        queue.submit(&mut batch).expect("submitted");
        while queue.in_flight() > 0 {
            queue.complete(&mut completions, true).expect("completed");
        }
        for done in completions {
            match done.token {
                3 => assert!(done.buffer.expect("a buffer").iter().all(|&byte| byte == 3)),
                4 => assert!(done.result.is_err()),
                _ => assert!(done.result.is_ok()),
            }
        }
    }

    #[test]
    fn a_file_is_served_by_ring_and_threads() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        for ring in [true, false] {
            let options = FileOptions { writable: true, ..FileOptions::default() };
            exercise(Arc::new(FileStorage::create(file.path(), 1 << 20, options).expect("a file")), ring);
        }
    }

    #[test]
    fn memory_is_served_by_threads() {
        exercise(Arc::new(MemoryStorage::new(1 << 20)), true);
    }
}
