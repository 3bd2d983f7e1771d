//! The files that a VM's process may reach, by Landlock: the folders of its disks, sockets and recordings, those that its
//! user allowed, and with a monitor the current folder and the one for temporary files, where people tell it to write.

use std::io;
use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

use super::folder;
use crate::description::{MonitorTarget, SerialTarget, VmDescription};
use crate::sound::AudioTarget;
use crate::vnc::VncPlace;

/// What is read at any time: random numbers, and what the C library needs to find a host by its name.
const READ: &[&str] = &["/dev/urandom", "/etc", "/lib", "/lib64", "/usr/lib", "/run/systemd/resolve"];

/// Folders and files that are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// For reading and writing.
    written: Vec<PathBuf>,
    /// Secrets, only for reading.
    read: Vec<PathBuf>,
}

impl Reach {
    /// What this VM has to do with.
    pub(crate) fn of(vm: &VmDescription) -> Self {
        let mut paths = vm.sandbox.allow.clone();
        let mut read = vec![];
        paths.push("/dev/null".into());
        for disk in &vm.disks {
            // A device is reached alone: its folder has all the others.
            let file = Path::new(&disk.file);
            let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
            paths.push(if regular { folder(file).into() } else { file.into() });
        }
        for target in [&vm.serial, &vm.console] {
            if let SerialTarget::File(path) | SerialTarget::Unix(path) = target {
                paths.push(folder(path).into());
            }
        }
        for monitor in vm.monitors.iter().chain(&vm.qmps) {
            if let MonitorTarget::Unix(path) = monitor {
                paths.push(folder(path).into());
            }
        }
        if let AudioTarget::Wav(path) = &vm.audio {
            paths.push(folder(path).into());
        }
        if let Some(vnc) = &vm.vnc {
            if let VncPlace::Unix(path) = &vnc.place {
                paths.push(folder(path).into());
            }
            read.extend(vnc.password_file.clone());
            read.extend(vnc.tls.as_ref().map(|tls| tls.dir.clone()));
        }
        if !vm.monitors.is_empty() || !vm.qmps.is_empty() {
            paths.push(".".into());
            paths.push(std::env::temp_dir());
        }
        let mut paths: Vec<_> = paths.into_iter().filter_map(|path| path.canonicalize().ok()).collect();
        // The root folder would be everything.
        let allow: Vec<_> = vm.sandbox.allow.iter().filter_map(|path| path.canonicalize().ok()).collect();
        paths.retain(|path| path.parent().is_some() || allow.contains(path));
        paths.sort();
        paths.dedup();
        Self { written: paths, read }
    }

    /// Confines this thread and its future children to it; whether the kernel could.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn enter(&self) -> io::Result<bool> {
        let abi = ABI::V5;
        let confine = || -> Result<_, landlock::RulesetError> {
            let mut rules = Ruleset::default().handle_access(AccessFs::from_all(abi))?.create()?;
            // Sockets and devices that are open already stay usable.
            rules = rules.set_compatibility(landlock::CompatLevel::BestEffort);
            let readable = READ.iter().map(Path::new).chain(self.read.iter().map(PathBuf::as_path));
            let readable = readable.map(|path| (path, AccessFs::from_read(abi) & !AccessFs::Execute));
            let writable =
                self.written.iter().map(|path| (path.as_path(), AccessFs::from_all(abi) & !AccessFs::Execute));
            for (path, access) in readable.chain(writable) {
                // What isn't there can't be reached anyway.
                let Ok(opened) = PathFd::new(path) else { continue };
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
                rules = rules.add_rule(PathBeneath::new(opened, access))?;
            }
            rules.restrict_self()
        };
        let status = confine().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }

    /// Whether a file is within reach; one that isn't there yet is judged by its folder.
    pub(crate) fn contains(&self, file: &Path) -> bool {
        let full = file.canonicalize().or_else(|_| Ok::<_, io::Error>(folder(file).canonicalize()?.join(name(file))));
        // What can't be found gets the file system's own message.
        let Ok(full) = full else { return true };
        self.written.iter().any(|path| full.starts_with(path))
    }
}

fn name(file: &Path) -> &Path {
    file.components().next_back().map_or(Path::new(""), |last| match last {
        Component::Normal(name) => Path::new(name),
        _ => Path::new(""),
    })
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = self.written.iter().filter(|path| *path != Path::new("/dev/null"));
        let paths: Vec<_> = named.map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::DiskDescription;

    #[test]
    fn a_vm_reaches_the_folders_of_its_files_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let disks = folder.path().join("disks");
        std::fs::create_dir(&disks).unwrap();
        std::fs::write(disks.join("a.img"), "").unwrap();
        let disk: DiskDescription = disks.join("a.img").display().to_string().parse().unwrap();
        let device: DiskDescription = "/dev/null".parse().unwrap();
        let vm = VmDescription { disks: vec![disk, device], ..VmDescription::default() };
        let reach = Reach::of(&vm);
        assert!(reach.contains(&disks.join("a.img")) && reach.contains(&disks.join("not-there-yet.qcow2")));
        assert!(reach.contains(Path::new("/dev/null")), "{reach}");
        assert!(!reach.contains(Path::new("/dev/zero")) && !reach.contains(Path::new("/etc/shadow")), "{reach}");
        assert!(!reach.contains(&disks.join("../other")), "{reach}");
        std::os::unix::fs::symlink("/etc", disks.join("way-out")).unwrap();
        assert!(!reach.contains(&disks.join("way-out/shadow")), "a link leads where it leads");
    }

    #[test]
    fn the_root_folder_is_allowed_only_by_name() {
        let vm = VmDescription { disks: vec!["/".parse().unwrap()], ..VmDescription::default() };
        assert!(!Reach::of(&vm).contains(Path::new("/etc/hostname")));
        let mut vm = VmDescription::default();
        vm.sandbox.allow.push("/".into());
        assert!(Reach::of(&vm).contains(Path::new("/etc/hostname")));
    }
}
