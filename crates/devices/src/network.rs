//! What network cards have in common: the trait of the network behind one, and the header by which a packet says what is
//! left to do with it (checksum, segmentation), checked. No card is here.

/// Bytes of [`Header`] before each packet: virtio's `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6).
pub const HEADER: usize = 12;
/// The longest frame that goes to or comes from a network: 65,535 bytes of IP, an Ethernet header and two VLAN tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;

/// Takes the packets that the guest sends.
///
/// A card with several pairs of queues says by which of them; a network that has fewer takes them all alike.
pub trait FrameSink: Send {
    /// One packet: [`HEADER`] bytes, all zero unless the driver agreed to an offload that [`FrameSink::offloads`] offered, and
    /// checked; then an Ethernet frame without checksum. One that can't be taken is lost, as on a real network.
    fn send(&mut self, pair: usize, packet: &[u8]);

    /// Whether a packet may be sent now. Where not, the card leaves its guest's packets where they are until it is told to
    /// go on.
    fn is_ready(&mut self, pair: usize) -> bool {
        let _ = pair;
        true
    }

    /// What the network can be left to do with packets, and can leave to the guest.
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    /// What the guest takes from now on of what [`FrameSink::offloads`] offered to leave to it.
    fn guest_takes(&mut self, takes: Offloads) {
        let _ = takes;
    }

    /// The guest made buffers available for packets of this pair.
    fn has_room(&mut self, pair: usize) {
        let _ = pair;
    }
}

/// Work on packets that one side leaves to the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of TCP and UDP.
    pub checksum: bool,
    /// Cutting long TCP segments over IPv4. This and the other two need `checksum`.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// The same with the CWR flag in the first segment alone (RFC 3168, section 6.1.2).
    pub ecn: bool,
}

impl Offloads {
    /// Every one.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true, ecn: true };

    /// Those that both have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            checksum: self.checksum && other.checksum,
            tso4: self.tso4 && other.tso4,
            tso6: self.tso6 && other.tso6,
            ecn: self.ecn && other.ecn,
        }
    }
}

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const ECN: u8 = 0x80;
const TCP_CHECKSUM: usize = 16;

/// Why a packet's header can't be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It asks for what was not agreed on.
    #[error("a packet's header asks for an offload that was not agreed on")]
    NotAgreed,
    /// It points outside of its packet, or says something else than the packet.
    #[error("a packet's header contradicts the packet")]
    Contradiction,
}

fn half(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |pair| usize::from(u16::from_le_bytes([pair[0], pair[1]])))
}

/// Checks the header of `packet` ([`HEADER`] bytes, then the frame) against what was agreed on and against the frame itself,
/// and writes it anew, so that nothing unchecked is left in it.
///
/// # Errors
/// Such a packet is to be dropped.
pub fn check_header(packet: &mut [u8], agreed: Offloads) -> Result<(), HeaderError> {
    let (header, frame) = packet.split_at_mut_checked(HEADER).ok_or(HeaderError::Contradiction)?;
    let (flags, kind) = (header[0], header[1]);
    let (size, start, offset) = (half(header, 4), half(header, 6), half(header, 8));
    header.fill(0);
    if flags & !(NEEDS_CHECKSUM | DATA_VALID) != 0 {
        return Err(HeaderError::NotAgreed);
    }
    if flags & NEEDS_CHECKSUM == 0 {
        // Only a packet whose checksum is left to do can be cut.
        return if kind == 0 { Ok(()) } else { Err(HeaderError::Contradiction) };
    }
    if !agreed.checksum {
        return Err(HeaderError::NotAgreed);
    }
    if start < 14 || start + offset + 2 > frame.len() {
        return Err(HeaderError::Contradiction);
    }
    if kind != 0 {
        let headers = check_segmentation(frame, kind, (size, start, offset), agreed)?;
        header[1] = kind;
        header[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
        header[4..6].copy_from_slice(&(size as u16).to_le_bytes());
    }
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
    Ok(())
}

/// A long TCP segment; returns how many bytes all its headers have.
fn check_segmentation(
    frame: &[u8],
    kind: u8,
    (size, start, offset): (usize, usize, usize),
    agreed: Offloads,
) -> Result<usize, HeaderError> {
    let (allowed, ethertype) = match kind & !ECN {
        TCP4 => (agreed.tso4, 0x0800),
        TCP6 => (agreed.tso6, 0x86dd),
        _ => (false, 0),
    };
    if !allowed || kind & ECN != 0 && !agreed.ecn {
        return Err(HeaderError::NotAgreed);
    }
    let ip = network_header(frame, ethertype).ok_or(HeaderError::Contradiction)?;
    let tcp_follows = match kind & !ECN {
        TCP4 => {
            let len = usize::from(frame.get(ip).copied().unwrap_or(0) & 15) * 4;
            len >= 20 && start == ip + len && frame.get(ip + 9) == Some(&6)
        }
        // Extension headers may come between.
        _ => start >= ip + 40,
    };
    let tcp = frame.get(start + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let headers = start + tcp;
    if !tcp_follows || tcp < 20 || headers > frame.len() || offset != TCP_CHECKSUM || size == 0 {
        return Err(HeaderError::Contradiction);
    }
    Ok(headers)
}

/// Where the IP header is, behind up to two VLAN tags, if it is of this kind.
pub(crate) fn network_header(frame: &[u8], ethertype: u16) -> Option<usize> {
    let mut at = 12;
    for _ in 0..3 {
        let found = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
        at += 2;
        if found == ethertype {
            return Some(at);
        }
        if !matches!(found, 0x8100 | 0x88a8) {
            return None;
        }
        at += 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A TCP segment of 3,000 bytes over IPv4 that is to be cut into ones of 1,448.
    fn long_segment() -> Vec<u8> {
        let mut packet = vec![0; HEADER + 14 + 20 + 32 + 3000];
        packet[..10].copy_from_slice(&[1, 1, 0xff, 0xff, 0xa8, 0x05, 34, 0, 16, 0]);
        packet[HEADER + 12..HEADER + 15].copy_from_slice(&[8, 0, 0x45]);
        packet[HEADER + 14 + 9] = 6;
        packet[HEADER + 34 + 12] = 0x80;
        packet
    }

    #[test]
    fn a_sound_header_passes_with_its_hint_put_right() {
        let mut packet = long_segment();
        assert_eq!(check_header(&mut packet, Offloads::ALL), Ok(()));
        assert_eq!(packet[..HEADER], [1, 1, 66, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0]);
        let mut tagged = long_segment();
        tagged.splice(HEADER + 12..HEADER + 12, [0x81, 0, 0, 5]);
        tagged[6] += 4;
        assert_eq!(check_header(&mut tagged, Offloads::ALL), Ok(()));
    }

    #[test]
    fn what_was_not_agreed_on_and_what_contradicts_the_packet_is_refused() {
        let refused = |change: &dyn Fn(&mut Vec<u8>), agreed| {
            let mut packet = long_segment();
            change(&mut packet);
            check_header(&mut packet, agreed).unwrap_err()
        };
        let no = Offloads::default();
        assert_eq!(refused(&|_| {}, no), HeaderError::NotAgreed);
        assert_eq!(refused(&|_| {}, Offloads { checksum: true, ..no }), HeaderError::NotAgreed);
        assert_eq!(
            refused(&|packet| packet[1] |= ECN, Offloads { ecn: false, ..Offloads::ALL }),
            HeaderError::NotAgreed
        );
        type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
        let changes: [Change<'_>; 9] = [
            &|packet| packet[0] = 0,
            &|packet| packet[1] = 4,
            &|packet| packet[4..6].fill(0),
            &|packet| packet[6] = 35,
            &|packet| packet[7] = 0xff,
            &|packet| packet[8] = 6,
            &|packet| packet[HEADER + 14 + 9] = 17,
            &|packet| packet[HEADER + 34 + 12] = 0x40,
            &|packet| packet.truncate(HEADER + 14 + 20 + 31),
        ];
        for (index, change) in changes.iter().enumerate() {
            assert_eq!(refused(change, Offloads::ALL), HeaderError::Contradiction, "change {index}");
        }
        assert_eq!(refused(&|packet| packet[1] = 3, Offloads::ALL), HeaderError::NotAgreed, "fragments of UDP");
    }

    proptest! {
        #[test]
        fn whatever_passes_points_into_its_packet(mut packet in proptest::collection::vec(any::<u8>(), 0..200), plain: bool) {
            if plain && packet.len() > HEADER {
                packet[0] &= 1;
                packet[1] = 0;
                packet[7] = 0;
                packet[9] = 0;
            }
            if check_header(&mut packet, Offloads::ALL).is_ok() {
                let (start, offset) = (half(&packet, 6), half(&packet, 8));
                prop_assert!(packet[0] == 0 || HEADER + start + offset + 2 <= packet.len());
                prop_assert!(HEADER + half(&packet, 2) <= packet.len());
            }
        }
    }
}
