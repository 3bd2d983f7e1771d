//! User networking: a guest behind NAT in the VM's own process, with servers and clients on this host's loopback. Needs no
//! privileges.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Vm, ferro, guest, has};

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Takes the address that DHCP offers.
const CONFIGURE: &str = "echo+'#!/bin/sh'>/dhcp;\
    echo+'test+$1+=+bound+&&+ip+address+add+$ip/$mask+dev+$interface+&&+ip+route+add+default+via+$router+&&+\
    echo+LEASE+$ip+$router+$dns+$hostname'>>/dhcp;\
    chmod+755+/dhcp;ip+link+set+lo+up;ip+link+set+eth0+up;udhcpc+-i+eth0+-n+-q+-s+/dhcp;";

fn boot(net: &str, script: &str) -> Option<Vm> {
    let (kernel, initrd) = (guest("vmlinuz-cloud-amd64")?, guest("initrd-cloud-amd64.gz")?);
    let append = format!("console=ttyS0 quiet ferro.modules=virtio_pci,virtio_net ferro.run={CONFIGURE}{script}");
    let mut command = ferro(&["run", "--accel", "soft", "--serial", "stdio", "--memory", "256M"]);
    command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd).args(["--net", net, "--append", &append]);
    Some(Vm::start(command))
}

fn serve(folder: &std::path::Path) -> Option<(Server, u16)> {
    has("busybox").then_some(())?;
    let port = free_port();
    let mut server = Command::new("busybox");
    server.args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"]).arg(folder);
    Some((Server(server.stdout(Stdio::null()).spawn().unwrap()), port))
}

#[test]
fn a_guest_gets_an_address_fetches_from_the_host_and_pings_its_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: String = (1..=500_000).map(|number| format!("{number}\n")).collect();
    std::fs::write(folder.path().join("numbers"), numbers).unwrap();
    let Some((_server, port)) = serve(folder.path()) else { return };
    let refused = free_port();
    let script = format!(
        "ping+-c+2+10.0.2.2;wget+-q+-O+/n+http://10.0.2.2:{port}/numbers;sha256sum+/n;\
         for+i+in+1+2+3+4+5+6+7+8;do+wget+-q+-O+/n$i+http://10.0.2.2:{port}/numbers&+done;wait;cmp+/n+/n8+&&+echo+SAME;\
         wget+-O+/dev/null+http://10.0.2.2:{refused}/"
    );
    let Some(vm) = boot("user,hostname=web", &script) else { return };
    let (status, printed) = vm.finish();
    assert!(status.success(), "{printed}");
    assert!(printed.contains("LEASE 10.0.2.15 10.0.2.2 10.0.2.3 web"), "{printed}");
    assert!(printed.contains("2 packets received"), "{printed}");
    let told = printed.lines().find(|line| line.ends_with("  /n")).unwrap_or_default().to_owned();
    assert!(told.starts_with(&sum(&folder.path().join("numbers"))), "{told}: {printed}");
    assert!(printed.contains("SAME"), "{printed}");
    assert!(printed.contains("Connection refused"), "{printed}");
}

/// What the host's own sha256sum says of a file.
fn sum(file: &std::path::Path) -> String {
    let told = support::output(Command::new("sha256sum").arg(file));
    told.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_forwarded_port_reaches_a_server_in_the_guest() {
    let port = free_port();
    let script = "mkdir+/www;seq+1+100000+>/www/index.html;httpd+-p+80+-h+/www;echo+SERVING;sleep+1000";
    let Some(mut vm) = boot(&format!("user,hostfwd=tcp::{port}-:80"), script) else { return };
    vm.expect("SERVING");
    let fetch = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    };
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(fetch() == expected, "the page is another");
    std::thread::scope(|scope| {
        let fetches: Vec<_> = (0..10).map(|_| scope.spawn(fetch)).collect();
        for fetch in fetches {
            assert!(fetch.join().unwrap() == expected, "a page is another");
        }
    });
}

#[test]
fn a_restricted_guest_reaches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_server, port)) = serve(folder.path()) else { return };
    let script = format!("ip+route+add+default+via+10.0.2.2;wget+-O+/dev/null+http://10.0.2.2:{port}/");
    let Some(vm) = boot("user,restrict=on", &script) else { return };
    let (status, printed) = vm.finish();
    assert!(status.success(), "{printed}");
    assert!(printed.contains("Connection refused"), "{printed}");
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let Some(kernel) = guest("vmlinuz-cloud-amd64") else { return };
    let output =
        ferro(&["run", "--net", &format!("user,hostfwd=tcp::{port}-:80"), "--kernel"]).arg(kernel).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains(&format!("127.0.0.1:{port}")), "{told}");
}
