//! Two engines with disks and a link that never fail by themselves: rules that need an operator or a broken disk.

use ferro_mirror::generation::Decision;
use ferro_mirror::wire::{Message, Payload};
use ferro_mirror::{
    Admin, AdminError, BLOCK, Config, Congestion, DataOp, DiskError, Engine, Event, Input, LinkState, Output, Protocol,
    Request, RequestError, Time,
};

const SIZE: usize = 16 * 4096;

struct Side {
    engine: Engine,
    disk: Vec<u8>,
    broken: bool,
    events: Vec<Event>,
    admin: Vec<Result<(), AdminError>>,
    replies: Vec<Result<Vec<u8>, RequestError>>,
}

struct Pair {
    sides: [Side; 2],
    linked: bool,
}

fn side(node: u8, protocol: Protocol) -> Side {
    let config = Config {
        node,
        size: SIZE as u64,
        protocol,
        extent: 4 * BLOCK,
        log_extents: 2,
        max_in_flight: 8,
        congestion: Congestion::Block,
        sync_in_flight: 4,
        fencing: false,
        entropy: 1000 + u64::from(node),
    };
    let engine = Engine::new(config.clone(), &Engine::format(&config)).unwrap();
    Side { engine, disk: vec![0; SIZE], broken: false, events: vec![], admin: vec![], replies: vec![] }
}

impl Side {
    fn disk_op(&mut self, request: DataOp) -> Result<Vec<u8>, DiskError> {
        if self.broken {
            return Err(DiskError);
        }
        match request {
            DataOp::Read { offset, length } => return Ok(self.disk[offset as usize..][..length as usize].to_vec()),
            DataOp::Write { offset, payload: Payload::Data(bytes) } => {
                self.disk[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            DataOp::Write { offset, payload } => self.disk[offset as usize..][..payload.len() as usize].fill(0),
            DataOp::Flush => {}
        }
        Ok(vec![])
    }
}

impl Pair {
    /// Connected and in sync, node 0 primary.
    fn new(protocol: Protocol) -> Self {
        let mut pair = Self { sides: [side(0, protocol), side(1, protocol)], linked: false };
        pair.admin(0, Admin::Primary { epoch: None, force: true, alone: true }).unwrap();
        pair.link(true);
        assert!(pair.sides[0].engine.peer_is_up_to_date());
        pair
    }

    fn link(&mut self, up: bool) {
        self.linked = up;
        for side in &mut self.sides {
            side.engine.handle(Time(0), if up { Input::LinkUp } else { Input::LinkDown });
        }
        self.run();
    }

    fn admin(&mut self, node: usize, command: Admin) -> Result<(), AdminError> {
        self.tell(node, Input::Admin(command));
        self.sides[node].admin.pop().unwrap()
    }

    fn ask(&mut self, node: usize, request: Request) -> Result<Vec<u8>, RequestError> {
        self.tell(node, Input::Request { id: 1, request });
        self.sides[node].replies.pop().expect("no answer")
    }

    fn write(&mut self, node: usize, block: u64, byte: u8) -> Result<Vec<u8>, RequestError> {
        let payload = Payload::Data(vec![byte; 100].into());
        self.ask(node, Request::Write { offset: block * BLOCK, payload, fua: true })
    }

    fn read(&mut self, node: usize, block: u64) -> Result<Vec<u8>, RequestError> {
        self.ask(node, Request::Read { offset: block * BLOCK, length: 1 })
    }

    fn tell(&mut self, node: usize, input: Input) {
        self.sides[node].engine.handle(Time(0), input);
        self.run();
    }

    fn run(&mut self) {
        while let Some((node, output)) = (0..2).find_map(|n| Some((n, self.sides[n].engine.poll()?))) {
            let side = &mut self.sides[node];
            match output {
                Output::Data { op, request } => {
                    let result = side.disk_op(request).map(Into::into);
                    side.engine.handle(Time(0), Input::DataDone { op, result });
                }
                Output::Meta { op, .. } => side.engine.handle(Time(0), Input::MetaDone { op, result: Ok(()) }),
                Output::Send(message) if self.linked => {
                    self.sides[1 - node].engine.handle(Time(0), Input::Message(message));
                }
                Output::DropLink => {
                    self.linked = false;
                    self.sides[1 - node].engine.handle(Time(0), Input::LinkDown);
                }
                Output::Reply { result, .. } => side.replies.push(result.map(|b| b.to_vec())),
                Output::AdminReply(result) => side.admin.push(result),
                Output::Event(event) => side.events.push(event),
                Output::Send(_) => {}
            }
        }
    }
}

#[test]
fn every_protocol_replicates_data_and_zeroes() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut pair = Pair::new(protocol);
        pair.write(0, 3, 5).unwrap();
        pair.write(0, 4, 6).unwrap();
        let payload = Payload::Zeroes { length: BLOCK, unmap: true };
        pair.ask(0, Request::Write { offset: 4 * BLOCK, payload, fua: false }).unwrap();
        pair.ask(0, Request::Flush).unwrap();
        assert_eq!(pair.sides[0].disk, pair.sides[1].disk);
        assert_eq!((pair.sides[1].disk[3 * 4096], pair.sides[1].disk[4 * 4096]), (5, 0));
        assert_eq!(pair.write(1, 1, 1), Err(RequestError::NotPrimary));
        assert_eq!(pair.ask(0, Request::Read { offset: SIZE as u64, length: 1 }), Err(RequestError::Range));
    }
}

#[test]
fn a_split_brain_is_never_merged_before_an_operator_chooses() {
    let mut pair = Pair::new(Protocol::C);
    pair.link(false);
    assert_eq!(pair.admin(1, Admin::Primary { epoch: None, force: false, alone: true }), Err(AdminError::NotUpToDate));
    pair.admin(1, Admin::Primary { epoch: None, force: true, alone: true }).unwrap();
    pair.write(0, 1, 10).unwrap();
    pair.write(1, 1, 20).unwrap();
    for _ in 0..3 {
        for node in 0..2 {
            pair.admin(node, Admin::Connect).unwrap();
        }
        pair.link(true);
        pair.link(false);
        assert_eq!((pair.sides[0].disk[4096], pair.sides[1].disk[4096]), (10, 20));
    }
    let split = Event::Handshake(Decision::SplitBrain);
    assert!(pair.sides.iter().any(|s| s.events.contains(&split)));
    for node in 0..2 {
        // The older epoch was fenced already.
        let _ = pair.admin(node, Admin::Secondary);
        pair.admin(node, Admin::Connect).unwrap();
    }
    pair.admin(0, Admin::DiscardMyData).unwrap();
    pair.link(true);
    assert_eq!(pair.sides[0].disk, pair.sides[1].disk);
    assert_eq!((pair.sides[0].disk[4096], pair.sides[0].engine.out_of_sync()), (20, 0));
}

#[test]
fn an_older_epoch_is_refused() {
    let mut pair = Pair::new(Protocol::C);
    pair.link(false);
    pair.admin(1, Admin::Primary { epoch: Some(9), force: false, alone: true }).unwrap();
    pair.link(true);
    assert!(!pair.sides[0].engine.is_primary() && pair.sides[0].events.contains(&Event::Fenced));
    assert_eq!(
        pair.admin(0, Admin::Primary { epoch: Some(10), force: false, alone: true }),
        Err(AdminError::PeerIsPrimary)
    );
    pair.link(false);
    assert_eq!(
        pair.admin(0, Admin::Primary { epoch: Some(9), force: true, alone: true }),
        Err(AdminError::OldEpoch(9, 9))
    );
    let mut pair = Pair::new(Protocol::C);
    let old = Message::Write { seq: 1, epoch: 0, offset: 0, payload: Payload::Data(vec![1; 10].into()) };
    pair.tell(1, Input::Message(old));
    assert_eq!(pair.sides[1].disk[0], 0);
}

#[test]
fn a_broken_disk_is_left_and_the_peer_serves() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 3, 5).unwrap();
    pair.sides[0].broken = true;
    assert_eq!(pair.read(0, 3), Ok(vec![5]));
    assert!(pair.sides[0].events.contains(&Event::Detached));
    pair.write(0, 3, 6).unwrap();
    assert_eq!(pair.read(0, 3), Ok(vec![6]));
    assert_eq!(pair.sides[1].engine.out_of_sync(), 1);
    pair.link(false);
    assert_eq!(pair.read(0, 3), Err(RequestError::NoData));
}

#[test]
fn verify_marks_what_differs_and_a_reconnection_repairs_it() {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 3, 5).unwrap();
    pair.sides[1].disk[5 * 4096] ^= 1;
    pair.admin(0, Admin::Verify).unwrap();
    assert!(pair.sides[0].events.contains(&Event::Verified(1)));
    assert_eq!(pair.sides[0].engine.out_of_sync(), 1);
    pair.link(false);
    pair.link(true);
    assert_eq!(pair.sides[0].disk, pair.sides[1].disk);
    assert_eq!(pair.sides[0].engine.out_of_sync(), 0);
}

/// Node 1 was made primary while it is half a copy: node 0 is its source.
fn primary_through_its_source() -> Pair {
    let mut pair = Pair::new(Protocol::C);
    pair.write(0, 3, 5).unwrap();
    pair.link(false);
    pair.write(0, 3, 6).unwrap();
    pair.admin(1, Admin::PauseSync).unwrap();
    pair.link(true);
    pair.admin(0, Admin::Secondary).unwrap();
    pair.admin(1, Admin::Primary { epoch: None, force: false, alone: false }).unwrap();
    assert!(pair.sides[1].engine.is_primary() && !pair.sides[1].engine.is_consistent());
    pair
}

#[test]
fn a_target_reads_from_its_source_what_it_lacks() {
    let mut pair = primary_through_its_source();
    assert_eq!(pair.sides[1].disk[3 * 4096], 5);
    assert_eq!(pair.read(1, 3), Ok(vec![6]));
    // What isn't marked is read here.
    pair.sides[1].disk[9 * 4096] = 77;
    assert_eq!(pair.read(1, 9), Ok(vec![77]));
    pair.sides[1].disk[9 * 4096] = 0;
    pair.write(1, 4, 8).unwrap();
    assert_eq!((pair.sides[0].disk[4 * 4096], pair.read(1, 4)), (8, Ok(vec![8])));
    pair.admin(1, Admin::ResumeSync).unwrap();
    assert!(pair.sides[1].engine.is_consistent());
    assert_eq!(pair.sides[0].disk, pair.sides[1].disk);
}

#[test]
fn a_primary_that_lost_its_source_gets_it_back_only_as_secondary() {
    let mut pair = primary_through_its_source();
    pair.link(false);
    assert_eq!(pair.read(1, 3), Err(RequestError::NoData));
    for _ in 0..2 {
        pair.link(true);
        assert!(pair.sides.iter().any(|s| s.events.contains(&Event::PrimaryBehind)));
        assert!(pair.sides.iter().all(|s| s.engine.status().link == LinkState::Connecting));
    }
    pair.admin(1, Admin::Secondary).unwrap();
    pair.admin(1, Admin::ResumeSync).unwrap();
    pair.link(true);
    assert!(pair.sides[1].engine.is_consistent());
    assert_eq!(pair.sides[0].disk, pair.sides[1].disk);
}

#[test]
fn a_verify_is_for_the_primary() {
    let mut pair = Pair::new(Protocol::C);
    assert_eq!(pair.admin(1, Admin::Verify), Err(AdminError::PeerIsPrimary));
    pair.admin(0, Admin::Secondary).unwrap();
    pair.admin(1, Admin::Verify).unwrap();
    assert!(pair.sides[1].events.contains(&Event::Verified(0)));
}
