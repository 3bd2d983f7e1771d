//! `bench net tap` and `bench net user`: what a Debian guest gets through its card, on the software CPU beside QEMU's TCG,
//! with the same kernel and programs. The guest times itself.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::bench::guest::{GuestArgs, Machine, Measured, measured, median, show};
use crate::process::{command, output, run as process, target};

/// Bytes fetched.
const LEN: u64 = 48 << 20;

/// What the card is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tap,
    User,
}

/// The other end: a web server, in a namespace with a TAP interface where that is measured.
struct Peer {
    namespace: Option<String>,
    running: Vec<Child>,
}

impl Peer {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        let folder = target().join("bench-net");
        std::fs::create_dir_all(&folder)?;
        let bytes: Vec<u8> = (0..LEN).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8).collect();
        std::fs::write(folder.join("data"), bytes)?;
        let namespace = (kind == Kind::Tap).then(|| format!("bench-tap-{}", std::process::id()));
        let mut peer = Self { namespace, running: vec![] };
        if let Some(name) = &peer.namespace {
            process(command("ip").args(["netns", "add", name]))?;
            for line in [
                "link set lo up",
                "tuntap add tap0 mode tap vnet_hdr",
                "address add 10.56.0.1/24 dev tap0",
                "link set tap0 up",
            ] {
                process(command("ip").args(["-n", name]).args(line.split(' ')))?;
            }
        }
        let mut server = peer.command("busybox");
        server.args(["httpd", "-f", "-p", "18080", "-h"]).arg(&folder).stdin(Stdio::null()).stdout(Stdio::null());
        peer.running.push(server.spawn().context("start a web server")?);
        std::thread::sleep(Duration::from_millis(200));
        Ok(peer)
    }

    fn command(&self, program: &str) -> std::process::Command {
        match &self.namespace {
            Some(name) => {
                let mut inside = command("ip");
                inside.args(["netns", "exec", name, program]);
                inside
            }
            None => command(program),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(name) = &self.namespace {
            let _ = std::process::Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

pub(super) fn run(args: &GuestArgs, kind: Kind) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let peer = Peer::new(kind)?;
    let (own, gateway) = match kind {
        Kind::Tap => ("10.56.0.2", "10.56.0.1"),
        Kind::User => ("10.0.2.15", "10.0.2.2"),
    };
    let fetch = format!("http://{gateway}:18080/data");
    let script = format!(
        "modprobe virtio_pci;modprobe virtio_net;ip link set lo up;ip addr add {own}/24 dev eth0;ip link set eth0 up;\
         wget -q -O /dev/null {fetch};measure-net fetch {gateway} 18080 {LEN};measure-net packets {gateway} 18082 20000;\
         measure-net ping {gateway} 18080 200"
    );
    let append = format!("console=ttyS0 quiet ferro.run={}", script.replace(' ', "+"));
    let guest = |program: &str, flags: &[&str]| -> anyhow::Result<Measured> {
        let mut vm = peer.command(program);
        vm.args(flags);
        let long = if flags.first() == Some(&"run") { "--" } else { "-" };
        vm.arg(format!("{long}kernel")).arg(machine.guests.join("vmlinuz-cloud-amd64"));
        vm.arg(format!("{long}initrd")).arg(machine.guests.join("initrd-cloud-amd64.gz"));
        vm.args([&format!("{long}append"), &append]);
        Ok(measured(&output(vm.stdin(Stdio::null()))?))
    };
    let ferro = machine.ferro.display().to_string();
    let (our_net, their_net) = match kind {
        Kind::Tap => ("tap=tap0", "tap,id=n,ifname=tap0,script=no,downscript=no"),
        Kind::User => ("user", "user,id=n"),
    };
    let mut sides: [Vec<Measured>; 2] = Default::default();
    for round in 0..=args.runs {
        let ours =
            guest(&ferro, &["run", "--accel", "soft", "--memory", "256M", "--serial", "stdio", "--net", our_net])?;
        let theirs = guest(
            "qemu-system-x86_64",
            &[
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "256",
                "-nographic",
                "-no-reboot",
                "-netdev",
                their_net,
                "-device",
                "virtio-net-pci,netdev=n",
            ],
        )?;
        if round > 0 {
            sides[0].push(ours);
            sides[1].push(theirs);
        }
    }
    let mut table = String::from("| what | ferro soft | QEMU TCG | ferro's / QEMU's |\n|---|---|---|---|\n");
    for (key, what, unit) in [
        ("fetch", "fetched, MiB a second", LEN as f64 / f64::from(1 << 20)),
        ("packets", "packets of 64 bytes sent, a second", 20_000.0),
        ("ping", "connections one after the other, a second", 200.0),
    ] {
        let rates = sides.each_ref().map(|runs| {
            let rate = |run: &Measured| Some(unit / (run.get(key)?.0 / 1e9));
            runs.iter().map(rate).collect::<Option<Vec<_>>>().map(median)
        });
        let [ours, theirs] = rates;
        let (ours, theirs) = (ours.with_context(|| format!("no {key}"))?, theirs.with_context(|| format!("no {key}"))?);
        table += &format!("| {what} | {ours:.0} | {theirs:.0} | {:.2} |\n", ours / theirs);
    }
    show(&table, args.markdown.as_deref())
}
