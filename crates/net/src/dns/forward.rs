//! Questions that were passed on: who waits for them, whom they were put to, and what counts as their answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::cache::{HEADER, Key, question};
use super::server::Client;

/// Questions at one time.
const MOST: usize = 1024;
/// Who waits for one answer.
const MOST_WAITING: usize = 64;
/// Questions of one asker at one time: the others get their turn.
const MOST_OF_ONE: usize = 256;
/// How long a server is waited for, in milliseconds.
pub(super) const PATIENCE: u64 = 1500;
/// How often a question is put before it is given up.
const TRIES: usize = 4;

/// Somebody who waits for an answer.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) client: Client,
    pub(super) id: u16,
    /// The question as it was spelt.
    pub(super) spelling: Vec<u8>,
    /// As many bytes may the answer have.
    pub(super) limit: usize,
}

/// A question that was passed on.
pub(super) struct Asked {
    pub(super) key: Key,
    pub(super) tcp: bool,
    pub(super) message: Vec<u8>,
    pub(super) waiting: Vec<Waiting>,
    /// How often it was put.
    tries: usize,
    pub(super) until: u64,
}

#[derive(Default)]
pub(super) struct Forwarder {
    asked: BTreeMap<u64, Asked>,
    by_key: BTreeMap<(Key, bool), u64>,
    next: u64,
}

/// What becomes of a question that is to be passed on.
pub(super) enum Placed {
    /// Put it under this number.
    New(u64),
    /// The same was put already: its answer is for both.
    Joined,
    /// There are too many.
    Full,
}

impl Forwarder {
    pub(super) fn place(&mut self, key: Key, tcp: bool, message: Vec<u8>, waiting: Waiting) -> Placed {
        if let Some(asked) = self.by_key.get(&(key.clone(), tcp)).and_then(|number| self.asked.get_mut(number)) {
            let repeats = asked.waiting.iter().any(|other| other.client == waiting.client && other.id == waiting.id);
            if !repeats && asked.waiting.len() >= MOST_WAITING {
                return Placed::Full;
            }
            if !repeats {
                asked.waiting.push(waiting);
            }
            return Placed::Joined;
        }
        let of_one = self.asked.values().filter(|asked| asked.waiting[0].client.is_beside(&waiting.client)).count();
        if self.asked.len() >= MOST || of_one >= MOST_OF_ONE {
            return Placed::Full;
        }
        let number = self.next;
        self.next += 1;
        self.by_key.insert((key.clone(), tcp), number);
        self.asked.insert(number, Asked { key, tcp, message, waiting: vec![waiting], tries: 0, until: u64::MAX });
        Placed::New(number)
    }

    /// The server to put a question to next, and the question with this identifier; none if it was put often enough.
    pub(super) fn turn(
        &mut self,
        now: u64,
        number: u64,
        id: u16,
        servers: &[SocketAddr],
    ) -> Option<(SocketAddr, bool, Vec<u8>)> {
        let asked = self.asked.get_mut(&number)?;
        let server = *servers.get(asked.tries % servers.len().max(1)).filter(|_| asked.tries < TRIES)?;
        asked.tries += 1;
        asked.until = now + PATIENCE;
        asked.message[..2].copy_from_slice(&id.to_be_bytes());
        Some((server, asked.tcp, asked.message.clone()))
    }

    /// Whether `bytes` are an answer to the question of this number as it was put last.
    pub(super) fn is_answer(&self, number: u64, bytes: &[u8]) -> bool {
        let Some(asked) = self.asked.get(&number) else { return false };
        let answers = bytes.len() >= HEADER && bytes[2] & 0x80 != 0 && bytes[..2] == asked.message[..2];
        let same = || match (question(bytes), question(&asked.message)) {
            (Some((theirs, _)), Some((ours, _))) => theirs.eq_ignore_ascii_case(ours),
            _ => false,
        };
        answers && same()
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.by_key.remove(&(asked.key.clone(), asked.tcp));
        Some(asked)
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.asked.values().map(|asked| asked.until).min()
    }

    /// Questions whose server has had its time.
    pub(super) fn late(&self, now: u64) -> Vec<u64> {
        self.asked.iter().filter(|(_, asked)| asked.until <= now).map(|(number, _)| *number).collect()
    }
}
