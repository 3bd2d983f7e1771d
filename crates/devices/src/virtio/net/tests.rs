//! The card against a driver's rings in memory.

use std::sync::{Arc, Mutex};

use super::super::queue::tests::{descriptor, memory, offer, queue};
use super::*;

#[derive(Default)]
struct Seen {
    packets: Vec<(usize, Vec<u8>)>,
    takes: Offloads,
    rooms: Vec<usize>,
    /// Packets that may still be sent.
    credit: usize,
}

struct Sink(Arc<Mutex<Seen>>);

impl FrameSink for Sink {
    fn send(&mut self, pair: usize, packet: &[u8]) {
        let mut seen = self.0.lock().unwrap();
        seen.credit -= 1;
        seen.packets.push((pair, packet.to_vec()));
    }

    fn is_ready(&mut self, _pair: usize) -> bool {
        self.0.lock().unwrap().credit > 0
    }

    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }

    fn guest_takes(&mut self, takes: Offloads) {
        self.0.lock().unwrap().takes = takes;
    }

    fn has_room(&mut self, pair: usize) {
        self.0.lock().unwrap().rooms.push(pair);
    }
}

fn card(pairs: u16) -> (Net, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen { credit: 100, ..Seen::default() }));
    (Net::new([2, 0, 0, 0, 0, 1], pairs, Box::new(Sink(seen.clone()))), seen)
}

/// A frame of `len` bytes behind a header of zeros.
fn packet(len: usize) -> Vec<u8> {
    [vec![0; HEADER], vec![7; len]].concat()
}

#[test]
fn frames_go_both_ways_behind_their_header() {
    let (memory, (mut card, seen)) = (memory(), card(1));
    let mut queues = [queue(), queue(), queue()];
    assert!(!card.receive(0, &mut packet(60), &mut queues, &memory).unwrap());
    descriptor(&memory, 0x1000, 0, (0x5000, 100, 2, 0));
    offer(&memory, 0);
    assert!(card.receive(0, &mut packet(60), &mut queues, &memory).unwrap());
    assert_eq!(memory.load::<u16>(0x500a), Some(1));
    assert_eq!(memory.load::<u8>(0x500c + 59), Some(7));
    assert_eq!(memory.load::<u32>(0x3008), Some(72));

    let mut queues = [queue(), queue(), queue()];
    memory.store(0x2002, 0_u16).unwrap();
    memory.store(0x500a, 0_u16).unwrap();
    descriptor(&memory, 0x1000, 0, (0x5000, 12 + 20, 0, 0));
    offer(&memory, 0);
    card.notify(1, &mut queues, &memory).unwrap();
    assert_eq!(seen.lock().unwrap().packets, [(0, packet(20))]);
    card.notify(0, &mut queues, &memory).unwrap();
    assert_eq!(seen.lock().unwrap().rooms, [0]);
}

#[test]
fn a_long_packet_is_spread_over_buffers_or_waits_for_enough_of_them() {
    let (memory, (mut card, _)) = (memory(), card(1));
    card.start(F_MERGE);
    let mut queues = [queue(), queue(), queue()];
    for index in 0..3 {
        descriptor(&memory, 0x1000, index, (0x5000 + 0x100 * index, 64, 2, 0));
    }
    offer(&memory, 0);
    offer(&memory, 1);
    assert!(!card.receive(0, &mut packet(150), &mut queues, &memory).unwrap(), "two buffers are too few");
    assert_eq!(memory.load::<u16>(0x3002), Some(0));
    offer(&memory, 2);
    assert!(card.receive(0, &mut packet(150), &mut queues, &memory).unwrap());
    assert_eq!((memory.load::<u16>(0x500a), memory.load::<u16>(0x3002)), (Some(3), Some(3)));
    let lengths = [0x3008, 0x3010, 0x3018].map(|at| memory.load::<u32>(at).unwrap());
    assert_eq!(lengths, [64, 64, 34]);
}

#[test]
fn a_network_that_is_not_ready_leaves_packets_in_their_queue() {
    let (memory, (mut card, seen)) = (memory(), card(1));
    seen.lock().unwrap().credit = 1;
    let mut queues = [queue(), queue(), queue()];
    descriptor(&memory, 0x1000, 0, (0x5000, 12 + 20, 0, 0));
    offer(&memory, 0);
    offer(&memory, 0);
    card.notify(1, &mut queues, &memory).unwrap();
    assert_eq!((seen.lock().unwrap().packets.len(), memory.load::<u16>(0x3002)), (1, Some(1)));
    seen.lock().unwrap().credit = 1;
    assert!(!card.transmit(&mut queues, &memory).unwrap());
    assert_eq!((seen.lock().unwrap().packets.len(), memory.load::<u16>(0x3002)), (2, Some(2)));
}

#[test]
fn headers_that_ask_for_too_much_are_dropped_and_counted() {
    let (memory, (mut card, seen)) = (memory(), card(1));
    let mut queues = [queue(), queue(), queue()];
    descriptor(&memory, 0x1000, 0, (0x5000, 12 + 60, 0, 0));
    memory.write(0x5000, &[1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);
    for agreed in [0, F_CSUM] {
        card.start(agreed);
        offer(&memory, 0);
        card.notify(1, &mut queues, &memory).unwrap();
        assert_eq!(card.refused(), 1);
        assert_eq!(seen.lock().unwrap().packets.len(), usize::from(agreed != 0));
    }
    assert_eq!(seen.lock().unwrap().packets[0].1[..HEADER], [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
    descriptor(&memory, 0x1000, 0, (0x6000, 12 + 60, 2, 0));
    let mut unasked = packet(60);
    unasked[..10].copy_from_slice(&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);
    assert!(card.receive(0, &mut unasked, &mut queues, &memory).unwrap());
    assert_eq!(card.refused(), 2, "the driver doesn't take packets without checksum");
}

#[test]
fn the_driver_says_by_commands_how_many_pairs_it_uses_and_what_it_takes() {
    let (memory, (mut card, seen)) = (memory(), card(4));
    assert_eq!((card.queue_sizes().len(), card.read_config(8)), (9, 4));
    let command = |card: &mut Net, bytes: &[u8]| {
        let mut queues: Vec<_> = (0..9).map(|_| queue()).collect();
        memory.store(0x2002, 0_u16).unwrap();
        memory.write(0x5000, bytes);
        descriptor(&memory, 0x1000, 0, (0x5000, bytes.len() as u32, 1, 1));
        descriptor(&memory, 0x1000, 1, (0x6000, 1, 2, 0));
        offer(&memory, 0);
        let at = card.control_queue();
        card.notify(at, &mut queues, &memory).unwrap();
        memory.load::<u8>(0x6000) == Some(0)
    };
    card.start(F_CONTROL);
    assert!(!command(&mut card, &[4, 0, 2, 0]), "it was not agreed on");
    card.start(F_CONTROL | F_MULTIQUEUE | F_GUEST_OFFLOADS | F_GUEST_CSUM | F_GUEST_TSO4);
    assert!(seen.lock().unwrap().takes.tso4);
    assert!(command(&mut card, &[4, 0, 4, 0]) && card.active == 4);
    assert!(!command(&mut card, &[4, 0, 5, 0]) && !command(&mut card, &[4, 0, 0, 0]));
    assert!(command(&mut card, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(seen.lock().unwrap().takes, Offloads { checksum: true, ..Offloads::default() });
    assert!(!command(&mut card, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "TSO6 was not agreed on");
    assert!(!command(&mut card, &[9, 9]) && !command(&mut card, &[]));

    let mut writer = StateWriter::new();
    card.save(&mut writer);
    let bytes = writer.finish();
    let (mut other, _) = super::tests::card(4);
    other.start(card.features);
    other.load(2, &mut StateReader::new(&bytes)).unwrap();
    assert_eq!((other.active, other.takes), (4, F_GUEST_CSUM));
    let (mut small, _) = super::tests::card(2);
    small.start(card.features);
    assert!(small.load(2, &mut StateReader::new(&bytes)).is_err());
}
