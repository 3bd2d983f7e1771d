//! The thread that owns a node's cluster engine, and those that work for it: one for each link, one for each part of a
//! group, one for each group's mirrors, one that writes records. It takes one event at a time and never waits for any of
//! them.

mod events;
mod work;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::Duration;

use ferro_cluster::group::{Durable, GroupConfig};
use ferro_cluster::heartbeat::{LinkState, PeerState, Timing};
use ferro_cluster::witness::MAX_MESSAGE;
use ferro_cluster::{Admin, AdminError, Arbiter, Cluster, Config, Input, NodeId, Output, Overview, Time};
use serde::Serialize;

use super::config::{ClusterConfig, ConfigError};
use super::fence::FenceConfig;
use super::link::Link;
use super::store::StoreError;
use super::{clock, store};
use crate::resource::{Mirrored, Resource};
use events::EventLog;
pub use events::Logged;
use work::{Job, Watch, Worker};

/// Events that may wait for the owner.
const INBOX: usize = 4096;
/// Events that are taken before the engine's timer is looked at.
const BATCH: usize = 256;

/// A group with the things it consists of.
pub struct Member {
    /// The engine's part; its units in the order of `resources`.
    pub config: GroupConfig,
    /// What its units are.
    pub resources: Vec<Box<dyn Resource>>,
    /// Its mirrored data.
    pub mirrors: Vec<Box<dyn Mirrored>>,
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Of which group; all if not given.
    pub group: Option<String>,
    /// What.
    pub admin: Admin,
}

/// How a node stands.
#[derive(Clone, Debug)]
pub struct Report {
    /// The clock at that moment.
    pub now: Time,
    /// This node's number.
    pub node: NodeId,
    /// The peer; `None` where there is no pair.
    pub peer: Option<PeerState>,
    /// The links' addresses and states.
    pub links: Vec<(String, LinkState)>,
    /// Who decides.
    pub arbiter: Arbiter,
    /// The groups.
    pub groups: Vec<Overview>,
    /// What happened lately, the oldest first.
    pub events: Vec<Logged>,
}

/// What happens.
pub enum Event {
    /// For the engine.
    Engine(Input),
    /// An operator's wish.
    Admin(Command, SyncSender<Result<(), AdminError>>),
    /// Somebody wants to know how things stand.
    Report(SyncSender<Report>),
    /// The owner is to end, and to leave everything as it is for the next one.
    Leave,
}

/// What the guard has to know, each time it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Permission {
    /// Until when what runs here may run; `None`: without end.
    pub until: Option<u64>,
}

/// By which others reach the owner.
#[derive(Clone, Debug)]
pub struct Handle(SyncSender<Event>);

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

impl Handle {
    /// Carries out an operator's wish; `None` if the owner has ended.
    pub fn command(&self, command: Command) -> Option<Result<(), AdminError>> {
        let (reply, answer) = sync_channel(1);
        self.0.send(Event::Admin(command, reply)).ok()?;
        answer.recv().ok()
    }

    /// How things stand; `None` if the owner has ended.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let (reply, answer) = sync_channel(1);
        self.0.send(Event::Report(reply)).ok()?;
        answer.recv().ok()
    }

    /// Begins to give everything up in good order; the owner ends when that is done.
    pub fn shut_down(&self) {
        self.engine(Input::ShutDown);
    }

    /// Ends the owner; what runs goes on, for the next one to find.
    pub fn leave(&self) {
        // It may have ended already.
        let _ = self.0.send(Event::Leave);
    }

    pub(super) fn engine(&self, input: Input) -> bool {
        self.0.send(Event::Engine(input)).is_ok()
    }
}

/// Why a node's cluster can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A link.
    #[error("cluster: cannot open the link at {0}: {1}")]
    Link(std::net::SocketAddr, #[source] std::io::Error),
    /// The witness' socket.
    #[error("cluster: cannot reach the witness at {0}: {1}")]
    Witness(std::net::SocketAddr, #[source] std::io::Error),
    /// Records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The owner and all that it needs.
pub struct Owner {
    engine: Cluster,
    inbox: Handle,
    node: NodeId,
    arbiter: Arbiter,
    paired: bool,
    names: Vec<String>,
    links: Vec<(String, Link)>,
    witness: Option<Arc<UdpSocket>>,
    workers: Vec<Vec<Worker>>,
    watches: Vec<Sender<Watch>>,
    records: Sender<(usize, u64, Durable)>,
    fence: Option<FenceConfig>,
    events: EventLog,
    ending: bool,
    leaving: bool,
}

/// What a node's cluster starts with.
pub struct Beginning {
    /// The pair; a single node if there is none.
    pub cluster: Option<ClusterConfig>,
    /// Where records are kept.
    pub state: PathBuf,
    /// The groups.
    pub members: Vec<Member>,
    /// Until when an earlier daemon on this machine was allowed to run what runs.
    pub inherited: Option<Time>,
}

/// One node alone: nobody is waited for.
fn alone() -> Timing {
    let short = Duration::from_millis(200);
    Timing { keepalive: short, warntime: short * 2, deadtime: short * 2, initdead: short * 2 }
}

impl Owner {
    /// Opens sockets and records and starts the threads that work for the owner.
    ///
    /// # Errors
    /// Settings that can't work, addresses that can't be listened on, records that can't be read.
    pub fn start(beginning: Beginning) -> Result<(Self, Handle, Receiver<Event>), StartError> {
        let Beginning { cluster, state, members, inherited } = beginning;
        let (sender, events) = sync_channel(INBOX);
        let inbox = Handle(sender);
        let path = state.join("cluster.json");
        let remembered: BTreeMap<String, Durable> = store::load(&path)?;
        let arbiter = cluster.as_ref().map_or(Arbiter::None, |cluster| cluster.arbiter);
        let configs: Vec<GroupConfig> = members.iter().map(|member| member.config.clone()).collect();
        let names: Vec<String> = configs.iter().map(|config| config.name.clone()).collect();
        if let Some(fence) = cluster.as_ref().and_then(|cluster| cluster.fence.as_ref())
            && let Err(why) = fence.test()
        {
            // It is told again by status; a pair that can't be fenced yet still runs.
            tracing::warn!("the fence command isn't known to work: {why}");
        }
        let config = match &cluster {
            Some(cluster) => Config {
                node: cluster.node(),
                cluster: cluster.name.clone(),
                key: cluster.key()?,
                links: cluster.links.len(),
                timing: cluster.timing(),
                arbiter,
                lease: cluster.lease(),
                incarnation: clock::unique(),
                groups: configs,
            },
            None => single(configs)?,
        };
        let mut links = Vec::new();
        for (index, link) in cluster.iter().flat_map(|cluster| &cluster.links).enumerate() {
            let open = Link::open(link, link.destination()?).map_err(|error| StartError::Link(link.listen, error))?;
            let (reader, inbox) = (open.clone(), inbox.clone());
            thread("heartbeat", move || {
                reader.read(|bytes| inbox.engine(Input::Packet { link: index, bytes }));
            })?;
            links.push((link.listen.to_string(), open));
        }
        let witness = match cluster.as_ref().and_then(|cluster| cluster.witness) {
            Some(address) if arbiter == Arbiter::Witness => Some(talk(address, &inbox)?),
            _ => None,
        };
        let records = work::records(path, names.clone(), remembered.clone(), &inbox)?;
        let mut found = Vec::new();
        let (mut workers, mut watches) = (Vec::new(), Vec::new());
        for (index, mut member) in members.into_iter().enumerate() {
            let durable = remembered.get(&member.config.name).copied().unwrap_or_default();
            found.push(work::find(&mut member, durable, arbiter, inherited));
            let (watch, confirmed) = work::watch(index, member.mirrors, config.timing.keepalive, &inbox)?;
            watches.push(watch);
            let resources = member.resources.into_iter().enumerate();
            let started: Result<_, _> =
                resources.map(|(unit, resource)| Worker::start(index, unit, resource, &confirmed, &inbox)).collect();
            workers.push(started?);
        }
        let owner = Self {
            node: config.node,
            engine: Cluster::new(clock::now(), &config, &found),
            inbox: inbox.clone(),
            arbiter,
            paired: cluster.is_some(),
            names,
            links,
            witness,
            workers,
            watches,
            records,
            fence: cluster.and_then(|cluster| cluster.fence),
            events: EventLog::open(&state.join("events.log")),
            ending: false,
            leaving: false,
        };
        Ok((owner, inbox, events))
    }

    /// Runs until everything is given up; `permission` is told to the guard whenever it changes.
    pub fn run(mut self, events: &Receiver<Event>, mut permission: impl FnMut(Permission)) {
        self.act();
        let mut told = None;
        loop {
            let now = Permission { until: self.engine.permission().map(|time| time.0) };
            if told != Some(now) {
                permission(now);
                told = Some(now);
            }
            if self.leaving {
                return;
            }
            if self.ending && (0..self.names.len()).all(|group| !self.engine.is_here(group)) {
                // The last words reach the peer: that this node has stopped.
                self.tell(Input::Timer);
                return;
            }
            let wait = self.engine.deadline().since(clock::now());
            match events.recv_timeout(wait) {
                Ok(event) => {
                    self.take(event);
                    // Packets that wait come before the timer, so that a busy machine isn't taken for a silent peer.
                    for event in events.try_iter().take(BATCH) {
                        self.take(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.tell(Input::Timer),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Engine(input) => self.tell(input),
            Event::Admin(command, reply) => {
                let result = self.engine.admin(clock::now(), command.group.as_deref(), command.admin);
                self.events.add(format!(
                    "operator: {:?}{}: {}",
                    command.admin,
                    command.group.map(|group| format!(" of {group}")).unwrap_or_default(),
                    result.as_ref().map_or_else(ToString::to_string, |()| "accepted".into())
                ));
                self.act();
                // Whoever asked may be gone.
                let _ = reply.send(result);
            }
            Event::Report(reply) => {
                let _ = reply.send(self.report());
            }
            Event::Leave => self.leaving = true,
        }
    }

    fn tell(&mut self, input: Input) {
        self.ending |= matches!(input, Input::ShutDown);
        if let Err(why) = self.engine.handle(clock::now(), input) {
            tracing::debug!("heartbeat packet: {why}");
        }
        self.act();
    }

    /// Carries out what the engine wants.
    fn act(&mut self) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Send { link, bytes } => {
                    if let Some((_, link)) = self.links.get(link) {
                        link.send(&bytes);
                    }
                }
                Output::Ask { bytes } => {
                    if let Some(socket) = &self.witness
                        && let Err(error) = socket.send(&bytes)
                    {
                        tracing::debug!("cannot ask the witness: {error}");
                    }
                }
                Output::Unit { group, unit, serial, operation } => {
                    if let Some(worker) = self.workers.get(group).and_then(|workers| workers.get(unit)) {
                        worker.order(Job { serial, operation });
                    }
                }
                Output::Fence { group } => self.fence(group),
                Output::GoAlone { group, serial } => {
                    if let Some(watch) = self.watches.get(group) {
                        // Its thread lives as long as this one.
                        let _ = watch.send(Watch::GoAlone { serial });
                    }
                }
                Output::Persist { group, version, durable } => {
                    let _ = self.records.send((group, version, durable));
                }
                Output::Event(event) => self.events.add(event.to_string()),
            }
        }
    }

    fn fence(&self, group: usize) {
        let (fence, inbox) = (self.fence.clone(), self.inbox.clone());
        let work = move || {
            let result = fence.map_or_else(|| Err("no fence command is configured".into()), |fence| fence.fence());
            inbox.engine(Input::FenceDone { group, result });
        };
        if let Err(error) = thread("fence", work) {
            self.inbox.engine(Input::FenceDone { group, result: Err(error.to_string()) });
        }
    }

    fn report(&self) -> Report {
        let states = self.engine.links();
        Report {
            now: clock::now(),
            node: self.node,
            peer: self.paired.then(|| self.engine.peer()),
            links: self.links.iter().map(|(name, _)| name.clone()).zip(states).collect(),
            arbiter: self.arbiter,
            groups: self.engine.overview(),
            events: self.events.recent(),
        }
    }
}

fn single(groups: Vec<GroupConfig>) -> Result<Config, StartError> {
    let key = ferro_cluster::Key::new(&[clock::unique().to_ne_bytes(); 4].concat())
        .ok_or_else(|| ConfigError::Setting("no key".into()))?;
    Ok(Config {
        node: NodeId::Zero,
        cluster: "single".into(),
        key,
        links: 0,
        timing: alone(),
        arbiter: Arbiter::None,
        lease: alone().deadtime,
        incarnation: clock::unique(),
        groups: groups.into_iter().map(|group| GroupConfig { mirrored: false, ..group }).collect(),
    })
}

fn talk(address: std::net::SocketAddr, inbox: &Handle) -> Result<Arc<UdpSocket>, StartError> {
    let open = || {
        let any: std::net::IpAddr = if address.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        Ok(Arc::new(socket))
    };
    let socket = open().map_err(|error| StartError::Witness(address, error))?;
    let (reader, inbox) = (Arc::clone(&socket), inbox.clone());
    thread("witness", move || {
        let mut buffer = [0; MAX_MESSAGE + 1];
        loop {
            match reader.recv(&mut buffer) {
                Ok(length) if !inbox.engine(Input::Witness { bytes: buffer[..length].to_vec() }) => return,
                Ok(_) => {}
                // Such as a port that nobody listens at, told by ICMP.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    })?;
    Ok(socket)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop).map_err(StartError::Thread)
}
