//! DHCP and DNS of segments, and what ports let pass: real clients and guests in network namespaces of the tests' own.
//! Needs root.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Namespace, Vm, guest, output};

const FERRO: &str = env!("CARGO_BIN_EXE_ferro");

const SEGMENTS: &str = r#"
rules = ["lan -> dmz tcp 80", "lan -> internet any"]
upstreams = ["192.0.2.2"]

[[segment]]
name = "dmz"
subnet = "10.1.0.0/24"
domain = "dmz.example.it"
dhcp = "10.1.0.100-10.1.0.101"
[[segment.reservation]]
vm = "web"
address = "10.1.0.10"

[[segment]]
name = "lan"
subnet = "10.2.0.0/24"
domain = "lan.example.it"
dhcp = "10.2.0.100-10.2.0.199"
routes = ["10.88.0.0/16 via 10.2.0.9"]
ntp = ["10.2.0.1"]
nat = true
"#;

/// What clients do with an address: they take it, and say what else they were told.
const SCRIPT: &str = r#"#!/bin/sh
[ -n "$ip" ] && ip address replace "$ip/$mask" dev "$interface" && ip route replace default via "$router"
[ -n "$new_ip_address" ] && ip address replace "$new_ip_address/24" dev "$interface" &&
    ip route replace default via "$new_routers"
env | grep -E '^(ip|domain|hostname|dns|router|new_.*)='
exit 0
"#;

/// A host with segments.
struct Host {
    namespace: Namespace,
    folder: tempfile::TempDir,
}

impl Host {
    fn new(name: &str) -> Option<Self> {
        if !support::has("nft") {
            return None;
        }
        let namespace = Namespace::new(name)?;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, SCRIPT).unwrap();
        output(Command::new("chmod").arg("755").arg(script));
        namespace.run("ip link set lo up");
        let host = Self { namespace, folder };
        host.declare(SEGMENTS);
        Some(host)
    }

    fn declare(&self, text: &str) {
        std::fs::write(self.file("segments.toml"), text).unwrap();
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// `ferro net` with these words.
    fn net(&self, line: &str) -> Command {
        let mut command = self.namespace.command(FERRO);
        command.arg("net").args(line.split(' ')).arg("--state").arg(self.file("state"));
        command
    }

    fn up(&self) -> String {
        output(&mut self.net(&format!("up {}", self.file("segments.toml"))))
    }

    fn refused(&self, mut command: Command) -> String {
        let output = command.output().expect("ip is there");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A machine on a segment: a namespace with `eth0`.
    fn member(&self, name: &str, segment: &str) -> Namespace {
        let machine = Namespace::new(name).expect("the host's namespace could be made");
        self.namespace.run(&format!("ip link add v-{name} type veth peer name eth0 netns {}", machine.name()));
        self.namespace.run(&format!("ip link set v-{name} up master ferro-{segment}"));
        machine.run("ip link set lo up");
        machine.run("ip link set eth0 up");
        machine
    }

    fn leases(&self) -> Vec<Value> {
        let told = output(&mut self.net("leases --output json"));
        serde_json::from_str::<Vec<Value>>(&told).unwrap()
    }

    /// busybox's client; what its script said, or none if it got nothing.
    fn udhcpc(&self, machine: &Namespace, name: &str, retries: u32) -> Option<String> {
        let mut command = machine.command("udhcpc");
        let (retries, name) = (retries.to_string(), format!("hostname:{name}"));
        command.args(["-i", "eth0", "-n", "-q", "-T", "1", "-t", &retries, "-x", &name, "-s", &self.file("script")]);
        let output = command.output().expect("ip is there");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn dhclient(&self, machine: &Namespace, flag: &str) -> String {
        let mut command = machine.command("dhclient");
        command.args([flag, "-1", "-lf", &self.file("dhclient.leases"), "-pf", &self.file("dhclient.pid")]);
        output(command.args(["-sf", &self.file("script"), "eth0"]))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed leaves a process behind otherwise.
        if let Ok(process) = std::fs::read_to_string(self.file("state/services.lock")) {
            let _ = Command::new("kill").arg(process.trim()).stderr(Stdio::null()).status();
        }
    }
}

/// What dig prints for a question, in short or with its code.
fn dig(machine: &Namespace, words: &str) -> String {
    let mut command = machine.command("dig");
    let output = command.args(["+time=5", "+tries=2"]).args(words.split(' ')).output().expect("ip is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn clients_get_addresses_names_and_routes_and_keep_them() {
    if !["udhcpc", "dhclient", "dig"].iter().all(|program| support::has(program)) {
        return;
    }
    let Some(host) = Host::new("services") else { return };
    assert!(host.up().contains("+ DHCP and DNS for dmz, lan"));
    assert!(host.up().contains("already up"));

    let (desk, shelf) = (host.member("desk", "dmz"), host.member("shelf", "lan"));
    let told = host.udhcpc(&desk, "desk", 5).expect("an address is free");
    for line in ["ip=10.1.0.100", "router=10.1.0.1", "dns=10.1.0.1", "domain=dmz.example.it"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let told = host.dhclient(&shelf, "-v");
    for line in [
        "new_ip_address=10.2.0.100",
        "new_rfc3442_classless_static_routes=16 10 88 10 2 0 9 0 10 2 0 1",
        "new_ntp_servers=10.2.0.1",
        "new_dhcp_lease_time=3600",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }

    // By name and backwards, by UDP and TCP, and only where the rules let one pass.
    assert_eq!(dig(&shelf, "+short @10.2.0.1 desk.dmz.example.it"), "10.1.0.100");
    assert_eq!(dig(&shelf, "+short +tcp @10.2.0.1 -x 10.1.0.100"), "desk.dmz.example.it.");
    assert_eq!(dig(&shelf, "+short @10.2.0.1 web.dmz.example.it"), "10.1.0.10", "reserved, though it never asked");
    assert_eq!(dig(&desk, "+short @10.1.0.1 desk"), "10.1.0.100");
    assert!(dig(&desk, "@10.1.0.1 gateway.lan.example.it").contains("REFUSED"));
    assert!(dig(&desk, "@10.1.0.1 www.example.org").contains("REFUSED"));

    // What isn't known here is asked elsewhere, for those who may leave.
    let internet = Namespace::new("upstream").unwrap();
    host.namespace.run(&format!("ip link add v-out type veth peer name eth0 netns {}", internet.name()));
    host.namespace.run("ip address add 192.0.2.1/24 dev v-out");
    host.namespace.run("ip link set v-out up");
    internet.run("ip address add 192.0.2.2/24 dev eth0");
    internet.run("ip link set eth0 up");
    internet.run("ip link set lo up");
    if support::has("dnsmasq") {
        let mut dnsmasq = internet.command("dnsmasq");
        dnsmasq.args(["--no-daemon", "--no-resolv", "--no-hosts", "--port=53", "--conf-file=/dev/null"]);
        dnsmasq.args(["--address=/www.example.org/198.51.100.7", "--txt-record=big.example.org"]);
        let big = "x".repeat(250);
        dnsmasq.arg(format!("--txt-record=long.example.org,{big},{big},{big},{big},{big}"));
        let _server = Process(dnsmasq.stderr(Stdio::null()).spawn().expect("ip is there"));
        let answered = (0..50).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            dig(&internet, "+short @127.0.0.1 www.example.org") == "198.51.100.7"
        });
        assert!(answered, "dnsmasq starts");
        assert_eq!(dig(&shelf, "+short @10.2.0.1 www.example.org"), "198.51.100.7");
        assert!(dig(&shelf, "+short @10.2.0.1 long.example.org TXT").len() > 1250, "by TCP, as UDP is too short");
    }

    // Killed, it knows all of it again.
    let process = std::fs::read_to_string(host.file("state/services.lock")).unwrap();
    host.namespace.run(&format!("kill -9 {}", process.trim()));
    let again = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        host.up().contains("+ DHCP and DNS")
    });
    assert!(again, "it is started again when it is gone");
    assert_eq!(dig(&shelf, "+short @10.2.0.1 desk.dmz.example.it"), "10.1.0.100");
    assert!(host.udhcpc(&desk, "desk", 5).unwrap().contains("ip=10.1.0.100"));

    // Two addresses for three machines.
    let (second, third) = (host.member("second", "dmz"), host.member("third", "dmz"));
    assert!(host.udhcpc(&second, "second", 5).unwrap().contains("ip=10.1.0.101"));
    assert_eq!(host.udhcpc(&third, "third", 2), None);
    let log = std::fs::read_to_string(host.file("state/services.log")).unwrap();
    assert!(log.contains("no address is left"), "{log}");

    assert_eq!(host.leases().len(), 3);
    host.dhclient(&shelf, "-r");
    let told = (0..50).find(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        host.leases().len() == 2
    });
    assert!(told.is_some(), "what was given back isn't held: {:?}", host.leases());
    for name in ["desk", "shelf", "second", "third", "out"] {
        host.namespace.run(&format!("ip link delete v-{name}"));
    }
    output(&mut host.net("down"));
    let left = host.namespace.command("ip").args(["-o", "link"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout).lines().count(), 1, "lo alone");
}

#[test]
fn what_is_in_the_way_of_services_is_said_and_nothing_stays() {
    let Some(host) = Host::new("inthe") else { return };
    // Another DHCP server, on the cable that is to be the uplink.
    let other = Host::new("foreign").unwrap();
    other.declare("[[segment]]\nname = \"theirs\"\nsubnet = \"10.9.0.0/24\"\ndhcp = \"10.9.0.5-10.9.0.9\"");
    other.up();
    host.namespace.run(&format!("ip link add eth1 type veth peer name eth1 netns {}", other.namespace.name()));
    other.namespace.run("ip link set eth1 up master ferro-theirs");
    let uplink =
        "[[segment]]\nname = \"lan\"\nsubnet = \"10.2.0.0/24\"\ndhcp = \"10.2.0.5-10.2.0.9\"\nuplink = \"eth1\"";
    host.declare(uplink);
    let up = host.net(&format!("up {}", host.file("segments.toml")));
    let complaint = host.refused(up);
    assert!(complaint.contains("10.9.0.1") && complaint.contains("eth1"), "{complaint}");
    let links = output(host.namespace.command("ip").args(["-o", "link"]));
    assert!(!links.contains("ferro-lan") && !links.contains("master"), "{links}");
    assert_eq!(output(host.namespace.command("nft").args(["list", "ruleset"])), "");
    // Without it, the same goes; an uplink leaves the bridge again as it was.
    output(&mut other.net("down --dry-run"));
    other.namespace.run("ip link set eth1 nomaster");
    assert!(host.up().contains("+ eth1 in bridge ferro-lan"));
    output(&mut host.net("down"));
    let links = output(host.namespace.command("ip").args(["-o", "link"]));
    assert!(links.contains("eth1") && !links.contains("master"), "{links}");

    // A name server that has all addresses.
    if support::has("dnsmasq") {
        host.declare(SEGMENTS);
        let mut dnsmasq = host.namespace.command("dnsmasq");
        dnsmasq.args(["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]);
        let _server = Process(dnsmasq.stderr(Stdio::null()).spawn().expect("ip is there"));
        std::thread::sleep(std::time::Duration::from_millis(500));
        let complaint = host.refused(host.net(&format!("up {}", host.file("segments.toml"))));
        assert!(complaint.contains("port 53 of 10.1.0.1"), "{complaint}");
        assert!(!output(host.namespace.command("ip").args(["-o", "link"])).contains("ferro-dmz"));
    }

    // A port needs its segment, and a user without rights somebody who makes it.
    let complaint = host.refused(host.net("port add web --segment dmz"));
    assert!(complaint.contains("there is no segment dmz up"), "{complaint}");
    let mut run = host.namespace.command(FERRO);
    run.args(["run", "--kernel", "/dev/null", "--net", "segment=dmz", "--segments", &host.file("state")]);
    assert!(host.refused(run).contains("there is no segment dmz up"));
}

#[test]
fn ports_outlive_their_making_and_go_when_told() {
    let Some(host) = Host::new("ports") else { return };
    host.up();
    assert!(output(&mut host.net("port add web --segment dmz --owner nobody")).contains("fv-web-0: added"));
    assert!(output(&mut host.net("port add web --segment dmz --owner nobody")).contains("already there"));
    let listed: Value = serde_json::from_str(&output(&mut host.net("port list --output json"))).unwrap();
    assert_eq!((&listed[0]["vm"], &listed[0]["segment"]), (&"web".into(), &"dmz".into()));
    let rules = output(host.namespace.command("nft").args(["list", "table", "bridge", "ferro"]));
    assert!(rules.contains("\"fv-web-0\" . 10.1.0.10"), "the reserved address passes: {rules}");
    let complaint = host.refused(host.net("down"));
    assert!(complaint.contains("still has fv-web-0"), "{complaint}");
    assert!(output(&mut host.net("port delete web")).contains("deleted"));
    assert!(output(&mut host.net("port delete web")).contains("already gone"));
    output(&mut host.net("down"));
    assert_eq!(output(host.namespace.command("nft").args(["list", "ruleset"])), "");
}

/// Boots a guest on a segment, which does what the script says once it has its address.
fn boot(host: &Host, name: &str, segment: &str, script: &str) -> Option<Vm> {
    let (kernel, initrd) = (guest("vmlinuz-cloud-amd64")?, guest("initrd-cloud-amd64.gz")?);
    let mut command = host.namespace.command(FERRO);
    command.args(["run", "--accel", "soft", "--serial", "stdio", "--memory", "256M", "--name", name]);
    command.args(["--net", &format!("segment={segment}"), "--segments", &host.file("state")]);
    command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    let lease = "printf '#!/bin/sh\\n[ -n \"$ip\" ] && ip addr replace $ip/$mask dev eth0 && ip route replace default via \
         $router && echo $dns >/dns && echo GOT $ip $hostname $domain' >/dhcp;\
         chmod 755 /dhcp;ip link set lo up;ip link set eth0 up;udhcpc -i eth0 -n -q -t 10 -s /dhcp;";
    let script = format!("{lease}{script}").replace(' ', "+");
    let append = format!("console=ttyS0 quiet ferro.modules=virtio_pci,virtio_net ferro.run={script}");
    command.args(["--append", &append]);
    Some(Vm::start(command))
}

#[test]
fn guests_reach_each_other_by_name_where_the_rules_let_them_and_never_under_anothers_address() {
    let Some(host) = Host::new("guests") else { return };
    host.up();
    let internet = host.member("internet", "dmz");
    // It is no member: a network outside, behind a cable of its own.
    host.namespace.run("ip link set v-internet nomaster");
    host.namespace.run("ip address add 192.0.2.1/24 dev v-internet");
    internet.run("ip address add 192.0.2.2/24 dev eth0");
    std::fs::write(host.file("page"), "from outside").unwrap();
    let mut server = internet.command("busybox");
    server.args(["httpd", "-f", "-p", "80", "-h"]).arg(host.folder.path());
    let _server = Process(server.spawn().expect("ip is there"));

    let serve = "mkdir /www;echo from-web >/www/page;httpd -p 80 -h /www;httpd -p 8080 -h /www;echo SERVING;sleep 9999";
    let Some(mut web) = boot(&host, "web", "dmz", serve) else { return };
    web.expect_line("GOT 10.1.0.10 web dmz.example.it");
    web.expect("SERVING");
    // busybox has a client of its own for names; its others crash at them, linked as they are.
    let script = "WEB=$(nslookup -type=a web.dmz.example.it $(cat /dns)|tail -n 2|grep Address|sed 's/.*: *//');echo N$WEB;\
         echo A$(wget -q -O - http://$WEB:80/page)A;\
         timeout 4 wget -q -O - http://$WEB:8080/page||echo REFUSED;\
         echo B$(wget -q -O - http://192.0.2.2:80/page)B;\
         ping -c 1 -w 20 10.2.0.1 >/dev/null && echo PING-OWN;\
         ip addr add 10.2.0.77/24 dev eth0;ping -c 1 -w 3 -I 10.2.0.77 10.2.0.1 >/dev/null||echo NO-PING-OTHER;\
         ip link set eth0 down;ip link set eth0 address 52:54:00:00:00:01;ip link set eth0 up;\
         ping -c 1 -w 3 10.2.0.1 >/dev/null||echo NO-PING-CARD";
    let (status, printed) = boot(&host, "desk", "lan", script).unwrap().finish();
    assert!(status.success(), "{printed}");
    for expected in [
        "GOT 10.2.0.100 desk lan.example.it",
        "Afrom-webA",
        "REFUSED",
        "Bfrom outsideB",
        "PING-OWN",
        "NO-PING-OTHER",
        "NO-PING-CARD",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let links = output(host.namespace.command("ip").args(["-o", "link"]));
    assert!(!links.contains("fv-desk") && links.contains("fv-web-0"), "a port goes with its VM: {links}");
    web.kill();
    host.namespace.run("ip link delete v-internet");
    output(&mut host.net("down"));
    assert_eq!(output(host.namespace.command("ip").args(["-o", "link"])).lines().count(), 1, "lo alone");
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_user_without_rights_plugs_into_a_port_made_for_him() {
    let Some(host) = Host::new("user") else { return };
    let Some(kernel) = guest("vmlinuz-cloud-amd64") else { return };
    host.up();
    let run = |name: &str| {
        let mut command = host.namespace.command("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", FERRO, "run", "--accel", "soft"]);
        command.args(["--name", name, "--net", "segment=dmz", "--segments", &host.file("state"), "--no-reboot"]);
        command.arg("--kernel").arg(&kernel).args(["--append", "console=ttyS0 panic=-1", "--serial", "none"]);
        command
    };
    // Others may look.
    output(Command::new("chmod").args(["-R", "a+rX"]).arg(host.folder.path()));
    let tun = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata("/dev/net/tun").unwrap());
    if tun & 0o006 != 0o006 || !readable(&kernel) || !readable(Path::new(FERRO)) {
        println!("skipped: /dev/net/tun or the guest isn't there for other users");
        return;
    }
    let complaint = host.refused(run("web"));
    assert!(complaint.contains("ferro net port add web --segment dmz"), "{complaint}");
    output(&mut host.net("port add web --segment dmz --owner nobody"));
    // Without a root file system the kernel panics, which ends the VM: it has run.
    assert!(run("web").status().expect("ip is there").success());
    let links = output(host.namespace.command("ip").args(["-o", "link"]));
    assert!(links.contains("fv-web-0"), "it was made to stay: {links}");
    output(&mut host.net("port delete web"));
    output(&mut host.net("down"));
}

fn readable(file: &Path) -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "head", "-c", "1"]);
    command.arg(file).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
