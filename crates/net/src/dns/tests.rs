//! Hosts that ask, and servers that are asked.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

fn client(segment: usize) -> Client {
    Client { segment, reply: Reply::Udp("10.1.0.9:5353".parse().unwrap()) }
}

/// dmz sees nobody, site sees dmz and may ask outside.
fn server() -> Server {
    let segment = |name: &str, net: u8, sees: Vec<usize>, forwards| Segment {
        domain: Some(format!("{name}.example.it")),
        subnet: format!("10.{net}.0.0/24").parse().unwrap(),
        gateway: Ipv4Addr::new(10, net, 0, 1),
        sees,
        forwards,
    };
    let segments = vec![segment("dmz", 1, vec![], false), segment("site", 2, vec![0], true)];
    let upstreams = vec!["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
    let mut next = 100;
    let ids = Box::new(move || {
        next += 1;
        next
    });
    let mut server = Server::new(Config { segments, upstreams }, ids).unwrap();
    server.set_host(0, "web", Ipv4Addr::new(10, 1, 0, 20), false);
    server
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(server: &mut Server, segment: usize, name: &str, kind: RecordType) -> Message {
    let bytes = server.query(0, client(segment), &question(name, kind).to_vec().unwrap()).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn address(message: &Message) -> Option<Ipv4Addr> {
    match message.answers.first().map(|record| &record.data) {
        Some(RData::A(A(address))) => Some(*address),
        _ => None,
    }
}

#[test]
fn hosts_are_found_by_name_and_backwards() {
    let mut server = server();
    for name in ["web.dmz.example.it.", "WEB.dmz.Example.it.", "web."] {
        let told = ask(&mut server, 0, name, RecordType::A);
        assert_eq!(address(&told), Some(Ipv4Addr::new(10, 1, 0, 20)), "{name}");
        assert!(told.metadata.authoritative && told.metadata.recursion_available);
        assert_eq!(told.queries[0].name.to_ascii(), name, "the question comes back as it was spelt");
    }
    let told = ask(&mut server, 0, "20.0.1.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(told.answers[0].data.to_string(), "web.dmz.example.it.");
    let told = ask(&mut server, 0, "gateway.dmz.example.it.", RecordType::A);
    assert_eq!(address(&told), Some(Ipv4Addr::new(10, 1, 0, 1)));
}

#[test]
fn what_is_not_there_is_said_to_be_nothing_with_how_long_that_holds() {
    let mut server = server();
    let code = |told: &Message| told.metadata.response_code;
    let nobody = ask(&mut server, 0, "nobody.dmz.example.it.", RecordType::A);
    assert_eq!((code(&nobody), nobody.authorities.len()), (ResponseCode::NXDomain, 1));
    let other = ask(&mut server, 0, "web.dmz.example.it.", RecordType::AAAA);
    assert_eq!((code(&other), other.answers.len(), other.authorities.len()), (ResponseCode::NoError, 0, 1));
    let deeper = ask(&mut server, 0, "a.web.dmz.example.it.", RecordType::A);
    assert_eq!(code(&deeper), ResponseCode::NXDomain);
    let backwards = ask(&mut server, 0, "99.0.1.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(code(&backwards), ResponseCode::NXDomain);
    assert_eq!(ask(&mut server, 0, "dmz.example.it.", RecordType::SOA).answers.len(), 1);
}

#[test]
fn only_those_whom_the_rules_let_pass_are_told() {
    let mut server = server();
    server.set_host(1, "desk", Ipv4Addr::new(10, 2, 0, 5), false);
    let told = ask(&mut server, 1, "web.dmz.example.it.", RecordType::A);
    assert_eq!(address(&told), Some(Ipv4Addr::new(10, 1, 0, 20)));
    for name in ["desk.site.example.it.", "5.0.2.10.in-addr.arpa.", "www.example.org."] {
        let told = ask(&mut server, 0, name, RecordType::ANY);
        assert_eq!((told.metadata.response_code, told.answers.len()), (ResponseCode::Refused, 0), "{name}");
    }
    // A short name is one of the asker's own network.
    assert_eq!(ask(&mut server, 1, "web.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn names_move_with_leases() {
    let mut server = server();
    let new = Ipv4Addr::new(10, 1, 0, 30);
    server.set_host(0, "web", new, false);
    assert_eq!(address(&ask(&mut server, 0, "web.", RecordType::A)), Some(new));
    assert_eq!(ask(&mut server, 0, "20.0.1.10.in-addr.arpa.", RecordType::PTR).answers.len(), 0);
    server.set_host(0, "web", Ipv4Addr::new(10, 1, 0, 31), true);
    assert_eq!(address(&ask(&mut server, 0, "web.", RecordType::A)), Some(new), "a name isn't taken away");
    server.set_host(0, "gateway", Ipv4Addr::new(10, 1, 0, 32), false);
    assert_eq!(address(&ask(&mut server, 0, "gateway.", RecordType::A)), Some(Ipv4Addr::new(10, 1, 0, 1)));
    server.forget_host(0, new);
    assert_eq!(ask(&mut server, 0, "web.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
}

/// Puts a question to be passed on; its number, where it went and the message.
fn pass(server: &mut Server, now: u64, message: &Message) -> (u64, std::net::SocketAddr, Message) {
    assert_eq!(server.query(now, client(1), &message.to_vec().unwrap()), None);
    asked(server)
}

fn asked(server: &mut Server) -> (u64, std::net::SocketAddr, Message) {
    match server.poll() {
        Some(Output::Ask { number, server, message, .. }) => (number, server, Message::from_vec(&message).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn reply(question: &Message, ttl: u32, text: &[&str]) -> Vec<u8> {
    let mut message = question.clone();
    message.metadata.message_type = MessageType::Response;
    let name = question.queries[0].name.clone();
    let text = TXT::new(text.iter().map(ToString::to_string).collect());
    message.add_answer(Record::from_rdata(name, ttl, RData::TXT(text)));
    message.to_vec().unwrap()
}

#[test]
fn other_names_are_asked_elsewhere_once_and_kept() {
    let mut server = server();
    let mut original = question("www.Example.org.", RecordType::TXT);
    original.set_edns(Edns::new());
    let (number, to, put) = pass(&mut server, 0, &original);
    assert_eq!((to, put.metadata.id), ("192.0.2.1:53".parse().unwrap(), 101));
    // The same from another isn't put again; forged answers aren't taken.
    let beside = Client { segment: 1, reply: Reply::Udp("10.2.0.8:99".parse().unwrap()) };
    assert_eq!(server.query(1, beside, &original.to_vec().unwrap()), None);
    let mut forged = put.clone();
    forged.metadata.id = 102;
    server.answered(1, number, &reply(&forged, 60, &["evil"]));
    server.answered(1, number, &reply(&question("evil.org.", RecordType::TXT), 60, &["evil"]));
    assert_eq!(server.poll(), None);
    server.answered(2, number, &reply(&put, 60, &["good"]));
    assert_eq!(server.poll(), Some(Output::Done(number)));
    let answers: Vec<_> = std::iter::from_fn(|| server.poll()).collect();
    assert_eq!(answers.len(), 2);
    let Output::Answer(_, bytes) = &answers[0] else { panic!() };
    assert_eq!(Message::from_vec(bytes).unwrap().metadata.id, 7);
    // From now on it is known, less long every second, and spelt as asked.
    let mut again = question("WWW.example.org.", RecordType::TXT);
    again.set_edns(Edns::new());
    let bytes = server.query(20_002, client(1), &again.to_vec().unwrap()).unwrap();
    let told = Message::from_vec(&bytes).unwrap();
    assert_eq!((told.answers[0].ttl, told.queries[0].name.to_ascii().as_str()), (40, "WWW.example.org."));
    pass(&mut server, 60_002, &again);
}

#[test]
fn a_server_that_does_not_answer_is_followed_by_the_next_and_then_by_the_truth() {
    let mut server = server();
    let original = question("www.example.org.", RecordType::A);
    let (number, first, _) = pass(&mut server, 0, &original);
    assert_eq!(server.deadline(), Some(1500));
    server.timer(1500);
    let (same, second, put) = asked(&mut server);
    assert_eq!(same, number);
    assert_ne!(first, second);
    let mut sorry = put.clone();
    sorry.metadata.message_type = MessageType::Response;
    sorry.metadata.response_code = ResponseCode::ServFail;
    server.answered(1600, number, &sorry.to_vec().unwrap());
    assert_eq!(asked(&mut server).1, first);
    server.failed(1700, number);
    asked(&mut server);
    server.timer(9000);
    assert_eq!(server.poll(), Some(Output::Done(number)));
    let Some(Output::Answer(_, bytes)) = server.poll() else { panic!() };
    let told = Message::from_vec(&bytes).unwrap();
    assert_eq!((told.metadata.id, told.metadata.response_code), (7, ResponseCode::ServFail));
    assert_eq!(server.deadline(), None);
}

#[test]
fn long_answers_by_udp_are_cut_and_say_so() {
    let mut server = server();
    let (number, _, put) = pass(&mut server, 0, &question("big.example.org.", RecordType::TXT));
    let long = "x".repeat(200);
    server.answered(0, number, &reply(&put, 60, &[&long, &long, &long]));
    server.poll();
    let Some(Output::Answer(_, bytes)) = server.poll() else { panic!() };
    assert!(bytes.len() <= 512 && Message::from_vec(&bytes).unwrap().metadata.truncation);
}

#[test]
fn nothing_is_kept_as_long_as_the_domain_says() {
    let mut server = server();
    let (number, _, put) = pass(&mut server, 0, &question("no.example.org.", RecordType::A));
    let mut nothing = put.clone();
    nothing.metadata.message_type = MessageType::Response;
    nothing.metadata.response_code = ResponseCode::NXDomain;
    let root = Name::from_ascii("example.org.").unwrap();
    let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 30);
    nothing.add_authority(Record::from_rdata(root, 600, RData::SOA(soa)));
    server.answered(0, number, &nothing.to_vec().unwrap());
    while server.poll().is_some() {}
    let bytes = question("no.example.org.", RecordType::A).to_vec().unwrap();
    assert!(server.query(29_000, client(1), &bytes).is_some());
    assert!(server.query(31_000, client(1), &bytes).is_none());
}

#[test]
fn questions_that_are_none_get_what_they_are_due() {
    let mut server = server();
    let code = |server: &mut Server, bytes: &[u8]| {
        server.query(0, client(1), bytes).map(|bytes| Message::from_vec(&bytes).unwrap().metadata.response_code)
    };
    assert_eq!(code(&mut server, b"short"), None);
    let mut response = question("a.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(code(&mut server, &response.to_vec().unwrap()), None);
    let mut cut = question("a.", RecordType::A).to_vec().unwrap();
    cut.truncate(14);
    assert_eq!(code(&mut server, &cut), Some(ResponseCode::FormErr));
    let mut update = question("a.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&mut server, &update.to_vec().unwrap()), Some(ResponseCode::NotImp));
    assert_eq!(
        code(&mut server, &question("dmz.example.it.", RecordType::AXFR).to_vec().unwrap()),
        Some(ResponseCode::Refused)
    );
    let mut two = question("a.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(code(&mut server, &two.to_vec().unwrap()), Some(ResponseCode::FormErr));
}

#[test]
fn nobody_fills_it_up() {
    let mut server = server();
    for number in 0..3000 {
        let bytes = question(&format!("n{number}.example.org."), RecordType::A).to_vec().unwrap();
        let told = server.query(0, client(1), &bytes);
        assert_eq!(told.is_some(), number >= 256, "{number}");
    }
    assert_eq!(std::iter::from_fn(|| server.poll()).count(), 256);
}
