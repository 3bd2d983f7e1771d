//! TAP interfaces: attaching to one by name, so that its Ethernet frames can be read and written as a file; making and
//! deleting ones that stay without a process.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

const IFF_TAP: i16 = 2;
const IFF_NO_PI: i16 = 0x1000;
const NAME_ROOM: usize = 16;

/// The kernel's `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_ROOM],
    flags: i16,
    rest: [u8; 22],
}

/// What to attach to a TAP interface with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Queues: file descriptors over which the kernel spreads flows.
    pub queues: u16,
    /// Whether packets have a header before them that tells of checksums and segmentation left to do.
    pub header: bool,
}

/// A TAP interface as it was attached to.
#[derive(Debug)]
pub struct Attached {
    /// Each read of one gives a packet, without waiting; each write sends one. Fewer than wanted where the interface was made
    /// for one queue.
    pub queues: Vec<File>,
    /// Packets have the [`HEADER`] bytes before them.
    pub header: bool,
}

/// Bytes of the header: `struct virtio_net_hdr_v1`.
pub const HEADER: usize = 12;

/// Attaches to the TAP interface `name`, which is made if it doesn't exist and the caller may.
///
/// # Errors
/// A name that is too long or has a zero byte, no `/dev/net/tun`, no permission, an interface that is busy.
pub fn attach(name: &str, wanted: Wanted) -> io::Result<Attached> {
    let header = if wanted.header { libc::IFF_VNET_HDR as i16 } else { 0 };
    let several = libc::IFF_MULTI_QUEUE as i16;
    let first = if wanted.queues > 1 { several } else { 0 };
    // An interface that exists was made for one queue or for several, and wants to hear the same again.
    let (file, many) = match open_queue(name, header | first) {
        Ok(file) => (file, first != 0),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            (open_queue(name, header | first ^ several)?, first == 0)
        }
        Err(error) => return Err(error),
    };
    let mut queues = vec![file];
    while many && queues.len() < usize::from(wanted.queues) {
        queues.push(open_queue(name, header | several)?);
    }
    if wanted.header {
        queues.iter().try_for_each(set_header)?;
    }
    Ok(Attached { queues, header: wanted.header })
}

fn set_header(file: &File) -> io::Result<()> {
    let size = HEADER as libc::c_int;
    // SAFETY: the descriptor is open, and the kernel reads one `int` at the address of a live one.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Work that the kernel may leave to the reader of an interface's packets, by their headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of TCP and UDP; without it there are none of the others.
    pub checksum: bool,
    /// Cutting long TCP segments over IPv4.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// The same of segments with explicit congestion notification.
    pub ecn: bool,
}

/// Sets what the reader of the interface takes, for all of its queues.
///
/// # Errors
/// A kernel that doesn't know one of them.
pub fn set_offloads(queue: &File, takes: Offloads) -> io::Result<()> {
    let bits = [(takes.checksum, 1), (takes.tso4, 2), (takes.tso6, 4), (takes.ecn, 8)];
    let bits = bits.into_iter().map(|(set, bit)| if set && takes.checksum { bit } else { 0 }).sum();
    set(queue, libc::TUNSETOFFLOAD as _, bits)
}

fn open(name: &str) -> io::Result<File> {
    match open_queue(name, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open_queue(name, libc::IFF_MULTI_QUEUE as i16),
        other => other,
    }
}

fn open_queue(name: &str, flags: i16) -> io::Result<File> {
    if name.is_empty() || name.len() >= NAME_ROOM || name.bytes().any(|byte| byte == 0 || byte == b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name has 1 to 15 bytes"));
    }
    let mut options = File::options();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; NAME_ROOM], flags: IFF_TAP | IFF_NO_PI | flags, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open, and the request is a live `struct ifreq` of the size that the kernel reads and
    // writes (40 bytes on 64-bit Linux).
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Makes the TAP interface `name`, which stays until deleted. The user numbered `owner` may attach to it without rights
/// over networks.
///
/// # Errors
/// As for [`attach`]; a name that is taken by another kind of interface.
pub fn make(name: &str, owner: Option<u32>) -> io::Result<()> {
    let file = open(name)?;
    if let Some(owner) = owner {
        set(&file, libc::TUNSETOWNER, owner.into())?;
    }
    set(&file, libc::TUNSETPERSIST, 1)
}

/// Lets an interface go with the process that is attached to it: it is deleted when `queue` is closed.
///
/// # Errors
/// The kernel's refusal.
pub fn let_go(queue: &File) -> io::Result<()> {
    set(queue, libc::TUNSETPERSIST, 0)
}

/// Deletes the TAP interface `name`: it goes when no process is attached to it any more.
///
/// # Errors
/// As for [`attach`].
pub fn delete(name: &str) -> io::Result<()> {
    set(&open(name)?, libc::TUNSETPERSIST, 0)
}

/// Sets one of the settings that take a number.
fn set(file: &File, request: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both requests take their argument by value: no memory is read or written.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
