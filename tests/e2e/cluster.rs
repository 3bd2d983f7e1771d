//! A pair of nodes with a witness, in network namespaces, with a real VM on a mirrored disk: power cuts, cut cables, killed
//! daemons. Needs root.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use ferro_lab::{Lab, output};
use support::{guest, has, is_root};

const ADDRESS: &str = "192.168.1.1";
const NOTE: &str = "http://10.77.1.10/cgi-bin/note";

/// `None`, after saying so, where there can be no lab.
fn lab(folder: &Path) -> Option<Lab> {
    if !is_root() {
        println!("skipped: network namespaces need root");
        return None;
    }
    if !has("ip") || !has("busybox") || !has("nft") || !has("curl") {
        return None;
    }
    let secret = folder.join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    output(Command::new("chmod").arg("600").arg(&secret)).unwrap();
    std::fs::create_dir_all(folder.join("witness")).unwrap();
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/servabit");
    for file in ["alpha.toml", "beta.toml", "witness.toml"] {
        // Patient enough for a machine that runs other tests meanwhile.
        let text = std::fs::read_to_string(example.join(file)).unwrap();
        let text = text.replace("deadtime = \"1s\"", "deadtime = \"3s\"");
        std::fs::write(folder.join(file), text.replace("keepalive = \"100ms\"", "keepalive = \"200ms\"")).unwrap();
    }
    Some(Lab::new(Path::new(env!("CARGO_BIN_EXE_ferro")), folder).unwrap())
}

/// Starts witness and nodes and gives both the infrastructure.
fn begin(lab: &mut Lab, infra: &str) {
    std::fs::write(lab.folder.join("infra.toml"), infra).unwrap();
    lab.spawn("witness", "witness", "witness --config witness.toml").unwrap();
    for node in ["alpha", "beta"] {
        lab.start_node(node).unwrap();
    }
    for node in ["alpha", "beta"] {
        lab.ferro(node, &format!("up infra.toml --socket {node}/run/node.sock")).unwrap();
    }
}

fn has_address(lab: &Lab, node: &str) -> bool {
    let told = output(lab.command(node, "ip").args(["-o", "address", "show", "dev", "eth0"])).unwrap();
    told.contains(ADDRESS)
}

/// The daemon proper of a node.
fn worker(lab: &Lab, node: &str) -> String {
    let told = output(Command::new("ip").args(["netns", "pids", &lab.name(node)])).unwrap();
    let is_worker = |pid: &&str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"--worker")
    };
    told.split_whitespace().find(is_worker).expect("the daemon runs").to_owned()
}

const FLOATING: &str = "name = \"test\"\n[[address]]\naddress = \"192.168.1.1/24\"\ninterface = \"eth0\"\n";

#[test]
fn a_floating_address_is_held_once_and_survives_daemons_cables_and_the_witness() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut lab) = lab(folder.path()) else { return };
    begin(&mut lab, FLOATING);
    lab.until("alpha has the address", |lab| lab.is_active("alpha") && lab.answers(ADDRESS)).unwrap();
    assert!(!has_address(&lab, "beta"));

    // Files that differ are told of, files that are the same aren't.
    assert_eq!(lab.status("alpha").unwrap()["groups"][0]["differs"], false);
    std::fs::write(lab.folder.join("infra.toml"), format!("{FLOATING}[[hook]]\nprogram = \"/bin/true\"\n")).unwrap();
    lab.ferro("beta", "up infra.toml --socket beta/run/node.sock").unwrap();
    lab.until("it is told", |lab| lab.status("alpha").is_some_and(|s| s["groups"][0]["differs"] == true)).unwrap();
    std::fs::write(lab.folder.join("infra.toml"), FLOATING).unwrap();
    lab.ferro("beta", "up infra.toml --socket beta/run/node.sock").unwrap();
    lab.until("they are the same", |lab| lab.status("alpha").is_some_and(|s| s["groups"][0]["differs"] == false))
        .unwrap();

    // A daemon that is killed is back before anybody misses it, and goes on with what it finds.
    output(Command::new("kill").args(["-9", &worker(&lab, "alpha")])).unwrap();
    lab.until("the daemon is back", |lab| lab.is_active("alpha")).unwrap();
    assert!(has_address(&lab, "alpha") && !lab.is_active("beta"));
    let events = lab.ferro("alpha", "cluster events --socket alpha/run/node.sock").unwrap();
    assert!(events.contains("found running, adopted"), "{events}");

    // Without its witness the pair goes on: each has the other's word.
    lab.kill("witness");
    let epoch = |lab: &Lab, node: &str| lab.status(node).unwrap()["groups"][0]["epoch"].clone();
    let before = epoch(&lab, "alpha");
    // Longer than any lease.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(lab.is_active("alpha") && epoch(&lab, "alpha") == before);
    // A move needs no witness either.
    lab.until("the move is accepted", |lab| {
        lab.ferro("beta", "cluster move --to 1 --socket beta/run/node.sock").is_ok()
    })
    .unwrap();
    lab.until("beta has it", |lab| lab.is_active("beta") && lab.answers(ADDRESS)).unwrap();
    assert!(!has_address(&lab, "alpha"));

    // Without witness and peer nobody may run it.
    lab.cables("beta", false).unwrap();
    lab.until("beta lets go", |lab| !has_address(lab, "beta")).unwrap();
    assert!(!has_address(&lab, "alpha"));
    let why = lab.ferro("alpha", "cluster explain --socket alpha/run/node.sock").unwrap();
    lab.spawn("witness", "witness", "witness --config witness.toml").unwrap();
    lab.until("alpha takes over", |lab| lab.is_active("alpha") && lab.answers(ADDRESS)).unwrap();
    assert!(why.contains("silent") || why.contains("lease") || why.contains("witness"), "{why}");
    assert!(!has_address(&lab, "beta"));

    // Standby on the one that has it, with the other away, keeps it nowhere; online brings it back.
    lab.cables("beta", true).unwrap();
    lab.until("they meet", |lab| lab.status("alpha").is_some_and(|status| status["peer"] == "alive")).unwrap();
    lab.ferro("alpha", "cluster standby --socket alpha/run/node.sock").unwrap();
    lab.until("beta has it", |lab| lab.is_active("beta") && lab.answers(ADDRESS)).unwrap();
    lab.ferro("alpha", "cluster online --socket alpha/run/node.sock").unwrap();
    lab.ferro("beta", "down --socket beta/run/node.sock").unwrap();
    lab.until("alpha has it", |lab| lab.is_active("alpha") && lab.answers(ADDRESS)).unwrap();
}

const API: &str = "http://127.0.0.1:8006/v1/status";

/// A node's VM as `ferro ps` tells of it.
fn vm(lab: &Lab) -> serde_json::Value {
    lab.status("alpha").map(|status| status["vms"][0].clone()).unwrap_or_default()
}

#[test]
fn a_machine_alone_keeps_its_vms_through_edits_and_restarts_them() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut lab) = lab(folder.path()) else { return };
    let settings = "name = \"alpha\"\nstate = \"alpha/state\"\nrun = \"alpha/run\"\n\
                    [api]\nlisten = \"127.0.0.1:8006\"\ntoken-file = \"secret\"\n";
    std::fs::write(folder.path().join("alpha.toml"), settings).unwrap();
    if !Path::new("/usr/share/seabios/bios-256k.bin").exists() {
        println!("skipped: seabios is not installed; `cargo xtask packages` installs it");
        return;
    }
    // Firmware that finds nothing to boot on a blank disk runs for good.
    std::fs::write(folder.path().join("blank.raw"), vec![0; 1 << 20]).unwrap();
    let infra = "name = \"alone\"\n[[vm]]\nname = \"idle\"\nmemory = \"32M\"\nstop-timeout = \"1s\"\naccel = \"soft\"\n\
                 [[vm.disk]]\nfile = \"blank.raw\"\nformat = \"raw\"\n";
    std::fs::write(folder.path().join("infra.toml"), infra).unwrap();
    lab.start_node("alpha").unwrap();
    let up = "up infra.toml --socket alpha/run/node.sock";
    lab.ferro("alpha", up).unwrap();
    lab.until("the VM runs", |lab| vm(lab)["state"] == "running" && lab.is_active("alpha")).unwrap();
    let first = vm(&lab)["pid"].clone();

    // What is still declared goes on, what is new is started.
    let edited = format!("{infra}[[address]]\naddress = \"192.168.1.77/24\"\ninterface = \"eth0\"\n");
    std::fs::write(folder.path().join("infra.toml"), edited).unwrap();
    lab.ferro("alpha", up).unwrap();
    lab.until("the address is there", |lab| lab.answers("192.168.1.77")).unwrap();
    assert_eq!(vm(&lab)["pid"], first);
    // A file that can't be is refused, and changes nothing.
    std::fs::write(folder.path().join("infra.toml"), "name = 3").unwrap();
    assert!(lab.ferro("alpha", up).unwrap_err().to_string().contains("infra.toml"));
    assert_eq!(vm(&lab)["pid"], first);

    // One that dies comes back; one that an operator stops doesn't, until it is wanted again.
    output(Command::new("kill").args(["-9", &first.to_string()])).unwrap();
    lab.until("it is restarted", |lab| vm(lab)["state"] == "running" && vm(lab)["pid"] != first).unwrap();
    lab.ferro("alpha", "stop idle --force --socket alpha/run/node.sock").unwrap();
    lab.until("it is halted", |lab| vm(lab)["state"] == "halted").unwrap();
    lab.ferro("alpha", "start idle --socket alpha/run/node.sock").unwrap();
    lab.until("it runs again", |lab| vm(lab)["state"] == "running").unwrap();
    lab.ferro("alpha", "snapshot nobody x --socket alpha/run/node.sock").unwrap_err();

    // A clone needs the disk for itself, which the VM has a moment after its process is there; then it is another VM.
    lab.until("its disk is in use", |lab| lab.ferro("alpha", "img resize -f raw blank.raw 1M").is_err()).unwrap();
    std::fs::write(folder.path().join("infra.toml"), infra).unwrap();
    let refused = lab.ferro("alpha", "clone idle copy --full").unwrap_err().to_string();
    assert!(refused.contains("has to be stopped"), "{refused}");
    lab.ferro("alpha", "stop idle --force --socket alpha/run/node.sock").unwrap();
    lab.until("it is halted", |lab| vm(lab)["state"] == "halted").unwrap();
    let refused = lab.ferro("alpha", "clone idle copy").unwrap_err().to_string();
    assert!(refused.contains("--full"), "{refused}");
    lab.ferro("alpha", "clone idle copy --full").unwrap();
    lab.ferro("alpha", up).unwrap();
    // The address isn't declared any more.
    lab.until("the address is gone", |lab| !lab.answers("192.168.1.77")).unwrap();
    let copy = |lab: &Lab| lab.status("alpha").map(|status| status["vms"][1].clone()).unwrap_or_default();
    lab.until("the clone runs", |lab| copy(lab)["name"] == "copy" && copy(lab)["state"] == "running").unwrap();
    assert_eq!(vm(&lab)["state"], "halted");
    lab.ferro("alpha", "migrate --cold copy --to 1 --socket alpha/run/node.sock").unwrap_err();

    // The API over TCP is there with its token, and only with it.
    let told = lab.command("alpha", "curl").args(["--silent", "--noproxy", "*", API]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("a token is needed"), "{told:?}");
    let header = "Authorization: Bearer 0123456789abcdef0123456789abcdef";
    let told = lab.command("alpha", "curl").args(["--silent", "--noproxy", "*", "-H", header, API]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("\"node\":\"alpha\""), "{told:?}");

    lab.ferro("alpha", "down --socket alpha/run/node.sock").unwrap();
    let status = lab.status("alpha").unwrap();
    assert!(status["vms"].as_array().unwrap().is_empty(), "{status}");
    assert!(!lab.answers("192.168.1.77"));
}

#[test]
fn a_vm_with_a_group_of_its_own_migrates_alone() {
    let folder = tempfile::tempdir().unwrap();
    if !Path::new("/usr/share/seabios/bios-256k.bin").exists() {
        println!("skipped: seabios is not installed; `cargo xtask packages` installs it");
        return;
    }
    let Some(mut lab) = lab(folder.path()) else { return };
    let infra = format!(
        "{FLOATING}[[mirror]]\nname = \"idle\"\ngroup = \"idle\"\nsize = \"1M\"\nport = 7801\n\
         [[vm]]\nname = \"idle\"\ngroup = \"idle\"\nmemory = \"32M\"\nstop-timeout = \"1s\"\naccel = \"soft\"\n\
         [[vm.disk]]\nmirror = \"idle\"\n"
    );
    begin(&mut lab, &infra);
    lab.until("both have all data", |lab| lab.is_in_sync("alpha", &["idle"])).unwrap();
    lab.until("alpha has the address", |lab| lab.answers(ADDRESS)).unwrap();
    assert_eq!(lab.status("alpha").unwrap()["mirrors"][0]["disk"], "up-to-date");
    // Asked where it is to go, which needs a moment to see that it isn't outdated.
    lab.until("it is accepted", |lab| {
        lab.ferro("beta", "migrate --cold idle --to 1 --socket beta/run/node.sock").is_ok()
    })
    .unwrap();
    assert!(lab.is_active("beta"));
    assert_eq!(lab.status("beta").unwrap()["vms"][0]["state"], "running");
    // The other group stays.
    assert!(has_address(&lab, "alpha") && !has_address(&lab, "beta"));
    lab.ferro("beta", "migrate --cold idle --to 1 --socket beta/run/node.sock").unwrap();
    // Back, and away again, asked where it is: the preferred node lets it go, too.
    for to in ["0", "1"] {
        let ask = format!("migrate --cold idle --to {to} --socket alpha/run/node.sock");
        lab.until("it is accepted", |lab| lab.ferro("alpha", &ask).is_ok()).unwrap();
    }
}

#[test]
fn a_vm_on_a_mirrored_disk_outlives_the_power_of_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let (Some(kernel), Some(initrd)) = (guest("vmlinuz-cloud-amd64"), guest("initrd-cloud-amd64.gz")) else { return };
    let Some(mut lab) = lab(folder.path()) else { return };
    let disk = folder.path().join("web.raw");
    output(Command::new("truncate").args(["-s", "32M"]).arg(&disk)).unwrap();
    output(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&disk)).unwrap();
    let infra = format!(
        "rules = [\"internet -> dmz tcp 80\"]\n{FLOATING}\n[[segment]]\nname = \"dmz\"\nsubnet = \"10.77.1.0/24\"\n\
         [[mirror]]\nname = \"web\"\nsize = \"32M\"\nport = 7801\nimage = \"web.raw\"\n\
         [[vm]]\nname = \"web\"\nmemory = \"96M\"\nstop-timeout = \"1s\"\naccel = \"soft\"\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         append = \"console=ttyS0 quiet ferro.modules=virtio_pci,virtio_blk,virtio_net,ext4 \
         ferro.run=serve-http+10.77.1.10/24+10.77.1.1\"\n[[vm.disk]]\nmirror = \"web\"\n[[vm.net]]\nsegment = \"dmz\"\n",
        kernel.display(),
        initrd.display()
    );
    begin(&mut lab, &infra);
    lab.until("the server answers", |lab| lab.fetch(&format!("{NOTE}?first")).is_some()).unwrap();
    lab.until("both have all data", |lab| lab.is_in_sync("alpha", &["web"])).unwrap();

    // The daemon dies; the VM doesn't notice.
    let pid = |lab: &Lab| lab.status("alpha").map(|status| status["vms"][0]["pid"].clone());
    let before = pid(&lab);
    output(Command::new("kill").args(["-9", &worker(&lab, "alpha")])).unwrap();
    lab.until("the daemon is back", |lab| lab.is_active("alpha")).unwrap();
    assert_eq!(pid(&lab), before);
    assert!(lab.fetch(&format!("{NOTE}?second")).is_some());
    // So does another daemon that begins with the same file.
    lab.ferro("alpha", "up infra.toml --socket alpha/run/node.sock").unwrap();
    lab.until("the daemon goes on", |lab| lab.is_active("alpha")).unwrap();
    assert_eq!(pid(&lab), before);
    assert_eq!(lab.status("alpha").unwrap()["groups"][0]["epoch"], 2);

    lab.power_off("alpha").unwrap();
    lab.until("the server is back", |lab| lab.fetch(NOTE).is_some()).unwrap();
    let notes = lab.fetch(&format!("{NOTE}?third")).unwrap();
    assert!(notes.contains("first") && notes.contains("second") && notes.contains("third"), "{notes}");
    assert!(lab.is_active("beta"));

    // The dead node returns, is outdated, gets what it missed, and has the VM moved back.
    lab.cables("alpha", true).unwrap();
    lab.start_node("alpha").unwrap();
    lab.until("alpha is resynced", |lab| lab.is_in_sync("beta", &["web"])).unwrap();
    // Alpha needs a moment to see that it isn't outdated any more.
    lab.until("the move is accepted", |lab| lab.ferro("beta", "cluster move --socket beta/run/node.sock").is_ok())
        .unwrap();
    lab.until("the server is back", |lab| lab.is_active("alpha") && lab.fetch(NOTE).is_some()).unwrap();
    assert!(lab.fetch(NOTE).unwrap().contains("third"));
}
