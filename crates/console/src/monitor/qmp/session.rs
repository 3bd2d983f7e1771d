//! A session with a program: greeting, negotiation, commands one after the other, events in between.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::json as convert;
use super::reader::Reader;
use super::schema::schema;
use super::table::{self, COMMANDS, Request};
use crate::monitor::hmp;
use crate::monitor::{Command, ErrorClass, Event, OperationError, Output, Reply};

/// A moment, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds.
    pub seconds: u64,
    /// Microseconds on top of them.
    pub microseconds: u32,
}

/// What the session waits for.
enum Waiting {
    /// The reply to a command.
    Reply { id: Option<Value> },
    /// The end of a line in the other language.
    Human { id: Option<Value>, session: Box<hmp::Session>, said: Vec<u8> },
}

/// One program's session.
pub struct Session {
    reader: Reader,
    negotiated: bool,
    waiting: Option<Waiting>,
    outputs: VecDeque<Output>,
    closed: bool,
}

/// Events that a client doesn't read are kept up to this many answers and events; then the session ends.
const MAX_OUTPUTS: usize = 4096;

fn version() -> Value {
    // Programs ask which QMP this is by QEMU's number: the one whose schema this follows.
    json!({ "qemu": { "major": 7, "minor": 2, "micro": 0 }, "package": concat!("Ferro ", env!("CARGO_PKG_VERSION")) })
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session that has just been opened.
    pub fn new() -> Self {
        let mut session = Self {
            reader: Reader::default(),
            negotiated: false,
            waiting: None,
            outputs: VecDeque::new(),
            closed: false,
        };
        session.send(&json!({ "QMP": { "version": version(), "capabilities": [] } }));
        session
    }

    /// Takes bytes from the client.
    pub fn input(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        if self.reader.push(bytes).is_err() {
            self.fail(None, &OperationError::new("JSON parse error, a message is too long"));
            self.close();
            return;
        }
        self.go_on();
    }

    /// The result of the command that it asked for last.
    pub fn complete(&mut self, result: Result<Reply, OperationError>) {
        match self.waiting.take() {
            Some(Waiting::Reply { id }) => match result {
                Ok(reply) => self.answer(id, &convert::reply(&reply)),
                Err(error) => self.fail(id, &error),
            },
            Some(Waiting::Human { id, mut session, said }) => {
                session.complete(result);
                self.human(id, session, said);
            }
            None => {}
        }
        self.go_on();
    }

    /// Tells the client of an event, once it has negotiated.
    pub fn event(&mut self, event: &Event, now: Time) {
        if !self.negotiated || self.closed {
            return;
        }
        let (name, data) = convert::event(event);
        let mut value =
            json!({ "timestamp": { "seconds": now.seconds, "microseconds": now.microseconds }, "event": name });
        if let Some(data) = data {
            value["data"] = data;
        }
        self.send(&value);
        if self.outputs.len() > MAX_OUTPUTS {
            self.outputs.clear();
            self.close();
        }
    }

    /// What is to be done next for this session.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn close(&mut self) {
        self.closed = true;
        self.outputs.push_back(Output::Close);
    }

    fn send(&mut self, value: &Value) {
        self.outputs.push_back(Output::Send(format!("{value}\r\n").into_bytes()));
    }

    fn answer(&mut self, id: Option<Value>, value: &Value) {
        self.send(&with_id(json!({ "return": value }), id));
    }

    fn fail(&mut self, id: Option<Value>, error: &OperationError) {
        self.send(&with_id(json!({ "error": convert::error(error) }), id));
    }

    fn go_on(&mut self) {
        while self.waiting.is_none() && !self.closed {
            let Some(message) = self.reader.next() else { return };
            match serde_json::from_slice(&message) {
                Ok(Value::Object(message)) => self.message(message),
                Ok(_) => self.fail(None, &OperationError::new("QMP input must be a JSON object")),
                Err(error) => self.fail(None, &OperationError::new(format!("JSON parse error, {error}"))),
            }
        }
    }

    fn message(&mut self, mut message: Map<String, Value>) {
        let id = message.remove("id");
        let result = self.request(message);
        match result {
            Ok(Request::Capabilities) => {
                self.negotiated = true;
                self.answer(id, &json!({}));
            }
            Ok(Request::Run(command)) => {
                self.waiting = Some(Waiting::Reply { id });
                self.outputs.push_back(Output::Execute(command));
            }
            Ok(Request::Human(line, cpu)) => self.human(id, Box::new(hmp::Session::single(&line, cpu)), vec![]),
            Ok(Request::Version) => self.answer(id, &version()),
            Ok(Request::Commands) => {
                let names = COMMANDS.iter().map(|command| json!({ "name": command.name })).collect();
                self.answer(id, &names);
            }
            Ok(Request::Schema) => self.answer(id, &schema()),
            Err(error) => self.fail(id, &error),
        }
    }

    fn request(&self, mut message: Map<String, Value>) -> Result<Request, OperationError> {
        let name = match message.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(OperationError::new("QMP input member 'execute' must be a string")),
            None => return Err(OperationError::new("QMP input lacks member 'execute'")),
        };
        let arguments = match message.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(OperationError::new("QMP input member 'arguments' must be an object")),
        };
        if let Some(other) = message.keys().next() {
            return Err(OperationError::new(format!("QMP input member '{other}' is unexpected")));
        }
        let refuse = |description: &str| {
            Err(OperationError { class: ErrorClass::CommandNotFound, description: description.to_owned() })
        };
        match (name == "qmp_capabilities", self.negotiated) {
            (false, false) => refuse("Expecting capabilities negotiation with 'qmp_capabilities'"),
            (true, true) => refuse("Capabilities negotiation is already complete, command ignored"),
            _ => {
                if let Some(first) = arguments.get("enable").and_then(|list| list.get(0)).filter(|_| !self.negotiated) {
                    return Err(OperationError::new(format!("Capability {first} not available")));
                }
                table::interpret(&name, arguments)
            }
        }
    }

    /// Goes on with a line in the other language until it needs the VM, or is answered.
    fn human(&mut self, id: Option<Value>, mut session: Box<hmp::Session>, mut said: Vec<u8>) {
        let mut wanted: Option<Command> = None;
        while let Some(output) = session.poll() {
            match output {
                Output::Send(bytes) => said.extend(bytes),
                Output::Execute(command) => wanted = Some(command),
                Output::Close => {}
            }
        }
        match wanted {
            Some(command) => {
                self.waiting = Some(Waiting::Human { id, session, said });
                self.outputs.push_back(Output::Execute(command));
            }
            None => {
                let text = String::from_utf8_lossy(&said).replace('\n', "\r\n");
                self.answer(id, &json!(text));
            }
        }
    }
}

fn with_id(mut value: Value, id: Option<Value>) -> Value {
    if let Some(id) = id {
        value["id"] = id;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::RunState;

    const NOW: Time = Time { seconds: 5, microseconds: 6 };

    fn drain(session: &mut Session) -> (Vec<Value>, Vec<Command>) {
        let (mut said, mut asked) = (vec![], vec![]);
        while let Some(output) = session.poll() {
            match output {
                Output::Send(bytes) => said.push(serde_json::from_slice(&bytes).unwrap()),
                Output::Execute(command) => asked.push(command),
                Output::Close => said.push(json!("closed")),
            }
        }
        (said, asked)
    }

    fn after(session: &mut Session, text: &str) -> (Vec<Value>, Vec<Command>) {
        session.input(text.as_bytes());
        drain(session)
    }

    fn negotiated() -> Session {
        let mut session = Session::new();
        let (said, _) = after(&mut session, r#"{"execute": "qmp_capabilities", "id": 1}"#);
        assert!(said[0]["QMP"]["version"].is_object());
        assert_eq!(said[1], json!({ "return": {}, "id": 1 }));
        session
    }

    #[test]
    fn nothing_is_done_before_the_negotiation() {
        let mut session = Session::new();
        session.event(&Event::Stop, NOW);
        let (said, asked) = after(&mut session, r#"{"execute": "stop"}"#);
        assert_eq!(said[1]["error"]["class"], "CommandNotFound");
        assert!(asked.is_empty() && said.len() == 2);
    }

    #[test]
    fn commands_answers_and_events_carry_what_they_should() {
        let mut session = negotiated();
        let (_, asked) = after(&mut session, r#"{"execute": "query-status", "id": "a"} {"execute": "stop"}"#);
        assert_eq!(asked, [Command::QueryStatus]);
        session.event(&Event::Reset { guest: true }, NOW);
        session.complete(Ok(Reply::Status(RunState::Running)));
        let (said, asked) = drain(&mut session);
        assert_eq!(said[0]["event"], "RESET");
        assert_eq!(said[0]["timestamp"], json!({ "seconds": 5, "microseconds": 6 }));
        assert_eq!(said[1], json!({ "return": { "running": true, "status": "running" }, "id": "a" }));
        assert_eq!(asked, [Command::Stop]);
        session.complete(Err(OperationError::no_device("x")));
        let expected = json!({ "error": { "class": "DeviceNotFound", "desc": "Device 'x' not found" } });
        assert_eq!(drain(&mut session).0, [expected]);
    }

    #[test]
    fn a_line_in_the_other_language_returns_its_text() {
        let mut session = negotiated();
        let line = |line: &str| {
            json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } }).to_string()
        };
        assert_eq!(after(&mut session, &line("info status")).1, [Command::QueryStatus]);
        session.complete(Ok(Reply::Status(RunState::Paused)));
        assert_eq!(drain(&mut session).0, [json!({ "return": "VM status: paused\r\n" })]);
        let (said, asked) = after(&mut session, &line("fly"));
        assert!(asked.is_empty() && said[0]["return"].as_str().unwrap().contains("unknown command"));
    }

    #[test]
    fn wrong_messages_are_answered_and_nothing_is_done() {
        let mut session = negotiated();
        for (message, told) in [
            ("[1]", "must be a JSON object"),
            ("{]", "JSON parse error"),
            ("nonsense\n", "JSON parse error"),
            ("{}", "lacks member 'execute'"),
            (r#"{"execute": 1}"#, "must be a string"),
            (r#"{"execute": "stop", "arguments": []}"#, "must be an object"),
            (r#"{"execute": "stop", "x": 1}"#, "'x' is unexpected"),
            (r#"{"execute": "fly"}"#, "has not been found"),
            (r#"{"execute": "stop", "arguments": {"now": true}}"#, "'now' is unexpected"),
            (r#"{"execute": "set_link", "arguments": {"name": "n"}}"#, "'up' is missing"),
            (r#"{"execute": "set_link", "arguments": {"name": 1, "up": true}}"#, "expected: string"),
            (r#"{"execute": "balloon", "arguments": {"value": -1}}"#, "non-negative"),
            (r#"{"execute": "send-key", "arguments": {"keys": [{"type": "qcode", "data": "zz"}]}}"#, "'keys'"),
            (r#"{"execute": "eject"}"#, "'device' and 'id'"),
            (r#"{"execute": "qmp_capabilities"}"#, "already complete"),
        ] {
            let (said, asked) = after(&mut session, message);
            assert!(asked.is_empty() && said.len() == 1, "{message}: {said:?}");
            assert!(said[0]["error"]["desc"].as_str().unwrap().contains(told), "{message}: {said:?}");
        }
    }

    #[test]
    fn the_schema_tells_every_command_and_its_arguments() {
        let mut session = negotiated();
        let (said, _) = after(&mut session, r#"{"execute": "query-qmp-schema"}"#);
        let entities = said[0]["return"].as_array().unwrap();
        let find =
            |name: &str| entities.iter().find(|entity| entity["name"] == name).unwrap_or_else(|| panic!("{name}"));
        for entity in entities.iter().filter(|entity| entity["meta-type"] == "command") {
            for member in find(entity["arg-type"].as_str().unwrap())["members"].as_array().unwrap() {
                find(member["type"].as_str().unwrap());
            }
        }
        assert_eq!(find("STOP")["meta-type"], "event");
        assert_eq!(entities.iter().filter(|entity| entity["meta-type"] == "command").count(), COMMANDS.len());
    }

    #[test]
    fn a_client_that_reads_nothing_is_left() {
        let mut session = negotiated();
        for _ in 0..10_000 {
            session.event(&Event::Stop, NOW);
        }
        assert!(session.outputs.len() <= MAX_OUTPUTS + 1);
        assert_eq!(drain(&mut session).0.last(), Some(&json!("closed")));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            let mut session = negotiated();
            session.input(&bytes);
            session.complete(Ok(Reply::Done));
            while session.poll().is_some() {}
        }

        #[test]
        fn any_arguments_are_survived(command in 0..COMMANDS.len(), argument in 0..8_usize, value in "null|-?[0-9]{1,20}|\"[a-z]*\"|\\[\\]|\\[\\{\\}\\]|\\{\\}|true") {
            let command = &COMMANDS[command];
            let name = command.args.get(argument).map_or("x", |arg| arg.name);
            let mut session = negotiated();
            session.input(format!("{{\"execute\": \"{}\", \"arguments\": {{\"{name}\": {value}}}}}", command.name).as_bytes());
            session.complete(Ok(Reply::Done));
            while session.poll().is_some() {}
        }
    }
}
