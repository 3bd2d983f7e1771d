//! What a CD-ROM drive answers to commands that ask about itself and its disc (SPC-2, MMC-3).

use super::{Answer, PACKET, Sense};
use crate::ide::disc::{MediumEvent, Tray};

/// Two bytes of a packet, big-endian.
pub(super) fn word(packet: &[u8; PACKET], at: usize) -> usize {
    usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]))
}

/// Four bytes of a packet, big-endian.
pub(super) fn long(packet: &[u8; PACKET], at: usize) -> u64 {
    u64::from(u32::from_be_bytes(std::array::from_fn(|index| packet[at + index])))
}

/// No more than the guest has room for.
pub(super) fn limited(mut bytes: Vec<u8>, limit: usize) -> Answer {
    bytes.truncate(limit);
    if bytes.is_empty() { Answer::Nothing } else { Answer::Bytes(bytes) }
}

pub(super) fn sense(sense: Sense) -> Vec<u8> {
    let mut bytes = vec![0; 18];
    bytes[0] = 0xf0;
    bytes[2] = sense.key;
    bytes[7] = 10;
    bytes[12] = sense.code;
    bytes[13] = sense.qualifier;
    bytes
}

pub(super) fn inquiry() -> Vec<u8> {
    let mut bytes = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
    bytes.extend(b"FERRO   DVD-ROM         1.0 ");
    bytes
}

pub(super) fn capacity(sectors: u64) -> Vec<u8> {
    let last = sectors.saturating_sub(1) as u32;
    [last.to_be_bytes(), 2048_u32.to_be_bytes()].concat()
}

/// The features: profiles, core, morphing, removable medium (MMC-3, section 5.3).
pub(super) fn configuration(packet: &[u8; PACKET], tray: &Tray) -> Vec<u8> {
    const CD: u16 = 8;
    const DVD: u16 = 0x10;
    let current = match tray.is_dvd() {
        None => 0,
        Some(false) => CD,
        Some(true) => DVD,
    };
    let mut profiles = vec![];
    for profile in [DVD, CD] {
        profiles.extend(profile.to_be_bytes());
        profiles.extend([u8::from(profile == current), 0]);
    }
    let features: [(u16, u8, Vec<u8>); 3] = [
        (0, 3, profiles),
        // ATAPI, with the device reset's interface.
        (1, 0xb, vec![0, 0, 0, 2, 1, 0, 0, 0]),
        // A tray that opens, closes and can be locked.
        (3, 3, vec![0x39, 0, 0, 0]),
    ];
    let (kind, first) = (packet[1] & 3, word(packet, 2) as u16);
    let mut bytes = vec![0, 0, 0, 0, 0, 0];
    bytes.extend(current.to_be_bytes());
    for (code, version, body) in features {
        let wanted = if kind == 2 { code == first } else { code >= first };
        if wanted && (kind != 1 || version & 1 != 0) {
            bytes.extend(code.to_be_bytes());
            bytes.extend([version, body.len() as u8]);
            bytes.extend(body);
        }
    }
    let len = bytes.len() as u32 - 4;
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// The events of the medium; of others there are none.
pub(super) fn event_status(packet: &[u8; PACKET], tray: &mut Tray) -> Result<Answer, Sense> {
    const MEDIUM: u8 = 1 << 4;
    if packet[1] & 1 == 0 {
        // It would have to wait for an event.
        return Err(Sense::BAD_FIELD);
    }
    let bytes = if packet[4] & MEDIUM == 0 {
        vec![0, 2, 0x80, MEDIUM]
    } else {
        let event: MediumEvent = tray.take_event();
        let state = tray.state();
        let present = u8::from(state.inserted && !state.open) << 1 | u8::from(state.open);
        vec![0, 6, 4, MEDIUM, event as u8, present, 0, 0]
    };
    Ok(limited(bytes, word(packet, 7)))
}

pub(super) fn mode_sense(packet: &[u8; PACKET], locked: bool) -> Result<Answer, Sense> {
    let recovery = [1, 6, 0, 5, 0, 0, 0, 0];
    let audio = [0xe, 14, 4, 0, 0, 0, 0, 75, 1, 0xff, 2, 0xff, 0, 0, 0, 0];
    let mut capabilities = [0; 22];
    capabilities[..8].copy_from_slice(&[0x2a, 20, 0x3b, 0, 0, 0, 0x29 | u8::from(locked) << 1, 0]);
    // Speeds in kB/s, and the buffer in kB.
    for (at, value) in [(8, 7056_u16), (12, 2048), (14, 7056)] {
        capabilities[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    let pages: &[&[u8]] = match packet[2] & 0x3f {
        1 => &[&recovery],
        0xe => &[&audio],
        0x2a => &[&capabilities],
        0x3f => &[&recovery, &audio, &capabilities],
        _ => return Err(Sense::BAD_FIELD),
    };
    // No values are saved.
    if packet[2] >> 6 == 3 {
        return Err(Sense { key: 5, code: 0x39, qualifier: 0 });
    }
    let mut bytes = vec![0; 8];
    pages.iter().for_each(|page| bytes.extend(*page));
    let len = bytes.len() as u16 - 2;
    bytes[..2].copy_from_slice(&len.to_be_bytes());
    Ok(limited(bytes, word(packet, 7)))
}

pub(super) fn mechanism_status(tray: &Tray) -> Vec<u8> {
    vec![0, u8::from(tray.state().open) << 4, 0, 0, 0, 1, 0, 0]
}

pub(super) fn subchannel() -> Vec<u8> {
    // No audio status, and no data.
    vec![0, 0x15, 0, 0]
}

pub(super) fn disc_information() -> Vec<u8> {
    let mut bytes = vec![0; 34];
    bytes[1] = 32;
    // Complete, last session complete; one track in one session.
    bytes[2] = 0xe;
    bytes[3..7].fill(1);
    bytes
}

/// Minutes, seconds and frames of a sector.
fn time(sector: u64) -> [u8; 4] {
    let frames = sector + 150;
    [0, (frames / (60 * 75)) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

fn place(sector: u64, in_time: bool) -> [u8; 4] {
    if in_time { time(sector) } else { (sector as u32).to_be_bytes() }
}

/// The table of contents: one data track.
pub(super) fn contents(packet: &[u8; PACKET], sectors: u64) -> Result<Answer, Sense> {
    const LEAD_OUT: u8 = 0xaa;
    const DATA: u8 = 0x14;
    let in_time = packet[1] & 2 != 0;
    let format = match packet[2] & 15 {
        0 => packet[9] >> 6,
        format => format,
    };
    let mut bytes = vec![0, 0, 1, 1];
    match format {
        0 => {
            if packet[6] > 1 && packet[6] != LEAD_OUT {
                return Err(Sense::BAD_FIELD);
            }
            if packet[6] <= 1 {
                bytes.extend([0, DATA, 1, 0]);
                bytes.extend(place(0, in_time));
            }
            bytes.extend([0, DATA, LEAD_OUT, 0]);
            bytes.extend(place(sectors, in_time));
        }
        1 => {
            bytes.extend([0, DATA, 1, 0]);
            bytes.extend(place(0, in_time));
        }
        2 => {
            for (point, at) in [(0xa0, None), (0xa1, None), (0xa2, Some(sectors)), (1, Some(0))] {
                bytes.extend([1, DATA, 0, point, 0, 0, 0]);
                bytes.extend(match at {
                    Some(sector) => place(sector, in_time),
                    None => [0, 1, 0, 0],
                });
            }
        }
        _ => return Err(Sense::BAD_FIELD),
    }
    let len = bytes.len() as u16 - 2;
    bytes[..2].copy_from_slice(&len.to_be_bytes());
    Ok(limited(bytes, word(packet, 7)))
}
