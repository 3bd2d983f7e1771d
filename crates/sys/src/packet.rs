//! Ethernet frames as they are, sent and received by an interface: AF_PACKET sockets (packet(7)). What is in the frames is
//! the caller's.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

/// A socket that is bound to one interface and one EtherType.
#[derive(Debug)]
pub struct PacketSocket(File);

/// The address of an Ethernet interface.
///
/// # Errors
/// No such interface, or it has no address of 48 bits.
pub fn hardware_address(interface: &str) -> io::Result<[u8; 6]> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let bytes: Vec<u8> = text.trim().split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "the interface has no Ethernet address"))
}

fn index(interface: &str) -> io::Result<i32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

impl PacketSocket {
    /// Opens a socket for frames of this EtherType on this interface.
    ///
    /// # Errors
    /// No such interface; no right to (CAP_NET_RAW).
    pub fn open(interface: &str, protocol: u16) -> io::Result<Self> {
        let index = index(interface)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: creates a descriptor and touches no memory.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol.to_be())) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let file = unsafe { File::from_raw_fd(descriptor) };
        // SAFETY: an all-zero `sockaddr_ll` is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` lives through the call and `size` is its size.
        let result = unsafe { libc::bind(file.as_raw_fd(), (&raw const address).cast(), size) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(file)) }
    }

    /// Sends one frame, with its Ethernet header.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write(frame).map(drop)
    }

    /// Waits for one frame; its length in `buffer`, cut if that is shorter.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}
