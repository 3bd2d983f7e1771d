//! Threads that do requests the synchronous way. The channel to them is bounded by the queue's depth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use super::{Completion, Operation, Request};
use crate::{Error, Result, Storage};

/// The threads; they end when this is dropped, after what they were given.
pub(super) struct Pool {
    requests: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
    event: Arc<OwnedFd>,
    /// For starting threads when the first request comes: many queues never need one.
    start: Option<Start>,
    count: usize,
}

struct Start {
    storage: Arc<dyn Storage>,
    incoming: Receiver<Request>,
    done: Sender<Completion>,
}

impl Pool {
    /// Up to `count` threads, started when the first request comes.
    pub(super) fn new(storage: &Arc<dyn Storage>, count: usize) -> Result<(Self, Receiver<Completion>)> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::Io { operation: "make an eventfd".into(), source: errno.into() })?;
        let (requests, incoming) = channel();
        let (done, completions) = channel();
        let start = Some(Start { storage: Arc::clone(storage), incoming, done });
        Ok((Self { requests: Some(requests), threads: Vec::new(), event: Arc::new(event), start, count }, completions))
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    pub(super) fn send(&mut self, request: Request) {
        if let Some(start) = self.start.take() {
            self.start(start);
        }
        let sent = self.requests.as_ref().map(|requests| requests.send(request));
        assert!(matches!(sent, Some(Ok(()))), "the threads outlive the pool");
    }

    fn start(&mut self, start: Start) {
        let incoming = Arc::new(Mutex::new(start.incoming));
        for index in 0..self.count {
            let (incoming, done) = (Arc::clone(&incoming), start.done.clone());
            let (storage, event) = (Arc::clone(&start.storage), Arc::clone(&self.event));
            let work = move || {
                loop {
                    let next = incoming.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(request) = next else { return };
                    let completion = serve(&*storage, request);
                    if done.send(completion).is_err() {
                        return;
                    }
                    // A full counter says the same as one more.
                    let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
                }
            };
            match std::thread::Builder::new().name(format!("block-{index}")).spawn(work) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    assert!(index > 0, "cannot start a single thread: {error}");
                    return;
                }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.requests.take());
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Does one request.
fn serve(storage: &dyn Storage, request: Request) -> Completion {
    let token = request.token;
    let (result, buffer) = match request.operation {
        Operation::Read { offset, mut buffer } => (storage.read_at(&mut buffer, offset), Some(buffer)),
        Operation::Write { offset, buffer, flags } => {
            (storage.write_vectored_at(&[std::io::IoSlice::new(&buffer)], offset, flags), Some(buffer))
        }
        Operation::WriteZeroes { offset, len, flags } => (storage.write_zeroes(offset, len, flags), None),
        Operation::Discard { offset, len } => (storage.discard(offset, len), None),
        Operation::Flush => (storage.flush(), None),
    };
    Completion { token, result, buffer }
}
