//! Control groups of version 2 (the kernel's cgroup-v2.rst): a group `ferro/NAME` with this process in it.

use std::io;
use std::path::{Path, PathBuf};

use crate::description::LimitDescription;

/// Microseconds of `cpu.max`'s period; the kernel's own.
const PERIOD: u64 = 100_000;

/// Makes the VM's group below `root`, limits it, and joins it.
///
/// # Errors
/// No version 2 there, controllers missing, no right to: nothing is joined then.
pub(super) fn enter(root: &Path, name: &str, limits: &LimitDescription) -> io::Result<PathBuf> {
    let there = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    let mut wanted = vec![];
    if limits.cpu.is_some() || limits.shares.is_some() {
        wanted.push("cpu");
    }
    if limits.memory.is_some() {
        wanted.push("memory");
    }
    if let Some(missing) = wanted.iter().find(|wanted| !there.split_whitespace().any(|one| one == **wanted)) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("no controller {missing} in {}", root.display()),
        ));
    }
    let group = root.join("ferro");
    let own = group.join(format!("{}-{}", file_name(name), std::process::id()));
    let switch: String = wanted.iter().map(|wanted| format!("+{wanted} ")).collect();
    std::fs::write(root.join("cgroup.subtree_control"), switch.trim_end())?;
    if !group.exists() {
        std::fs::create_dir(&group)?;
    }
    std::fs::write(group.join("cgroup.subtree_control"), switch.trim_end())?;
    sweep(&group);
    std::fs::create_dir(&own)?;
    let joined = limit(&own, limits).and_then(|()| std::fs::write(own.join("cgroup.procs"), "0"));
    if joined.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_dir(&own);
    }
    joined.map(|()| own)
}

fn limit(own: &Path, limits: &LimitDescription) -> io::Result<()> {
    if let Some(cpu) = limits.cpu {
        std::fs::write(own.join("cpu.max"), format!("{} {PERIOD}", u64::from(cpu) * PERIOD / 100))?;
    }
    if let Some(shares) = limits.shares {
        std::fs::write(own.join("cpu.weight"), shares.to_string())?;
    }
    if let Some(memory) = limits.memory {
        std::fs::write(own.join("memory.max"), memory.0.to_string())?;
    }
    Ok(())
}

/// Groups of VMs that have ended go; the kernel keeps those that have processes.
fn sweep(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn file_name(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_limited_as_told_and_made_only_where_it_can_be() {
        let root = tempfile::tempdir().unwrap();
        let limits: LimitDescription = "cpu=150%,shares=50,memory=1G".parse().unwrap();
        assert!(enter(root.path(), "web", &limits).is_err(), "no control groups");
        std::fs::write(root.path().join("cgroup.controllers"), "io cpu").unwrap();
        assert!(enter(root.path(), "web", &limits).is_err(), "no memory controller");
        std::fs::write(root.path().join("cgroup.controllers"), "cpu io memory pids").unwrap();
        let own = enter(root.path(), "a b", &limits).unwrap();
        assert!(own.file_name().unwrap().to_str().unwrap().starts_with("a_b-"));
        let read = |name: &str| std::fs::read_to_string(own.join(name)).unwrap();
        assert_eq!((read("cpu.max"), read("cpu.weight")), ("150000 100000".into(), "50".into()));
        assert_eq!((read("memory.max"), read("cgroup.procs")), ((1u64 << 30).to_string(), "0".into()));
        let switched = std::fs::read_to_string(root.path().join("ferro/cgroup.subtree_control")).unwrap();
        assert_eq!(switched, "+cpu +memory");
    }
}
