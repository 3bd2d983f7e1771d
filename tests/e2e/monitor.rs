//! The monitor of real VMs, over real sockets and the terminal.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Vm, ferro, guest};

/// A person at a monitor's socket.
struct Person {
    stream: UnixStream,
}

const PROMPT: &str = "(ferro) ";

fn connect(path: &Path) -> UnixStream {
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
    fn new(path: &Path) -> Self {
        let mut person = Self { stream: connect(path) };
        assert!(person.read().contains("monitor of"));
        person
    }

    /// Reads up to the next prompt.
    fn read(&mut self) -> String {
        let (mut text, mut byte) = (vec![], [0]);
        while !text.ends_with(PROMPT.as_bytes()) {
            assert_eq!(self.stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap().trim_end_matches(PROMPT).to_owned()
    }

    fn say(&mut self, line: &str) -> String {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.read()
    }
}

/// A program at a QMP socket.
struct Program {
    reader: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Program {
    fn new(path: &Path) -> Self {
        let mut program = Self { reader: BufReader::new(connect(path)), events: vec![] };
        assert!(program.read()["QMP"]["version"].is_object());
        program.ask("qmp_capabilities", &json!({})).unwrap();
        program
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.reader.read_line(&mut line).unwrap() > 0, "the session ended");
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
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
    fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at);
            }
            let next = self.read();
            self.events.push(next);
        }
    }
}

struct Sockets {
    folder: tempfile::TempDir,
}

impl Sockets {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flags(&self) -> Vec<String> {
        let at = |name| format!("unix:{}", self.path(name).display());
        vec!["--monitor".into(), at("hmp"), "--qmp".into(), at("qmp")]
    }

    fn boot(&self, append: &str) -> Option<Vm> {
        let flags = self.flags();
        Vm::boot("cloud-amd64", append, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn a_running_linux_is_stopped_looked_into_reset_and_ended() {
    let sockets = Sockets::new();
    let Some(mut vm) = sockets.boot("quiet") else { return };
    vm.expect("/ # ");
    let (mut person, mut program) = (Person::new(&sockets.path("hmp")), Program::new(&sockets.path("qmp")));
    assert_eq!(person.say("info status"), "VM status: running\n");
    assert_eq!(person.say("stop"), "");
    program.event("STOP");
    let status = program.ask("query-status", &json!({})).unwrap();
    assert_eq!(status, json!({ "running": false, "status": "paused" }));

    let registers = person.say("info registers");
    assert_eq!(person.say("info registers"), registers, "a VM that is stopped executes nothing");
    assert!(person.say("x/3i $pc").lines().count() == 3);
    // What it was executing is mapped, as code.
    let word = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let at = registers.split("RIP=").nth(1).map(|text| word(&text[..16])).unwrap();
    let tables = person.say("info mem");
    let stretch = tables.lines().find(|line| (word(&line[..16])..word(&line[17..33])).contains(&at));
    assert!(stretch.is_some_and(|line| line.ends_with('x')), "{at:#x}: {tables}");
    assert!(person.say("info pci").contains("PCI device 1af4:1044"));
    assert!(person.say("info mtree").contains("(ram)"));

    let dump = sockets.path("vm.core");
    assert_eq!(person.say(&format!("dump-guest-memory {}", dump.display())), "");
    let core = std::fs::read(&dump).unwrap();
    assert!(core.starts_with(b"\x7fELF") && core.len() > 255 << 20);
    let saved = sockets.path("memory");
    assert_eq!(person.say(&format!("pmemsave 0x1000000 0x2000 {}", saved.display())), "");
    let dumped = person.say("xp/1xg 0x1000000");
    let word = u64::from_le_bytes(std::fs::read(&saved).unwrap()[..8].try_into().unwrap());
    assert!(dumped.contains(&format!("{word:#018x}")), "{dumped}");

    // A reset leaves it stopped, and the guest begins anew when it is told to go on.
    program.ask("system_reset", &json!({})).unwrap();
    assert_eq!(program.event("RESET")["data"]["guest"], false);
    assert_eq!(person.say("info status"), "VM status: paused\n");
    program.ask("cont", &json!({})).unwrap();
    program.event("RESUME");
    vm.expect("FERRO-GUEST userland");
    vm.expect("/ # ");
    program.ask("quit", &json!({})).unwrap();
    assert_eq!(program.event("SHUTDOWN")["data"]["guest"], false);
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}: {printed}");
}

#[test]
fn wrong_commands_and_garbage_leave_the_vm_as_it_was() {
    let sockets = Sockets::new();
    let Some(mut vm) = sockets.boot("quiet") else { return };
    vm.expect("/ # ");
    let (mut person, mut program) = (Person::new(&sockets.path("hmp")), Program::new(&sockets.path("qmp")));
    for (line, told) in [
        ("eject nothing", "Device 'nothing' not found"),
        ("change nothing /dev/null", "Device 'nothing' not found"),
        ("block_resize nothing 1G", "Device 'nothing' not found"),
        ("set_link nothing off", "Device 'nothing' not found"),
        ("screendump /nonexistent/picture", "no screen"),
        ("pmemsave 0 16 /nonexistent/memory", "cannot write /nonexistent/memory"),
        ("pmemsave 0xf00000000000 16 /dev/null", "Invalid addr"),
        ("xp/4xw 0xf00000000000", "Cannot access memory"),
        ("gdbserver tcp:0.0.0.0:1234", "127.0.0.1"),
        ("gdbserver nonsense", "tcp:HOST:PORT"),
        ("x/4xw $nothing", "unknown register"),
    ] {
        let said = person.say(line);
        assert!(said.contains(told), "{line}: {said}");
    }
    assert_eq!(person.say("cpu 9"), "");
    assert!(person.say("info registers").contains("there is no vCPU 9"));
    assert_eq!(person.say("cpu 0"), "");
    assert!(program.ask("eject", &json!({ "device": "nothing" })).unwrap_err().contains("not found"));
    assert!(program.ask("balloon", &json!({ "value": "much" })).unwrap_err().contains("expected: integer"));
    for round in 0..100_u32 {
        let mut client = connect(&sockets.path(if round % 2 == 0 { "hmp" } else { "qmp" }));
        let garbage: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761 + round) >> 11) as u8).collect();
        // It may be turned away before all of it is written.
        let _ = client.write_all(&garbage);
    }
    assert_eq!(person.say("info status"), "VM status: running\n");
    vm.send("echo $((40+2))-alive\n");
    vm.expect("42-alive");
    person.stream.write_all(b"quit\n").unwrap();
    assert!(vm.finish().0.success());
}

#[test]
fn the_terminal_is_shared_by_the_guest_and_the_monitor() {
    let Some(mut vm) = Vm::boot("cloud-amd64", "quiet", &["--monitor", "stdio"]) else { return };
    vm.expect("/ # ");
    vm.send("\x01cinfo status\n");
    vm.expect("VM status: running");
    vm.send("\x01cecho $((40+2))-guest\n");
    vm.expect("42-guest");
    vm.send("\x01cquit\n");
    assert!(vm.finish().0.success());
}

#[test]
fn a_vm_that_waits_begins_when_it_is_told_to() {
    let (Some(kernel), Some(initrd)) = (guest("vmlinuz-cloud-amd64"), guest("initrd-cloud-amd64.gz")) else { return };
    let sockets = Sockets::new();
    let mut command = ferro(&["run", "--accel", "soft", "--memory", "256M", "--serial", "stdio", "--paused"]);
    command.args(sockets.flags()).arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    command.args(["--append", "console=ttyS0 quiet ferro.run=true"]);
    let vm = Vm::start(command);
    let mut program = Program::new(&sockets.path("qmp"));
    assert_eq!(program.ask("query-status", &json!({})).unwrap()["status"], "prelaunch");
    program.ask("cont", &json!({})).unwrap();
    assert_eq!(program.event("SHUTDOWN")["data"]["guest"], true);
    let (status, printed) = vm.finish();
    assert!(status.success() && printed.contains("FERRO-GUEST status 0"), "{printed}");
}

#[test]
fn a_vm_in_the_background_is_commanded_from_the_shell() {
    let (Some(kernel), Some(initrd)) = (guest("vmlinuz-cloud-amd64"), guest("initrd-cloud-amd64.gz")) else { return };
    let sockets = Sockets::new();
    let (log, pid_file) = (sockets.path("serial.log"), sockets.path("vm.pid"));
    let vm = |serial: &str| {
        let mut command = ferro(&["run", "--accel", "soft", "--memory", "256M", "--daemonize"]);
        command.args(sockets.flags()).arg("--pidfile").arg(&pid_file).args(["--serial", serial]);
        command.arg("--kernel").arg(&kernel).arg("--initrd").arg(&initrd).args(["--append", "console=ttyS0 quiet"]);
        command.output().unwrap()
    };
    let refused = vm("stdio");
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let failed = vm("file=/nonexistent/serial.log");
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&failed.stderr).contains("/nonexistent/serial.log"),
        "told before it is left alone"
    );
    assert!(!pid_file.exists());

    let started = vm(&format!("file={}", log.display()));
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    for name in ["hmp", "qmp"] {
        let target = sockets.path(name);
        let say = |words: &[&str]| {
            let output = ferro(&["monitor"]).arg(&target).args(words).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(say(&["info", "status"]), (Some(0), "VM status: running\n".into()), "{name}");
        assert_eq!(say(&["stop", "info status", "cont"]), (Some(0), "VM status: paused\n".into()), "{name}");
        assert_eq!(say(&["eject", "nothing"]).0, Some(1), "{name}");
        let picture = ferro(&["screenshot"]).arg(&target).arg("/nonexistent.png").output().unwrap();
        assert_eq!(picture.status.code(), Some(1));
    }
    let ended = ferro(&["monitor"]).arg(sockets.path("hmp")).arg("quit").status().unwrap();
    assert!(ended.success());
    for _ in 0..3000 {
        if !Path::new(&format!("/proc/{pid}")).exists() && !pid_file.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the VM {pid} goes on");
}
