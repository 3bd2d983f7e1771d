//! Two heartbeats and the packets between them.

use super::*;

const MS: u64 = 1_000_000;

fn heartbeat(node: NodeId, incarnation: u64, now: u64) -> Heartbeat {
    let timing = Timing {
        keepalive: Duration::from_millis(100),
        warntime: Duration::from_millis(250),
        deadtime: Duration::from_millis(500),
        initdead: Duration::from_millis(1000),
    };
    timing.check().unwrap();
    let key = Key::new(b"0123456789abcdef").unwrap();
    Heartbeat::new(Time(now * MS), Config { node, cluster: "pair".into(), key, links: 2, timing, incarnation })
}

/// What `from` wants sent reaches `to` by the links of `open`; returns what was sent.
fn carry(from: &mut Heartbeat, to: &mut Heartbeat, now: u64, open: &[usize]) -> Vec<(usize, Vec<u8>)> {
    from.tick(Time(now * MS));
    let packets: Vec<_> = std::iter::from_fn(|| from.packet()).collect();
    for (link, bytes) in packets.iter().filter(|(link, _)| open.contains(link)) {
        to.receive(Time(now * MS), *link, bytes).unwrap();
    }
    packets
}

fn events(heartbeat: &mut Heartbeat) -> Vec<Event> {
    std::iter::from_fn(|| heartbeat.event()).collect()
}

fn meet() -> (Heartbeat, Heartbeat) {
    let (mut a, mut b) = (heartbeat(NodeId::Zero, 1, 0), heartbeat(NodeId::One, 2, 0));
    for now in (0..=300).step_by(100) {
        carry(&mut a, &mut b, now, &[0, 1]);
        carry(&mut b, &mut a, now, &[0, 1]);
    }
    assert!(a.peer_is_alive() && b.peer_is_alive());
    (a, b)
}

#[test]
fn silence_is_noticed_by_degrees() {
    let (mut a, _) = meet();
    assert!(events(&mut a).contains(&Event::PeerAlive));
    for now in (400..500).step_by(50) {
        a.tick(Time(now * MS));
    }
    assert!(events(&mut a).is_empty());
    a.tick(Time(550 * MS));
    assert_eq!(events(&mut a), [Event::PeerLate { missed: 2 }]);
    for now in (600..=800).step_by(100) {
        a.tick(Time(now * MS));
    }
    let told = events(&mut a);
    assert!(told.contains(&Event::PeerDead { missed: 5, silence: Duration::from_millis(500) }), "{told:?}");
    assert_eq!(a.peer(), PeerState::Dead);
}

#[test]
fn a_cable_that_works_one_way_is_a_broken_cable() {
    let (mut a, mut b) = meet();
    for now in (400..=1400).step_by(100) {
        carry(&mut a, &mut b, now, &[]);
        carry(&mut b, &mut a, now, &[0, 1]);
    }
    assert_eq!((a.peer(), b.peer()), (PeerState::Dead, PeerState::Dead));
    for now in (1500..=1800).step_by(100) {
        carry(&mut a, &mut b, now, &[1]);
        carry(&mut b, &mut a, now, &[1]);
    }
    assert_eq!((a.peer(), b.peer()), (PeerState::Alive, PeerState::Alive));
    assert_eq!(a.links(), [LinkState::Down, LinkState::Up]);
}

#[test]
fn what_was_recorded_is_worth_nothing_later() {
    let (mut a, mut b) = meet();
    let recorded: Vec<_> = (400..=900).step_by(100).flat_map(|now| carry(&mut b, &mut a, now, &[0])).collect();
    // The same packets again, to the same start of ours and to another.
    for (link, bytes) in recorded.iter().filter(|(link, _)| *link == 0) {
        assert_eq!(a.receive(Time(950 * MS), *link, bytes), Err(Rejected::Old));
    }
    let mut again = heartbeat(NodeId::Zero, 3, 1000);
    for now in (1000..=3000).step_by(100) {
        for (link, bytes) in &recorded {
            let _ = again.receive(Time(now * MS), *link, bytes);
        }
        again.tick(Time(now * MS));
    }
    assert_eq!(again.peer(), PeerState::Dead);
}

#[test]
fn a_restarted_peer_is_met_again_at_once() {
    let (mut a, _) = meet();
    let mut b = heartbeat(NodeId::One, 9, 350);
    for now in (350..=650).step_by(50) {
        carry(&mut b, &mut a, now, &[0]);
        carry(&mut a, &mut b, now, &[0]);
    }
    assert!(events(&mut a).contains(&Event::PeerRestarted));
    assert!(a.peer_is_alive() && b.peer_is_alive());
}

#[test]
fn who_was_kept_from_running_blames_nobody() {
    let (mut a, mut b) = meet();
    // b sleeps for ten seconds; a's packets wait in its socket.
    b.tick(Time(10_000 * MS));
    assert_ne!(b.peer(), PeerState::Dead);
    for now in (10_000..=10_400).step_by(100) {
        carry(&mut a, &mut b, now, &[0]);
        carry(&mut b, &mut a, now, &[0]);
    }
    assert_eq!(b.peer(), PeerState::Alive);
}

#[test]
fn trust_lasts_as_long_as_the_peer_has_promised() {
    let (mut a, mut b) = meet();
    // What a sent at 300 was counted by b, which a knows from b's packet at 400.
    carry(&mut b, &mut a, 400, &[0]);
    assert_eq!(a.trusted_until(), Some(Time(800 * MS)));
    for now in (500..800).step_by(100) {
        b.tick(Time(now * MS));
    }
    assert_ne!(b.peer(), PeerState::Dead);
}

#[test]
fn strangers_are_refused() {
    let (mut a, mut b) = meet();
    b.tick(Time(400 * MS));
    let (link, bytes) = b.packet().unwrap();
    let mut bent = bytes.clone();
    bent[9] ^= 1;
    assert_eq!(a.receive(Time(400 * MS), link, &bent), Err(Rejected::Seal));
    assert_eq!(b.receive(Time(400 * MS), link, &bytes), Err(Rejected::Foreign));
    assert_eq!(a.receive(Time(400 * MS), 7, &bytes), Err(Rejected::Foreign));
    let sealed = Key::new(b"0123456789abcdef").unwrap().seal(b"no packet".to_vec());
    assert_eq!(a.receive(Time(400 * MS), link, &sealed), Err(Rejected::Malformed));
}

#[test]
fn times_that_cannot_work_are_refused() {
    let timing = Timing::default();
    let milliseconds = Duration::from_millis;
    assert!(timing.check().is_ok());
    assert!(Timing { keepalive: Duration::ZERO, ..timing }.check().is_err());
    assert!(Timing { deadtime: milliseconds(300), ..timing }.check().is_err());
    assert!(Timing { warntime: milliseconds(100), ..timing }.check().is_err());
    assert!(Timing { initdead: milliseconds(500), ..timing }.check().is_err());
}
