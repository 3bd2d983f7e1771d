//! `ferro net` in network namespaces of the tests' own: nothing of the host's networks is touched. Needs root.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Namespace, output};

const FERRO: &str = env!("CARGO_BIN_EXE_ferro");

/// Runs `ferro net` inside, which must succeed, and returns what it printed.
fn net(namespace: &Namespace, line: &str) -> String {
    output(&mut command(namespace, line))
}

fn command(namespace: &Namespace, line: &str) -> Command {
    let mut command = namespace.command(FERRO);
    command.arg("net").args(line.split(' '));
    command
}

/// Runs `ferro net` inside, which must fail, and returns what it complained of.
fn refused(namespace: &Namespace, line: &str) -> String {
    let output = command(namespace, line).output().expect("ip is there");
    assert_eq!(output.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All that a network namespace has of interfaces, addresses, routes, firewall rules and the switch for forwarding, but
/// what settles by itself after a change: carriers, and addresses that IPv6 makes up.
fn picture(namespace: &Namespace) -> String {
    let mut shown = String::new();
    for arguments in [["-j", "address", "show"].as_slice(), &["-4", "-j", "route", "show", "table", "all"]] {
        let mut told: Value = serde_json::from_str(&output(namespace.command("ip").args(arguments))).unwrap();
        settle(&mut told);
        shown += &told.to_string();
    }
    if support::has("nft") {
        shown += &output(namespace.command("nft").args(["list", "ruleset"]));
    }
    shown + &output(namespace.command("cat").arg("/proc/sys/net/ipv4/ip_forward"))
}

fn settle(told: &mut Value) {
    match told {
        Value::Array(list) => {
            list.retain(|item| item["family"] != "inet6");
            list.iter_mut().for_each(settle);
        }
        Value::Object(fields) => {
            fields.retain(|name, _| name != "operstate");
            if let Some(Value::Array(flags)) = fields.get_mut("flags") {
                flags.retain(|flag| flag == "UP");
            }
            fields.values_mut().for_each(settle);
        }
        _ => {}
    }
}

#[test]
fn a_network_is_made_step_by_step_and_taken_apart_again() {
    let Some(namespace) = Namespace::new("steps") else { return };
    let before = picture(&namespace);
    let steps = [
        ("bridge add br0 --address 10.77.77.1/24", "added", "already there"),
        ("tap add tap0 --bridge br0 --owner nobody", "added", "already there"),
        ("route add 10.88.0.0/16 --via 10.77.77.2", "added", "already there"),
        ("forward on", "switched on", "already on"),
    ];
    for (step, first, again) in steps {
        assert!(net(&namespace, step).contains(first), "{step}");
        assert!(net(&namespace, step).contains(again), "{step}");
    }
    // The address has brought this route along already.
    assert!(net(&namespace, "route add 10.77.77.0/24 --dev br0").contains("already there"));

    // The kernel's own tools see the same.
    let seen = output(namespace.command("ip").args(["-d", "link", "show", "tap0"]));
    assert!(seen.contains("master br0") && seen.contains("persist on") && seen.contains("user nobody"), "{seen}");
    let seen = output(namespace.command("ip").args(["route"]));
    assert!(seen.contains("10.88.0.0/16 via 10.77.77.2 dev br0"), "{seen}");
    let bridges: Value = serde_json::from_str(&net(&namespace, "bridge list --output json")).unwrap();
    assert_eq!(bridges[0]["name"], "br0");
    assert_eq!(bridges[0]["addresses"][0], "10.77.77.1/24");
    assert_eq!(bridges[0]["ports"][0], "tap0");
    assert!(net(&namespace, "tap list").contains("tap0"));
    assert!(net(&namespace, "route list").contains("10.88.0.0/16   10.77.77.2  br0"));

    let complaint = refused(&namespace, "bridge delete br0");
    assert!(complaint.contains("br0 still has tap0"), "{complaint}");
    let steps = [
        ("forward off", "switched off", "already off"),
        ("route delete 10.88.0.0/16", "deleted", "already gone"),
        ("tap delete tap0", "deleted", "already gone"),
        ("bridge delete br0", "deleted", "already gone"),
    ];
    for (step, first, again) in steps {
        assert!(net(&namespace, step).contains(first), "{step}");
        assert!(net(&namespace, step).contains(again), "{step}");
    }
    assert_eq!(picture(&namespace), before);
}

#[test]
fn what_is_in_the_way_is_said_and_nothing_is_half_done() {
    let Some(namespace) = Namespace::new("inway") else { return };
    net(&namespace, "bridge add br0 --address 10.77.77.1/24");
    net(&namespace, "bridge add br1");
    net(&namespace, "tap add tap0 --bridge br0");
    net(&namespace, "route add 10.88.0.0/16 --via 10.77.77.2");
    let before = picture(&namespace);
    for (line, words) in [
        ("bridge add tap0", "tap0 is a TAP interface, not a bridge"),
        ("bridge delete lo", "lo is a physical interface, not a bridge"),
        ("tap add br0", "br0 is a bridge, not a TAP interface"),
        ("tap delete br0", "br0 is a bridge, not a TAP interface"),
        ("tap add tap0 --bridge br1", "tap0 is plugged into br0"),
        ("tap add tap0 --owner nobody", "tap0 belongs to user nobody in particular"),
        ("tap add tap1 --bridge missing", "there is no interface missing"),
        ("tap add tap1 --owner no-such-user", "there is no user no-such-user"),
        ("tap add a-name-that-is-too-long", "can't be the name of an interface"),
        ("route add 10.88.0.0/16 --dev br0", "already routed via 10.77.77.2 dev br0"),
        ("route add 10.89.0.0/16 --via 192.168.1.1", "cannot add the route to 10.89.0.0/16"),
        ("route add 10.89.0.0/16 --dev missing", "there is no interface missing"),
        ("route add 10.89.0.0/16", "needs an interface"),
    ] {
        let complaint = refused(&namespace, line);
        assert!(complaint.contains(words), "{line}: {complaint}");
    }
    // Nobody without the right changes anything.
    for line in ["bridge add br2", "tap add tap1", "forward on", "route delete 10.88.0.0/16"] {
        let mut command = namespace.command("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", FERRO, "net"]).args(line.split(' '));
        let output = command.output().expect("ip is there");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("it takes root"), "{line}: {complaint}");
    }
    assert_eq!(picture(&namespace), before);
}

const DECLARED: &str = r#"
rules = ["lan -> site any", "lan, internet -> dmz tcp 8080"]

[[segment]]
name = "dmz"
subnet = "10.1.0.0/24"

[[segment]]
name = "site"
subnet = "10.2.0.0/24"

[[segment]]
name = "lan"
subnet = "10.3.0.0/24"
nat = true
domain = "lan.example.it"
dhcp = "10.3.0.100-10.3.0.199"
"#;

/// A folder with a declaration, and the words of `ferro net` for it.
struct Declared {
    folder: tempfile::TempDir,
}

impl Declared {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("segments.toml"), text).unwrap();
        Self { folder }
    }

    fn state(&self) -> String {
        format!("--state {}", self.folder.path().join("state").display())
    }

    fn up(&self) -> String {
        format!("up {} {}", self.folder.path().join("segments.toml").display(), self.state())
    }

    fn down(&self) -> String {
        format!("down {}", self.state())
    }
}

/// A web server that ends with the test.
struct Server(Child);

impl Server {
    fn start(namespace: &Namespace, address: &str, folder: &Path) -> Self {
        let mut command = namespace.command("busybox");
        command.args(["httpd", "-f", "-p", &format!("{address}:8080"), "-h"]).arg(folder);
        Self(command.stdout(Stdio::null()).spawn().expect("ip is there"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a page comes from there. A server that is still starting refuses; a firewall says nothing. Asks by the shell:
/// busybox's own clients crash where the C library isn't the one they were linked with.
fn fetches(namespace: &Namespace, address: &str) -> bool {
    let script =
        format!("exec 3<>/dev/tcp/{address}/8080 && printf 'GET /page HTTP/1.0\\r\\n\\r\\n' >&3 && exec cat <&3");
    for _ in 0..20 {
        let mut command = namespace.command("timeout");
        let output = command.args(["3", "bash", "-c", &script]).output().expect("ip is there");
        if output.status.success() {
            return output.stdout.ends_with(b"a page");
        }
        if !String::from_utf8_lossy(&output.stderr).contains("refused") {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    false
}

/// A namespace on a cable into the host's: a client of a segment, or another network's machine.
fn client(host: &Namespace, name: &str, cable: &str, address: &str) -> Option<Namespace> {
    let client = Namespace::new(name)?;
    host.run(&format!("ip link add {cable} type veth peer name eth0 netns {}", client.name()));
    host.run(&format!("ip link set {cable} up"));
    client.run(&format!("ip address add {address}/24 dev eth0"));
    client.run("ip link set eth0 up");
    Some(client)
}

#[test]
fn declared_segments_pass_what_the_rules_allow_and_leave_nothing_behind() {
    if !support::has("nft") {
        return;
    }
    let Some(host) = Namespace::new("declared") else { return };
    let declared = Declared::new(DECLARED);
    let before = picture(&host);
    let planned = net(&host, &format!("{} --dry-run", declared.up()));
    assert_eq!(picture(&host), before, "a dry run changes nothing");
    assert_eq!(net(&host, &declared.up()), planned, "what was planned is done");
    let up = picture(&host);
    assert!(net(&host, &declared.up()).contains("already up"));
    assert_eq!(picture(&host), up);
    let status = net(&host, &format!("status {}", declared.state()));
    assert!(status.contains("bridge ferro-dmz") && !status.contains("missing"), "{status}");

    let member = |segment: &str, address: &str, gateway: &str| {
        let cable = format!("v-{segment}");
        let client = client(&host, segment, &cable, address).expect("the host's namespace could be made");
        host.run(&format!("ip link set {cable} master ferro-{segment}"));
        client.run(&format!("ip route add default via {gateway}"));
        client
    };
    let dmz = member("dmz", "10.1.0.2", "10.1.0.1");
    let site = member("site", "10.2.0.2", "10.2.0.1");
    let lan = member("lan", "10.3.0.2", "10.3.0.1");
    // It knows no way back to the segments: only what takes the host's address is answered.
    let internet = client(&host, "internet", "v-internet", "192.0.2.2").expect("the host's namespace could be made");
    host.run("ip address add 192.0.2.1/24 dev v-internet");

    std::fs::write(declared.folder.path().join("page"), "a page").unwrap();
    let folder = declared.folder.path();
    let _servers = [(&dmz, "10.1.0.2"), (&site, "10.2.0.2"), (&lan, "10.3.0.2"), (&internet, "192.0.2.2")]
        .map(|(namespace, address)| Server::start(namespace, address, folder));
    assert!(fetches(&lan, "10.1.0.2"), "lan -> dmz tcp 8080");
    assert!(fetches(&lan, "10.2.0.2"), "lan -> site any");
    assert!(fetches(&lan, "192.0.2.2"), "lan leaves by NAT");
    assert!(!fetches(&dmz, "10.2.0.2"), "no rule lets dmz reach site");
    assert!(!fetches(&dmz, "10.3.0.2"), "no rule lets dmz reach lan");
    assert!(!fetches(&site, "10.1.0.2"), "no rule lets site reach dmz");
    assert!(!fetches(&dmz, "192.0.2.2"), "dmz has no NAT");
    internet.run("ip route add 10.0.0.0/8 via 192.0.2.1");
    assert!(fetches(&internet, "10.1.0.2"), "internet -> dmz tcp 8080");
    assert!(!fetches(&internet, "10.2.0.2"), "no rule lets internet reach site");
    // A sender that isn't of its segment is dropped, though site would answer and the host knows the way back.
    site.run("ip route add 10.99.0.0/16 via 10.2.0.1");
    host.run("ip route add 10.99.0.77/32 via 10.3.0.2");
    for (sender, passes) in [("10.3.0.77", true), ("10.99.0.77", false)] {
        lan.run(&format!("ip address add {sender}/32 dev eth0"));
        lan.run(&format!("ip route replace 10.2.0.2/32 via 10.3.0.1 src {sender}"));
        assert_eq!(fetches(&lan, "10.2.0.2"), passes, "from {sender}");
    }
    host.run("ip route delete 10.99.0.77/32");

    let complaint = refused(&host, &declared.down());
    assert!(complaint.contains("still has v-"), "{complaint}");
    for cable in ["v-dmz", "v-site", "v-lan", "v-internet"] {
        host.run(&format!("ip link delete {cable}"));
    }
    net(&host, &declared.down());
    assert!(net(&host, &declared.down()).contains("already down"));
    assert_eq!(picture(&host), before);
}

#[test]
fn what_others_made_stays_and_a_failed_up_is_undone() {
    if !support::has("nft") {
        return;
    }
    let Some(host) = Namespace::new("others") else { return };
    let declared = Declared::new(DECLARED);
    host.run("nft add table inet theirs");
    let before = picture(&host);

    // The last step fails: this host's switches can't be written.
    let mount = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$0\" \"$@\"";
    let mut command = host.command("unshare");
    command.args(["-m", "sh", "-c", mount, FERRO, "net"]).args(declared.up().split(' '));
    let output = command.output().expect("ip is there");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("ip_forward"), "{complaint}");
    assert_eq!(picture(&host), before, "what was done before it is undone");

    let mut command = host.command("env");
    command.args(["PATH=/nonexistent", FERRO, "net"]).args(declared.up().split(' '));
    let output = command.output().expect("ip is there");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("install nftables"), "{complaint}");
    assert_eq!(picture(&host), before);

    host.run("ip link add ferro-lan type bridge");
    let before = picture(&host);
    let complaint = refused(&host, &declared.up());
    assert!(complaint.contains("ferro-lan") && complaint.contains("in the way"), "{complaint}");
    assert_eq!(picture(&host), before);
    host.run("ip link delete ferro-lan");

    // Somebody takes a part away, and switches forwarding on for himself before.
    std::fs::remove_dir_all(declared.folder.path().join("state")).unwrap();
    net(&host, "forward on");
    let before = picture(&host);
    net(&host, &declared.up());
    host.run("nft flush chain inet ferro segments");
    let status = net(&host, &format!("status {}", declared.state()));
    assert!(status.contains("missing or changed"), "{status}");
    assert!(net(&host, &declared.up()).contains("firewall"), "it is made again");
    assert!(net(&host, &declared.up()).contains("already up"));
    net(&host, &declared.down());
    assert_eq!(picture(&host), before, "forwarding was on before, and is");
}
