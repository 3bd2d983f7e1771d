//! What other servers answered, as long as they said that it may be kept: whole messages, bounded in number and size.

use std::collections::{BTreeMap, VecDeque};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

/// Answers that are kept at most.
const MOST: usize = 4096;
/// Longer answers aren't kept.
const LONGEST: usize = 4096;
/// No answer is kept longer, in seconds.
const MOST_TTL: u32 = 86_400;
/// The fixed part of a message.
pub(super) const HEADER: usize = 12;

/// One question, as answers to it are the same: its name in small letters, and what else matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) name: Vec<u8>,
    pub(super) kind: u16,
    pub(super) class: u16,
    /// EDNS: there, DNSSEC wanted; and whether checks are switched off.
    pub(super) flags: (bool, bool, bool),
}

struct Kept {
    message: Vec<u8>,
    /// Where its times to live are.
    ttls: Vec<usize>,
    /// Milliseconds.
    since: u64,
    until: u64,
}

#[derive(Default)]
pub(super) struct Cache {
    kept: BTreeMap<Key, Kept>,
    /// The oldest first.
    order: VecDeque<Key>,
}

impl Cache {
    /// Keeps an answer if it may be kept.
    pub(super) fn keep(&mut self, now: u64, key: Key, bytes: &[u8], message: &Message) {
        let Some(ttl) = lifetime(message).filter(|ttl| *ttl > 0) else { return };
        if bytes.len() > LONGEST {
            return;
        }
        let Some(ttls) = ttl_places(bytes) else { return };
        let until = now.saturating_add(u64::from(ttl.min(MOST_TTL)) * 1000);
        if self.kept.insert(key.clone(), Kept { message: bytes.to_vec(), ttls, since: now, until }).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }

    /// The answer to a question as it is now; the identifier and the question's spelling are still another's.
    pub(super) fn get(&self, now: u64, key: &Key) -> Option<Vec<u8>> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        let age = u32::try_from((now - kept.since.min(now)) / 1000).unwrap_or(u32::MAX);
        let mut message = kept.message.clone();
        for &at in &kept.ttls {
            if let Some(bytes) = message.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>()) {
                *bytes = u32::from_be_bytes(*bytes).saturating_sub(age).to_be_bytes();
            }
        }
        Some(message)
    }
}

/// For how many seconds an answer may be kept (RFC 2308 where there is nothing).
fn lifetime(message: &Message) -> Option<u32> {
    let least = message.answers.iter().map(|record| record.ttl).min();
    match message.metadata.response_code {
        _ if message.metadata.truncation => None,
        ResponseCode::NoError if least.is_some() => least,
        ResponseCode::NoError | ResponseCode::NXDomain => {
            message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })
        }
        _ => None,
    }
}

/// The name and type and class of a question behind the header, and where it ends.
pub(super) fn question(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = name_end(bytes, HEADER)?.checked_add(4)?;
    Some((bytes.get(HEADER..end)?, end))
}

/// Where the times to live of a message's records are, but for EDNS, which has other things there.
fn ttl_places(bytes: &[u8]) -> Option<Vec<usize>> {
    let count = |at: usize| Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
    let mut at = HEADER;
    for _ in 0..count(4)? {
        at = name_end(bytes, at)? + 4;
    }
    let mut places = vec![];
    for _ in 0..count(6)? + count(8)? + count(10)? {
        at = name_end(bytes, at)?;
        if count(at)? != usize::from(u16::from(RecordType::OPT)) {
            places.push(at + 4);
        }
        at += 10 + count(at + 8)?;
    }
    (at <= bytes.len()).then_some(places)
}

/// Where a name ends: behind its last label or its pointer.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *bytes.get(at)?;
        match len {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            1..64 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
}
