//! Getting a thread out of `KVM_RUN`: a signal that is blocked but inside that call (`KVM_SET_SIGNAL_MASK`), so that one
//! sent at any other moment waits and makes the next call return at once. No handler is installed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

/// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`, whose fixed part is four bytes.
const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
/// Bytes of the kernel's signal set.
const KERNEL_SET: u32 = 8;

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn kick_set() -> libc::sigset_t {
    // SAFETY: a plain structure that `sigemptyset` initialises; both calls get a valid pointer to it.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, kick_signal());
        set
    }
}

/// A thread that can be kicked. Kicking one that has ended does nothing.
#[derive(Debug, Clone, Copy)]
pub struct KickTarget {
    process: libc::pid_t,
    thread: libc::pid_t,
}

#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; KERNEL_SET as usize],
}

impl KickTarget {
    /// Makes the calling thread one, and `KVM_RUN` on this vCPU return with `EINTR` when it is kicked.
    ///
    /// # Errors
    /// What the kernel says of the descriptor.
    pub fn new(vcpu: &impl AsRawFd) -> io::Result<Self> {
        let set = kick_set();
        let mut during = SignalMask { len: KERNEL_SET, set: [0; KERNEL_SET as usize] };
        // SAFETY: `set` is initialised and `before` is filled in by the call, of whose kernel part (64 signals, 8 bytes)
        // a copy is taken; the ioctl reads a structure of `len` bytes after its length, which is alive.
        unsafe {
            let mut before = std::mem::zeroed::<libc::sigset_t>();
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            libc::sigdelset(&raw mut before, kick_signal());
            std::ptr::copy_nonoverlapping((&raw const before).cast::<u8>(), during.set.as_mut_ptr(), during.set.len());
            if libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const during) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { process: libc::getpid(), thread: libc::gettid() })
        }
    }

    /// Gets the thread out of `KVM_RUN`, or out of the next one.
    pub fn kick(self) {
        // SAFETY: no memory is involved; a thread that has ended gives ESRCH, which is what is wanted.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, kick_signal()) };
    }
}

/// Takes kicks back that the calling thread has already noticed.
pub fn drain() {
    let set = kick_set();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to initialised structures that outlive the calls; no information is asked for.
    while unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const now) } > 0 {}
}
