//! The hosts of the networks, and answers about them. Who may hear them is decided by the caller.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

/// For how long others may keep what they were told, in seconds: hosts come and go.
const TTL: u32 = 60;

/// Whether a text can be one label of a host's name (RFC 1123), in small letters.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// One network: its names and addresses.
pub(super) struct Zone {
    pub(super) domain: Option<Name>,
    pub(super) subnet: Ipv4Net,
    gateway: Ipv4Addr,
    by_label: BTreeMap<Vec<u8>, Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, String>,
    /// Grows with every change (the SOA's serial).
    serial: u32,
}

/// What is asked, as far as a network has to do with it.
pub(super) enum Subject {
    /// A name below a network's domain, or the domain itself.
    Name(Name),
    /// A name without domain.
    Label(Name),
    /// An address, or a network, backwards.
    Address(Ipv4Net),
}

impl Zone {
    pub(super) fn new(domain: Option<Name>, subnet: Ipv4Net, gateway: Ipv4Addr) -> Self {
        let mut zone =
            Self { domain, subnet, gateway, by_label: BTreeMap::new(), by_address: BTreeMap::new(), serial: 0 };
        zone.set("gateway", gateway);
        zone
    }

    /// A host has this name and address now; what had either before has it no more.
    pub(super) fn set(&mut self, label: &str, address: Ipv4Addr) {
        if !is_label(label) || self.by_label.get(label.as_bytes()) == Some(&address) {
            return;
        }
        self.forget(address);
        if let Some(former) = self.by_label.insert(label.as_bytes().to_vec(), address) {
            self.by_address.remove(&former);
        }
        self.by_address.insert(address, label.to_owned());
        self.serial = self.serial.wrapping_add(1);
    }

    /// Nobody has this address any more.
    pub(super) fn forget(&mut self, address: Ipv4Addr) {
        if let Some(label) = self.by_address.remove(&address) {
            self.by_label.remove(label.as_bytes());
            self.serial = self.serial.wrapping_add(1);
        }
    }

    pub(super) fn has(&self, label: &str) -> bool {
        self.by_label.contains_key(label.as_bytes())
    }

    /// Answers a question into `answer`.
    pub(super) fn answer(&self, subject: &Subject, query: &Query, answer: &mut Message) {
        answer.metadata.authoritative = true;
        let kind = query.query_type;
        match subject {
            Subject::Address(net) if net.prefix_len() < 32 => self.refuse(ResponseCode::NoError, answer),
            Subject::Address(net) => match self.by_address.get(&net.addr()) {
                None => self.refuse(ResponseCode::NXDomain, answer),
                Some(label) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                    let name = self.full_name(label);
                    answer.add_answer(Record::from_rdata(query.name.clone(), TTL, RData::PTR(PTR(name))));
                }
                Some(_) => self.refuse(ResponseCode::NoError, answer),
            },
            Subject::Label(name) | Subject::Name(name) => {
                let depth = match subject {
                    Subject::Name(_) => self.domain.as_ref().map_or(0, Name::num_labels),
                    _ => 0,
                };
                if name.num_labels() == depth {
                    return self.apex(query, answer);
                }
                let label = name.iter().next().map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
                let found = (name.num_labels() == depth + 1).then(|| self.by_label.get(&label)).flatten();
                match found {
                    None => self.refuse(ResponseCode::NXDomain, answer),
                    Some(address) if matches!(kind, RecordType::A | RecordType::ANY) => {
                        answer.add_answer(Record::from_rdata(query.name.clone(), TTL, RData::A(A(*address))));
                    }
                    Some(_) => self.refuse(ResponseCode::NoError, answer),
                }
            }
        }
    }

    /// The domain itself.
    fn apex(&self, query: &Query, answer: &mut Message) {
        let name = query.name.clone();
        match query.query_type {
            RecordType::SOA | RecordType::ANY => {
                if let Some(soa) = self.soa() {
                    answer.add_answer(soa);
                }
            }
            RecordType::NS => {
                let server = NS(self.full_name("gateway"));
                answer.add_answer(Record::from_rdata(name, TTL, RData::NS(server)));
            }
            _ => self.refuse(ResponseCode::NoError, answer),
        }
    }

    /// RFC 2308: there is nothing, and for how long that may be believed.
    fn refuse(&self, code: ResponseCode, answer: &mut Message) {
        answer.metadata.response_code = code;
        if let Some(soa) = self.soa() {
            answer.add_authority(soa);
        }
    }

    fn soa(&self) -> Option<Record> {
        let domain = self.domain.clone()?;
        let contact = domain.prepend_label("hostmaster").ok()?;
        let soa = SOA::new(self.full_name("gateway"), contact, self.serial, 3600, 600, 86_400, TTL);
        Some(Record::from_rdata(domain, TTL, RData::SOA(soa)))
    }

    fn full_name(&self, label: &str) -> Name {
        let host = || Name::from_labels([label.as_bytes()]).unwrap_or_default();
        self.domain.as_ref().and_then(|domain| domain.prepend_label(label).ok()).unwrap_or_else(host)
    }

    /// The address of the host itself.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }
}

/// Which network a question is about, and how; none if it is about something else. `own` is the asker's network.
pub(super) fn find(zones: &[Zone], own: usize, query: &Query) -> Option<(usize, Subject)> {
    if query.query_class != DNSClass::IN {
        return None;
    }
    let name = &query.name;
    let is_address = matches!(query.query_type, RecordType::A | RecordType::AAAA | RecordType::ANY);
    if name.num_labels() == 1 && is_address {
        return Some((own, Subject::Label(name.clone())));
    }
    let below = |(_, zone): &(usize, &Zone)| zone.domain.as_ref().is_some_and(|domain| domain.zone_of(name));
    let nearest =
        zones.iter().enumerate().filter(below).max_by_key(|(_, zone)| zone.domain.as_ref().map_or(0, Name::num_labels));
    if let Some((at, _)) = nearest {
        return Some((at, Subject::Name(name.clone())));
    }
    let labels = name.num_labels();
    let arpa =
        labels > 2 && labels <= 6 && name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"));
    let net = arpa.then(|| name.parse_arpa_name().ok()).flatten()?;
    let (IpAddr::V4(address), len) = (net.addr(), net.prefix_len()) else { return None };
    let net = Ipv4Net::new(address, len).ok()?;
    let at = zones.iter().position(|zone| zone.subnet.contains(&net))?;
    Some((at, Subject::Address(net)))
}
