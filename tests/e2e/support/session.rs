//! Sessions with a VM's monitors: a person's and a program's, over the sockets that a test has made for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Vm;

/// A person at a monitor's socket.
pub(crate) struct Person {
    pub(crate) stream: UnixStream,
}

pub(crate) const PROMPT: &str = "(ferro) ";

pub(crate) fn connect(path: &Path) -> UnixStream {
    // The VM makes its sockets before its guest begins, but this process may be faster.
    for _ in 0..3000 {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody listens at {}", path.display());
}

impl Person {
    pub(crate) fn new(path: &Path) -> Self {
        let mut person = Self { stream: connect(path) };
        assert!(person.read().contains("monitor of"));
        person
    }

    /// Reads up to the next prompt.
    pub(crate) fn read(&mut self) -> String {
        let (mut text, mut byte) = (vec![], [0]);
        while !text.ends_with(PROMPT.as_bytes()) {
            assert_eq!(self.stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap().trim_end_matches(PROMPT).to_owned()
    }

    pub(crate) fn say(&mut self, line: &str) -> String {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.read()
    }
}

/// A program at a QMP socket.
pub(crate) struct Program {
    reader: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Program {
    pub(crate) fn new(path: &Path) -> Self {
        let mut program = Self { reader: BufReader::new(connect(path)), events: vec![] };
        assert!(program.read()["QMP"]["version"].is_object());
        program.ask("qmp_capabilities", &json!({})).unwrap();
        program
    }

    pub(crate) fn read(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.reader.read_line(&mut line).unwrap() > 0, "the session ended");
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let message = json!({ "execute": command, "arguments": arguments, "id": 7 });
        self.reader.get_mut().write_all(message.to_string().as_bytes()).unwrap();
        loop {
            let mut answer = self.read();
            if answer["event"].is_string() {
                self.events.push(answer);
                continue;
            }
            assert_eq!(answer["id"], 7, "{answer}");
            let told = answer["error"]["desc"].as_str().map(ToOwned::to_owned);
            return told.map_or_else(|| Ok(answer["return"].take()), Err);
        }
    }

    /// Waits for an event.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at);
            }
            let next = self.read();
            self.events.push(next);
        }
    }
}

pub(crate) struct Sockets {
    pub(crate) folder: tempfile::TempDir,
}

impl Sockets {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn flags(&self) -> Vec<String> {
        let at = |name| format!("unix:{}", self.path(name).display());
        vec!["--monitor".into(), at("hmp"), "--qmp".into(), at("qmp")]
    }

    pub(crate) fn boot(&self, append: &str) -> Option<Vm> {
        let flags = self.flags();
        Vm::boot("cloud-amd64", append, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }
}
