//! `bench net`: DNS and DHCP of segments beside dnsmasq, a guest's network beside QEMU's TCG. Everything is in network
//! namespaces made for it.

mod dhcp;
mod guest;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Subcommand;

use super::guest::{GuestArgs, Machine, median, show};
use crate::packages;
use crate::process::{command, output, run as process};

/// Which part.
#[derive(clap::Args)]
pub(super) struct NetArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Queries a second for hosts of a segment and for names that are kept, by dnsperf
    Dns(GuestArgs),
    /// Addresses given a second, and renewed a second
    Dhcp(GuestArgs),
    /// A guest's throughput and packets a second over a TAP interface
    Tap(GuestArgs),
    /// The same over user networking
    User(GuestArgs),
    /// Asks for addresses, as many as it can: started by `dhcp` in a namespace
    #[command(hide = true)]
    DhcpLoad(dhcp::LoadArgs),
}

/// Runs it.
pub(super) fn run(args: &NetArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Dns(args) => dns(args),
        What::Dhcp(args) => dhcp::run(args),
        What::Tap(args) => guest::run(args, guest::Kind::Tap),
        What::User(args) => guest::run(args, guest::Kind::User),
        What::DhcpLoad(args) => dhcp::load(args),
    }
}

/// A server's and a client's machine with a cable between them; both go when dropped.
struct Pair {
    host: String,
    client: String,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

const SUBNET: &str = "10.55.0.0/16";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 55, 0, 1);

impl Pair {
    /// `bridged`: the host's end is to be plugged into a bridge that is made later.
    fn new() -> anyhow::Result<Self> {
        let id = std::process::id();
        let pair = Self {
            host: format!("bench-host-{id}"),
            client: format!("bench-client-{id}"),
            folder: tempfile::tempdir()?,
            running: vec![],
        };
        for name in [&pair.host, &pair.client] {
            process(command("ip").args(["netns", "add", name]))?;
            process(command("ip").args(["-n", name, "link", "set", "lo", "up"]))?;
        }
        let line = format!("-n {} link add cable type veth peer name eth0 netns {}", pair.host, pair.client);
        process(command("ip").args(line.split(' ')))?;
        pair.ip(&pair.client, "link set eth0 up")?;
        pair.ip(&pair.host, "link set cable up")?;
        Ok(pair)
    }

    fn ip(&self, machine: &str, line: &str) -> anyhow::Result<()> {
        process(command("ip").args(["-n", machine]).args(line.split(' ')))
    }

    fn command(machine: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = command("ip");
        command.args(["netns", "exec", machine]).arg(program);
        command
    }

    /// Brings our segment up, with names and addresses.
    fn ferro(&mut self, ferro: &Path) -> anyhow::Result<()> {
        let text = format!(
            "upstreams = [\"10.55.255.254\"]\n[[segment]]\nname = \"bench\"\nsubnet = \"{SUBNET}\"\ngateway = \"{GATEWAY}\"\n\
             domain = \"bench.example\"\nnat = true\ndhcp = \"10.55.64.0-10.55.191.255\"\n{}",
            hosts().map(|(name, address)| format!(
                "[[segment.reservation]]\nmac = \"02:00:00:00:{:02x}:{:02x}\"\naddress = \"{address}\"\nname = \"{name}\"\n",
                address.octets()[2], address.octets()[3]
            )).collect::<String>()
        );
        let file = self.folder.path().join("segments.toml");
        std::fs::write(&file, text)?;
        let mut up = Self::command(&self.host, ferro);
        process(up.args(["net", "up"]).arg(file).arg("--state").arg(self.folder.path()).stdout(Stdio::null()))?;
        self.ip(&self.host, "link set cable master ferro-bench")
    }

    /// dnsmasq with the same.
    fn dnsmasq(&mut self) -> anyhow::Result<()> {
        self.ip(&self.host, "link add bench type bridge")?;
        self.ip(&self.host, &format!("address add {GATEWAY}/16 dev bench"))?;
        self.ip(&self.host, "link set bench up")?;
        self.ip(&self.host, "link set cable master bench")?;
        let hosts: String = hosts().map(|(name, address)| format!("{address} {name}.bench.example\n")).collect();
        let file = self.folder.path().join("hosts");
        std::fs::write(&file, hosts)?;
        let mut dnsmasq = Self::command(&self.host, "dnsmasq");
        dnsmasq.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--server=10.55.255.254"]);
        dnsmasq.args([
            "--domain=bench.example",
            "--local=/bench.example/",
            "--cache-size=4096",
            "--dns-forward-max=1000",
        ]);
        dnsmasq.args(["--dhcp-range=10.55.64.0,10.55.127.255,255.255.0.0,1h", "--dhcp-lease-max=100000", "--no-ping"]);
        dnsmasq.arg("--quiet-dhcp").arg(format!("--addn-hosts={}", file.display()));
        dnsmasq.arg(format!("--dhcp-leasefile={}", self.folder.path().join("leases").display()));
        self.running.push(dnsmasq.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start dnsmasq")?);
        Ok(())
    }

    /// Gives the client an address and waits until its questions are answered.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.ip(&self.client, "address add 10.55.255.254/16 dev eth0")?;
        // It is the other server too, for names that aren't known there.
        let mut other = Self::command(&self.client, "dnsmasq");
        other.args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--address=/example.org/192.0.2.7",
        ]);
        other.args(["--local-ttl=3600"]);
        self.running.push(other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start dnsmasq")?);
        for _ in 0..100 {
            let mut dig = Self::command(&self.client, "dig");
            dig.args(["+short", "+time=1", "+tries=1", &format!("@{GATEWAY}"), "www.example.org"]);
            if output(&mut dig).is_ok_and(|told| told.trim() == "192.0.2.7") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("the name server doesn't answer")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Ok(process) = std::fs::read_to_string(self.folder.path().join("services.lock")) {
            let _ = Command::new("kill").arg(process.trim()).status();
        }
        for name in [&self.host, &self.client] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// Hosts that have names.
fn hosts() -> impl Iterator<Item = (String, Ipv4Addr)> {
    (1..200_u8).map(|number| (format!("host{number}"), Ipv4Addr::new(10, 55, 1, number)))
}

fn dns(args: &GuestArgs) -> anyhow::Result<()> {
    packages::ensure(packages::ALL)?;
    let machine = Machine::prepare()?;
    let local: String = hosts().map(|(name, _)| format!("{name}.bench.example A\n")).collect();
    let kept: String = (1..200).map(|number| format!("n{number}.example.org A\n")).collect();
    let mut table = String::from("| what | ferro | dnsmasq | ferro's / dnsmasq's |\n|---|---|---|---|\n");
    for (what, questions) in [("a segment's hosts", local), ("names that are kept", kept)] {
        let mut sides = [vec![], vec![]];
        for round in 0..=args.runs {
            for (side, rates) in sides.iter_mut().enumerate() {
                let mut pair = Pair::new()?;
                if side == 0 {
                    pair.ferro(&machine.ferro)?;
                } else {
                    pair.dnsmasq()?;
                }
                pair.settle()?;
                let file = pair.folder.path().join("questions");
                std::fs::write(&file, &questions)?;
                let ask = |seconds: &str| -> anyhow::Result<f64> {
                    let mut dnsperf = Pair::command(&pair.client, "dnsperf");
                    dnsperf.args(["-s", &GATEWAY.to_string(), "-l", seconds, "-c", "4", "-q", "200", "-d"]).arg(&file);
                    let told = output(&mut dnsperf)?;
                    let number = |word: &str| {
                        let line = told.lines().find_map(|line| line.trim().strip_prefix(word));
                        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
                            .with_context(|| format!("no {word} in {told}"))
                    };
                    ensure!(told.contains("NOERROR"), "no answers: {told}");
                    number("Queries per second:")
                };
                ask("1")?;
                let rate = ask("3")?;
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        let [ours, theirs] = sides.map(median);
        table += &format!("| {what}, queries a second | {ours:.0} | {theirs:.0} | {:.2} |\n", ours / theirs);
    }
    show(&table, args.markdown.as_deref())
}
