//! The monitor of real VMs, over real sockets and the terminal.

mod support;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use support::session::{Person, Program, Sockets, connect};
use support::{Vm, ferro, guest};

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
    let listed = person.say("info chardev");
    assert!(
        listed.contains("serial0: filename=stdio") && listed.contains("compat_monitor1: filename=unix:"),
        "{listed}"
    );
    let log = sockets.path("vm.log");
    assert_eq!(person.say(&format!("logfile {}", log.display())) + &person.say("log debug"), "");
    person.say("log none");
    let logged = std::fs::read_to_string(&log).unwrap();
    person.say("system_reset");
    vm.expect("/ # ");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), logged, "nothing is logged that wasn't asked for");
    person.say("log info");
    person.say("system_reset");
    vm.expect("/ # ");
    assert!(std::fs::read_to_string(&log).unwrap().contains("reset"));
    for (line, told) in [
        ("log ferro=[", "a filter is a level"),
        ("logfile /nonexistent/log", "cannot write /nonexistent/log"),
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

/// What Python's own QMP client does: greets, asks, hears an event, gets an error, ends the VM.
const PYTHON: &str = "
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main():
    client = QMPClient('test')
    await client.connect(sys.argv[1])
    print((await client.execute('query-status'))['status'])
    with client.listener(('STOP', 'RESUME')) as events:
        await client.execute('stop')
        print((await events.get())['event'])
        await client.execute('cont')
        print((await events.get())['event'])
    try:
        await client.execute('blockdev-nonsense')
    except ExecuteError as error:
        print(error)
    await client.execute('quit')
    await client.disconnect()

asyncio.run(main())
";

#[test]
fn pythons_qmp_package_commands_the_vm() {
    let known = std::process::Command::new("python3").args(["-c", "import qemu.qmp"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        println!("skipped: Python's qemu.qmp is missing; `pip install qemu.qmp` installs it");
        return;
    }
    let sockets = Sockets::new();
    let Some(mut vm) = sockets.boot("quiet") else { return };
    vm.expect("/ # ");
    let told = support::output(std::process::Command::new("python3").args(["-c", PYTHON]).arg(sockets.path("qmp")));
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        ["running", "STOP", "RESUME", "The command blockdev-nonsense has not been found"]
    );
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}: {printed}");
}
