//! Mirrors as two real processes over loopback: replication, crashes of either side, split brain, refusals. The engine's
//! rules are held by the simulator; here it is about disks, sockets and commands.

#[path = "../../crates/cli/tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Bench, FERRO, Running, have};

/// Two nodes in one directory.
struct Pair {
    bench: Bench,
    nodes: [Option<Running>; 2],
    port: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port()
}

impl Pair {
    fn new() -> Self {
        let bench = Bench::new();
        fs::write(bench.path("secret"), "0123456789abcdef0123456789abcdef").expect("written");
        Self { bench, nodes: [None, None], port: free_port() }
    }

    fn create(&self, node: usize, flags: &str) {
        let port = self.port;
        self.bench.ok(&format!(
            "ferro mirror --state s{node} create m --backing disk{node} --node {node} --peer 127.0.0.1:{port} --listen \
             127.0.0.1:{port} --timeout 2000 {flags}"
        ));
    }

    fn both(size: &str, flags: &str) -> Self {
        let mut pair = Self::new();
        for node in 0..2 {
            pair.create(node, &format!("--size {size} --secret-file secret {flags}"));
            pair.up(node);
        }
        pair
    }

    fn up(&mut self, node: usize) {
        let mut command = Command::new(FERRO);
        command.args(["mirror", "--state", &format!("s{node}"), "up", "m", "--foreground"]);
        let mut running = Running::start(command.current_dir(self.bench.dir()).stdout(std::process::Stdio::null()));
        until("the mirror is up", || {
            assert!(running.0.try_wait().expect("its state").is_none(), "the mirror ended");
            self.bench.run(&format!("ferro mirror --state s{node} status m")).status.success()
        });
        self.nodes[node] = Some(running);
    }

    /// kill -9.
    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    fn ok(&self, node: usize, command: &str) {
        self.bench.ok(&format!("ferro mirror --state s{node} {command}"));
    }

    fn fails(&self, node: usize, command: &str) -> String {
        self.bench.fails(1, &format!("ferro mirror --state s{node} {command}"))
    }

    fn status(&self, node: usize) -> Value {
        let text = self.bench.ok(&format!("ferro mirror --state s{node} status m --output json"));
        serde_json::from_str(&text).expect("JSON")
    }

    fn uri(&self, node: usize) -> String {
        format!("nbd+unix:///?socket={}", self.bench.path(&format!("s{node}/m.nbd")).display())
    }

    fn in_sync(&self) {
        until("both are in sync", || {
            (0..2).all(|node| {
                let s = self.status(node);
                s["connection"] == "connected"
                    && s["disk"] == "up-to-date"
                    && s["peer-disk"] == "up-to-date"
                    && s["out-of-sync"] == 0
                    && s["pending"] == 0
            })
        });
    }

    fn equal(&self) {
        self.in_sync();
        self.bench.ok("cmp disk0 disk1");
    }
}

/// Waits for what has to come; gives up after a long time.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(120), "it doesn't come: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_written_is_on_both_disks_and_survives_the_primary() {
    if !have(&["nbdcopy", "cmp"]) {
        return;
    }
    let mut pair = Pair::both("32M", "");
    pair.bench.sample("source", 32);
    let refused = pair.fails(0, "primary m");
    assert!(refused.contains("--force"), "{refused}");
    pair.ok(0, "primary m --force");
    pair.in_sync();
    let refused = pair.fails(1, "primary m");
    assert!(refused.contains("the peer is primary") || refused.contains("not possible"), "{refused}");
    pair.bench.ok(&format!("nbdcopy --flush source {}", pair.uri(0)));
    pair.equal();
    pair.bench.ok("cmp source disk1");
    pair.kill(0);
    until("the loss is seen", || pair.status(1)["connection"] == "connecting");
    let refused = pair.fails(1, "primary m");
    assert!(refused.contains("--force"), "{refused}");
    pair.ok(1, "primary m --force");
    pair.bench.ok(&format!("nbdcopy {} back", pair.uri(1)));
    pair.bench.ok("cmp source back");
    // What is written alone reaches the other when it is back, which comes as secondary.

    fs::write(pair.bench.path("half"), vec![7u8; 3 << 20]).expect("written");
    pair.bench.ok(&format!("ferro img convert -n -f raw -O raw half {}", pair.uri(1)));
    assert!(pair.status(1)["out-of-sync"].as_u64() >= Some(3 << 20));
    pair.up(0);
    pair.equal();
    assert_eq!(pair.status(0)["role"], "secondary");
    assert!(fs::read(pair.bench.path("disk0")).expect("read")[..3 << 20].iter().all(|b| *b == 7));
}

#[test]
fn a_split_brain_is_refused_until_one_side_gives_way() {
    if !have(&["cmp"]) {
        return;
    }
    let pair = Pair::both("8M", "");
    pair.ok(0, "primary m --force");
    pair.in_sync();
    pair.ok(0, "disconnect m");
    pair.ok(1, "disconnect m");
    pair.ok(1, "primary m --force");
    for node in 0..2 {
        let file = format!("data{node}");
        fs::write(pair.bench.path(&file), vec![node as u8 + 1; 1 << 20]).expect("written");
        pair.bench.ok(&format!("ferro img convert -n -f raw -O raw {file} {}", pair.uri(node)));
    }
    pair.ok(0, "connect m");
    pair.ok(1, "connect m");
    until("the split brain is told", || {
        (0..2).all(|n| pair.status(n)["problem"].as_str().is_some_and(|p| p.contains("split brain")))
    });
    assert!((0..2).all(|node| pair.status(node)["connection"] == "standalone"));
    let refused = pair.fails(1, "discard-my-data m");
    assert!(refused.contains("secondary"), "{refused}");
    pair.ok(1, "secondary m");
    pair.ok(1, "discard-my-data m");
    pair.ok(1, "connect m");
    pair.ok(0, "connect m");
    pair.equal();
    assert_eq!(fs::read(pair.bench.path("disk1")).expect("read")[0], 1);
}

#[test]
fn another_secret_and_another_size_are_refused() {
    let mut pair = Pair::new();
    fs::write(pair.bench.path("other"), "fedcba9876543210fedcba9876543210").expect("written");
    pair.create(0, "--size 8M --secret-file secret");
    pair.create(1, "--size 8M --secret-file other");
    pair.up(0);
    pair.up(1);
    until("the secret is refused", || {
        (0..2).any(|n| pair.status(n)["problem"].as_str().is_some_and(|p| p.contains("secret")))
    });
    assert!((0..2).all(|node| pair.status(node)["connection"] != "connected"));
    pair.ok(1, "down m");
    pair.ok(1, "delete m");
    pair.create(1, "--size 4M --secret-file secret");
    pair.up(1);
    until("the size is refused", || {
        pair.status(1)["problem"].as_str().is_some_and(|p| p.contains("the sizes differ: 4194304 bytes here, 8388608"))
    });
}

#[test]
fn either_side_killed_while_writing_leaves_equal_replicas() {
    if !have(&["fio", "cmp"]) {
        return;
    }
    for protocol in ["A", "B", "C"] {
        let mut pair = Pair::both("32M", &format!("--protocol {protocol}"));
        pair.ok(0, "primary m --force");
        pair.in_sync();
        for round in 0..4u64 {
            let mut load = Command::new("fio");
            // In threads: a forked job would outlive the process that is killed here, and write on.
            load.args(["--name=w", "--thread", "--ioengine=nbd"]).arg(format!("--uri={}", pair.uri(0))).args([
                "--rw=randwrite",
                "--bs=4k-64k",
                "--iodepth=16",
                "--size=32M",
                "--time_based",
                "--runtime=60",
                "--fsync=20",
                "--output-format=terse",
            ]);
            load.stdout(std::process::Stdio::null());
            let load = Running::start(&mut load);
            until("it writes", || pair.status(0)["pending"].as_u64() > Some(0));
            std::thread::sleep(Duration::from_millis(50 + 130 * round));
            let victim = usize::from(round % 2 == 1);
            pair.kill(victim);
            std::thread::sleep(Duration::from_millis(100));
            drop(load);
            pair.up(victim);
            if victim == 0 {
                until("they meet again", || pair.status(1)["connection"] == "connected");
                pair.in_sync();
                pair.ok(0, "primary m");
            }
            pair.equal();
        }
    }
}

#[test]
fn an_open_link_between_machines_has_to_be_asked_for() {
    let bench = Bench::new();
    let line = "ferro mirror --state s create m --size 8M --backing d --node 0 --peer 192.0.2.1:7 --listen 0.0.0.0:7";
    let refused = bench.fails(1, line);
    assert!(refused.contains("--secret-file") && refused.contains("--insecure"), "{refused}");
    bench.ok(&format!("{line} --insecure"));
    assert_eq!(bench.ok("ferro mirror --state s list"), "m\n");
    let refused = bench.fails(1, &format!("{line} --insecure"));
    assert!(refused.contains("exists already"), "{refused}");
    assert!(bench.fails(1, "ferro mirror --state s primary m").contains("is not up"));
    assert!(bench.fails(1, "ferro mirror --state s primary n").contains("there is no mirror"));
}
