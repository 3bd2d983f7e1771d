//! The server: one question at a time, answered from the networks' hosts, from what is kept, or passed on.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use ipnet::Ipv4Net;

use super::cache::{Cache, HEADER, Key, question};
use super::forward::{Forwarder, Placed, Waiting};
use super::local::{Zone, find};

/// The longest answer by UDP: it passes every network unfragmented (DNS Flag Day 2020).
const UDP_MOST: u16 = 1232;
/// RFC 1035, section 4.2.1: without EDNS.
const UDP_LEAST: u16 = 512;

/// A network whose hosts ask.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The domain of its hosts' names.
    pub domain: Option<String>,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// This host's address in it, which has the name `gateway`.
    pub gateway: Ipv4Addr,
    /// Other networks whose hosts its own may know, by their places in [`Config::segments`].
    pub sees: Vec<usize>,
    /// Whether other servers are asked for it.
    pub forwards: bool,
}

/// All networks, and where else to ask.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The networks.
    pub segments: Vec<Segment>,
    /// Servers that are asked what isn't known here, in this order.
    pub upstreams: Vec<SocketAddr>,
}

/// Why a configuration can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{domain:?} is no domain: {why}")]
pub struct ConfigError {
    domain: String,
    why: String,
}

/// How an answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// By UDP, to there.
    Udp(SocketAddr),
    /// By the TCP connection of this number.
    Tcp(u64),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The place of its network in [`Config::segments`].
    pub segment: usize,
    /// How it is answered.
    pub reply: Reply,
}

impl Client {
    /// Whether both are one host, as far as can be told.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        match (self.reply, other.reply) {
            (Reply::Udp(one), Reply::Udp(two)) => one.ip() == two.ip(),
            (one, two) => one == two,
        }
    }
}

/// What the server wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this answer.
    Answer(Client, Vec<u8>),
    /// Put a question to another server, from a socket of its own; what is on its way under this number is void.
    Ask {
        /// The question's number.
        number: u64,
        /// The server.
        server: SocketAddr,
        /// Whether by TCP.
        tcp: bool,
        /// The message.
        message: Vec<u8>,
    },
    /// Nothing more is expected for the question of this number.
    Done(u64),
}

/// The DNS server.
pub struct Server {
    zones: Vec<Zone>,
    segments: Vec<Segment>,
    upstreams: Vec<SocketAddr>,
    cache: Cache,
    forwarder: Forwarder,
    /// Identifiers that nobody can guess.
    ids: Box<dyn FnMut() -> u16>,
    outputs: VecDeque<Output>,
}

impl Server {
    /// A server; `ids` gives random numbers that nobody can guess.
    ///
    /// # Errors
    /// A domain that is none.
    pub fn new(config: Config, ids: Box<dyn FnMut() -> u16>) -> Result<Self, ConfigError> {
        let zone = |segment: &Segment| {
            let read = |domain: &String| {
                let wrong = |why: String| ConfigError { domain: domain.clone(), why };
                let mut name = Name::from_ascii(domain).map_err(|error| wrong(error.to_string()))?;
                name.set_fqdn(true);
                if name.num_labels() == 0 { Err(wrong("it is the root".into())) } else { Ok(name.to_lowercase()) }
            };
            let domain = segment.domain.as_ref().map(read).transpose()?;
            Ok(Zone::new(domain, segment.subnet, segment.gateway))
        };
        Ok(Self {
            zones: config.segments.iter().map(zone).collect::<Result<_, _>>()?,
            segments: config.segments,
            upstreams: config.upstreams,
            cache: Cache::default(),
            forwarder: Forwarder::default(),
            ids,
            outputs: VecDeque::new(),
        })
    }

    /// A host of a network has this name and address; with `keep` only if the name isn't another's.
    pub fn set_host(&mut self, segment: usize, label: &str, address: Ipv4Addr, keep: bool) {
        if let Some(zone) = self.zones.get_mut(segment)
            && address != zone.gateway()
            && !(keep && zone.has(label))
            && label != "gateway"
        {
            zone.set(label, address);
        }
    }

    /// No host of a network has this address.
    pub fn forget_host(&mut self, segment: usize, address: Ipv4Addr) {
        if let Some(zone) = self.zones.get_mut(segment)
            && address != zone.gateway()
        {
            zone.forget(address);
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::timer`] has something to do, in milliseconds.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.forwarder.deadline()
    }

    /// Somebody asks. The answer, if it can be given at once; another follows as an output, or none where none is due.
    /// Times are milliseconds of any clock that doesn't go back.
    pub fn query(&mut self, now: u64, client: Client, bytes: &[u8]) -> Option<Vec<u8>> {
        let segment = self.segments.get(client.segment)?;
        // What is an answer itself gets none.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return None;
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let Ok(asked) = Message::from_vec(bytes) else {
            return refusal(id, OpCode::Query, ResponseCode::FormErr);
        };
        let code = match asked.queries.as_slice() {
            _ if asked.metadata.op_code != OpCode::Query => Err(ResponseCode::NotImp),
            _ if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) => Err(ResponseCode::BADVERS),
            [query] => Ok(query),
            _ => Err(ResponseCode::FormErr),
        };
        let limit = match client.reply {
            Reply::Tcp(_) => u16::MAX,
            Reply::Udp(_) => {
                asked.edns.as_ref().map_or(UDP_LEAST, |edns| edns.max_payload().clamp(UDP_LEAST, UDP_MOST))
            }
        };
        let query = match code {
            Ok(query) => query,
            Err(code) => return answer(&asked, code, |_| ()),
        };
        let refused = || answer(&asked, ResponseCode::Refused, |_| ());
        if matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) || query.query_class != DNSClass::IN {
            return refused();
        }
        if let Some((at, subject)) = find(&self.zones, client.segment, query) {
            if at != client.segment && !segment.sees.contains(&at) {
                return refused();
            }
            return answer(&asked, ResponseCode::NoError, |told| self.zones[at].answer(&subject, query, told));
        }
        if !segment.forwards || self.upstreams.is_empty() {
            return refused();
        }
        let (spelling, _) = question(bytes)?;
        let edns = asked.edns.as_ref();
        let key = Key {
            name: spelling.to_ascii_lowercase(),
            kind: query.query_type.into(),
            class: query.query_class.into(),
            flags: (edns.is_some(), edns.is_some_and(|edns| edns.flags().dnssec_ok), asked.metadata.checking_disabled),
        };
        let waiting = Waiting { client, id, spelling: spelling.to_vec(), limit: usize::from(limit) };
        if let Some(kept) = self.cache.get(now, &key) {
            return fitted(kept, &waiting);
        }
        let tcp = matches!(client.reply, Reply::Tcp(_));
        match self.forwarder.place(key, tcp, bytes.to_vec(), waiting) {
            Placed::New(number) => self.put(now, number),
            Placed::Joined => {}
            Placed::Full => return answer(&asked, ResponseCode::ServFail, |_| ()),
        }
        None
    }

    /// Another server said this to the question of this number.
    pub fn answered(&mut self, now: u64, number: u64, bytes: &[u8]) {
        // Anybody may send; only the answer counts.
        if !self.forwarder.is_answer(number, bytes) {
            return;
        }
        let Ok(message) = Message::from_vec(bytes) else { return self.put(now, number) };
        // It can't or won't: the next may.
        if matches!(message.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused)
            && self.upstreams.len() > 1
        {
            return self.put(now, number);
        }
        let Some(asked) = self.forwarder.take(number) else { return };
        self.outputs.push_back(Output::Done(number));
        for waiting in &asked.waiting {
            if let Some(bytes) = fitted(bytes.to_vec(), waiting) {
                self.outputs.push_back(Output::Answer(waiting.client, bytes));
            }
        }
        self.cache.keep(now, asked.key, bytes, &message);
    }

    /// The question of this number couldn't be put.
    pub fn failed(&mut self, now: u64, number: u64) {
        self.put(now, number);
    }

    /// Time has passed.
    pub fn timer(&mut self, now: u64) {
        for number in self.forwarder.late(now) {
            self.put(now, number);
        }
    }

    /// Puts a question to the next server, or gives it up.
    fn put(&mut self, now: u64, number: u64) {
        let id = (self.ids)();
        if let Some((server, tcp, message)) = self.forwarder.turn(now, number, id, &self.upstreams) {
            self.outputs.push_back(Output::Ask { number, server, tcp, message });
            return;
        }
        let Some(asked) = self.forwarder.take(number) else { return };
        self.outputs.push_back(Output::Done(number));
        let Ok(message) = Message::from_vec(&asked.message) else { return };
        for waiting in &asked.waiting {
            let told = answer(&message, ResponseCode::ServFail, |_| ()).and_then(|bytes| fitted(bytes, waiting));
            self.outputs.extend(told.map(|bytes| Output::Answer(waiting.client, bytes)));
        }
    }
}

/// The answer to a question that couldn't be read.
fn refusal(id: u16, op_code: OpCode, code: ResponseCode) -> Option<Vec<u8>> {
    Message::error_msg(id, op_code, code).to_vec().ok()
}

/// An answer, as `fill` makes it.
fn answer(asked: &Message, code: ResponseCode, fill: impl FnOnce(&mut Message)) -> Option<Vec<u8>> {
    let mut told = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    told.metadata.recursion_desired = asked.metadata.recursion_desired;
    told.metadata.recursion_available = true;
    told.metadata.response_code = code;
    if let [query] = asked.queries.as_slice() {
        told.add_query(query.clone());
    }
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MOST);
        told.set_edns(edns);
    }
    fill(&mut told);
    told.to_vec().ok()
}

/// An answer made for this asker: its identifier, its spelling, and no longer than it can take.
fn fitted(mut bytes: Vec<u8>, waiting: &Waiting) -> Option<Vec<u8>> {
    if bytes.len() > waiting.limit {
        bytes = Message::from_vec(&bytes).ok()?.truncate().to_vec().ok()?;
    }
    bytes.get_mut(..2)?.copy_from_slice(&waiting.id.to_be_bytes());
    let end = HEADER + waiting.spelling.len();
    if let Some(place) = bytes.get_mut(HEADER..end).filter(|place| place.eq_ignore_ascii_case(&waiting.spelling)) {
        place.copy_from_slice(&waiting.spelling);
    }
    Some(bytes)
}
