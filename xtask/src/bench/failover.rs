//! `bench failover`: how long a floating address is away when the cables of the machine that has it are cut, beside
//! keepalived at the same interval. A client on the lan pings it every two milliseconds; what is measured is from the cut to
//! the first answer that comes from the other machine.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use ferro_lab::Lab;

use super::guest::{GuestArgs, Machine, median};
use crate::packages;

const ADDRESS: &str = "192.168.1.1";

/// Runs it.
pub(crate) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    packages::ensure(packages::ALL)?;
    let machine = Machine::prepare()?;
    println!("{:<12} {:>12} {:>12} {:>7}", "keepalive", "ferro", "keepalived", "ratio");
    for keepalive in [50, 200, 1000] {
        let keepalive = Duration::from_millis(keepalive);
        let ours = (0..args.runs).map(|_| ferro(&machine.ferro, keepalive)).collect::<anyhow::Result<Vec<_>>>()?;
        let peer = (0..args.runs).map(|_| keepalived(&machine.ferro, keepalive)).collect::<anyhow::Result<Vec<_>>>()?;
        let (ours, peer) = (median(ours), median(peer));
        println!("{:<12} {ours:>9.0} ms {peer:>9.0} ms {:>7.2}", format!("{keepalive:?}"), ours / peer);
    }
    Ok(())
}

/// A process that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pair of nodes with a witness; `deadtime` is three intervals, as with VRRP.
fn ferro(program: &Path, keepalive: Duration) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut lab = Lab::new(program, folder.path())?;
    let secret = "head -c 32 /dev/urandom | base64 > secret && chmod 600 secret && mkdir witness";
    crate::process::run(Command::new("sh").args(["-c", secret]).current_dir(folder.path()))?;
    for (node, number, own, peer) in [("alpha", 0, 2, 3), ("beta", 1, 3, 2)] {
        let text = format!(
            "name = \"{node}\"\nstate = \"{node}/state\"\nrun = \"{node}/run\"\n[cluster]\nname = \"pair\"\nnode = {number}\n\
             secret-file = \"secret\"\nkeepalive = \"{}ms\"\ndeadtime = \"{}ms\"\ninitdead = \"20s\"\narbiter = \"witness\"\n\
             witness = \"192.168.1.9:7790\"\n[[cluster.link]]\nlisten = \"192.168.1.{own}:694\"\npeer = \"192.168.1.{peer}:694\"\n",
            keepalive.as_millis(),
            keepalive.as_millis() * 3
        );
        std::fs::write(folder.path().join(format!("{node}.toml")), text)?;
    }
    std::fs::write(
        folder.path().join("witness.toml"),
        "listen = \"192.168.1.9:7790\"\nstate = \"witness/witness.json\"\n[[pair]]\nname = \"pair\"\nsecret-file = \"secret\"\n",
    )?;
    let infra = format!("name = \"bench\"\n[[address]]\naddress = \"{ADDRESS}/24\"\ninterface = \"eth0\"\n");
    std::fs::write(folder.path().join("infra.toml"), infra)?;
    lab.spawn("witness", "witness", "witness --config witness.toml")?;
    for node in ["alpha", "beta"] {
        lab.start_node(node)?;
    }
    for node in ["alpha", "beta"] {
        lab.ferro(node, &format!("up infra.toml --socket {node}/run/node.sock"))?;
    }
    lab.until("alpha has the address", |lab| lab.is_active("alpha"))?;
    measure(&lab)
}

/// Two keepalived, of which alpha's has the higher priority.
fn keepalived(program: &Path, keepalive: Duration) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let lab = Lab::new(program, folder.path())?;
    let mut running = vec![];
    for (node, state, priority) in [("alpha", "MASTER", 200), ("beta", "BACKUP", 100)] {
        let text = format!(
            "global_defs {{\n router_id {node}\n vrrp_version 3\n}}\nvrrp_instance bench {{\n state {state}\n interface eth0\n\
             virtual_router_id 51\n priority {priority}\n advert_int {}\n virtual_ipaddress {{\n {ADDRESS}/24\n }}\n}}\n",
            keepalive.as_secs_f64()
        );
        let file = folder.path().join(format!("{node}.conf"));
        std::fs::write(&file, text)?;
        let mut command = lab.command(node, "keepalived");
        command.args(["--dont-fork", "--vrrp", "--use-file"]).arg(&file);
        command.arg("--pid").arg(folder.path().join(format!("{node}.pid")));
        command.arg("--vrrp_pid").arg(folder.path().join(format!("{node}-vrrp.pid")));
        running.push(Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("keepalived")?));
    }
    lab.until("alpha has the address", |lab| {
        let told = ferro_lab::output(lab.command("alpha", "ip").args(["-o", "address", "show", "dev", "eth0"]));
        told.is_ok_and(|told| told.contains(ADDRESS))
    })?;
    // VRRP's start sends bursts; both are then in their steady state.
    std::thread::sleep(keepalive * 5);
    measure(&lab)
}

/// Cuts alpha's cables and waits for an answer; milliseconds.
fn measure(lab: &Lab) -> anyhow::Result<f64> {
    let mut ping = lab.command("lan", "ping");
    ping.args(["-D", "-n", "-i", "0.002", ADDRESS]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut ping = Running(ping.spawn().context("ping")?);
    let output = ping.0.stdout.take().context("ping has an output")?;
    let (sender, answers) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let stamp = line.strip_prefix('[').and_then(|rest| rest.split(']').next()?.parse::<f64>().ok());
            if let Some(stamp) = stamp.filter(|_| line.contains("bytes from"))
                && sender.send(stamp).is_err()
            {
                return;
            }
        }
    });
    answers.recv_timeout(Duration::from_secs(20)).context("the address doesn't answer before the cut")?;
    std::thread::sleep(Duration::from_millis(500));
    lab.cables("alpha", false)?;
    let cut = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    // What was on its way at the cut still arrives.
    let settled = cut + 0.01;
    loop {
        match answers.recv_timeout(Duration::from_secs(60)) {
            Ok(stamp) if stamp > settled => return Ok((stamp - cut) * 1000.0),
            Ok(_) => {}
            Err(_) => bail!("the address doesn't answer again"),
        }
    }
}
