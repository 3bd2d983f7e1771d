//! What the process of a running VM may still do, as the host's kernel says it, and what its user sees of that.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use support::Vm;

/// Says a line at a monitor's socket and returns its answer, up to the next prompt or the end of the session.
fn say(socket: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the monitor listens");
    stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let until_prompt = |stream: &mut UnixStream| {
        let (mut text, mut byte) = (vec![], [0]);
        while !text.ends_with(b"(ferro) ") {
            if stream.read(&mut byte).unwrap() == 0 {
                break;
            }
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    };
    until_prompt(&mut stream);
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    until_prompt(&mut stream)
}

/// The values of a field of `/proc/PID/task/*/status`, of all threads.
fn of_threads(pid: u32, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let value = |task: std::io::Result<std::fs::DirEntry>| {
        // A thread may have ended since it was listed.
        let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    };
    let values: Vec<_> = tasks.filter_map(value).collect();
    assert!(!values.is_empty(), "the kernel tells {field} of no thread");
    values
}

fn boot(folder: &Path, extra: &[&str]) -> Option<Vm> {
    let monitor = format!("unix:{}", folder.join("hmp").display());
    let mut flags = vec!["--monitor", &monitor];
    flags.extend(extra);
    let mut vm = Vm::boot("cloud-amd64", "quiet", &flags)?;
    vm.expect("/ # ");
    Some(vm)
}

fn end(vm: Vm, monitor: &Path) {
    say(monitor, "quit");
    let (status, printed) = vm.finish();
    assert!(status.success(), "{status}: {printed}");
}

#[test]
fn a_vm_is_kept_to_its_files_and_system_calls() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/var").unwrap());
    let monitor = folder.path().join("hmp");
    let Some(vm) = boot(folder.path(), &["--vga", "on"]) else { return };
    for (field, wanted) in [("Seccomp", "2"), ("Seccomp_filters", "3"), ("NoNewPrivs", "1")] {
        let found = of_threads(vm.id(), field);
        assert!(found.len() > 2 && found.iter().all(|value| value == wanted), "{field}: {found:?}");
    }
    let inside = folder.path().join("memory");
    assert!(!say(&monitor, &format!("pmemsave 0 4096 {}", inside.display())).contains("annot"));
    assert_eq!(std::fs::metadata(&inside).unwrap().len(), 4096);
    let outside = elsewhere.path().join("memory");
    let said = say(&monitor, &format!("pmemsave 0 4096 {}", outside.display()));
    assert!(said.contains("--allow-path") && said.contains(&elsewhere.path().display().to_string()), "{said}");
    assert!(!outside.exists());
    // A picture goes there by way of the folder for temporary files.
    let picture = elsewhere.path().join("screen.png");
    support::output(support::ferro(&["screenshot"]).arg(&monitor).arg(&picture));
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    // What a link in a folder of its own leads to is what counts, for the kernel too.
    std::os::unix::fs::symlink(&outside, folder.path().join("link")).unwrap();
    std::fs::write(&outside, "precious").unwrap();
    say(&monitor, &format!("pmemsave 0 4096 {}", folder.path().join("link").display()));
    assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
    end(vm, &monitor);
}

#[test]
fn a_confined_vm_still_knows_which_of_its_memory_was_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (monitor, disk) = (folder.path().join("hmp"), folder.path().join("disk.qcow2").display().to_string());
    support::output(support::ferro(&["img", "create", "-q", "-f", "qcow2", &disk]).arg("1G"));
    let Some(vm) = boot(folder.path(), &["--memory", "1G", "--disk", &disk]) else { return };
    let resident = || of_threads(vm.id(), "VmRSS")[0].split(' ').next().unwrap().parse::<u64>().unwrap();
    let before = resident();
    let said = say(&monitor, "savevm one");
    assert!(!said.contains("rror"), "{said}");
    assert!(resident() < before + (512 << 10), "{before} kB, then {} kB", resident());
    end(vm, &monitor);
}

#[test]
fn an_allowed_folder_is_reached_and_the_sandbox_can_be_left_off() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/var").unwrap());
    let (monitor, outside) = (folder.path().join("hmp"), elsewhere.path().join("memory"));
    let save = format!("pmemsave 0 4096 {}", outside.display());
    let allowed = elsewhere.path().display().to_string();
    for flags in [&["--allow-path", &allowed][..], &["--sandbox", "off"][..]] {
        let Some(vm) = boot(folder.path(), flags) else { return };
        assert!(!say(&monitor, &save).contains("annot"));
        std::fs::remove_file(&outside).unwrap();
        let filters = of_threads(vm.id(), "Seccomp");
        assert!(filters.iter().all(|value| *value == if flags[0] == "--sandbox" { "0" } else { "2" }), "{filters:?}");
        end(vm, &monitor);
    }
}

#[test]
fn a_vm_of_root_becomes_another_user() {
    if !support::is_root() {
        println!("skipped: becoming another user needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(vm) = boot(folder.path(), &["--user", "nobody"]) else { return };
    let nobody = of_threads(vm.id(), "Uid");
    assert!(nobody.iter().all(|ids| ids.split_whitespace().all(|id| id == "65534")), "{nobody:?}");
    assert!(of_threads(vm.id(), "CapEff").iter().all(|set| set.trim_start_matches('0').is_empty()));
    end(vm, &folder.path().join("hmp"));
}
