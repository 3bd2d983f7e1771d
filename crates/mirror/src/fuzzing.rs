//! What fuzz targets and the replay of their corpora call: each function takes any bytes and must return, in bounded time and
//! memory. Not part of the library's interface.

use crate::api::{Admin, Config, Congestion, DataOp, Input, Output, Protocol, Time};
use crate::engine::Engine;
use crate::generation::{Generations, HISTORY, Replica};
use crate::metadata::BLOCK;
use crate::pages::{BODY, Pages};
use crate::wire::{Hello, Message, VERSIONS};

const SIZE: u64 = 20 * BLOCK + 512;

fn config(protocol: Protocol) -> Config {
    Config {
        node: 0,
        size: SIZE,
        protocol,
        extent: 4 * BLOCK,
        log_extents: 2,
        max_in_flight: 4,
        congestion: Congestion::Block,
        sync_in_flight: 4,
        fencing: false,
        entropy: 7,
    }
}

/// Does at once whatever the engine wants; what it sends goes nowhere.
fn serve(engine: &mut Engine) {
    while let Some(output) = engine.poll() {
        match output {
            Output::Data { op, request } => {
                let bytes = match request {
                    // The engine asks for what is inside the device only.
                    DataOp::Read { length, .. } => vec![0; usize::try_from(length.min(SIZE)).unwrap_or(0)],
                    _ => Vec::new(),
                };
                engine.handle(Time(0), Input::DataDone { op, result: Ok(bytes.into()) });
            }
            Output::Meta { op, .. } => engine.handle(Time(0), Input::MetaDone { op, result: Ok(()) }),
            _ => {}
        }
    }
}

/// What a peer says: as a stream, and message by message to engines in several states.
pub fn messages(bytes: &[u8]) {
    let mut input = bytes;
    while let Ok(Some((message, used))) = Message::decode(input) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, input[..used], "a message has one form");
        input = &input[used..];
    }
    let Some((setup, bodies)) = bytes.split_first() else { return };
    let protocol = [Protocol::A, Protocol::B, Protocol::C, Protocol::C][usize::from(setup & 3)];
    let Ok(mut engine) = Engine::new(config(protocol), &Engine::format(&config(protocol))) else { return };
    let tell = |engine: &mut Engine, input| {
        engine.handle(Time(0), input);
        serve(engine);
    };
    if setup & 4 != 0 {
        tell(&mut engine, Input::Admin(Admin::Primary { epoch: None, force: true, alone: true }));
    }
    tell(&mut engine, Input::LinkUp);
    if setup & 8 != 0 {
        let hello = hello(&engine, protocol, *setup);
        tell(&mut engine, Input::Message(Message::Hello(hello)));
    }
    let mut rest = bodies;
    while let Some((length, tail)) = rest.split_first() {
        let (body, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        let framed = [&u32::from(u8::try_from(body.len()).unwrap_or(0)).to_le_bytes(), body].concat();
        if let Ok(Some((message, _))) = Message::decode(&framed) {
            tell(&mut engine, Input::Message(message));
        }
        rest = tail;
    }
    tell(&mut engine, Input::Admin(Admin::Verify));
    tell(&mut engine, Input::LinkDown);
}

/// A greeting that leads to a connection: of a blank peer, an equal one, or one that is ahead.
fn hello(engine: &Engine, protocol: Protocol, setup: u8) -> Hello {
    let mine = engine.generations();
    let generations = match setup >> 4 & 3 {
        0 => Generations::default(),
        1 => mine,
        _ => Generations { current: 99, bitmap: mine.current, history: [0; HISTORY] },
    };
    let consistent = generations.current != 0;
    Hello {
        versions: VERSIONS,
        size: SIZE,
        epoch: u64::from(setup >> 6),
        protocol: protocol as u8,
        attached: true,
        replica: Replica {
            node: 1,
            generations,
            marked: setup & 64 != 0,
            consistent,
            crashed: false,
            primary: false,
            discard: false,
        },
    }
}

/// A metadata file: as it is, and with whole pages of this content.
pub fn metadata(bytes: &[u8]) {
    let start = |file: &[u8]| {
        let Ok(mut engine) = Engine::new(config(Protocol::C), file) else { return };
        serve(&mut engine);
        for input in [Input::Admin(Admin::Primary { epoch: None, force: true, alone: true }), Input::LinkUp] {
            engine.handle(Time(0), input);
            serve(&mut engine);
        }
    };
    start(bytes);
    // The superblock of a blank file, so that the size fits, with the rest of it and the other pages taken from the input.
    let Ok(mut pages) = Pages::load(&Engine::format(&config(Protocol::C)), 3) else { return };
    for (page, chunk) in bytes.chunks(BODY.min(128)).take(3).enumerate() {
        let at = if page == 0 { 8 } else { 0 };
        pages.body_mut(page)[at..at + chunk.len()].copy_from_slice(chunk);
    }
    start(&pages.image());
}
