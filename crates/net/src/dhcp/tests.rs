//! Clients and the server, message by message.

use std::net::Ipv4Addr;

use dhcproto::v4::{Decodable, DhcpOption, Encodable, Flags, Message, MessageType, OptionCode};
use proptest::prelude::*;

use super::*;
use crate::MacAddress;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NOW: u64 = 1_700_000_000_000;

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn card(last: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, last])
}

fn config() -> Config {
    Config {
        subnet: "10.0.0.0/24".parse().unwrap(),
        server: SERVER,
        range: (address(100), address(103)),
        lease: 3600,
        reservations: vec![Reservation { mac: card(9), address: address(20), name: Some("web".into()) }],
        names: vec![(card(8), "mail".into())],
        router: Some(SERVER),
        dns: vec![SERVER],
        domain: Some("dmz.example.it".into()),
        ntp: vec![address(5)],
        routes: vec![("10.9.0.0/16".parse().unwrap(), address(6))],
    }
}

fn server() -> Server {
    config().check().unwrap();
    Server::new(config(), [])
}

struct Ask {
    message: Message,
}

fn ask(kind: MessageType, mac: MacAddress) -> Ask {
    let nothing = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, nothing, nothing, nothing, nothing, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    Ask { message }
}

impl Ask {
    fn requests(mut self, address: Ipv4Addr) -> Self {
        self.message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        self
    }
    fn of(mut self, server: Ipv4Addr) -> Self {
        self.message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        self
    }
    fn has(mut self, address: Ipv4Addr) -> Self {
        self.message.set_ciaddr(address);
        self
    }
    fn named(mut self, name: &str) -> Self {
        self.message.opts_mut().insert(DhcpOption::Hostname(name.into()));
        self
    }
    fn wants(mut self, codes: &[OptionCode]) -> Self {
        self.message.opts_mut().insert(DhcpOption::ParameterRequestList(codes.to_vec()));
        self
    }
    fn bytes(&self) -> Vec<u8> {
        self.message.to_vec().unwrap()
    }
}

/// What the server sends in answer, probes having found nobody, and the leases it wanted kept before.
fn told(server: &mut Server, now: u64, ask: &Ask) -> (Option<Message>, Vec<Lease>) {
    server.receive(now, &ask.bytes());
    let (mut sent, mut kept) = (None, vec![]);
    loop {
        match server.poll() {
            Some(Output::Send { message, .. }) => sent = Some(Message::from_bytes(&message).unwrap()),
            Some(Output::Keep(lease)) => {
                assert!(sent.is_none(), "kept before it is told");
                kept.push(lease);
            }
            Some(Output::Probe(_) | Output::Event(_)) => {}
            None => match server.deadline() {
                Some(deadline) => server.timer(deadline),
                None => return (sent, kept),
            },
        }
    }
}

fn kind(message: &Message) -> MessageType {
    match message.opts().get(OptionCode::MessageType) {
        Some(DhcpOption::MessageType(kind)) => *kind,
        other => panic!("{other:?}"),
    }
}

/// A card asks for an address and takes it.
fn get(server: &mut Server, now: u64, mac: MacAddress) -> Option<Ipv4Addr> {
    let offer = told(server, now, &ask(MessageType::Discover, mac)).0?;
    assert_eq!(kind(&offer), MessageType::Offer);
    let request = ask(MessageType::Request, mac).requests(offer.yiaddr()).of(SERVER);
    let (ack, kept) = told(server, now, &request);
    let ack = ack.unwrap();
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, offer.yiaddr()));
    assert_eq!(kept.last().map(|lease| (lease.address, lease.mac)), Some((ack.yiaddr(), mac)));
    Some(ack.yiaddr())
}

#[test]
fn a_card_gets_an_address_and_gets_it_again() {
    let mut server = server();
    let first = get(&mut server, NOW, card(1)).unwrap();
    assert_ne!(get(&mut server, NOW, card(2)), Some(first));
    assert_eq!(get(&mut server, NOW + 1000, card(1)), Some(first));
    // After its lease has ended, as long as nobody else needed it.
    assert_eq!(get(&mut server, NOW + 7_200_000, card(1)), Some(first));
}

#[test]
fn it_is_told_what_it_needs_and_more_if_it_asks() {
    let mut server = server();
    let offer = told(&mut server, NOW, &ask(MessageType::Discover, card(8))).0.unwrap();
    let options = offer.opts();
    assert_eq!(options.get(OptionCode::SubnetMask), Some(&DhcpOption::SubnetMask("255.255.255.0".parse().unwrap())));
    assert_eq!(options.get(OptionCode::Router), Some(&DhcpOption::Router(vec![SERVER])));
    assert_eq!(options.get(OptionCode::DomainNameServer), Some(&DhcpOption::DomainNameServer(vec![SERVER])));
    assert_eq!(options.get(OptionCode::Hostname), Some(&DhcpOption::Hostname("mail".into())));
    assert_eq!(options.get(OptionCode::DomainName), Some(&DhcpOption::DomainName("dmz.example.it".into())));
    assert_eq!(options.get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(3600)));
    assert_eq!(options.get(OptionCode::ClasslessStaticRoute), None);
    let inform = ask(MessageType::Inform, card(7))
        .has(address(50))
        .wants(&[OptionCode::NtpServers, OptionCode::ClasslessStaticRoute]);
    let ack = told(&mut server, NOW, &inform).0.unwrap();
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), None);
    assert_eq!(ack.opts().get(OptionCode::NtpServers), Some(&DhcpOption::NtpServers(vec![address(5)])));
    let routes = vec![("10.9.0.0/16".parse().unwrap(), address(6)), ("0.0.0.0/0".parse().unwrap(), SERVER)];
    assert_eq!(ack.opts().get(OptionCode::ClasslessStaticRoute), Some(&DhcpOption::ClasslessStaticRoute(routes)));
}

#[test]
fn a_reserved_address_goes_to_its_card_alone() {
    let mut server = server();
    assert_eq!(get(&mut server, NOW, card(9)), Some(address(20)));
    let request = ask(MessageType::Request, card(1)).requests(address(20));
    let nak = told(&mut server, NOW, &request).0.unwrap();
    assert_eq!(kind(&nak), MessageType::Nak);
}

#[test]
fn a_full_network_says_so_and_goes_on_when_a_lease_has_ended() {
    let mut server = server();
    for last in 1..=4 {
        get(&mut server, NOW + u64::from(last) * 1000, card(last)).unwrap();
    }
    server.receive(NOW + 5000, &ask(MessageType::Discover, card(5)).bytes());
    assert!(matches!(server.poll(), Some(Output::Event(Event::Full { .. }))));
    assert_eq!(server.poll(), None);
    // The first to end goes first.
    assert_eq!(get(&mut server, NOW + 3_602_000, card(5)), Some(address(100)));
}

#[test]
fn what_is_given_back_is_free_and_only_its_card_gives_it_back() {
    let mut server = server();
    let mine = get(&mut server, NOW, card(1)).unwrap();
    told(&mut server, NOW, &ask(MessageType::Release, card(2)).has(mine).of(SERVER));
    assert!(server.leases().next().unwrap().holds(NOW + 1000));
    told(&mut server, NOW, &ask(MessageType::Release, card(1)).has(mine).of(SERVER));
    assert!(!server.leases().next().unwrap().holds(NOW + 1000));
}

#[test]
fn an_address_that_somebody_uses_is_not_offered() {
    let mut server = server();
    server.receive(NOW, &ask(MessageType::Discover, card(1)).bytes());
    assert_eq!(server.poll(), Some(Output::Probe(address(100))));
    server.taken(NOW + 10, address(100), card(77));
    assert_eq!(server.poll(), Some(Output::Event(Event::Conflict { address: address(100) })));
    assert_eq!(server.poll(), Some(Output::Probe(address(101))));
    server.timer(NOW + 400);
    let Some(Output::Send { to, card: at, .. }) = server.poll() else { panic!() };
    assert_eq!((to, at), (address(101), card(1).0));
    // A client that finds out by itself says so.
    let mut server = self::server();
    let mine = get(&mut server, NOW, card(1)).unwrap();
    told(&mut server, NOW, &ask(MessageType::Decline, card(1)).requests(mine).of(SERVER));
    assert_ne!(get(&mut server, NOW, card(1)), Some(mine));
}

#[test]
fn renewals_go_on_and_reboots_are_told_where_they_are_wrong() {
    let mut server = server();
    let mine = get(&mut server, NOW, card(1)).unwrap();
    let renewal = ask(MessageType::Request, card(1)).has(mine);
    let (ack, kept) = told(&mut server, NOW + 1_800_000, &renewal);
    assert_eq!(kind(&ack.unwrap()), MessageType::Ack);
    assert_eq!(kept[0].ends, (NOW + 1_800_000) / 1000 + 3600);
    let elsewhere = ask(MessageType::Request, card(3)).requests(Ipv4Addr::new(192, 168, 1, 9));
    assert_eq!(kind(&told(&mut server, NOW, &elsewhere).0.unwrap()), MessageType::Nak);
    let taken = ask(MessageType::Request, card(3)).requests(mine);
    assert_eq!(kind(&told(&mut server, NOW, &taken).0.unwrap()), MessageType::Nak);
    // Another server's client isn't ours.
    let other = ask(MessageType::Request, card(3)).requests(address(101)).of(address(250));
    assert!(told(&mut server, NOW, &other).0.is_none());
}

#[test]
fn leases_outlive_a_restart_as_far_as_they_still_fit() {
    let mut first = server();
    let mine = get(&mut first, NOW, card(1)).unwrap();
    let kept: Vec<Lease> = first.leases().cloned().collect();
    let mut again = Server::new(config(), kept.clone());
    assert_ne!(get(&mut again, NOW, card(2)), Some(mine));
    assert_eq!(get(&mut again, NOW, card(1)), Some(mine));
    let moved = Config { range: (address(200), address(201)), ..config() };
    assert_eq!(Server::new(moved, kept).leases().count(), 0);
}

#[test]
fn what_a_client_calls_itself_is_a_hosts_name_or_nothing() {
    let mut server = server();
    for (name, expected) in [("Desk.example.org", Some("desk")), ("a b", None), ("-x", None), ("", None)] {
        let request = ask(MessageType::Request, card(1)).requests(address(100)).named(name);
        let kept = told(&mut server, NOW, &request).1;
        assert_eq!(kept[0].hostname.as_deref(), expected, "{name}");
    }
}

#[test]
fn relays_bootp_and_rubbish_get_no_answer() {
    let mut server = server();
    let mut relayed = ask(MessageType::Discover, card(1));
    relayed.message.set_giaddr(address(77));
    let mut bootp = ask(MessageType::Discover, card(1));
    bootp.message.opts_mut().remove(OptionCode::MessageType);
    for bytes in [relayed.bytes(), bootp.bytes(), vec![], vec![1; 300]] {
        server.receive(NOW, &bytes);
        assert_eq!(server.poll(), None);
    }
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let wrong = [
        Config { range: (address(9), address(8)), ..config() },
        Config { range: (address(9), Ipv4Addr::new(10, 0, 1, 3)), ..config() },
        Config { range: (address(0), address(9)), ..config() },
        Config { lease: 5, ..config() },
        Config { reservations: vec![Reservation { mac: card(1), address: SERVER, name: None }], ..config() },
    ];
    for config in wrong {
        assert!(config.check().is_err(), "{config:?}");
    }
}

#[test]
fn our_own_search_for_servers_is_one_that_servers_answer() {
    let mut server = server();
    server.receive(NOW, &discover(card(1), 99));
    server.timer(NOW + 1000);
    let offer = std::iter::from_fn(|| server.poll()).find_map(|output| match output {
        Output::Send { to, card, message } => Some((to, card, message)),
        _ => None,
    });
    let (to, at, message) = offer.unwrap();
    assert_eq!((to, at), (Ipv4Addr::BROADCAST, [0xff; 6]));
    assert_eq!(offering_server(&message, Some(99)), Some(SERVER));
    assert_eq!(offering_server(&message, Some(98)), None);
}

proptest! {
    /// Whatever cards say, no two have an address at one time, and nobody has one that isn't theirs to have.
    #[test]
    fn no_address_is_given_twice(steps in prop::collection::vec((0..6_u8, 1..8_u8, 98..106_u8, 0..2_000_000_u64, any::<bool>()), 0..60)) {
        let mut server = server();
        let mut now = NOW;
        for (what, who, which, passed, taken) in steps {
            now += passed;
            let mac = card(who);
            let question = match what {
                0 | 1 => ask(MessageType::Discover, mac),
                2 => ask(MessageType::Request, mac).requests(address(which)).of(SERVER),
                3 => ask(MessageType::Request, mac).has(address(which)),
                4 => ask(MessageType::Release, mac).has(address(which)).of(SERVER),
                _ => ask(MessageType::Decline, mac).requests(address(which)).of(SERVER),
            };
            let mut question = question;
            if what == 1 {
                question.message.set_flags(Flags::default().set_broadcast());
            }
            server.receive(now, &question.bytes());
            if taken {
                server.taken(now, address(which), card(200));
            }
            let mut acknowledged = None;
            while let Some(output) = server.poll() {
                if let Output::Send { message, .. } = output {
                    let message = Message::from_bytes(&message).unwrap();
                    if kind(&message) == MessageType::Ack && !message.yiaddr().is_unspecified() {
                        acknowledged = Some(message.yiaddr());
                    }
                }
            }
            if let Some(given) = acknowledged {
                prop_assert!((address(100)..=address(103)).contains(&given));
                prop_assert!(server.leases().any(|lease| lease.address == given && lease.mac == mac));
            }
            let holding: Vec<_> = server.leases().filter(|lease| lease.holds(now)).map(|lease| lease.mac).collect();
            let distinct: std::collections::BTreeSet<_> = holding.iter().collect();
            prop_assert_eq!(distinct.len(), holding.len());
            server.timer(now);
        }
    }
}
