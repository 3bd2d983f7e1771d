//! A guest's network card on a TAP interface, in a network namespace of the test's own: nothing of the host's networks is
//! touched. Needs root.

mod support;

use std::process::{Child, Stdio};

use support::{Namespace, Vm, guest};

const HOST: &str = "10.77.0.1";

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guest_pings_and_fetches_over_its_tap_interface() {
    let (Some(kernel), Some(initrd)) = (guest("vmlinuz-cloud-amd64"), guest("initrd-cloud-amd64.gz")) else { return };
    let Some(namespace) = Namespace::new("net") else { return };
    namespace.run("ip tuntap add tap0 mode tap");
    namespace.run(&format!("ip address add {HOST}/24 dev tap0"));
    namespace.run("ip link set tap0 up");
    namespace.run("ip link set lo up");

    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("numbers");
    let numbers: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    std::fs::write(&page, numbers).unwrap();
    let mut server = namespace.command("busybox");
    server.args(["httpd", "-f", "-p", &format!("{HOST}:8080"), "-h"]).arg(folder.path());
    let _server = Server(server.stdout(Stdio::null()).spawn().expect("ip is there"));

    let script = format!(
        "cat+/sys/class/net/eth0/address;ip+address+add+10.77.0.2/24+dev+eth0;ip+link+set+eth0+up;\
         ping+-c+3+{HOST};ping+-s+1400+-c+2+{HOST};wget+-q+-O+/numbers+http://{HOST}:8080/numbers;sha256sum+/numbers"
    );
    let mut command = namespace.command(env!("CARGO_BIN_EXE_ferro"));
    command.args(["run", "--accel", "soft", "--serial", "stdio", "--memory", "256M"]);
    command.args(["--net", "tap=tap0,mac=52:54:00:12:34:56"]);
    command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    let append = format!("console=ttyS0 quiet ferro.modules=virtio_pci,virtio_net ferro.run={script}");
    command.args(["--append", &append]);
    let (status, printed) = Vm::start(command).finish();
    assert!(status.success(), "{printed}");
    assert!(printed.contains("52:54:00:12:34:56"), "the card has its address: {printed}");
    assert!(printed.contains("3 packets received") && printed.contains("2 packets received"), "{printed}");
    // What the host's own `seq 1 50000 | sha256sum` prints.
    let expected = "44969d026ed4164dbe77d48d4d359e98ac4057008cafd61723be72bff83e5fd4";
    assert!(printed.contains(expected), "{printed}");
}
