//! One group's conversation with the witness, at the node: asks, asks again, and knows until when the lease holds. It holds
//! from when the request was *sent*, so that it never outlasts what the witness thinks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::seal::Key;
use crate::time::{NodeId, Time};
use crate::witness::message::{Denial, Kind, Reply, Request, SoleWish, Verdict};

/// Requests whose answers are still taken.
const OUTSTANDING: usize = 8;

/// What a node wants of the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) epoch: u64,
    pub(crate) sole: SoleWish,
    pub(crate) vouch: bool,
    pub(crate) agreed: bool,
    pub(crate) force: bool,
}

/// The last refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) denial: Denial,
    /// The epoch that the witness knows.
    pub(crate) epoch: u64,
    /// What is left of the other's lease.
    pub(crate) left: Duration,
}

#[derive(Debug)]
struct Asked {
    nonce: u64,
    at: Time,
    kind: Kind,
    wish: Wish,
}

/// Who asks, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    pub(crate) key: Key,
    pub(crate) cluster: u64,
    pub(crate) group: u64,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// For how long a lease is wanted.
    pub(crate) lease: Duration,
    /// Between two requests.
    pub(crate) interval: Duration,
    /// Whether there is a witness at all.
    pub(crate) exists: bool,
}

#[derive(Debug)]
pub(crate) struct Lease {
    party: Party,
    wanted: Option<(Kind, Wish)>,
    asked: VecDeque<Asked>,
    counter: u64,
    token: u64,
    next: Time,
    last: Option<Time>,
    /// The epoch granted, and until when.
    held: Option<(u64, Time)>,
    sole: Option<NodeId>,
    answered: Option<Time>,
    refusal: Option<Refusal>,
    packets: VecDeque<Vec<u8>>,
}

impl Lease {
    pub(crate) fn new(party: Party) -> Self {
        Self {
            party,
            wanted: None,
            asked: VecDeque::new(),
            counter: 0,
            token: 0,
            next: Time::default(),
            last: None,
            held: None,
            sole: None,
            answered: None,
            refusal: None,
            packets: VecDeque::new(),
        }
    }

    /// Until when the lease of this epoch holds.
    pub(crate) fn until(&self, epoch: u64) -> Option<Time> {
        self.held.filter(|(held, _)| *held == epoch).map(|(_, until)| until)
    }

    /// Why the last request was refused.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// Whose data the witness takes for the only valid ones, as of the last answer to what is wanted now.
    pub(crate) fn sole(&self) -> Option<NodeId> {
        self.sole
    }

    /// Whether the witness has answered within the last three intervals and a lease's time.
    pub(crate) fn reachable(&self, now: Time) -> bool {
        self.answered.is_some_and(|at| now.since(at) < self.party.lease + self.party.interval * 3)
    }

    /// Asks for a lease, until it is granted or something else is wanted.
    pub(crate) fn acquire(&mut self, wish: Wish) {
        let wanted = Some((Kind::Acquire, wish));
        if self.wanted != wanted && self.until(wish.epoch).is_none() {
            self.refusal = None;
            self.want(wanted);
        }
    }

    /// Keeps the lease of this epoch.
    pub(crate) fn keep(&mut self, epoch: u64, sole: SoleWish) {
        let wanted = Some((Kind::Renew, Wish { epoch, sole, vouch: false, agreed: false, force: false }));
        if self.wanted != wanted {
            self.want(wanted);
        }
    }

    /// Gives the lease of this epoch back.
    pub(crate) fn release(&mut self, epoch: u64) {
        if self.held.take().is_some() || self.wanted.is_some() {
            let wish = Wish { epoch, sole: SoleWish::Keep, vouch: false, agreed: false, force: false };
            self.want(Some((Kind::Release, wish)));
        }
        self.refusal = None;
    }

    /// From now on only answers to this wish count: an earlier one may be carried out while its answer is lost.
    fn want(&mut self, wanted: Option<(Kind, Wish)>) {
        if !self.party.exists {
            return;
        }
        self.wanted = wanted;
        self.asked.clear();
        self.sole = None;
        self.next = self.last.map_or(Time::default(), |last| last.after(self.party.interval / 8));
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.wanted.map(|_| self.next)
    }

    pub(crate) fn tick(&mut self, now: Time) {
        if let Some((kind, wish)) = self.wanted
            && now >= self.next
        {
            self.ask(now, kind, wish);
        }
    }

    fn ask(&mut self, now: Time, kind: Kind, wish: Wish) {
        self.next = now.after(self.party.interval);
        self.last = Some(now);
        self.counter += 1;
        let nonce = self.party.key.derive(&[self.party.incarnation, self.party.group, self.counter]);
        if self.asked.len() == OUTSTANDING {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { nonce, at: now, kind, wish });
        let request = Request {
            cluster: self.party.cluster,
            from: self.party.node,
            group: self.party.group,
            kind,
            nonce,
            token: self.token,
            epoch: wish.epoch,
            sole: wish.sole,
            vouch: wish.vouch,
            agreed: wish.agreed,
            force: wish.force,
            lease: self.party.lease,
        };
        self.packets.push_back(self.party.key.seal(request.encode()));
    }

    pub(crate) fn packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }

    /// Takes an answer; false if it isn't one to this group's requests.
    pub(crate) fn receive(&mut self, now: Time, bytes: &[u8]) -> bool {
        let Some(reply) = self.party.key.open(bytes).and_then(Reply::decode) else { return false };
        if (reply.cluster, reply.group, reply.to) != (self.party.cluster, self.party.group, self.party.node) {
            return false;
        }
        let Some(index) = self.asked.iter().position(|asked| asked.nonce == reply.nonce) else { return false };
        let Some(asked) = self.asked.remove(index) else { return false };
        self.answered = Some(now);
        self.token = reply.token;
        let current = self.wanted == Some((asked.kind, asked.wish));
        match reply.verdict {
            // Ask again at once, if it is still wanted.
            Verdict::Challenge => self.next = self.next.min(now),
            Verdict::Released => {
                if self.wanted.is_some_and(|(kind, _)| kind == Kind::Release) {
                    self.wanted = None;
                }
            }
            Verdict::Granted if asked.kind == Kind::Release => {}
            Verdict::Granted
                if !self.wanted.is_some_and(|(kind, wish)| kind != Kind::Release && wish.epoch == asked.wish.epoch) => {
            }
            Verdict::Granted => {
                let until = asked.at.after(self.party.lease);
                let former = self.until(asked.wish.epoch);
                self.held = Some((asked.wish.epoch, former.map_or(until, |former| former.max(until))));
                self.sole = reply.sole;
                self.refusal = None;
                if current && asked.kind == Kind::Acquire {
                    self.wanted = Some((Kind::Renew, Wish { vouch: false, agreed: false, force: false, ..asked.wish }));
                }
            }
            Verdict::Denied(denial) if current => {
                if denial == Denial::NotHolder {
                    self.held = None;
                }
                self.refusal = Some(Refusal { denial, epoch: reply.epoch, left: reply.left });
                if denial == Denial::Held {
                    // The holder may renew, but this is when it is worth asking.
                    let soon = now.after(reply.left.min(self.party.interval).max(Duration::from_millis(1)));
                    self.next = self.next.min(soon);
                }
            }
            Verdict::Denied(_) => {}
        }
        true
    }
}
