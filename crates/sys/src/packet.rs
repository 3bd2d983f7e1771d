//! Ethernet frames as they are, sent and received by an interface: AF_PACKET sockets (packet(7)). What is in the frames is
//! the caller's.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};

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

    /// Opens a socket that sees what others say by ARP and DHCP on this interface, and nothing else; reading never waits.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_services(interface: &str) -> io::Result<Self> {
        let socket = Self::open(interface, libc::ETH_P_ALL as u16)?;
        let program = libc::sock_fprog { len: SERVICES.len() as u16, filter: SERVICES.as_ptr().cast_mut() };
        socket.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        let yes: libc::c_int = 1;
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &yes)?;
        rustix::io::ioctl_fionbio(&socket.0, true)?;
        // What came before the filter was there.
        while (&socket.0).read(&mut [0; 1]).is_ok() {}
        Ok(socket)
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let size = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` lives through the call and `size` is its size; a filter's program, to which it may point, is static.
        let result = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, (&raw const *value).cast(), size) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// ARP, and UDP over IPv4 to the ports of DHCP, in the language of the kernel's packet filter (bpf(4) of the BSDs).
static SERVICES: [libc::sock_filter; 13] = [
    // The EtherType: ARP passes, IPv4 is looked at further.
    load(0x28, 12),
    jump(0x15, 0x0806, 9, 0),
    jump(0x15, 0x0800, 0, 9),
    // The protocol: UDP.
    load(0x30, 23),
    jump(0x15, 17, 0, 7),
    // A first fragment.
    load(0x28, 20),
    jump(0x45, 0x1fff, 5, 0),
    // The target's port, behind a header of any length.
    load(0xb1, 14),
    load(0x48, 16),
    jump(0x15, 67, 1, 0),
    jump(0x15, 68, 0, 1),
    load(0x06, 0xffff),
    load(0x06, 0),
];

const fn load(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}
