//! Debian's gdb against the stub of a VM that boots Debian's kernel. What the stub's parts do alone is tested beside them.

mod support;

use std::net::TcpListener;
use std::process::{Command, Stdio};

use support::{Vm, ferro, guest, has};

/// Steps over the first instructions of Linux's 64-bit entry (0x200 past the kernel's start at 1 MiB), which only clear
/// flags and a register, and goes back, so that a breakpoint lies ahead.
const FIND_A_PLACE_AHEAD: [&str; 3] = ["stepi 3", "set $ahead = $pc", "set $pc = 0x100200"];

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback address");
    listener.local_addr().expect("it is bound").port()
}

/// Runs gdb in batch mode against the stub, once it listens, and returns all that it said.
fn gdb(port: u16, commands: &[&str]) -> String {
    let target = format!("target remote 127.0.0.1:{port}");
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-ex", "set tcp auto-retry on", "-ex", "set architecture i386:x86-64"]);
    for line in std::iter::once(target.as_str()).chain(commands.iter().copied()) {
        command.args(["-ex", line]);
    }
    let output = command.stdin(Stdio::null()).output().expect("gdb is there");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    text
}

fn start(port: u16, append: &str, arguments: &[&str]) -> Option<Vm> {
    has("gdb").then_some(())?;
    let stub = format!("tcp:127.0.0.1:{port}");
    let mut all = vec!["--gdb", &stub, "--paused"];
    all.extend(arguments);
    Vm::boot("cloud-amd64", append, &all)
}

#[test]
fn breakpoints_steps_registers_and_memory() {
    let port = free_port();
    let Some(vm) = start(port, "quiet ferro.run=echo+still+alive", &[]) else { return };
    let commands = [
        "hbreak *$ahead",
        "continue",
        "print $pc == $ahead",
        "info registers",
        "x/4xb 0x100200",
        "x/2i 0x100200",
        "stepi",
        "print $pc != $ahead",
        "set $rbx = 0x1122334455667788",
        "print/x $rbx",
        "print $xmm0",
        "print $st0",
        "set *(int *)0x50000 = 0x12345678",
        "print/x *(int *)0x50000",
        "print/x $mxcsr",
        "monitor registers",
        "set $rbx = 0",
        "delete",
        "detach",
    ];
    let said = gdb(port, &[&FIND_A_PLACE_AHEAD[..], &commands[..]].concat());
    for expected in [
        "Breakpoint 1, 0x00000000001002",
        "rip            0x1002",
        "cs             0x10",
        "$7 = 0x1f80",
        "0x100200:",
        "cld",
        "$1 = 1",
        "$2 = 1",
        "$3 = 0x1122334455667788",
        "v4_float",
        "$6 = 0x12345678",
        "efer 0x500",
        "detached",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
    let (status, printed) = vm.finish();
    assert!(status.success() && printed.contains("still alive"), "{printed}");
}

#[test]
fn watchpoints_threads_and_interrupting() {
    let port = free_port();
    let Some(mut vm) = start(port, "quiet", &["--cpus", "2"]) else { return };
    let commands = [
        "break *$ahead",
        "continue",
        "info threads",
        "delete",
        // mov %rax, 0x51000; nop; jmp to itself
        "set *(long *)0x50000 = 0x0005100025048948",
        "set *(long *)0x50008 = 0xfeeb90",
        "set $was = $rax",
        "set $rax = 0x1234",
        "set $pc = 0x50000",
        "watch *(long *)0x51000",
        "continue",
        "print $pc == 0x50008",
        "delete",
        "set $rax = $was",
        "set $pc = $ahead",
        "detach",
    ];
    let said = gdb(port, &[&FIND_A_PLACE_AHEAD[..], &commands[..]].concat());
    for expected in [
        "Breakpoint 1, 0x00000000001002",
        "vCPU 0 Running",
        "vCPU 1 WaitForSipi",
        "New value = 4660",
        "$1 = 1",
        "detached",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
    vm.expect("FERRO-GUEST userland");
    vm.expect("# ");
    // A running guest stops when the debugger comes, and goes on when it has gone, twice.
    for _ in 0..2 {
        let said = gdb(port, &["info threads", "print $pc != 0", "stepi", "detach"]);
        assert!(said.contains("vCPU 1") && said.contains("$1 = 1") && said.contains("detached"), "{said}");
        vm.send("echo $((6 * 7)) again\n");
        vm.expect("42 again");
    }
    gdb(port, &["kill"]);
    let (status, _) = vm.finish();
    assert!(status.success());
}

#[test]
fn the_debugger_is_told_of_the_end() {
    let port = free_port();
    let Some(vm) = start(port, "quiet ferro.run=true", &[]) else { return };
    let said = gdb(port, &["continue"]);
    assert!(said.contains("exited normally"), "{said}");
    assert!(vm.finish().0.success());
}

#[test]
fn listeners_for_other_hosts_are_refused() {
    let kernel = guest("vmlinuz-cloud-amd64").unwrap_or_else(|| "vmlinuz".into());
    let kernel = kernel.to_str().expect("a test's path is text");
    for (arguments, told) in [
        (&["--gdb", "tcp:0.0.0.0:1234"][..], "--insecure"),
        (&["--gdb", "1234"], "tcp:HOST:PORT"),
        (&["--paused"], "--gdb"),
    ] {
        let output = ferro(&["run", "--kernel", kernel]).args(arguments).output().unwrap();
        let told_us = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told_us}");
        assert!(told_us.contains(told), "{arguments:?}: {told_us}");
    }
}
