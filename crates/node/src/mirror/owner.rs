//! The one thread that owns a mirror's engine: applies one event at a time and carries out what the engine wants. It
//! never waits for a disk, the link or a consumer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ferro_mirror::generation::Decision;
use ferro_mirror::wire::{Hello, Message};
use ferro_mirror::{
    Admin, AdminError, Engine, Event as Told, Input, LinkState, Output, Request, RequestError, Status, Time,
};

use super::channel::Channel;
use super::config::MirrorConfig;
use super::disk::Disks;
use super::link::Link;

/// Events that may wait for the owner.
const INBOX: usize = 1024;

/// What to do about [`Told::PrimaryBehind`].
const BEHIND: &str = "the primary lacks data that only the other node has, and they can't be changed under its consumer: \
                      make it 'secondary'; the two connect then";

type Answer = Result<Arc<[u8]>, RequestError>;

/// What happens to a mirror.
pub(crate) enum Event {
    /// The consumer asks.
    Request(Request, SyncSender<Answer>),
    /// A disk is done.
    Engine(Input),
    /// A connection whose other end is the peer.
    Connected(Channel),
    /// No connection came about.
    LinkFailed(String),
    /// The connection of this number is gone, and why.
    LinkDown(u64, Option<String>),
    /// The peer said something on this connection.
    Message(u64, Message),
    /// An operator's command.
    Admin(Admin, SyncSender<Result<(), AdminError>>),
    /// Somebody wants to know how things stand.
    Report(SyncSender<Report>),
}

/// How a mirror stands.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) status: Status,
    /// Why there is no link, if something can be said.
    pub(crate) problem: Option<String>,
    /// How many blocks differed in the last verify.
    pub(crate) verified: Option<u64>,
    /// Seconds until the resync is complete at its pace so far, and bytes a second.
    pub(crate) resync: Option<(u64, u64)>,
    /// The most bytes that were out of sync since the resync began.
    pub(crate) resync_total: u64,
}

/// Where events go.
#[derive(Clone)]
pub(crate) struct Inbox(SyncSender<Event>);

impl Inbox {
    pub(crate) fn new() -> (Self, Receiver<Event>) {
        let (sender, receiver) = sync_channel(INBOX);
        (Self(sender), receiver)
    }

    /// False if the owner is gone.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }

    pub(crate) fn engine(&self, input: Input) -> bool {
        self.send(Event::Engine(input))
    }

    /// Gives a command; `None` if the owner is gone.
    pub(crate) fn admin(&self, command: Admin) -> Option<Result<(), AdminError>> {
        let (reply, answer) = sync_channel(1);
        self.send(Event::Admin(command, reply));
        answer.recv().ok()
    }

    pub(crate) fn report(&self) -> Option<Report> {
        let (reply, answer) = sync_channel(1);
        self.send(Event::Report(reply));
        answer.recv().ok()
    }
}

pub(crate) struct Owner {
    pub(crate) config: MirrorConfig,
    pub(crate) engine: Engine,
    pub(crate) disks: Disks,
    pub(crate) inbox: Inbox,
    /// Told whenever this node becomes primary or stops being it.
    pub(crate) roles: Sender<bool>,
    /// Whether the connecting side should connect.
    pub(crate) wanted: Arc<AtomicBool>,
    pub(crate) state: State,
}

/// What the owner remembers beside the engine.
pub(crate) struct State {
    start: Instant,
    link: Option<Link>,
    links: u64,
    waiting: BTreeMap<u64, SyncSender<Answer>>,
    requests: u64,
    admin: Option<SyncSender<Result<(), AdminError>>>,
    peer: Option<Hello>,
    problem: Option<String>,
    verified: Option<u64>,
    resync: Option<(Instant, u64)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            link: None,
            links: 0,
            waiting: BTreeMap::new(),
            requests: 0,
            admin: None,
            peer: None,
            problem: None,
            verified: None,
            resync: None,
        }
    }
}

impl Owner {
    /// Runs until nobody can send events any more.
    pub(crate) fn run(mut self, events: &Receiver<Event>) {
        self.act();
        loop {
            let event = match self.engine.deadline() {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(Time(due)) => {
                    let wait = due.saturating_sub(self.now().0);
                    events.recv_timeout(Duration::from_nanos(wait))
                }
            };
            match event {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => self.tell(Input::Timer),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.follow();
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.state.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        self.engine.handle(now, input);
        self.act();
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Request(request, reply) => {
                self.state.requests += 1;
                let id = self.state.requests;
                self.state.waiting.insert(id, reply);
                self.tell(Input::Request { id, request });
            }
            Event::Engine(input) => self.tell(input),
            Event::Connected(channel) => self.connected(channel),
            Event::LinkFailed(why) => {
                if self.state.problem.as_ref() != Some(&why) {
                    tracing::warn!("no link to {}: {why}", self.config.peer);
                    self.state.problem = Some(why);
                }
            }
            Event::LinkDown(number, why) => {
                if self.state.link.as_ref().is_some_and(|link| link.number == number) {
                    self.state.link = None;
                    self.state.problem = why.or(self.state.problem.take());
                    self.tell(Input::LinkDown);
                }
            }
            Event::Message(number, message) => {
                if self.state.link.as_ref().is_some_and(|link| link.number == number) {
                    if let Message::Hello(hello) = &message {
                        self.state.peer = Some(*hello);
                    }
                    self.tell(Input::Message(message));
                }
            }
            Event::Admin(command, reply) => {
                self.state.admin = Some(reply);
                if command == Admin::Connect {
                    self.state.problem = None;
                }
                self.tell(Input::Admin(command));
            }
            Event::Report(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.report());
            }
        }
    }

    /// A connection whose other end has the secret: it replaces one that may be dead without our knowing.
    fn connected(&mut self, channel: Channel) {
        if self.state.link.take().is_some() {
            self.tell(Input::LinkDown);
        }
        if self.engine.status().link != LinkState::Connecting {
            return;
        }
        self.state.links += 1;
        let keepalive = Duration::from_millis(self.config.keepalive_ms);
        match Link::start(channel, self.state.links, keepalive, &self.inbox, &self.disks.writing) {
            Ok(link) => {
                self.state.link = Some(link);
                self.tell(Input::LinkUp);
            }
            Err(error) => self.state.problem = Some(error.to_string()),
        }
    }

    /// Carries out what the engine wants.
    fn act(&mut self) {
        let mut overflow = false;
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Data { op, request } => self.disks.data(op, request),
                Output::Meta { op, request } => self.disks.meta(op, request),
                Output::Send(message) => overflow |= self.state.link.as_ref().is_some_and(|l| !l.send(&message)),
                Output::DropLink => {
                    if let Some(link) = self.state.link.take() {
                        link.finish();
                    }
                }
                Output::Reply { id, result } => {
                    if let Some(reply) = self.state.waiting.remove(&id) {
                        let _ = reply.send(result);
                    }
                }
                Output::AdminReply(result) => {
                    if let Some(reply) = self.state.admin.take() {
                        let _ = reply.send(result);
                    }
                }
                Output::Event(event) => self.event(event),
            }
        }
        if overflow && self.state.link.take().is_some() {
            self.state.problem = Some("the peer takes no messages".into());
            self.tell(Input::LinkDown);
        }
    }

    fn event(&mut self, event: Told) {
        tracing::info!("{event:?}");
        match event {
            // If nobody serves the device any more, the process is ending.
            Told::BecamePrimary => _ = self.roles.send(true),
            Told::BecameSecondary | Told::Fenced => _ = self.roles.send(false),
            Told::Verified(blocks) => self.state.verified = Some(blocks),
            Told::Incompatible => self.state.problem = Some(self.mismatch()),
            Told::Handshake(decision) => self.state.problem = refusal(decision).map(str::to_owned),
            Told::PrimaryBehind => self.state.problem = Some(BEHIND.into()),
            Told::PeerLost | Told::Detached | Told::InSync => {}
        }
    }

    /// In what the two nodes differ.
    fn mismatch(&self) -> String {
        let Some(peer) = self.state.peer else { return "the peer broke off".into() };
        let mine = self.config.engine(0);
        let protocol = ["A", "B", "C"];
        if peer.size != mine.size {
            format!(
                "the sizes differ: {} bytes here, {} at the peer: create both with the same size",
                mine.size, peer.size
            )
        } else if peer.replica.node == mine.node {
            format!("both nodes are node {}: one is 0, the other 1", mine.node)
        } else if usize::from(peer.protocol) != mine.protocol as usize {
            let theirs = protocol.get(usize::from(peer.protocol)).unwrap_or(&"?");
            format!("the protocols differ: {:?} here, {theirs} at the peer", mine.protocol)
        } else if !peer.attached {
            "the peer's disk has failed".into()
        } else {
            "the two have no version of the protocol in common".into()
        }
    }

    /// Keeps what is derived from the engine's state up to date.
    fn follow(&mut self) {
        let status = self.engine.status();
        let idle = self.state.link.is_none() && status.link == LinkState::Connecting;
        self.wanted.store(idle && status.disk != ferro_mirror::DiskState::Failed, Ordering::Relaxed);
        let copying = status.link == LinkState::Connected && status.out_of_sync > 0;
        match &mut self.state.resync {
            Some((_, most)) if copying => *most = status.out_of_sync.max(*most),
            None if copying => self.state.resync = Some((Instant::now(), status.out_of_sync)),
            resync if !copying => *resync = None,
            _ => {}
        }
    }

    fn report(&self) -> Report {
        let status = self.engine.status();
        let (mut resync, mut resync_total) = (None, 0);
        if let Some((since, most)) = self.state.resync {
            let done = most.saturating_sub(status.out_of_sync);
            let rate = u64::try_from(u128::from(done) * 1000 / since.elapsed().as_millis().max(1)).unwrap_or(u64::MAX);
            resync = (rate > 0).then(|| (status.out_of_sync / rate.max(1), rate));
            resync_total = most;
        }
        Report { status, problem: self.state.problem.clone(), verified: self.state.verified, resync, resync_total }
    }
}

/// Why a handshake's conclusion leaves the two apart.
fn refusal(decision: Decision) -> Option<&'static str> {
    match decision {
        Decision::SplitBrain => Some(
            "split brain: both nodes were primary without each other. Choose whose writes are to be lost; there: \
             'secondary', 'discard-my-data', 'connect'; on the other node: 'connect'",
        ),
        Decision::Unrelated => Some(
            "the two replicas have no common history: on the node whose data are to be replaced say 'invalidate', then \
             'connect' on both",
        ),
        Decision::NoSource => Some(
            "the replica that is ahead is half a copy, so nobody can be the source: promote the one to keep with \
             'primary --force', then 'connect' on both",
        ),
        Decision::Blank => Some("neither replica has data yet: say 'primary --force' on the one to begin with"),
        _ => None,
    }
}
