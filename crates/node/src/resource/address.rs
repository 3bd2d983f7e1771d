//! A floating address as a resource: put on an interface and announced to the neighbours, who learn anew by which network
//! card it is reached: by gratuitous ARP (RFC 5227, section 3) or unsolicited neighbour advertisements (RFC 4861, section
//! 7.2.6), repeated as packets get lost.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferro_sys::packet::{self, PacketSocket};
use ipnet::IpNet;

use super::{Resource, Start, Wish};
use crate::segment::Host;

/// When announcements are sent after the first: soon, as the first may come before a switch has learned, and again later.
const REPEATS: [u64; 6] = [20, 100, 300, 1000, 3000, 10_000];

/// An address that moves between nodes.
#[derive(Debug)]
pub struct FloatingAddress {
    address: IpNet,
    interface: String,
    /// Set while it is here.
    here: Arc<AtomicBool>,
}

impl FloatingAddress {
    /// The address, with the length of its network's prefix, on this interface.
    #[must_use]
    pub fn new(address: IpNet, interface: String) -> Self {
        Self { address, interface, here: Arc::default() }
    }

    fn name(&self) -> String {
        format!("address {} on {}", self.address, self.interface)
    }

    /// Says to the neighbours where the address is, now and some times more.
    fn announce(&mut self) -> Result<(), String> {
        self.here.store(false, Ordering::Release);
        let here = Arc::new(AtomicBool::new(true));
        self.here = Arc::clone(&here);
        let announcer = Announcer::open(&self.interface, self.address.addr())
            .map_err(|error| format!("{}: cannot announce it: {error}", self.name()))?;
        announcer.send();
        std::thread::Builder::new()
            .name("announce".into())
            .spawn(move || {
                let mut passed = 0;
                for at in REPEATS {
                    std::thread::sleep(Duration::from_millis(at - passed));
                    passed = at;
                    if !here.load(Ordering::Acquire) {
                        return;
                    }
                    announcer.send();
                }
            })
            .map(drop)
            .map_err(|error| format!("{}: {error}", self.name()))
    }

    fn is_there(&self) -> Result<bool, String> {
        let told = |error: crate::segment::Error| format!("{}: {error}", self.name());
        let host = Host::open().map_err(told)?;
        let Some(link) = host.find(&self.interface).map_err(told)? else { return Ok(false) };
        host.has_address(&link, self.address).map_err(told)
    }
}

/// What says where an address is.
#[derive(Debug)]
struct Announcer {
    socket: PacketSocket,
    frames: Vec<Vec<u8>>,
}

impl Announcer {
    fn open(interface: &str, address: IpAddr) -> std::io::Result<Self> {
        let hardware = packet::hardware_address(interface)?;
        let (protocol, frames) = match address {
            IpAddr::V4(address) => (0x0806, gratuitous_arp(hardware, address.octets())),
            IpAddr::V6(address) => (0x86dd, vec![neighbour_advertisement(hardware, address.octets())]),
        };
        Ok(Self { socket: PacketSocket::open(interface, protocol)?, frames })
    }

    fn send(&self) {
        for frame in &self.frames {
            if let Err(error) = self.socket.send(frame) {
                tracing::debug!("announcement: {error}");
            }
        }
    }
}

/// A request and an answer, as some listen to the one and some to the other.
fn gratuitous_arp(hardware: [u8; 6], address: [u8; 4]) -> Vec<Vec<u8>> {
    let frame = |operation: u8, target: [u8; 6]| {
        let mut frame = vec![0xff; 6];
        frame.extend(hardware);
        // Ethernet and IPv4, in ARP.
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]);
        frame.extend(hardware);
        frame.extend(address);
        frame.extend(target);
        frame.extend(address);
        frame.resize(60, 0);
        frame
    };
    vec![frame(1, [0; 6]), frame(2, hardware)]
}

fn neighbour_advertisement(hardware: [u8; 6], address: [u8; 16]) -> Vec<u8> {
    let all_nodes = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    // Type 136, override flag, the target, and the option with its link-layer address.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address);
    message.extend([2, 1]);
    message.extend(hardware);
    let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let mut pseudo: Vec<u8> = [address, all_nodes].concat();
    pseudo.extend([0, 0, length[0], length[1], 0, 0, 0, 58]);
    pseudo.extend(&message);
    let sum = checksum(&pseudo).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(hardware);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], 58, 255]);
    frame.extend(address);
    frame.extend(all_nodes);
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

impl Resource for FloatingAddress {
    fn start(&mut self, _how: Start, _wish: &Wish) -> Result<(), String> {
        let told = |error: crate::segment::Error| format!("{}: {error}", self.name());
        let host = Host::open().map_err(told)?;
        let link = host.find(&self.interface).map_err(told)?;
        let link = link.ok_or_else(|| format!("{}: there is no such interface", self.name()))?;
        host.put_address(&link, self.address).map_err(told)?;
        self.announce()
    }

    fn stop(&mut self, _hard: bool, _wish: &Wish) -> Result<(), String> {
        self.here.store(false, Ordering::Release);
        remove(self.address, &self.interface).map_err(|error| format!("{}: {error}", self.name()))
    }

    fn monitor(&mut self) -> Result<(), String> {
        if self.is_there()? { Ok(()) } else { Err(format!("{} is gone", self.name())) }
    }
}

/// Takes an address from an interface. That it isn't there is no error.
///
/// # Errors
/// The kernel refuses.
pub fn remove(address: IpNet, interface: &str) -> Result<(), crate::segment::Error> {
    let host = Host::open()?;
    match host.find(interface)? {
        Some(link) => host.take_address(&link, address),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_as_their_specifications_write_them() {
        let mac = [2, 0, 0, 0, 0, 1];
        let frames = gratuitous_arp(mac, [192, 168, 1, 1]);
        assert_eq!(frames[0][12..22], [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
        assert_eq!(frames[0][28..32], frames[0][38..42], "sender and target are the same address");
        let frame = neighbour_advertisement(mac, [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // A right checksum makes the sum over everything zero.
        let mut pseudo = frame[22..54].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        pseudo.extend(&frame[54..]);
        assert_eq!(checksum(&pseudo), 0);
    }
}
