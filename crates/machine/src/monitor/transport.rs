//! Carrying a session's bytes: the terminal, and sockets with a session for each client. A session belongs to one thread,
//! which others reach by a channel; a client that doesn't read holds up only its own.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ferro_console::monitor::{Event, OperationError, Output, Reply, hmp, qmp};
use tracing::debug;

use super::Operator;
use super::events::Token;
use crate::bus::lock;
use crate::description::MonitorTarget;
use crate::socket::{self, Client};

/// Messages that wait for a session at most: one whose client stalls for longer is ended.
const WAITING: usize = 1024;

/// Which language a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// For people.
    Hmp,
    /// For programs.
    Qmp,
}

/// A session in either language.
enum Session {
    Hmp(hmp::Session),
    Qmp(qmp::Session),
}

impl Session {
    fn input(&mut self, bytes: &[u8]) {
        match self {
            Self::Hmp(session) => session.input(bytes),
            Self::Qmp(session) => session.input(bytes),
        }
    }

    fn event(&mut self, event: &Event) {
        if let Self::Qmp(session) = self {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            session.event(event, qmp::Time { seconds: now.as_secs(), microseconds: now.subsec_micros() });
        }
    }

    fn complete(&mut self, result: Result<Reply, OperationError>) {
        match self {
            Self::Hmp(session) => session.complete(result),
            Self::Qmp(session) => session.complete(result),
        }
    }

    fn poll(&mut self) -> Option<Output> {
        match self {
            Self::Hmp(session) => session.poll(),
            Self::Qmp(session) => session.poll(),
        }
    }

    /// Does all that the session wants now. False when it is over.
    fn serve(&mut self, operator: &Arc<Operator>, output: &mut dyn Write) -> bool {
        while let Some(wanted) = self.poll() {
            match wanted {
                Output::Send(bytes) => {
                    if output.write_all(&bytes).and_then(|()| output.flush()).is_err() {
                        return false;
                    }
                }
                Output::Execute(command) => {
                    debug!("monitor: {command:?}");
                    self.complete(operator.execute(command));
                }
                Output::Close => return false,
            }
        }
        true
    }
}

/// The session of whoever sits at the terminal.
pub(crate) struct TerminalSession {
    session: Mutex<Session>,
    operator: Arc<Operator>,
}

impl TerminalSession {
    /// Takes typed bytes. False when the session is over.
    pub(crate) fn input(&self, bytes: &[u8]) -> bool {
        let mut session = lock(&self.session);
        session.input(bytes);
        session.serve(&self.operator, &mut io::stdout())
    }

    /// Shows the prompt: of a session that the terminal has just been given.
    pub(crate) fn show_prompt(&self) {
        // Before the first time, that is what waits to be shown.
        let mut session = lock(&self.session);
        if session.serve(&self.operator, &mut io::stdout()) {
            if let Session::Hmp(session) = &mut *session {
                session.prompt();
            }
            session.serve(&self.operator, &mut io::stdout());
        }
    }

    /// Reads the terminal until it ends.
    pub(crate) fn read(&self) {
        lock(&self.session).serve(&self.operator, &mut io::stdout());
        let mut buffer = [0; 256];
        let mut input = io::stdin().lock();
        while let Ok(len @ 1..) = input.read(&mut buffer) {
            if !self.input(&buffer[..len]) {
                return;
            }
        }
    }
}

/// A session for the terminal, over raw bytes if that is what it gives.
pub(crate) fn terminal_session(operator: Arc<Operator>, raw: bool) -> Arc<TerminalSession> {
    let session = Mutex::new(Session::Hmp(hmp::Session::new(operator.name(), raw)));
    Arc::new(TerminalSession { session, operator })
}

enum Message {
    Bytes(Vec<u8>),
    Event(Event, Token),
    Gone,
}

/// Serves one client to its end.
fn converse<C: Client>(mut client: C, language: Language, operator: &Arc<Operator>) -> io::Result<()> {
    client.limit_writes()?;
    let mut readable = client.second()?;
    let (sender, messages) = sync_channel(WAITING);
    let events = sender.clone();
    operator.subscribers.add(move |event, token| events.try_send(Message::Event(event.clone(), token)).is_ok());
    let reader = std::thread::Builder::new().name("monitor-in".into()).spawn(move || read(&mut readable, &sender))?;
    let mut session = match language {
        Language::Hmp => Session::Hmp(hmp::Session::new(operator.name(), false)),
        Language::Qmp => Session::Qmp(qmp::Session::new()),
    };
    let mut open = session.serve(operator, &mut client);
    while open {
        // Kept until the session has been served.
        let mut told = None;
        match messages.recv() {
            Ok(Message::Bytes(bytes)) => session.input(&bytes),
            Ok(Message::Event(event, token)) => {
                session.event(&event);
                told = Some(token);
            }
            Ok(Message::Gone) | Err(_) => break,
        }
        open = session.serve(operator, &mut client);
        drop(told);
    }
    client.hang_up();
    drop(messages);
    // A panic in that thread was printed by it already.
    let _ = reader.join();
    Ok(())
}

fn read(client: &mut impl Read, sender: &SyncSender<Message>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = client.read(&mut buffer) {
        if sender.send(Message::Bytes(buffer[..len].to_vec())).is_err() {
            return;
        }
    }
    // The session may have ended first.
    let _ = sender.send(Message::Gone);
}

/// More clients than anybody needs are turned away.
const MAX_CLIENTS: usize = 64;

fn accept_all<C: Client>(mut accept: impl FnMut() -> io::Result<C>, language: Language, operator: &Arc<Operator>) {
    let clients = Arc::new(());
    while let Ok(client) = accept() {
        if Arc::strong_count(&clients) > MAX_CLIENTS {
            client.hang_up();
            continue;
        }
        let (operator, counted) = (operator.clone(), clients.clone());
        let work = move || {
            if let Err(error) = converse(client, language, &operator) {
                debug!("a monitor's client is lost: {error}");
            }
            drop(counted);
        };
        if let Err(error) = std::thread::Builder::new().name("monitor".into()).spawn(work) {
            debug!("a monitor's client is turned away: {error}");
        }
    }
}

/// Listens for sessions.
///
/// # Errors
/// A socket that can't be had.
pub(crate) fn listen(target: &MonitorTarget, language: Language, operator: Arc<Operator>) -> io::Result<()> {
    let spawn = |work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name("monitor-listen".into()).spawn(work).map(drop)
    };
    match target {
        MonitorTarget::Stdio => Ok(()),
        MonitorTarget::Tcp(address) => {
            let listener = TcpListener::bind(address.as_str())?;
            spawn(Box::new(move || accept_all(|| Ok(listener.accept()?.0), language, &operator)))
        }
        MonitorTarget::Unix(path) => {
            let listener = socket::listen_unix(path)?;
            spawn(Box::new(move || accept_all(|| Ok(listener.accept()?.0), language, &operator)))
        }
    }
}
