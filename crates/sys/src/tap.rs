//! TAP interfaces: attaching to one by name, so that its Ethernet frames can be read and written as a file; making and
//! deleting ones that stay without a process.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

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

/// Attaches to the TAP interface `name`, which is made if it doesn't exist and the caller may. Each read of the returned
/// file gives one frame, each write sends one.
///
/// # Errors
/// A name that is too long or has a zero byte, no `/dev/net/tun`, no permission, an interface that is busy.
pub fn open(name: &str) -> io::Result<File> {
    if name.is_empty() || name.len() >= NAME_ROOM || name.bytes().any(|byte| byte == 0 || byte == b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name has 1 to 15 bytes"));
    }
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; NAME_ROOM], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
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
/// As for [`open`]; a name that is taken by another kind of interface.
pub fn make(name: &str, owner: Option<u32>) -> io::Result<()> {
    let file = open(name)?;
    if let Some(owner) = owner {
        set(&file, libc::TUNSETOWNER, owner.into())?;
    }
    set(&file, libc::TUNSETPERSIST, 1)
}

/// Deletes the TAP interface `name`: it goes when no process is attached to it any more.
///
/// # Errors
/// As for [`open`].
pub fn delete(name: &str) -> io::Result<()> {
    set(&open(name)?, libc::TUNSETPERSIST, 0)
}

/// Sets one of the settings that take a number.
fn set(file: &File, request: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both requests take their argument by value: no memory is read or written.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
