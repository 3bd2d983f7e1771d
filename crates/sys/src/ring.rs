//! An io_uring (io_uring(7)) over owned descriptors and buffers: what the kernel may still write to is held here until the
//! kernel says that it is done. Knows reads, writes and syncs at positions in files, nothing else.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use crate::AlignedBuffer;

/// What is to be done.
#[derive(Debug)]
pub enum Operation {
    /// Fill the buffer from this position on.
    Read(AlignedBuffer),
    /// Write the buffer at this position.
    Write(AlignedBuffer),
    /// Bring data, and the metadata needed to read it, to stable media (fdatasync(2)).
    Sync,
}

/// Something done.
#[derive(Debug)]
pub struct Completion {
    /// What the submitter called it.
    pub token: u64,
    /// The number of bytes transferred, which may be fewer than asked for, or what the kernel said.
    pub result: io::Result<usize>,
    /// The operation's buffer.
    pub buffer: Option<AlignedBuffer>,
}

/// An operation in flight: everything of ours that the kernel uses until it completes.
struct Flight {
    token: u64,
    buffer: Option<AlignedBuffer>,
    _file: Arc<OwnedFd>,
}

/// A submission and a completion queue of fixed depth, for the thread that makes it: the kernel finishes requests in that
/// thread, when it asks for completions, rather than interrupting it for each.
pub struct Ring {
    ring: IoUring,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    event: OwnedFd,
    /// The kernel counts completions in `event`, which costs something for each.
    counting: bool,
    _one_thread: PhantomData<*mut ()>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("depth", &self.flights.len())
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring for up to `depth` operations in flight (1..=4096).
    ///
    /// # Errors
    /// `InvalidInput` for a depth out of range; what io_uring_setup(2) says: `ENOSYS`, `EPERM` where it is switched off.
    pub fn new(depth: u32) -> io::Result<Self> {
        if depth == 0 || depth > 4096 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut deferring = IoUring::builder();
        deferring.setup_clamp().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let ring = match deferring.build(depth) {
            // Before Linux 6.1.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().setup_clamp().build(depth)?
            }
            other => other?,
        };
        let event =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?;
        let depth = depth as usize;
        Ok(Self {
            ring,
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            event,
            counting: false,
            _one_thread: PhantomData,
        })
    }

    /// How many more operations may be pushed now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// How many operations are pushed and not yet taken as completions.
    pub fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// A descriptor that becomes readable when operations complete, and perhaps at other times. Reading it resets it.
    /// Requests cost a little more from the first call on.
    ///
    /// # Errors
    /// What io_uring_register(2) says.
    pub fn event(&mut self) -> io::Result<BorrowedFd<'_>> {
        if !self.counting {
            self.ring.submitter().register_eventfd(self.event.as_raw_fd())?;
            self.counting = true;
            // What has completed already was not counted.
            rustix::io::write(&self.event, &1u64.to_ne_bytes())?;
        }
        Ok(self.event.as_fd())
    }

    /// Queues an operation at `offset` of `file`; the kernel hears of it at the next [`Ring::submit`].
    ///
    /// # Errors
    /// Gives the operation back if the ring is full.
    pub fn push(
        &mut self,
        file: &Arc<OwnedFd>,
        offset: u64,
        operation: Operation,
        token: u64,
    ) -> Result<(), Operation> {
        let Some(slot) = self.free.pop() else { return Err(operation) };
        let fd = types::Fd(file.as_raw_fd());
        let (mut buffer, write) = match operation {
            Operation::Read(buffer) => (Some(buffer), false),
            Operation::Write(buffer) => (Some(buffer), true),
            Operation::Sync => (None, false),
        };
        let entry: squeue::Entry = match &mut buffer {
            Some(bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if write {
                    opcode::Write::new(fd, bytes.as_ptr(), len).offset(offset).build()
                } else {
                    opcode::Read::new(fd, bytes.as_mut_ptr(), len).offset(offset).build()
                }
            }
            None => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let entry = entry.user_data(slot as u64);
        self.flights[slot] = Some(Flight { token, buffer, _file: Arc::clone(file) });
        // SAFETY: the buffer's heap memory and the descriptor belong to `flights[slot]`, which is taken only when the
        // kernel has completed the entry with this `user_data`; moving the buffer doesn't move its heap memory, and nobody
        // can reach it meanwhile. `Drop` waits for all that is in flight.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "the queue is as long as there are slots, and submit() empties it");
        Ok(())
    }

    /// Tells the kernel of what was pushed, and waits until at least `wait_for` completions can be taken.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn submit(&mut self, wait_for: usize) -> io::Result<()> {
        let wait_for = wait_for.min(self.in_flight());
        loop {
            match self.ring.submit_and_wait(wait_for) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The completion queue is full: what it holds has to be taken first.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Ring::submit`], waiting for one completion, and for up to `wait_for` if they come within `patience`: who
    /// takes many at a time wakes up less often, and gives the disk more to do at a time.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn submit_and_gather(&mut self, wait_for: usize, patience: Duration) -> io::Result<()> {
        let wait_for = wait_for.min(self.in_flight());
        if wait_for <= 1 || !self.ring.params().is_feature_min_timeout() {
            return self.submit(1);
        }
        let patience = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
        let arguments = types::SubmitArgs::new().min_wait_usec(patience);
        match self.ring.submitter().submit_with_args(wait_for, &arguments) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        if self.ring.completion().is_empty() { self.submit(1) } else { Ok(()) }
    }

    /// Takes one completion, if there is one.
    pub fn complete(&mut self) -> Option<Completion> {
        let next = self.ring.completion().next();
        let entry = match next {
            Some(entry) => entry,
            // The kernel has completions for which it waits to be asked.
            None if self.ring.submission().taskrun() => {
                self.submit(0).ok()?;
                self.ring.completion().next()?
            }
            None => return None,
        };
        let slot = usize::try_from(entry.user_data()).ok()?;
        let flight = self.flights.get_mut(slot)?.take()?;
        self.free.push(slot);
        let result = match entry.result() {
            done @ 0.. => Ok(done as usize),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        Some(Completion { token: flight.token, result, buffer: flight.buffer })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.submit(1).is_err() {
                // The kernel may still write to these buffers: better lost than reused.
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            while self.complete().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn writes_and_reads_back() {
        let Ok(mut ring) = Ring::new(4) else {
            eprintln!("skipped: this kernel has no io_uring");
            return;
        };
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[0; 8192]).expect("write");
        let file = Arc::new(OwnedFd::from(file));
        let mut buffer = AlignedBuffer::new(4096);
        buffer.fill(0x5a);
        ring.push(&file, 4096, Operation::Write(buffer), 1).expect("room");
        ring.submit(1).expect("submit");
        let done = ring.complete().expect("done");
        assert_eq!((done.token, done.result.expect("written")), (1, 4096));
        ring.push(&file, 0, Operation::Read(AlignedBuffer::new(8192)), 2).expect("room");
        ring.push(&file, 0, Operation::Sync, 3).expect("room");
        ring.submit(2).expect("submit");
        for _ in 0..2 {
            let done = ring.complete().expect("done");
            if done.token == 2 {
                let buffer = done.buffer.expect("a buffer");
                assert!(
                    buffer[..4096].iter().all(|&byte| byte == 0) && buffer[4096..].iter().all(|&byte| byte == 0x5a)
                );
            }
        }
        assert_eq!(ring.room(), 4);
    }

    #[test]
    fn refuses_more_than_its_depth() {
        let Ok(mut ring) = Ring::new(1) else { return };
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().expect("a temporary file")));
        ring.push(&file, 0, Operation::Sync, 1).expect("room");
        assert!(ring.push(&file, 0, Operation::Sync, 2).is_err());
    }
}
