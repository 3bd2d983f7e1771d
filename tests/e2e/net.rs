//! A guest's network card on a TAP interface, in a network namespace of the test's own: nothing of the host's networks is
//! touched. Needs root.

mod support;

use std::process::{Child, Stdio};

use support::{Namespace, Vm, guest};

const HOST: &str = "10.77.0.1";

/// A number that the guest printed after a word.
fn number(printed: &str, word: &str) -> u64 {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix(word));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("no {word} in {printed}"))
}

/// A web server in the namespace with a file of so many bytes that doesn't compress; the file's checksum.
fn serve(namespace: &Namespace, folder: &std::path::Path, len: usize) -> (Server, String) {
    let mut mixed = 1_u64;
    let mut next = || {
        mixed = mixed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (mixed >> 56) as u8
    };
    let file = folder.join("data");
    std::fs::write(&file, (0..len).map(|_| next()).collect::<Vec<_>>()).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(&file).output().expect("coreutils are there");
    let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap_or_default().to_owned();
    let mut server = namespace.command("busybox");
    server.args(["httpd", "-f", "-p", "8080", "-h"]).arg(folder);
    (Server(server.stdout(Stdio::null()).spawn().expect("ip is there")), sum)
}

/// Boots a guest with these cards, which does what the script says.
fn boot(namespace: &Namespace, cards: &[&str], script: &str) -> Option<String> {
    let (kernel, initrd) = (guest("vmlinuz-cloud-amd64")?, guest("initrd-cloud-amd64.gz")?);
    let mut command = namespace.command(env!("CARGO_BIN_EXE_ferro"));
    command.args(["run", "--accel", "soft", "--serial", "stdio", "--memory", "256M", "--cpus", "2"]);
    cards.iter().for_each(|card| _ = command.args(["--net", card]));
    command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    let append = format!("console=ttyS0 quiet ferro.modules=virtio_pci,virtio_net ferro.run={script}");
    command.args(["--append", &append]);
    let (status, printed) = Vm::start(command).finish();
    assert!(status.success(), "{printed}");
    Some(printed)
}

#[test]
fn long_segments_cross_whole_by_several_queues_and_cut_without_offload() {
    const LEN: usize = 8 << 20;
    let Some(namespace) = Namespace::new("offload") else { return };
    namespace.run("ip tuntap add tap0 mode tap multi_queue");
    namespace.run(&format!("ip address add {HOST}/24 dev tap0"));
    namespace.run("ip link set tap0 up");
    let folder = tempfile::tempdir().unwrap();
    let (_server, sum) = serve(&namespace, folder.path(), LEN);
    let script = format!(
        "ip+address+add+10.77.0.2/24+dev+eth0;ip+link+set+eth0+up;ls+/sys/class/net/eth0/queues;\
         wget+-q+-O+/data+http://{HOST}:8080/data;sha256sum+/data;\
         echo+PACKETS+$(cat+/sys/class/net/eth0/statistics/rx_packets)"
    );
    for (card, offload) in [("tap=tap0,queues=2", true), ("tap=tap0,offload=off", false)] {
        let Some(printed) = boot(&namespace, &[card], &script) else { return };
        assert!(printed.contains(&sum), "{card}: {printed}");
        assert_eq!(printed.contains("rx-1"), offload, "{card}: {printed}");
        let (packets, segments) = (number(&printed, "PACKETS"), LEN as u64 / 1448);
        assert_eq!(packets < segments / 2, offload, "{card}: {packets} packets for {segments} segments");
        // What the guest sends whole.
        assert_eq!(sent_whole(&namespace, card, &sum), Some(()), "{card}");
    }
}

/// The guest sends what it fetched back to a listener in the namespace, which must have it unharmed.
fn sent_whole(namespace: &Namespace, card: &str, sum: &str) -> Option<()> {
    let folder = tempfile::tempdir().unwrap();
    let back = std::fs::File::create(folder.path().join("back")).unwrap();
    let mut listener = namespace.command("busybox");
    // It would tell the guest to end with its own input's end.
    listener.args(["nc", "-l", "-p", "9000"]).stdin(Stdio::piped()).stdout(back);
    let mut listener = Server(listener.spawn().expect("ip is there"));
    let script = format!(
        "ip+address+add+10.77.0.2/24+dev+eth0;ip+link+set+eth0+up;\
         wget+-q+-O+/data+http://{HOST}:8080/data;nc+{HOST}+9000+</data"
    );
    let input = listener.0.stdin.take();
    boot(namespace, &[card], &script)?;
    drop(input);
    let _ = listener.0.wait();
    let found = std::process::Command::new("sha256sum").arg(folder.path().join("back")).output().unwrap();
    String::from_utf8_lossy(&found.stdout).starts_with(sum).then_some(())
}

#[test]
fn a_card_with_a_quarter_of_the_rate_gets_about_a_quarter_of_the_bytes() {
    let Some(namespace) = Namespace::new("rate") else { return };
    for (tap, address) in [("tap0", "10.77.0.1"), ("tap1", "10.78.0.1")] {
        namespace.run(&format!("ip tuntap add {tap} mode tap"));
        namespace.run(&format!("ip address add {address}/24 dev {tap}"));
        namespace.run(&format!("ip link set {tap} up"));
    }
    let folder = tempfile::tempdir().unwrap();
    let (_server, sum) = serve(&namespace, folder.path(), 6 << 20);
    // The slow one is broken off at the end, or the server's half of it would outlive the test.
    let script = "ip+address+add+10.77.0.2/24+dev+eth0;ip+link+set+eth0+up;\
         ip+address+add+10.78.0.2/24+dev+eth1;ip+link+set+eth1+up;\
         wget+-q+-O+/dev/null+http://10.78.0.1:8080/data&+SLOW=$!;wget+-q+-O+/data+http://10.77.0.1:8080/data;\
         echo+SLOW+$(cat+/sys/class/net/eth1/statistics/rx_bytes);\
         echo+FAST+$(cat+/sys/class/net/eth0/statistics/rx_bytes);sha256sum+/data;kill+$SLOW;sleep+1";
    let cards = ["tap=tap0,rate=8M", "tap=tap1,rate=2M"];
    let Some(printed) = boot(&namespace, &cards, script) else { return };
    assert!(printed.contains(&sum), "{printed}");
    let (fast, slow) = (number(&printed, "FAST"), number(&printed, "SLOW"));
    assert!((2 * slow..8 * slow).contains(&fast), "{fast} and {slow} bytes at rates of four to one");
}

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
