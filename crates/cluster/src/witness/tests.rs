//! One witness and two nodes' leases.

use super::*;
use crate::lease::{Lease as Client, Party, Wish};

const MS: u64 = 1_000_000;

fn key() -> Key {
    Key::new(b"0123456789abcdef").unwrap()
}

fn client(node: NodeId) -> Client {
    Client::new(Party {
        key: key(),
        cluster: number("pair"),
        group: number("service"),
        node,
        incarnation: u64::from(node.index()) + 7,
        lease: Duration::from_millis(500),
        interval: Duration::from_millis(100),
        exists: true,
    })
}

fn wish(epoch: u64) -> Wish {
    Wish { epoch, sole: SoleWish::Keep, vouch: false, agreed: false, force: false }
}

struct World {
    witness: Witness<NodeId>,
    records: Vec<Record>,
}

impl World {
    fn new(records: &[Record], now: u64) -> Self {
        let witness = Witness::new(Time(now * MS), now + 1, [("pair".to_owned(), key())], records);
        Self { witness, records: records.to_vec() }
    }

    /// Lets a client ask and hear, twice: the first answer may be a challenge.
    fn talk(&mut self, client: &mut Client, node: NodeId, now: u64) {
        for _ in 0..2 {
            client.tick(Time(now * MS));
            while let Some(bytes) = client.packet() {
                self.witness.receive(Time(now * MS), node, &bytes);
            }
            while let Some(output) = self.witness.poll() {
                match output {
                    Output::Store { version, records } => {
                        self.records = records;
                        self.witness.stored(version);
                    }
                    Output::Send(_, bytes) => assert!(client.receive(Time(now * MS), &bytes)),
                }
            }
        }
    }
}

#[test]
fn one_node_has_the_lease_until_it_ends() {
    let (mut a, mut b, mut world) = (client(NodeId::Zero), client(NodeId::One), World::new(&[], 0));
    a.acquire(wish(2));
    world.talk(&mut a, NodeId::Zero, 0);
    assert_eq!(a.until(2), Some(Time(500 * MS)));
    b.acquire(wish(3));
    world.talk(&mut b, NodeId::One, 100);
    assert_eq!(b.refusal().map(|refusal| refusal.denial), Some(Denial::Held));
    a.keep(2, SoleWish::Keep);
    world.talk(&mut a, NodeId::Zero, 300);
    assert_eq!(a.until(2), Some(Time(800 * MS)));
    world.talk(&mut b, NodeId::One, 700);
    assert_eq!(b.until(3), None);
    world.talk(&mut b, NodeId::One, 800);
    assert_eq!(b.until(3), Some(Time(1300 * MS)));
    // The former holder hears of it.
    world.talk(&mut a, NodeId::Zero, 900);
    assert_eq!(a.refusal().map(|refusal| refusal.denial), Some(Denial::NotHolder));
    assert_eq!(a.until(2), None);
}

#[test]
fn who_lacks_data_gets_no_lease_but_by_force() {
    let (mut a, mut b, mut world) = (client(NodeId::Zero), client(NodeId::One), World::new(&[], 0));
    a.acquire(Wish { sole: SoleWish::Set, ..wish(2) });
    world.talk(&mut a, NodeId::Zero, 0);
    assert_eq!(a.sole(), Some(NodeId::Zero));
    a.release(2);
    world.talk(&mut a, NodeId::Zero, 50);
    b.acquire(wish(3));
    world.talk(&mut b, NodeId::One, 100);
    assert_eq!(b.refusal().map(|refusal| refusal.denial), Some(Denial::PeerIsSole));
    b.acquire(Wish { force: true, ..wish(3) });
    world.talk(&mut b, NodeId::One, 300);
    assert!(b.until(3).is_some());
    assert_eq!(world.records[0].sole, Some(NodeId::One));
}

#[test]
fn a_restarted_witness_waits_for_the_lease_that_it_may_have_given() {
    let (mut a, mut b, mut world) = (client(NodeId::Zero), client(NodeId::One), World::new(&[], 0));
    a.acquire(wish(2));
    world.talk(&mut a, NodeId::Zero, 0);
    let mut world = World::new(&world.records, 1000);
    b.acquire(wish(3));
    world.talk(&mut b, NodeId::One, 1100);
    assert_eq!(b.refusal().map(|refusal| refusal.denial), Some(Denial::Held));
    world.talk(&mut b, NodeId::One, 1500);
    assert!(b.until(3).is_some());
    // One that has forgotten everything doesn't take the word of somebody who may be outdated.
    let mut world = World::new(&[], 5000);
    let mut c = client(NodeId::Zero);
    c.acquire(wish(8));
    world.talk(&mut c, NodeId::Zero, 5000);
    assert_eq!(c.refusal().map(|refusal| refusal.denial), Some(Denial::NoRecord));
}

#[test]
fn a_recorded_request_is_worth_nothing() {
    let (mut a, mut world) = (client(NodeId::Zero), World::new(&[], 0));
    a.acquire(wish(2));
    a.tick(Time(0));
    let mut sent = Vec::new();
    for now in 0..4 {
        a.tick(Time(now * 100 * MS));
        while let Some(bytes) = a.packet() {
            sent.push(bytes.clone());
            world.witness.receive(Time(now * 100 * MS), NodeId::Zero, &bytes);
        }
        while let Some(output) = world.witness.poll() {
            match output {
                Output::Store { version, .. } => world.witness.stored(version),
                Output::Send(_, bytes) => drop(a.receive(Time(now * 100 * MS), &bytes)),
            }
        }
    }
    let left = |world: &World| world.witness.leases(Time(1000 * MS))[0].left;
    assert_eq!(left(&world), Duration::ZERO);
    for bytes in sent {
        world.witness.receive(Time(1000 * MS), NodeId::Zero, &bytes);
    }
    assert_eq!(left(&world), Duration::ZERO, "a recorded renewal has prolonged the lease");
}
