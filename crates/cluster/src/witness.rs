//! The witness: what gives one node of a pair, and never both, the right to run a group for a time. It runs on any third
//! machine, serves many pairs, and remembers durably who had which epoch and whose data are the only valid ones; leases
//! themselves live in memory, and after a restart it takes for granted that the last holder still has one.

pub(crate) mod message;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::seal::{Key, number};
use crate::time::{NodeId, Time};
use message::{Denial, Kind, Reply, Request, SoleWish, Verdict};

pub use message::MAX_MESSAGE;

/// Groups that one pair may have.
const MAX_GROUPS: usize = 64;
/// Replies that may wait for the disk.
const MAX_WAITING: usize = 1024;
/// Longest lease that is granted.
pub const MAX_LEASE: Duration = Duration::from_mins(10);

/// What is remembered of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// The pair, as a number made of its name.
    pub cluster: u64,
    /// The group, likewise.
    pub group: u64,
    /// The epoch of the last holder.
    pub epoch: u64,
    /// Who has the lease, or had it last without giving it back.
    pub holder: Option<NodeId>,
    /// For how long a lease was last granted, in milliseconds.
    pub lease_ms: u64,
    /// The only node with all data, when the other lacks some.
    pub sole: Option<NodeId>,
}

/// What the witness wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<A> {
    /// Make these records durable in place of all former ones, then say so ([`Witness::stored`]).
    Store {
        /// To be given back.
        version: u64,
        /// All there are.
        records: Vec<Record>,
    },
    /// Send to this address.
    Send(A, Vec<u8>),
}

/// A lease in force, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is known of the group.
    pub record: Record,
    /// What is left of the lease.
    pub left: Duration,
}

struct Group {
    record: Record,
    until: Time,
    /// By node: what its next request has to repeat, so that a recorded request is worth nothing.
    tokens: [u64; 2],
}

/// The witness of any number of pairs; `A` is where a request came from.
pub struct Witness<A> {
    pairs: BTreeMap<u64, Key>,
    groups: BTreeMap<(u64, u64), Group>,
    session: u64,
    issued: u64,
    version: u64,
    durable: u64,
    waiting: VecDeque<(u64, A, Vec<u8>)>,
    outputs: VecDeque<Output<A>>,
}

impl<A> Witness<A> {
    /// Starts with the records of an earlier run. `session` is a number that no earlier run had; pairs are names and keys.
    #[must_use]
    pub fn new(now: Time, session: u64, pairs: impl IntoIterator<Item = (String, Key)>, records: &[Record]) -> Self {
        let pairs: BTreeMap<u64, Key> = pairs.into_iter().map(|(name, key)| (number(&name), key)).collect();
        let groups = records.iter().map(|record| {
            let group = Group {
                record: *record,
                until: now.after(Duration::from_millis(record.lease_ms).min(MAX_LEASE)),
                tokens: [0; 2],
            };
            ((record.cluster, record.group), group)
        });
        Self {
            groups: groups.collect(),
            pairs,
            session,
            issued: 0,
            version: 0,
            durable: 0,
            waiting: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes a request. What can't be read, or isn't sealed by a pair that is known, gets no answer.
    pub fn receive(&mut self, now: Time, from: A, bytes: &[u8]) {
        let Some((request, key)) = Request::peek_cluster(bytes)
            .and_then(|cluster| self.pairs.get(&cluster))
            .and_then(|key| Some((Request::decode(key.open(bytes)?)?, key.clone())))
        else {
            return;
        };
        let place = (request.cluster, request.group);
        let full = self.groups.range((request.cluster, 0)..=(request.cluster, u64::MAX)).count() >= MAX_GROUPS;
        if !self.groups.contains_key(&place) && full {
            return;
        }
        let before = self.groups.get(&place).map(|group| group.record);
        let group = self.groups.entry(place).or_insert_with(|| Group {
            record: Record {
                cluster: request.cluster,
                group: request.group,
                epoch: 0,
                holder: None,
                lease_ms: 0,
                sole: None,
            },
            until: now,
            tokens: [0; 2],
        });
        let token = &mut group.tokens[usize::from(request.from.index())];
        let known = *token != 0 && *token == request.token;
        if known || *token == 0 {
            self.issued += 1;
            *token = key.derive(&[self.session, self.issued]).max(1);
        }
        let token = *token;
        let verdict = if known { group.judge(now, &request) } else { Verdict::Challenge };
        let reply = Reply {
            cluster: request.cluster,
            to: request.from,
            group: request.group,
            nonce: request.nonce,
            token,
            verdict,
            epoch: group.record.epoch,
            sole: group.record.sole,
            left: group.until.since(now),
        };
        let after = group.record;
        let sealed = key.seal(reply.encode());
        if before.is_none_or(|before| before != after) && after.epoch > 0 {
            self.version += 1;
            let records = self.groups.values().map(|group| group.record).filter(|record| record.epoch > 0).collect();
            self.outputs.push_back(Output::Store { version: self.version, records });
        }
        if self.waiting.len() < MAX_WAITING {
            // A reply tells of nothing that a crash could undo.
            self.waiting.push_back((self.version, from, sealed));
        }
        self.release();
    }

    /// The records of this version, and so all before it, are durable.
    pub fn stored(&mut self, version: u64) {
        self.durable = self.durable.max(version);
        self.release();
    }

    fn release(&mut self) {
        while self.waiting.front().is_some_and(|(version, ..)| *version <= self.durable) {
            if let Some((_, to, bytes)) = self.waiting.pop_front() {
                self.outputs.push_back(Output::Send(to, bytes));
            }
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output<A>> {
        self.outputs.pop_front()
    }

    /// All groups there are.
    #[must_use]
    pub fn leases(&self, now: Time) -> Vec<Lease> {
        self.groups.values().map(|group| Lease { record: group.record, left: group.until.since(now) }).collect()
    }
}

impl Group {
    fn judge(&mut self, now: Time, request: &Request) -> Verdict {
        let (node, record) = (request.from, &mut self.record);
        let lease = request.lease.min(MAX_LEASE);
        match request.kind {
            Kind::Release if record.holder == Some(node) && record.epoch == request.epoch => {
                record.holder = None;
                self.until = now;
                return Verdict::Released;
            }
            Kind::Release => return Verdict::Released,
            Kind::Renew if record.holder != Some(node) || record.epoch != request.epoch => {
                return Verdict::Denied(Denial::NotHolder);
            }
            Kind::Renew => {}
            Kind::Acquire => {
                if let Some(denial) = self.refuse(now, request) {
                    return Verdict::Denied(denial);
                }
            }
        }
        let record = &mut self.record;
        record.epoch = request.epoch;
        record.holder = Some(node);
        record.sole = match request.sole {
            SoleWish::Set => Some(node),
            SoleWish::Clear => None,
            SoleWish::Keep if request.force => Some(node),
            SoleWish::Keep if request.agreed => record.sole.filter(|sole| *sole == node),
            SoleWish::Keep => record.sole,
        };
        record.lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX).max(1);
        self.until = now.after(lease);
        Verdict::Granted
    }

    fn refuse(&self, now: Time, request: &Request) -> Option<Denial> {
        let (node, record) = (request.from, &self.record);
        // The same request again: its answer was lost.
        if record.holder == Some(node) && record.epoch == request.epoch {
            return None;
        }
        if record.holder.is_some_and(|holder| holder != node) && self.until > now {
            return Some(Denial::Held);
        }
        if request.epoch <= record.epoch {
            return Some(Denial::OldEpoch);
        }
        if record.sole.is_some_and(|sole| sole != node) && !request.force && !request.agreed {
            return Some(Denial::PeerIsSole);
        }
        // The other node may have gone on alone under a witness that is gone, and this one wouldn't know.
        (record.epoch == 0 && request.epoch > FIRST_EPOCHS && !request.vouch && !request.force)
            .then_some(Denial::NoRecord)
    }
}

/// Epochs of a pair that has never run: each node's first.
const FIRST_EPOCHS: u64 = 3;

#[cfg(test)]
mod tests;
