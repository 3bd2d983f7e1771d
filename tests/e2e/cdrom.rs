//! Discs that change under a running Linux: put into a drive that was empty, locked by a mount, ejected by the guest, taken
//! away by force.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Vm, ferro, guest, has, output};

/// A disc whose one file says this.
fn disc(folder: &Path, text: &str) -> PathBuf {
    let (tree, image) = (folder.join(text), folder.join(format!("{text}.iso")));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("disc"), format!("this is the {text} disc\n")).unwrap();
    let mut make = Command::new("xorriso");
    make.args(["-as", "mkisofs", "-quiet", "-V", text, "-o"]).arg(&image).arg(&tree);
    output(&mut make);
    image
}

#[test]
fn linux_sees_discs_come_and_go() {
    if guest("initrd-amd64.gz").is_none() || !has("xorriso") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|text| disc(folder.path(), text));
    let socket = folder.path().join("monitor");
    let at = format!("unix:{}", socket.display());
    let mount = "mount+-t+iso9660+-o+ro+/dev/sr0+/mnt";
    let script = format!(
        "ferro.modules=ata_piix,sr_mod,isofs ferro.run=while+[+!+-b+/dev/sr0+];do+sleep+0.1;done;\
         {mount}||echo+EMPTY;read+x;{mount};cat+/mnt/disc;echo+MOUNTED;read+x;\
         umount+/mnt&&eject+/dev/sr0&&echo+EJECTED;read+x;{mount};cat+/mnt/disc;echo+MOUNTED;read+x;\
         umount+/mnt;{mount}||echo+GONE"
    );
    let arguments = ["--memory", "512M", "--cdrom", "none", "--monitor", &at];
    let Some(mut vm) = Vm::boot("amd64", &format!("quiet {script}"), &arguments) else { return };
    let monitor = |line: &str| ferro(&["monitor"]).arg(&socket).arg(line).output().unwrap();
    let told = |line: &str| {
        let output = monitor(line);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let change =
        |disc: &Path| output(ferro(&["monitor"]).arg(&socket).arg(format!("change ide1-cd0 {}", disc.display())));
    vm.expect("EMPTY");
    assert!(told("info block").contains("ide1-cd0: [not inserted]"), "{}", told("info block"));
    change(&first);
    vm.send("\n");
    let printed = vm.expect("MOUNTED");
    assert!(printed.contains("this is the first disc"), "{printed}");
    // Its door is locked while it is mounted.
    assert!(!told("info block").contains("not locked"), "{}", told("info block"));
    assert!(told("eject ide1-cd0").contains("the guest has locked the tray"));
    assert!(told(&format!("change ide1-cd0 {}", second.display())).contains("the guest has locked the tray"));
    vm.send("\n");
    vm.expect("EJECTED");
    assert!(told("info block").contains("tray open"), "{}", told("info block"));
    change(&second);
    vm.send("\n");
    let printed = vm.expect("MOUNTED");
    assert!(printed.contains("this is the second disc"), "{printed}");
    assert!(told("eject ide1-cd0").contains("the guest has locked the tray"));
    output(ferro(&["monitor"]).arg(&socket).arg("eject -f ide1-cd0"));
    vm.send("\n");
    vm.expect("GONE");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{printed}");
}
