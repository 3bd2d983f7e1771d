//! Signals as a file descriptor (signalfd(2)), so that a program can end in good order on `^C`. Installs no handlers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals by which someone asks a program to end: `SIGINT`, `SIGTERM`, `SIGHUP`, held back from their default effect
/// in the thread that made this and in every thread that it starts afterwards.
#[derive(Debug)]
pub struct Termination {
    fd: OwnedFd,
}

impl Termination {
    /// Holds the signals back. To be called before any other thread is started.
    ///
    /// # Errors
    /// What signalfd(2) says: no descriptors left.
    pub fn catch() -> io::Result<Self> {
        // SAFETY: `set` is a plain structure that `sigemptyset` initialises before anything reads it; all calls get valid
        // pointers to it, and signalfd's result is checked before it is owned, by nobody else.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// Waits for one of the signals for at most so long; whether there was one.
    ///
    /// # Errors
    /// What poll(2) and read(2) say.
    pub fn wait_for(&self, timeout: std::time::Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec::try_from(timeout).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => self.wait().map(|()| true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for one of the signals.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn wait(&self) -> io::Result<()> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(self.fd.as_fd(), &mut record) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Termination {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}
