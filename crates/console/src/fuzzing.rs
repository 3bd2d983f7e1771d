//! What fuzz targets and the replay of their corpora call: each function takes any bytes and must return, in bounded time and
//! memory. Not part of the library's interface.

use crate::monitor::{self, Command, Event, Examination, OperationError, Reply, RunState};
use crate::rfb::{Output, Picture, Rect, Session, Settings};
use crate::websocket::WebSocket;

/// A first byte that says how, and the rest.
fn flags(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(flags, rest)| (*flags, rest))
}

/// Bytes in pieces of one of several sizes.
fn pieces(flags: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks([1, 7, 64, 4096][usize::from(flags & 3)])
}

fn session(flags: u8) -> Session {
    let password = (flags & 4 != 0).then(|| b"sesame".to_vec());
    Session::new(Settings { name: "vm".into(), password, encrypt: flags & 8 != 0, challenge: [0; 16], size: (64, 48) })
}

/// What a session has to say, after what came; with TLS that is no TLS.
fn drain(session: &mut Session) -> Vec<u8> {
    let mut said = vec![];
    while let Some(output) = session.poll() {
        match output {
            Output::Send(bytes) => said.extend(bytes),
            Output::Encrypt => {
                let unread = session.take_unread();
                session.encrypted();
                session.input(&unread);
            }
            Output::Pointer { buttons, .. } => assert!(buttons < 8),
            Output::Position { x, y, buttons, .. } => assert!(buttons < 8 && x < 1 << 15 && y < 1 << 15),
            Output::Enter { .. } | Output::Key { .. } | Output::Close(_) => {}
        }
    }
    said
}

/// Shows a session a screen that changes, scrolls and sometimes has another size, by a number.
fn show(session: &mut Session, step: usize) {
    let (width, height) = [(64, 48), (64, 48), (80, 50), (33, 7), (0, 0)][step / 8 % 5];
    let pixel = |at: usize| (at / 64 * 7919 + (step & 3) * 4 * 7919 + (at % 64 & step)) as u32 & 0xff_ffff;
    let pixels: Vec<u32> = (0..width * height).map(pixel).collect();
    session.pointer_is_absolute(step & 16 != 0);
    session.lamps(step as u8 & 7);
    session.damage(Rect { x: (step * 5) as u16, y: (step * 3) as u16, width: 40, height: 30 });
    session.update(Picture { width, height, pixels: &pixels });
}

/// All that a VNC client says, from the handshake on.
pub fn rfb_client_messages(bytes: &[u8]) {
    let (flags, rest) = flags(bytes);
    let mut session = session(flags);
    for (step, piece) in pieces(flags, rest).enumerate() {
        session.input(piece);
        drain(&mut session);
        show(&mut session, step);
        drain(&mut session);
    }
    session.release();
    drain(&mut session);
}

/// All that a VNC client says in a WebSocket.
pub fn rfb_websocket(bytes: &[u8]) {
    let (flags, rest) = flags(bytes);
    let (mut socket, mut session) = (WebSocket::new(flags & 16 != 0), session(flags));
    for (step, piece) in pieces(flags, rest).enumerate() {
        let Ok(received) = socket.receive(piece) else { break };
        if socket.is_open() {
            session.input(&received);
            show(&mut session, step);
            socket.send(&drain(&mut session));
        }
        socket.take_output();
    }
    socket.close();
    socket.take_output();
}

/// What a command gets: something that fits it, an error, or nothing.
fn answer(command: &Command, step: usize) -> Result<Reply, OperationError> {
    Ok(match command {
        _ if step % 7 == 3 => return Err(OperationError::new("it doesn't work\n")),
        Command::QueryRegisters { .. } => Reply::Registers(vec![("rip".into(), 0x7c00), ("rax".into(), u64::MAX)]),
        Command::QueryStatus => Reply::Status(RunState::Running),
        Command::Examine { what: Examination::Bytes(count), .. } => {
            Reply::Bytes(vec![0x5a; (*count).min(4096) as usize])
        }
        Command::Examine { .. } => Reply::Instructions(vec![(0x7c00, "cli".into())]),
        Command::PortRead { .. } => Reply::Value(0xff),
        _ => Reply::Done,
    })
}

/// All that somebody types at the monitor, at a terminal or through a socket.
pub fn monitor_hmp(bytes: &[u8]) {
    let (flags, rest) = flags(bytes);
    let mut session = monitor::hmp::Session::new("vm", flags & 4 != 0);
    let mut step = 0;
    for piece in pieces(flags, rest) {
        session.input(piece);
        while let Some(output) = session.poll() {
            step += 1;
            match output {
                monitor::Output::Execute(command) => session.complete(answer(&command, step)),
                monitor::Output::Send(_) => {}
                monitor::Output::Close => return,
            }
        }
    }
}

/// All that a program says to the monitor.
pub fn monitor_qmp(bytes: &[u8]) {
    let (flags, rest) = flags(bytes);
    let mut session = monitor::qmp::Session::new();
    let mut step = 0;
    for piece in pieces(flags, rest) {
        session.input(piece);
        session.event(&Event::Stop, monitor::qmp::Time { seconds: 1, microseconds: 2 });
        while let Some(output) = session.poll() {
            step += 1;
            match output {
                monitor::Output::Execute(command) => session.complete(answer(&command, step)),
                monitor::Output::Send(bytes) => assert!(std::str::from_utf8(&bytes).is_ok(), "JSON is text"),
                monitor::Output::Close => return,
            }
        }
    }
}
