//! A session with a person: lines in, commands out, answers back. Over a terminal it edits lines itself; over a socket the
//! other side does.

use std::collections::VecDeque;

use super::arguments::{Format, Kind, read};
use super::line::{Edit, LineEditor};
use super::table::{Action, COMMANDS, Entry, INFO, completions};
use super::text;
use crate::monitor::{Command, MAX_INPUT, OperationError, Output, Reply};

const PROMPT: &str = "(ferro) ";

/// What the session waits for.
enum Waiting {
    /// The reply to a command, to be shown.
    Reply { merged_pages: bool },
    /// Memory, to be shown in this format.
    Memory { format: Format, address: u64 },
    /// The registers, for the expressions of this line.
    Registers { line: String },
}

/// One person's session.
pub struct Session {
    editor: Option<LineEditor>,
    /// What was typed and not acted on.
    input: VecDeque<u8>,
    /// Bytes of a line that isn't complete, where the other side edits.
    line: Vec<u8>,
    waiting: Option<Waiting>,
    outputs: VecDeque<Output>,
    cpu: u32,
    closed: bool,
    /// It answers one line for somebody else: no greeting, no prompt.
    single: bool,
}

impl Session {
    /// A session that has just been opened; over a terminal in raw mode, if `terminal`.
    pub fn new(name: &str, terminal: bool) -> Self {
        let editor = terminal.then(|| LineEditor::new(PROMPT));
        let mut session = Self { editor, ..Self::empty(0) };
        let version = env!("CARGO_PKG_VERSION");
        session.say(&format!("Ferro {version} monitor of {name}: type 'help' for more information\n"));
        session.prompt();
        session
    }

    fn empty(cpu: u32) -> Self {
        Self {
            editor: None,
            input: VecDeque::new(),
            line: vec![],
            waiting: None,
            outputs: VecDeque::new(),
            cpu,
            closed: false,
            single: false,
        }
    }

    /// A session that answers one line, looking at this vCPU, and says nothing else.
    pub fn single(line: &str, cpu: u32) -> Self {
        let mut session = Self { single: true, ..Self::empty(cpu) };
        session.execute(line, None);
        session
    }

    /// Whether it waits for the result of a command.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Takes bytes from the client.
    pub fn input(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        if self.input.len() + bytes.len() > MAX_INPUT {
            self.say("too much input at once\n");
            self.close();
            return;
        }
        self.input.extend(bytes);
        self.go_on();
    }

    /// The result of the command that it asked for last.
    pub fn complete(&mut self, result: Result<Reply, OperationError>) {
        match (self.waiting.take(), result) {
            (Some(Waiting::Registers { line }), Ok(Reply::Registers(registers))) => {
                self.execute(&line, Some(&registers));
            }
            (Some(Waiting::Memory { format, address }), Ok(Reply::Bytes(bytes))) => {
                self.say(&text::memory(&bytes, format, address));
            }
            (Some(Waiting::Reply { merged_pages }), Ok(reply)) => {
                self.say(&text::reply(&reply, self.cpu, merged_pages));
            }
            (Some(_), Ok(reply)) => self.say(&text::reply(&reply, self.cpu, false)),
            (_, Err(error)) => self.say(&format!("Error: {error}\n")),
            (None, Ok(_)) => {}
        }
        if self.waiting.is_none() {
            self.prompt();
            self.go_on();
        }
    }

    /// What is to be done next for this session.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn say(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        // A raw terminal doesn't return the carriage by itself.
        let text = if self.editor.is_some() { text.replace('\n', "\r\n") } else { text.to_owned() };
        match self.outputs.back_mut() {
            Some(Output::Send(bytes)) => bytes.extend(text.into_bytes()),
            _ => self.outputs.push_back(Output::Send(text.into_bytes())),
        }
    }

    /// Shows the prompt again: the other side has done something else meanwhile.
    pub fn prompt(&mut self) {
        if self.closed || self.single {
            return;
        }
        match &self.editor {
            Some(editor) => self.outputs.push_back(Output::Send(editor.redraw())),
            None => self.say(PROMPT),
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.outputs.push_back(Output::Close);
    }

    fn go_on(&mut self) {
        while self.waiting.is_none() && !self.closed {
            let Some(byte) = self.input.pop_front() else { return };
            let Some(line) = self.typed(byte) else { continue };
            self.execute(&line, None);
            if self.waiting.is_none() {
                self.prompt();
            }
        }
    }

    /// Takes a byte; a line, if one is complete now.
    fn typed(&mut self, byte: u8) -> Option<String> {
        let Some(editor) = &mut self.editor else {
            match byte {
                b'\n' => return Some(String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned()),
                0x04 if self.line.is_empty() => self.close(),
                // A carriage return comes with the newline; nobody types a zero.
                b'\r' | 0 => {}
                byte => self.line.push(byte),
            }
            return None;
        };
        let mut line = None;
        for edit in editor.take(byte, completions) {
            match edit {
                Edit::Show(bytes) => self.outputs.push_back(Output::Send(bytes)),
                Edit::Line(complete) => line = Some(complete),
                Edit::End => {
                    self.close();
                    return None;
                }
            }
        }
        line
    }

    /// Acts on a line; with the registers, if it needed them.
    fn execute(&mut self, line: &str, registers: Option<&[(String, u64)]>) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        if registers.is_none() && line.contains('$') {
            self.waiting = Some(Waiting::Registers { line: line.to_owned() });
            self.outputs.push_back(Output::Execute(Command::QueryRegisters { cpu: self.cpu }));
            return;
        }
        match interpret(line, registers.unwrap_or(&[]), self.cpu) {
            Ok(action) => self.act(action, line),
            Err(told) => self.say(&told),
        }
    }

    fn act(&mut self, action: Action, line: &str) {
        match action {
            Action::Run(command) => {
                self.waiting = Some(Waiting::Reply { merged_pages: line.ends_with("mem") });
                self.outputs.push_back(Output::Execute(command));
            }
            Action::Examine { command, format, address } => {
                self.waiting = Some(Waiting::Memory { format, address });
                self.outputs.push_back(Output::Execute(command));
            }
            Action::Say(text) => self.say(&text),
            Action::Help(name) => self.say(&help(&name)),
            Action::HelpInfo => self.say(&help_info()),
            Action::SelectCpu(cpu) => self.cpu = cpu,
        }
    }
}

/// What a line comes to, or what is wrong with it.
fn interpret(line: &str, registers: &[(String, u64)], cpu: u32) -> Result<Action, String> {
    let (name, rest) = split_name(line);
    let entry = find(COMMANDS, name).ok_or_else(|| format!("unknown command: '{name}'\n"))?;
    let item = rest.trim();
    let (entry, name, rest) = if entry.names[0] == "info" && !item.is_empty() {
        let (name, rest) = split_name(item);
        let entry = find(INFO, name).ok_or_else(|| format!("unknown command: 'info {name}'\n"))?;
        (entry, format!("info {name}"), rest)
    } else {
        (entry, name.to_owned(), rest)
    };
    let told = |what: String| format!("{name}: {what}\nTry \"help {name}\" for more information\n");
    let arguments = read(entry.params, rest, registers, cpu).map_err(told)?;
    (entry.build)(&arguments).map_err(|what| format!("{name}: {what}\n"))
}

/// A command's name ends at a space or at the slash of a format.
fn split_name(line: &str) -> (&str, &str) {
    line.split_at(line.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(line.len()))
}

fn find(entries: &'static [Entry], name: &str) -> Option<&'static Entry> {
    entries.iter().find(|entry| entry.names.contains(&name))
}

fn usage(entry: &Entry, before: &str) -> String {
    let mut text = format!("{before}{}", entry.names.join("|"));
    for param in entry.params {
        let shown = match param.kind {
            Kind::Flag(letter) => format!("-{letter}"),
            Kind::Format => "/fmt".to_owned(),
            _ => param.name.to_owned(),
        };
        let optional = param.optional && param.kind != Kind::Format;
        let space = if param.kind == Kind::Format { "" } else { " " };
        text.push_str(&if optional { format!("{space}[{shown}]") } else { format!("{space}{shown}") });
    }
    format!("{text} -- {}\n", entry.help)
}

fn help(name: &str) -> String {
    match name {
        "" => COMMANDS.iter().map(|entry| usage(entry, "")).collect(),
        "info" => help_info(),
        name => find(COMMANDS, name).map_or_else(|| format!("unknown command: '{name}'\n"), |entry| usage(entry, "")),
    }
}

fn help_info() -> String {
    INFO.iter().map(|entry| usage(entry, "info ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Key;
    use crate::monitor::{Examination, MemorySpace, RunState};

    /// What the session says and asks for after these bytes.
    fn after(session: &mut Session, bytes: &[u8]) -> (String, Vec<Command>) {
        session.input(bytes);
        drain(session)
    }

    fn drain(session: &mut Session) -> (String, Vec<Command>) {
        let (mut said, mut asked) = (vec![], vec![]);
        while let Some(output) = session.poll() {
            match output {
                Output::Send(bytes) => said.extend(bytes),
                Output::Execute(command) => asked.push(command),
                Output::Close => said.extend(b"<closed>"),
            }
        }
        (String::from_utf8(said).unwrap(), asked)
    }

    fn session() -> Session {
        let mut session = Session::new("vm", false);
        assert!(drain(&mut session).0.ends_with("(ferro) "));
        session
    }

    #[test]
    fn commands_go_out_one_after_the_other() {
        let mut session = session();
        let (_, asked) = after(&mut session, b"stop\ninfo status\nsendkey ctrl-alt-delete 50\n");
        assert_eq!(asked, [Command::Stop]);
        session.complete(Ok(Reply::Done));
        assert_eq!(drain(&mut session).1, [Command::QueryStatus]);
        session.complete(Ok(Reply::Status(RunState::Paused)));
        let (said, asked) = drain(&mut session);
        assert!(said.contains("VM status: paused\n"), "{said}");
        assert_eq!(asked, [Command::SendKeys { keys: [29, 56, 111].map(Key).to_vec(), hold: 50 }]);
    }

    #[test]
    fn expressions_use_the_registers() {
        let mut session = session();
        assert_eq!(after(&mut session, b"x/2i $pc + 2\n").1, [Command::QueryRegisters { cpu: 0 }]);
        session.complete(Ok(Reply::Registers(vec![("rip".into(), 0x1000)])));
        let what = Examination::Instructions(2);
        let command = Command::Examine { space: MemorySpace::Virtual { cpu: 0 }, address: 0x1002, what };
        assert_eq!(drain(&mut session).1, [command]);
        session.complete(Ok(Reply::Instructions(vec![(0x1002, "nop".into())])));
        assert!(drain(&mut session).0.contains("nop"));
        assert!(after(&mut session, b"p/x 1+1\n").0.contains("0x0000000000000002"));
    }

    #[test]
    fn wrong_lines_are_answered_and_nothing_is_done() {
        let mut session = session();
        for (line, told) in [
            ("fly", "unknown command: 'fly'"),
            ("info weather", "unknown command: 'info weather'"),
            ("device_add e1000", "can't be plugged in or out"),
            ("sendkey", "keys: string expected"),
            ("sendkey nokey", "invalid parameter: nokey"),
            ("sendkey é-", "invalid parameter"),
            ("eject", "device: string expected"),
            ("balloon lots", "invalid size"),
            ("i/g 0x60", "b, h or w"),
            ("i 0x10000", "no port"),
            ("set_link net0 maybe", "'on' or 'off' expected"),
            ("stop now", "extraneous"),
            ("change vnc password", "needs the new password"),
            ("wavcapture f 0 99", "frequency"),
            ("snapshot_blkdev disk", "missing"),
        ] {
            let (said, asked) = after(&mut session, format!("{line}\n").as_bytes());
            assert!(said.contains(told) && asked.is_empty(), "{line}: {said}");
        }
    }

    #[test]
    fn every_command_has_help_that_names_its_arguments() {
        let mut session = session();
        let (said, _) = after(&mut session, b"help\ninfo\nhelp eject\n");
        for entry in COMMANDS.iter().chain(INFO) {
            assert!(said.contains(entry.names[0]), "{}", entry.names[0]);
        }
        assert!(said.contains("eject [-f] device -- "), "{said}");
    }

    #[test]
    fn names_are_unique() {
        for entries in [COMMANDS, INFO] {
            let names: Vec<_> = entries.iter().flat_map(|entry| entry.names).collect();
            assert!(names.iter().all(|name| names.iter().filter(|other| other == &name).count() == 1));
        }
    }

    #[test]
    fn a_terminal_gets_its_line_drawn_and_completed() {
        let mut session = Session::new("vm", true);
        drain(&mut session);
        let (said, asked) = after(&mut session, b"system_r\t\r");
        assert!(said.contains("system_reset "), "{said}");
        assert_eq!(asked, [Command::Reset]);
    }

    #[test]
    fn a_flood_ends_the_session() {
        let mut session = session();
        let (said, _) = after(&mut session, &vec![b'x'; MAX_INPUT + 1]);
        assert!(said.ends_with("<closed>"));
        assert_eq!(after(&mut session, b"stop\n").1, []);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0_u8.., 0..200), terminal: bool) {
            let mut session = Session::new("vm", terminal);
            session.input(&bytes);
            for _ in 0..300 {
                while session.poll().is_some() {}
                session.complete(Ok(Reply::Registers(vec![("rip".into(), 1)])));
            }
        }

        #[test]
        fn any_line_of_known_words_is_survived(
            words in proptest::collection::vec("x/[0-9]{0,3}[xduoci]?[bhwg]?|p|sendkey|info|\\$rip|[-+*/()~0-9a-z\"]{1,9}", 1..6),
        ) {
            let mut session = Session::new("vm", false);
            session.input(format!("{}\n", words.join(" ")).as_bytes());
            session.complete(Ok(Reply::Registers(vec![("rip".into(), 1)])));
            while session.poll().is_some() {}
        }
    }
}
